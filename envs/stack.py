"""The last observations in one: for what a single one doesn't tell, as speed."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlkit.errors import UsageError


class StackedVectorEnv(VectorWrapper):
    """Observations (N, k, *shape): the last k of (N, *shape), oldest first.

    An episode's first observation stands for those before it, as in `gymnasium.wrappers.
    FrameStackObservation`, which does this for one environment. Raises UsageError for observations
    that are no Box.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], k: int) -> None:
        super().__init__(env)
        single = env.single_observation_space
        if not isinstance(single, spaces.Box):
            raise UsageError(
                f"frame_stack (--frame-stack) is {k}, and the observations are {single}; only a "
                "Box can be stacked: leave it out"
            )
        low, high = (np.stack([bound] * k) for bound in (single.low, single.high))
        self.single_observation_space = spaces.Box(low, high, dtype=single.dtype.type)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._k = k
        self._dies = env.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP
        self._stack: NDArray[Any] = np.zeros((env.num_envs, k, *single.shape), single.dtype)
        self._ended = np.zeros(env.num_envs, dtype=np.bool_)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._stack = np.repeat(np.asarray(obs)[:, None], self._k, axis=1)
        self._ended[:] = False
        return self._stack, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(actions)
        ended = np.asarray(terminated) | np.asarray(truncated)
        before, newest = self._stack[:, 1:], np.asarray(obs)[:, None]
        if "final_obs" in info:
            info = info | {"final_obs": _stacked_finals(info["final_obs"], before)}
        self._stack = np.concatenate([before, newest], axis=1)  # the old one may be kept by others
        fresh = self._ended if self._dies else ended
        self._stack[fresh] = newest[fresh]
        self._ended = ended
        return self._stack, reward, terminated, truncated, info

    def stack_state(self) -> dict[str, Any]:
        """What the next steps depend on besides the environments."""
        return {"stack": self._stack.copy(), "stack_ended": self._ended.copy()}

    def set_stack_state(self, tree: dict[str, Any]) -> None:
        self._stack = tree["stack"].copy()
        self._ended = tree["stack_ended"].astype(np.bool_)


def _stacked_finals(rows: Any, before: NDArray[Any]) -> NDArray[Any]:
    """The last observations of episodes, each behind those before it; None where there is none."""
    stacked = np.full(len(rows), None, dtype=object)
    for i, row in enumerate(rows):
        if row is not None:
            stacked[i] = np.concatenate([before[i], np.asarray(row)[None]])
    return stacked
