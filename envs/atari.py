"""Atari 2600 games, preprocessed as Mnih et al. (Nature, 2015) do, by ale-py's vector environment.

Each action is repeated for `frame_skip` frames, the last two frames are combined by their maximum,
turned grey and shrunk to `size` x `size`; the newest `frame_stack` of these images are observed,
oldest first, zeros before the episode's first one. Episodes begin with up to `noop_max` frames
without an action. A single environment is a vector of one, so it sees the same to the last bit.

Registry entries of ale-py with a fixed frame skip (ALE/Pong-v5, PongNoFrameskip-v4) stand for
these; from theirs come the probability that an action sticks (0.25 and 0) and the length limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from rlkit.envs.games import Bools, check_size
from rlkit.errors import UsageError

ENTRY = "rlkit.envs.atari:make"
FRAME_STACK = 4

_ALE_ENTRY = "ale_py.env:AtariEnv"
_FROM_ALE = (
    "game",
    "repeat_action_probability",
    "full_action_space",
    "max_num_frames_per_episode",
)
# Learning from them is another task than the one that scores are reported for.
_FOR_TRAINING_ONLY = ("episodic_life", "clip_reward")


def is_ale(spec: EnvSpec) -> bool:
    """Whether a registry entry is ale-py's own, unprocessed."""
    return spec.entry_point == _ALE_ENTRY


def preprocessed(spec: EnvSpec) -> EnvSpec:
    """ale-py's registry entry with the preprocessing; any other one as it is."""
    if not is_ale(spec) or not isinstance(spec.kwargs.get("frameskip"), int):
        return spec
    kwargs = {name: spec.kwargs[name] for name in _FROM_ALE}
    return EnvSpec(spec.id, entry_point=ENTRY, vector_entry_point=ENTRY, kwargs=kwargs)


def frame_stack(spec: EnvSpec) -> int:
    """How many images the observations of a registry entry stack along their first axis."""
    stacked = spec.kwargs.get("frame_stack", FRAME_STACK)
    return stacked if spec.entry_point == ENTRY and isinstance(stacked, int) else 1


