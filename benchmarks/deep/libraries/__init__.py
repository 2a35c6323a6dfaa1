"""The libraries that are compared, one file each, all with the same `train`:

    train(case, steps, seed, every=0, probe=None) -> Trained

trains on the case's environment in this process, on one thread of the CPU. Every `every` steps, and
not before the collection step in progress is over, `probe` is called with the steps so far and the
greedy policy as it is; what it raises ends the training.

Each file says beside its settings what it can't match.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ENV = "CartPole-v1"

Act = Callable[[NDArray[np.float32]], NDArray[np.int64]]  # (N, 4) → (N,)
Probe = Callable[[int, Act], None]


@dataclass(frozen=True)
class Trained:
    """What a training took, the building of environments and agent left out."""

    transitions: int  # dead steps, which only reset, are not counted
    seconds: float


@dataclass(frozen=True)
class Case:
    """An agent at settings that every library repeats."""

    agent: str
    envs: int
    about: str
    env: str = ENV


CASES = {
    "a2c": Case("a2c", 8, "A2C, 8 envs × 5 steps (SB3's defaults)"),
    "a2c-64": Case("a2c", 64, "A2C, 64 envs × 5 steps"),
    "a2c-512": Case("a2c", 512, "A2C, 512 envs × 5 steps"),
    "ppo": Case("ppo", 8, "PPO, RL Zoo's settings: 8 envs × 32 steps, 20 epochs"),
    "dqn": Case("dqn", 1, "DQN, RL Zoo's settings: 1 env, 128 updates every 256 steps, 2×256"),
    "recurrent": Case("recurrent", 8, "recurrent PPO, LSTM of 256, 8 envs × 128 steps, 10 epochs"),
    "pong": Case("pong", 8, "PPO on Pong, RL Zoo's settings: 8 envs × 128 steps", "ALE/Pong-v5"),
}


class Probes:
    """Calls `probe` at the first occasion at or after each multiple of `every` steps."""

    def __init__(self, every: int, probe: Probe | None, act: Act) -> None:
        self.every, self.probe, self.act = every, probe, act
        self.due = every

    def at(self, steps: int) -> None:
        if self.probe is not None and steps >= self.due:
            self.due = (steps // self.every + 1) * self.every
            self.probe(steps, self.act)


def timed(work: Callable[[], object]) -> float:
    """The seconds that `work` takes."""
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def library(name: str) -> Any:
    """The module of that library; importing it imports the library."""
    return importlib.import_module(f"libraries.{name}")
