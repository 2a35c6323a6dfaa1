"""Small games whose rules move N episodes at once: the single and the vector environment of each.

A game's rules stand once, over arrays. `GameEnv` plays one episode by them, `GameVectorEnv` N side
by side, the same ones as a `gymnasium.vector.SyncVectorEnv` of N `GameEnv` under the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from rlkit.errors import UsageError

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


class Game(Protocol):
    """The rules. A state is a column of S whole numbers; chance enters where episodes begin.

    Attributes:
        observation_space, action_space: of one episode.
        variables: S.
    """

    @property
    def observation_space(self) -> spaces.Space[Any]: ...

    @property
    def action_space(self) -> spaces.Discrete: ...

    @property
    def variables(self) -> int: ...

    def start(self, generators: Sequence[Generator]) -> Ints:
        """The first states (S, K) of K episodes, drawn with a generator each."""

    def advance(self, states: Ints, actions: Ints) -> tuple[Floats, Bools]:
        """Move the states (S, N) on, in place; the rewards (N,) and whether each episode ended.

        Episodes that had ended before are among them: what becomes of those, nobody sees, but they
        raise nothing.
        """

    def observe(self, states: Ints) -> NDArray[Any]:
        """What is seen of the states (S, N), as a new array (N, *obs)."""

    def picture(self, state: Ints) -> NDArray[np.uint8]:
        """The state (S,) drawn for people: (height, width, 3) uint8."""


class GameEnv(gym.Env[Any, np.int64]):
    """One episode at a time of a game. `render_mode` is None or "rgb_array"."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - Gymnasium's

    def __init__(self, game: Game, render_mode: str | None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise UsageError(f"render_mode is {render_mode!r}; allowed: None, 'rgb_array'")
        self.game = game
        self.render_mode = render_mode
        self.observation_space = game.observation_space
        self.action_space = game.action_space
        self._states = np.zeros((game.variables, 1), dtype=np.int64)
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._states = self.game.start([self.np_random])
        self._over = False
        return self.game.observe(self._states)[0], {}

    def step(self, action: int | np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise ResetNeeded("the episode is over or never began; call reset()")
        if not self.action_space.contains(action):
            raise InvalidAction(f"the action is {action}; it must be in {self.action_space}")
        reward, ended = self.game.advance(self._states, np.array([action], dtype=np.int64))
        self._over = bool(ended[0])
        return self.game.observe(self._states)[0], float(reward[0]), self._over, False, {}

    def render(self) -> NDArray[np.uint8] | None:
        """The state as (height, width, 3) uint8; None without a render_mode."""
        return None if self.render_mode is None else self.game.picture(self._states[:, 0])

    def get_state(self) -> dict[str, Any]:
        """Where the episode is, for resuming bit for bit (see `rlkit.envs.state`)."""
        return {"states": self._states.copy(), "over": self._over}

    def set_state(self, tree: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned. Raises UsageError where another game did."""
        _check_saved(tree["states"], self._states.shape)
        self._states, self._over = tree["states"].astype(np.int64), bool(tree["over"])


class GameVectorEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """N episodes of a game side by side.

    Where the last step ended an episode, a step begins the next one: the action is not looked at,
    the reward is 0, the flags are False (NEXT_STEP). All arrays are new ones, the caller's to keep.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, game: Game, num_envs: int) -> None:
        self.game = game
        self.num_envs = num_envs
        self.single_observation_space = game.observation_space
        self.single_action_space = game.action_space
        self.observation_space = batch_space(game.observation_space, num_envs)
        self.action_space = batch_space(game.action_space, num_envs)
        self._actions = int(game.action_space.n)
        self._states = np.zeros((game.variables, num_envs), dtype=np.int64)
        self._over = np.ones(num_envs, dtype=np.bool_)
        self._generators: list[Generator] = []

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin all episodes; the first observations (N, *obs).

        `seed`: a seed for each environment, or the first of N in a row; None to let the generators
        go on. Raises UsageError for another number of seeds.
        """
        self._seed(seed)
        self._states = self.game.start(self._generators)
        self._over = np.zeros(self.num_envs, dtype=np.bool_)
        return self.game.observe(self._states), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], Floats, Bools, Bools, dict[str, Any]]:
        """Observations (N, *obs), rewards, terminated, truncated (never), each (N,), and {}.

        Raises UsageError before the first reset, and for actions of another shape or outside of
        their space.
        """
        if not self._generators:
            raise UsageError("step was called before reset; call reset first")
        was_over = self._over
        reward, ended = self.game.advance(self._states, self._checked(actions))
        if np.count_nonzero(was_over):
            which = np.flatnonzero(was_over)
            self._states[:, which] = self.game.start([self._generators[i] for i in which])
            reward[which], ended[which] = 0.0, False
        self._over = ended
        obs = self.game.observe(self._states)
        return obs, reward, ended.copy(), np.zeros(self.num_envs, dtype=np.bool_), {}

    def get_state(self) -> dict[str, Any]:
        """All that the next steps depend on: arrays and JSON scalars."""
        generators = enumerate(self._generators)
        return {
            "states": self._states.copy(),
            "over": self._over.copy(),
            "generators": {str(i): each.bit_generator.state for i, each in generators},
        }

    def set_state(self, tree: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned. Raises UsageError where other games did."""
        _check_saved(tree["states"], self._states.shape)
        self._states = tree["states"].astype(np.int64)
        self._over = tree["over"].astype(np.bool_)
        self._generators = [Generator(PCG64(0)) for _ in tree["generators"]]
        for i, generator in enumerate(self._generators):
            generator.bit_generator.state = tree["generators"][str(i)]
        self.np_random = self._generators[0]

    def _checked(self, actions: NDArray[Any]) -> Ints:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise UsageError(
                f"actions of shape {actions.shape} and dtype {actions.dtype} were given; give "
                f"{self.num_envs} whole numbers"
            )
        wrong = (actions < 0) | (actions >= self._actions)
        wrong &= ~self._over
        if np.count_nonzero(wrong):
            env = int(np.argmax(wrong))
            raise UsageError(
                f"the action for env {env} is {actions[env]}; it must be in "
                f"{self.single_action_space}"
            )
        return actions.astype(np.int64, copy=False)

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None and self._generators:
            return
        seeds: Sequence[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, int):
            seeds = range(seed, seed + self.num_envs)
        else:
            seeds = seed
        if len(seeds) != self.num_envs:
            raise UsageError(f"{len(seeds)} seeds were given to {self.num_envs} environments")
        made = [seeding.np_random(each) for each in seeds]
        self._generators = [generator for generator, _ in made]
        # The first stands for all of them; a vector environment has but one to show.
        self._np_random, self._np_random_seed = made[0]


def check_size(name: str, value: object, low: int, high: int) -> int:
    """`value` as an int. Raises UsageError where it is no whole number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise UsageError(f"{name} is {value!r}; allowed: a whole number, {low} to {high}")
    if not low <= value <= high:
        raise UsageError(f"{name} is {value}; allowed: {low} to {high}")
    return int(value)


def _check_saved(states: Ints, shape: tuple[int, ...]) -> None:
    if states.shape != shape:
        raise UsageError(
            f"the saved state is of shape {states.shape}, this game's of {shape}; resume with the "
            "environments and options that were saved"
        )
