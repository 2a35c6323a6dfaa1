"""N environments as the trainer sees them: arrays of known shape and dtype, checked, seeded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, TypeAlias

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState
from numpy.typing import NDArray

from rlkit.envs import state
from rlkit.envs.classic import ClassicVectorEnv
from rlkit.envs.foreign import quiet_gymnasium
from rlkit.envs.masks import Mask, MaskPort
from rlkit.envs.model_env import ModelVectorEnv
from rlkit.envs.names import Facts
from rlkit.envs.observations import obs_port
from rlkit.envs.spaces import ActionPort
from rlkit.envs.workers import LOST, WorkerVectorEnv
from rlkit.errors import EnvError, RlkitWarning, UsageError
from rlkit.experience.step import FinalObs, Step
from rlkit.packing import stored

Autoreset: TypeAlias = Literal["next_step", "same_step"]

# An episode that has run for so many steps without a time limit is thought never to end.
ENDLESS = 100_000
# A sum of squares below this has only finite terms, none of them beyond float32; one call tells it.
SAFE_SQUARES = 1e76
# How often, in vector steps, the lengths of the running episodes are looked at.
LOOK_EVERY = 1024


class Envs:
    """A `gymnasium.vector.VectorEnv` of N environments, stepped with agents' actions.

    Attributes:
        n: how many environments.
        obs_space, action_space: of one environment, as an agent sees them
            (`rlkit.envs.observations`, `rlkit.envs.spaces`).
        autoreset: "next_step" or "same_step"; see `rlkit.experience.step.Step`.
        id: the environment's name in full: "CartPole-v1", "my_envs.py:Maze".
        spec_json: its registry entry with its options, or None.
        reward_threshold, max_episode_steps: of its registry entry, or None.
        frame_stack: how many frames an observation holds along its first axis; 1: it is whole.
        device: None: the environments live in host memory, and step in arrays. Those of
            `rlkit.envs.device`, which have the same interface, have a torch.device here.
        steps: vector steps taken so far.
        mask: which actions are allowed next, (N, n) bool (`rlkit.envs.masks`); None without masks.
        returned: what the vector environment returned in the newest step, as it did; None if it
            raised.
    """

    device: Any = None

    def __init__(
        self, venv: VectorEnv[Any, Any, Any], facts: Facts, seed: int | None, strict: bool
    ) -> None:
        self.n = int(venv.num_envs)
        self.autoreset: Autoreset = _autoreset_of(venv)
        self.obs_port = obs_port(venv.single_observation_space, self.n, strict)
        self.action_port = ActionPort(venv.single_action_space)
        self.obs_space = self.obs_port.space
        self.action_space = self.action_port.space
        self.id = facts.id
        self.spec_json = facts.spec_json
        self.reward_threshold = facts.reward_threshold
        self.max_episode_steps = facts.max_episode_steps
        self.frame_stack = facts.frame_stack
        self.steps = 0
        self.mask: Mask | None = None
        self.returned: Any = None
        self._venv = venv
        self._mask_port = MaskPort(venv, facts.id)
        self._seed = seed
        self._obs: NDArray[Any] | None = None
        self._ended = np.zeros(self.n, dtype=np.bool_)
        self._began = np.zeros(self.n, dtype=np.int64)
        self._endless_said = False
        self._all_valid = np.ones(self.n, dtype=np.bool_)
        self._is_compiled = isinstance(venv, (ClassicVectorEnv, ModelVectorEnv))
        self._raw_step: Callable[[NDArray[Any]], Any] = venv.step
        inner = venv.unwrapped
        self._workers = inner if isinstance(inner, WorkerVectorEnv) else None
        if self._workers is None and isinstance(inner, AsyncVectorEnv):
            self._raw_step = self._step_quietly

    def reset(self, seed: int | None = None) -> NDArray[Any]:
        """Begin an episode in every environment; the first observations, (N, *obs).

        `seed`, or on the first call the one given to `make_envs`, seeds each environment
        differently, and `action_space`. Without one the environments' generators go on.
        """
        seed, self._seed = (self._seed if seed is None else seed), None
        seeds: int | list[int] | None = None
        if seed is not None:
            *each, of_actions = distinct_seeds(seed, self.n + 1)
            self.action_space.seed(of_actions)
            seeds = each if self._takes_seeds() else each[0]
        with quiet_gymnasium():
            raw = self._venv.reset(seed=seeds)  # type: ignore[arg-type]
        if type(raw) is not tuple or len(raw) != 2:
            raise EnvError("reset returned no (observations, info); see gymnasium.vector.VectorEnv")
        self._obs = self._observations(raw[0], "the reset")
        self.mask = self._mask_port.take(raw[1], "the reset")
        self._ended[:] = False
        self._began[:] = self.steps
        return self._obs

    def step(self, action: NDArray[Any]) -> Step:
        """Take the actions, (N,) or (N, *action), and return the transitions.

        The arrays are the caller's to keep, and to read only: `next_obs` is the next step's `obs`.
        Raises EnvError where an environment breaks its contract, and UsageError for actions of
        another shape, or before `reset`.
        """
        obs = self._obs
        if obs is None:
            raise UsageError("step was called before reset; call reset first")
        given = self.action_port.give(action)
        if len(given) != self.n:
            raise UsageError(f"{len(given)} actions were given to {self.n} environments")
        self.steps += 1
        if self._workers is not None:
            self._workers.vector_step = self.steps
        self.returned = None
        self.returned = raw = self._raw_step(given)
        when = f"vector step {self.steps}"
        if self._is_compiled:  # checked by rlkit's own tests, in arrays of ours alone
            next_obs, reward, terminated, truncated, info = raw
            reward = reward.astype(np.float32)
        else:
            next_obs, reward, terminated, truncated, info = self._checked(raw, when)
        ended = terminated | truncated
        any_ended = np.count_nonzero(ended)
        lost: NDArray[np.bool_] | None = None if self._workers is None else info.get(LOST)
        dies = self.autoreset == "next_step"
        next_mask = self._mask_port.take(info, when, ended if dies else None)
        if lost is not None:
            self._stand_still(lost, next_obs, next_mask)
        final = None
        if dies:
            valid = ~self._ended
        else:
            valid = self._all_valid.copy()
            final = self._final_obs(info, ended, when) if any_ended else None
        if any_ended:
            self._began[ended] = self.steps + dies
        if self.steps % LOOK_EVERY == 0:
            self._look_for_endless()
        self._obs, self._ended = next_obs, ended
        mask, self.mask = self.mask, next_mask
        if next_mask is not None and dies:
            self.mask = next_mask | ended[:, None]  # the dead step takes any action
        return Step(
            obs,
            action,
            reward,
            terminated,
            truncated,
            valid,
            next_obs,
            final,
            mask,
            next_mask,
            lost=lost,
        )

    def _stand_still(
        self, lost: NDArray[np.bool_], next_obs: NDArray[Any], next_mask: Mask | None
    ) -> None:
        """Where an environment was `lost`, what it showed last is what its episode ends with."""
        assert self._obs is not None
        last = self._obs[lost]
        if self.frame_stack > 1:  # memories that keep each frame once will see the last one again
            last = np.concatenate([last[:, 1:], last[:, -1:]], axis=1)
        next_obs[lost] = last
        if next_mask is not None and self.mask is not None:
            next_mask[lost] = self.mask[lost]

    def _checked(
        self, raw: Any, when: str
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], Any]:
        """What a step returned, copied, after checking that it keeps to the spaces."""
        if type(raw) is not tuple or len(raw) != 5:
            raise EnvError("step returned no five values; see gymnasium.vector.VectorEnv")
        obs, reward, terminated, truncated, info = raw
        return (
            self._observations(obs, when),
            self._rewards(reward, when),
            self._flags("terminated", terminated, when),
            self._flags("truncated", truncated, when),
            info,
        )

    @property
    def restarts(self) -> int:
        """How many worker processes that died or hung were replaced."""
        return 0 if self._workers is None else self._workers.restarts

    @property
    def longest_running(self) -> int:
        """Steps taken so far in the longest of the episodes that are under way."""
        return max(0, self.steps - int(self._began.min()))

    def get_state(self) -> state.Tree | None:
        """All that the next steps depend on, as a tree of arrays and JSON scalars.

        None where the environments can't be saved (see `rlkit.envs.state`): episodes restart.
        """
        own = state.get_state(self._venv)
        if own is None or self._obs is None:
            return None
        return {
            "environments": own,
            "obs": self._obs.copy(),
            "ended": self._ended.copy(),
            "began": self._began.copy(),
            "steps": self.steps,
            "mask": None if self.mask is None else self.mask.copy(),
        }

    def set_state(self, tree: state.Tree) -> NDArray[Any]:
        """Go on from a tree of `get_state`, bit for bit; the current observations, (N, *obs).

        Raises UsageError for a tree of other environments, or of another number of them.
        """
        shape = (self.n, *stored(self.obs_space)[0])
        if tree["obs"].shape != shape:
            raise UsageError(
                f"the saved observations are of shape {tree['obs'].shape}, these environments' of "
                f"{shape}; resume with the environments that were saved"
            )
        state.set_state(self._venv, tree["environments"])
        self._obs = tree["obs"].copy()
        self._ended = tree["ended"].astype(np.bool_)
        self._began = tree["began"].astype(np.int64)
        self.steps = int(tree["steps"])
        self.mask = None if tree["mask"] is None else tree["mask"].astype(np.bool_)
        self._mask_port.resume(self.mask)
        return self._obs

    @property
    def draws(self) -> bool:
        """Whether the environments were made to draw what they do."""
        return self._venv.render_mode is not None

    def render(self) -> tuple[Any, ...]:
        """What each environment draws; only where it `draws`."""
        drawn: Any = self._venv.render()
        return tuple(drawn)

    @property
    def frames_per_second(self) -> float | None:
        """At which what they draw is shown; None where they don't say."""
        fps = self._venv.metadata.get("render_fps")
        return None if fps is None else float(fps)

    def close(self) -> None:
        """Close the environments; closing twice is fine."""
        with quiet_gymnasium():
            self._venv.close()

    def __enter__(self) -> Envs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is KeyboardInterrupt and self._workers is not None:
            self._workers.close(terminate=True)  # whoever can't wait need not
        self.close()

    def _observations(self, raw: Any, when: str) -> NDArray[Any]:
        obs = self.obs_port.take(raw, when)
        if len(obs) != self.n:
            raise EnvError(
                f"the vector environment returned {len(obs)} observations at {when}; it has "
                f"{self.n} environments"
            )
        return obs

    def _rewards(self, raw: Any, when: str) -> NDArray[np.float32]:
        raw = np.asarray(raw)
        if raw.shape != (self.n,) or raw.dtype.kind not in "biuf":
            raise EnvError(
                f"the vector environment returned rewards of shape {raw.shape} and dtype "
                f"{raw.dtype} at {when}; return {self.n} numbers"
            )
        reward: NDArray[np.float32]
        if raw.dtype == np.float64 and raw.dot(raw) < SAFE_SQUARES:
            reward = raw.astype(np.float32)
            return reward
        if raw.dtype == np.float32:
            reward = raw.copy()
        else:
            with np.errstate(over="ignore"):
                reward = raw.astype(np.float32)
        finite = np.isfinite(reward)
        if np.count_nonzero(finite) != self.n:
            env = int(np.argmin(finite))
            beyond = " (beyond float32)" if np.isfinite(raw[env]) else ""
            raise EnvError(
                f"env {env} returned reward = {raw[env]}{beyond} at {when}; nothing was learned "
                "from that step: mend the environment"
            )
        return reward

    def _flags(self, name: str, raw: Any, when: str) -> NDArray[np.bool_]:
        raw = np.asarray(raw)
        if raw.shape != (self.n,) or raw.dtype.kind not in "biu":
            raise EnvError(
                f"the vector environment returned {name} of shape {raw.shape} and dtype "
                f"{raw.dtype} at {when}; return {self.n} bools"
            )
        return np.array(raw, dtype=np.bool_)

    def _final_obs(self, info: dict[str, Any], ended: NDArray[np.bool_], when: str) -> FinalObs:
        which = np.flatnonzero(ended)
        rows = info.get("final_obs") if isinstance(info, dict) else None
        if rows is None or any(rows[i] is None for i in which):
            raise EnvError(
                f"env {which[0]} ended at {when}, and info has no 'final_obs' for it; a vector "
                "environment with SAME_STEP autoreset must give the last observation there"
            )
        raw = self.obs_port.collate([rows[i] for i in which], which, when)
        obs = self.obs_port.take(raw, when, which)
        return FinalObs(which, obs, self._mask_port.take_final(info, which, when))

    def _takes_seeds(self) -> bool:
        """Whether every environment has a generator of its own to seed."""
        if isinstance(self._venv, ClassicVectorEnv):
            return not self._venv.one_generator
        return isinstance(self._venv, (SyncVectorEnv, AsyncVectorEnv))

    def _step_quietly(self, action: NDArray[Any]) -> Any:
        try:
            with quiet_gymnasium():  # which says more of what a worker raised than is raised
                return self._venv.step(action)
        except (EOFError, ConnectionError) as error:
            inner = self._venv.unwrapped
            assert isinstance(inner, AsyncVectorEnv)
            inner._state = AsyncState.DEFAULT  # or it would wait for the dead one as it closes
            inner.close(terminate=True)
            raise EnvError(
                f"a worker of the vector environment died at vector step {self.steps}; rlkit's own "
                "are named, and replaced: give the environment's name, or a function that makes "
                "one, with vectorization async"
            ) from error

    def _look_for_endless(self) -> None:
        longest = self.longest_running
        if longest <= ENDLESS or self._endless_said or self.max_episode_steps is not None:
            return
        self._endless_said = True
        warnings.warn(
            f"env {int(self._began.argmin())} has run for {longest} steps without an end; give its "
            "episodes a limit: the environment's option max_episode_steps, or "
            "gymnasium.wrappers.TimeLimit",
            RlkitWarning,
            stacklevel=3,
        )


def _autoreset_of(venv: VectorEnv[Any, Any, Any]) -> Autoreset:
    mode = venv.metadata.get("autoreset_mode")
    try:
        mode = AutoresetMode(mode)
    except ValueError:
        raise UsageError(
            f"the vector environment's metadata['autoreset_mode'] is {mode!r}; set it to "
            "gymnasium.vector.AutoresetMode.NEXT_STEP or SAME_STEP, whichever it does"
        ) from None
    if mode is AutoresetMode.DISABLED:
        raise UsageError(
            "the vector environment's autoreset is DISABLED; make it with "
            "autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP or SAME_STEP"
        )
    return "next_step" if mode is AutoresetMode.NEXT_STEP else "same_step"


def distinct_seeds(seed: int, count: int) -> list[int]:
    """`count` different seeds below 2³¹, which C generators and `numpy.random.seed` take too.

    Counting up from `seed`, as Gymnasium does, would give runs with neighbouring seeds the same
    environments.
    """
    if seed < 0:
        raise UsageError(f"the seed is {seed}; give a whole number of 0 or more")
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    return [int(drawn) for drawn in generator.choice(2**31, size=count, replace=False)]
