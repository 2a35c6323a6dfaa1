"""rlkit's games for memories on a device; the rules are those of `rlkit.envs.memory`."""

from __future__ import annotations

import torch
from torch import Tensor

# Row 2·part + side: the cue, the corridor, the junction.
_SEEN = [[0, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 1, 0], [0, 1, 0]]


class MemoryCorridor:
    """A corridor of `length` steps; a state is the goal's side and the place: int64."""

    draws = 1

    def __init__(self, length: int, device: torch.device) -> None:
        self._length = length
        self._seen = torch.tensor(_SEEN, dtype=torch.float32, device=device)
        self._entrance = torch.zeros((1, 1), dtype=torch.int64, device=device)
        earned = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float32, device=device)
        self._right, self._wrong, self._nothing = earned

    def start(self, u: Tensor) -> Tensor:
        return torch.cat(((u < 0.5).long(), self._entrance.expand_as(u)))

    def step(self, state: Tensor, action: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        side, place = state
        ended = place == self._length
        earned = torch.where(action == side, self._right, self._wrong)
        reward = torch.where(ended, earned, self._nothing)
        return torch.stack((side, (place + 1).clamp(max=self._length))), reward, ended

    def observe(self, state: Tensor) -> Tensor:
        side, place = state
        part = place.clamp(max=1) + (place == self._length)
        return self._seen[torch.add(side, part, alpha=2)]

    def mask(self, state: Tensor) -> None:
        return None


class RepeatFirst:
    """Cards of `suits` suits; a state is the actions taken, the first suit and the open card's.

    A card is drawn as it is turned up, and not all of them at the start: in law that is the same.
    """

    draws = 1

    def __init__(self, length: int, suits: int, device: torch.device) -> None:
        self._length, self._suits = length, suits
        self._none = torch.zeros((1, 1), dtype=torch.int64, device=device)
        earned = torch.tensor([1 / length, -1 / length], dtype=torch.float32, device=device)
        self._right, self._wrong = earned

    def start(self, u: Tensor) -> Tensor:
        suit = (u * self._suits).long()
        return torch.cat((self._none.expand_as(suit), suit, suit))

    def step(self, state: Tensor, action: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        played, first, _ = state
        played = played + 1
        reward = torch.where(action == first, self._right, self._wrong)
        turned_up = (u[0] * self._suits).long()
        return torch.stack((played, first, turned_up)), reward, played == self._length

    def observe(self, state: Tensor) -> Tensor:
        return state[2]

    def mask(self, state: Tensor) -> None:
        return None
