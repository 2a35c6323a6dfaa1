"""Playing an environment at random to see how it behaves: what `rlkit.check` reports on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.envs.masks import choices
from rlkit.envs.vector import Envs
from rlkit.experience.step import Step

MAX_STEPS = 5_000  # of random play, however many episodes that is
MAX_SECONDS = 5.0
REPLAYED = 200  # steps that are played twice
SPEED_SECONDS = 0.2


class Watch(gym.Wrapper[Any, Any, Any, Any]):
    """Notes whether an environment writes over observations that it has returned."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.reuses = False
        self._returned: Any = None
        self._as_returned: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result: Any = self.env.reset(seed=seed, options=options)
        self._look(result)
        return result

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self._look(result)
        return result

    def _look(self, result: Any) -> None:
        obs = result[0] if isinstance(result, tuple) and result else None
        if not isinstance(obs, np.ndarray):
            return
        if self._returned is not None:
            rewritten = not np.array_equal(self._returned, self._as_returned, equal_nan=True)
            self.reuses |= rewritten or np.shares_memory(obs, self._returned)
        self._returned, self._as_returned = obs, obs.copy()


@dataclass
class Played:
    """Random play in one environment."""

    seconds: float = 0.0
    reuses: bool = False  # it writes over observations that it has returned
    returns: list[float] = field(default_factory=list)  # of the episodes that ended
    lengths: list[int] = field(default_factory=list)
    truncated: int = 0  # episodes that a time limit ended
    rewards: list[float] = field(default_factory=list)
    low: NDArray[Any] | None = None  # the least and the greatest observation, elementwise
    high: NDArray[Any] | None = None
    allowed: list[float] = field(default_factory=list)  # the share of actions that masks allow
    longest: int = 0  # steps of the longest episode, also of one that did not end


class RandomActions:
    """Actions for N environments, uniform over those that their masks allow."""

    def __init__(self, space: spaces.Space[Any], seed: int) -> None:
        self._space = space
        self._sizes = choices(space)
        self._rng = np.random.default_rng(seed)
        space.seed(seed)

    def __call__(self, envs: Envs) -> NDArray[Any]:
        if envs.mask is None or self._sizes is None:
            return np.stack([self._space.sample() for _ in range(envs.n)])
        each = np.split(envs.mask, np.cumsum(self._sizes)[:-1], axis=1)
        drawn = [
            [self._rng.choice(np.flatnonzero(row)) if row.any() else 0 for row in of_one]
            for of_one in each
        ]
        actions = np.array(drawn).T
        return actions[:, 0] if isinstance(self._space, spaces.Discrete) else actions


def play(envs: Envs, watch: Watch, episodes: int, seed: int, played: Played) -> None:
    """Play `episodes` episodes at random in one environment, adding to `played` as it goes.

    Fewer where MAX_STEPS or MAX_SECONDS come first. Raises EnvError where the environment breaks
    its contract; what came before that is in `played`.
    """
    since = time.monotonic()
    try:
        act = RandomActions(envs.action_space, seed)
        obs, gain, length = envs.reset(), 0.0, 0
        played.low = played.high = obs[0]
        while len(played.returns) < episodes and len(played.rewards) < MAX_STEPS:
            if time.monotonic() - since > MAX_SECONDS:
                return
            if envs.mask is not None:
                played.allowed.append(float(envs.mask.mean()))
            step = envs.step(act(envs))
            played.low = np.minimum(played.low, step.next_obs[0])
            played.high = np.maximum(played.high, step.next_obs[0])
            if not step.valid[0]:
                continue
            played.rewards.append(float(step.reward[0]))
            gain, length = gain + played.rewards[-1], length + 1
            played.longest = max(played.longest, length)
            if step.terminated[0] or step.truncated[0]:
                played.returns.append(gain)
                played.lengths.append(length)
                played.truncated += int(step.truncated[0] and not step.terminated[0])
                gain, length = 0.0, 0
    finally:
        played.seconds = time.monotonic() - since
        played.reuses = watch.reuses


def recorded(envs: Envs, act: Callable[[Envs], NDArray[Any]], count: int) -> list[Step]:
    return [envs.step(act(envs)) for _ in range(count)]


def first_difference(steps: list[Step], again: Envs) -> str:
    """Where `again`, given the same actions, goes another way; "" where it does not."""
    for number, step in enumerate(steps, start=1):
        other = again.step(step.action)
        for name in ("next_obs", "reward", "terminated", "truncated"):
            one, two = getattr(step, name), getattr(other, name)
            if not np.array_equal(one, two):
                return f"{name.removeprefix('next_')} differs from step {number} on"
    return ""


def speed(envs: Envs, seed: int) -> float:
    """Environment steps per second at random actions, drawing these not counted."""
    act = RandomActions(envs.action_space, seed)
    envs.reset()
    steps, spent = 0, 0.0
    while spent < SPEED_SECONDS:
        actions = act(envs)
        since = time.perf_counter()
        envs.step(actions)
        spent += time.perf_counter() - since
        steps += envs.n
    return steps / spent
