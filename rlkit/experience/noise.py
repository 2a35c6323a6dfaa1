"""Exploration noise, drawn for many steps at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


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
        self._rows: tuple[Tensor, ...] = ()
        self._used = 0

    def next(self) -> Tensor:
        """Noise for one step of all environments, (N, ...)."""
        if self._used == len(self._rows):
            self._rows = self._draw(self._shape, self._generator).unbind()
            self._used = 0
        row = self._rows[self._used]
        self._used += 1
        return row

    def get_state(self) -> dict[str, Any]:
        """The rows that are drawn and not used yet."""
        rest = self._rows[self._used :]
        return {"rest": torch.stack(rest) if rest else None}

    def set_state(self, state: dict[str, Any]) -> None:
        rest = state["rest"]
        self._rows = () if rest is None else rest.unbind()
        self._used = 0
