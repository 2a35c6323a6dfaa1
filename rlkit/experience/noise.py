"""Exploration noise, drawn for many steps at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlkit.arrays import Array


class Noise:
    """Hands out `draw`'s noise row by row: a draw of 64 steps costs little more than one of 1."""

    BLOCK = 64

    def __init__(
        self,
        draw: Callable[[tuple[int, ...], torch.Generator], Tensor],
        n_envs: int,
        generator: torch.Generator,
    ) -> None:
        self._draw = draw
        self._shape = (self.BLOCK, n_envs)
        self._generator = generator
        self._rows: Array = ()  # (left, N, ...)
        self._used = 0

    def next(self) -> Array:
        """Noise for one step of all environments, (N, ...): an array on the CPU, else a tensor."""
        if self._used == len(self._rows):
            rows = self._draw(self._shape, self._generator)
            self._rows = rows.numpy() if rows.device.type == "cpu" else rows
            self._used = 0
        row = self._rows[self._used]
        self._used += 1
        return row

    def get_state(self) -> dict[str, Any]:
        """The rows that are drawn and not used yet."""
        left = len(self._rows) - self._used
        return {"rest": self._rows[self._used :] if left else None}

    def set_state(self, state: dict[str, Any]) -> None:
        self._rows = () if state["rest"] is None else state["rest"]
        self._used = 0
