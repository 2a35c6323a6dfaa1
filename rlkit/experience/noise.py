"""Exploration noise, drawn for many steps at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
        self._rows: NDArray[np.float32] = np.empty(0, dtype=np.float32)  # (drawn, N, ...)
        self._used = 0

    def next(self, x: Array) -> Array:
        """Noise for one step of all environments, (N, ...), of the kind and place of `x`."""
        if self._used == len(self._rows):
            self._rows = self._draw(self._shape, self._generator).numpy()
            self._used = 0
        row = self._rows[self._used]
        self._used += 1
        return row if isinstance(x, np.ndarray) else torch.from_numpy(row).to(x.device)

    def get_state(self) -> dict[str, Any]:
        """The rows that are drawn and not used yet."""
        return {"rest": self._rows[self._used :]}

    def set_state(self, state: dict[str, Any]) -> None:
        self._rows = state["rest"]
        self._used = 0