def evaluation_options(spec: EnvSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options to evaluate a registry entry with: whole games and all points, if it is Atari."""
    dropped = _FOR_TRAINING_ONLY if spec.entry_point == ENTRY else ()
    return {name: value for name, value in options.items() if name not in dropped}


class AtariVectorEnv(VectorEnv[NDArray[np.uint8], NDArray[Any], NDArray[Any]]):
    """ale-py's vector environment, with lives as episodes where `episodic_life` is set.

    There the game goes on from one life to the next (ale-py's own option of that name starts it
    anew, so that later lives are never seen): the step after a lost life, as the one after a game's
    end, begins the next episode. Its action is not looked at, the game gets FIRE, or NOOP without
    `fire_reset`; its reward is 0; and the images of the life before are blanked (NEXT_STEP).
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, native: Any, stack: int, fire: bool, episodic_life: bool) -> None:
        self._native = native
        self.num_envs = int(native.num_envs)
        self.single_observation_space = native.single_observation_space
        self.single_action_space = native.single_action_space
        self.observation_space = native.observation_space
        self.action_space = native.action_space
        self._stack = stack
        self._begin = _fire_of(native) if fire else 0
        self._episodic_life = episodic_life
        self._over: Bools = np.zeros(self.num_envs, dtype=np.bool_)
        self._age = np.zeros(self.num_envs, dtype=np.int64)  # steps since the episode's first

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin a game in every environment, seeded `seed`, `seed` + 1, … where one is given."""
        self._over[:] = False
        self._age[:] = 0
        obs, info = self._native.reset(seed=seed)
        return obs, info

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], NDArray[Any], Bools, Bools, dict[str, Any]]:
        """Observations (N, frame_stack, size, size), in colour (…, 3); and the rest, each (N,)."""
        actions = np.where(self._over, self._begin, actions).astype(np.int64)
        obs, reward, terminated, truncated, info = self._native.step(actions)
        if self._episodic_life:
            reward[self._over] = 0
            self._blank_the_life_before(obs)
        self._over = terminated | truncated
        return obs, reward, terminated, truncated, info

    def _blank_the_life_before(self, obs: NDArray[np.uint8]) -> None:
        self._age += 1
        self._age[self._over] = 0
        for env in np.flatnonzero(self._age < self._stack - 1):
            obs[env, : self._stack - 1 - self._age[env]] = 0


class AtariEnv(gym.Env[NDArray[np.uint8], np.int64]):
    """A vector of one as a single environment.

    `render` with render_mode "rgb_array" gives the newest image observed, (size, size, 3).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - Gymnasium's

    def __init__(self, games: AtariVectorEnv, render_mode: str | None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise UsageError(f"render_mode is {render_mode!r}; allowed: None, 'rgb_array'")
        self.render_mode = render_mode
        self.observation_space = games.single_observation_space
        self.action_space = games.single_action_space
        self._games = games
        self._began = self._over = False
        self._last = np.zeros(self.observation_space.shape or (), dtype=np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        if self._over and seed is None:  # a life may have been lost in a game that goes on
            obs, _, _, _, info = self._games.step(np.zeros(1, dtype=np.int64))
        else:
            obs, info = self._games.reset(seed=seed)
        self._began, self._over, self._last = True, False, obs[0]
        return obs[0], _first(info)

    def step(
        self, action: int | np.int64
    ) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        if not self._began or self._over:
            raise ResetNeeded("the episode is over or never began; call reset()")
        obs, reward, terminated, truncated, info = self._games.step(np.array([action]))
        self._last = obs[0]
        self._over = bool(terminated[0] or truncated[0])
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _first(info)

    def render(self) -> NDArray[np.uint8] | None:
        if self.render_mode is None:
            return None
        image: NDArray[np.uint8] = self._last[-1]
        return image.copy() if image.ndim == 3 else image[..., None].repeat(3, axis=-1)


def make(
    game: str,
    num_envs: int | None = None,
    *,
    frame_skip: int = 4,
    frame_stack: int = FRAME_STACK,
    size: int = 84,
    grayscale: bool = True,
    noop_max: int = 30,
    fire_reset: bool = True,
    episodic_life: bool = False,
    clip_reward: bool = False,
    repeat_action_probability: float = 0.0,
    full_action_space: bool = False,
    max_num_frames_per_episode: int = 108_000,
    num_threads: int = 0,
    render_mode: str | None = None,
) -> AtariEnv | AtariVectorEnv:
    """The game, or where `num_envs` is given a vector environment of so many.

    Args:
        game: ale-py's name of it: "pong", "space_invaders".
        frame_skip: for how many frames an action is repeated; rewards are summed.
        frame_stack: how many images are observed.
        size: of the images, in pixels.
        grayscale: else three colours, in a last axis.
        noop_max: the most frames without an action that an episode begins with.
        fire_reset: begin episodes with FIRE, in games that have it.
        episodic_life: a lost life ends the episode; for training.
        clip_reward: clip rewards to [-1, 1]; for training.
        repeat_action_probability: that a frame repeats the action before (Machado et al., 2018).
        full_action_space: all 18 actions, rather than those that the game knows.
        max_num_frames_per_episode: after so many frames an episode is truncated.
        num_threads: that step the games; 0 for as many as there are CPU cores.
        render_mode: of a single environment, None or "rgb_array".

    Raises UsageError for a number out of range, ImportError without ale-py.
    """
    from ale_py.vector_env import AtariVectorEnv as Native

    if num_envs is not None and render_mode is not None:
        raise UsageError("a vector environment of Atari games has no render_mode; leave it out")
    native = Native(
        game,
        1 if num_envs is None else num_envs,
        num_threads=1 if num_envs is None else num_threads,
        max_num_frames_per_episode=max_num_frames_per_episode,
        repeat_action_probability=repeat_action_probability,
        full_action_space=full_action_space,
        img_height=check_size("size", size, 1, 1000),
        img_width=size,
        grayscale=grayscale,
        stack_num=check_size("frame_stack", frame_stack, 1, 100),
        frameskip=check_size("frame_skip", frame_skip, 1, 100),
        noop_max=check_size("noop_max", noop_max, 0, 1000),
        life_loss_info=episodic_life,
        reward_clipping=clip_reward,
        use_fire_reset=fire_reset,
    )
    games = AtariVectorEnv(native, frame_stack, fire_reset, episodic_life)
    return AtariEnv(games, render_mode) if num_envs is None else games


def _fire_of(native: Any) -> int:
    """The number of the action FIRE; 0, which is NOOP, in games without it."""
    names = [str(action).rpartition(".")[2] for action in native.ale.get_action_set()]
    return names.index("FIRE") if "FIRE" in names else 0


def _first(info: dict[str, Any]) -> dict[str, Any]:
    return {name: int(values[0]) for name, values in info.items() if name != "env_id"}
