"""What every environment on a device is made of: rules that are pure functions of tensors.

Nothing in them, or in `Episodes`, looks at a value: there is no synchronisation with the host,
shapes never change, and all randomness comes in as uniform numbers. So a step can be compiled,
mapped over a population (`torch.vmap`) and captured in a CUDA graph as it is.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

OVER = -1  # the age of an episode that is over
NO_LIMIT = 2**62


class Rules(Protocol):
    """The rules of N episodes. A state is a column of S numbers, all of one dtype.

    Attributes:
        draws: D, the uniform numbers that an episode needs in each step.

    Actions are taken as they are: to check them would need the host. Episodes that are over are
    moved on with the others; what becomes of those, nobody sees.
    """

    @property
    def draws(self) -> int: ...

    def start(self, u: Tensor) -> Tensor:
        """The states (S, N) in which episodes begin; `u` (D, N) float64, uniform in [0, 1)."""

    def step(self, state: Tensor, action: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next states (S, N), rewards (N,) float32, and who reached a terminal state (N,)."""

    def observe(self, state: Tensor) -> Tensor:
        """What is seen of the states: (N, *obs), of a dtype that can be cast to the space's."""

    def mask(self, state: Tensor) -> Tensor | None:
        """Which actions the states allow, (N, n) bool; None: all, always."""


class Moved(NamedTuple):
    """A step of N episodes."""

    state: Tensor  # (S, N)
    age: Tensor  # (N,) int64: the steps of each episode, OVER once it has ended
    reward: Tensor  # (N,) float32
    terminated: Tensor  # (N,) bool
    truncated: Tensor  # (N,) bool
    valid: Tensor  # (N,) bool: False where the step began an episode, and did nothing else


class Episodes:
    """Rules with a time limit, and NEXT_STEP autoreset: see `rlkit.experience.step.Step`."""

    def __init__(self, rules: Rules, limit: int | None, device: torch.device) -> None:
        self.rules = rules
        self._limit = NO_LIMIT if limit is None else limit
        self._nothing = torch.zeros((), dtype=torch.float32, device=device)

    def step(self, state: Tensor, age: Tensor, action: Tensor, u: Tensor) -> Moved:
        """Move episodes on, and begin anew those that are over.

        Args: `state` (S, N); `age` (N,); `action` (N, *action); `u` (D, N). Changes none of them.
        """
        moved, reward, terminated = self.rules.step(state, action, u)
        valid = age >= 0
        age = age + 1  # of an episode that begins: OVER + 1 = 0
        terminated = terminated & valid
        truncated = age >= self._limit
        return Moved(
            torch.where(valid, moved, self.rules.start(u)),
            age.masked_fill_(terminated | truncated, OVER),
            torch.where(valid, reward, self._nothing),
            terminated,
            truncated,
            valid,
        )
