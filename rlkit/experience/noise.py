"""Exploration noise, drawn for many steps at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.arrays import Array, as_tensor
from rlkit.device.engine import Randomness


class Noise:
    """Hands out `draw`'s noise row by row: a draw of 64 steps costs little more than one of 1.

    For tensors on a device it is drawn there, with a generator that is seeded from the host's.
    """

    BLOCK = 64

    def __init__(
        self,
        draw: Callable[[tuple[int, ...], torch.Generator], Tensor],
        n_envs: int,
        generator: torch.Generator,
    ) -> None:
        self._draw = draw
        self._n_envs = n_envs
        self._generator = generator
        self._rows: Array = np.empty(0, dtype=np.float32)  # (drawn, N, ...)
        self._used = 0
        self._there: Randomness | None = None

    def next(self, x: Array) -> Array:
        """Noise for one step of all environments, (N, ...), of the kind and place of `x`."""
        if self._used == len(self._rows):
            self.use(self._drawn(x, self.BLOCK))
        row = self._rows[self._used]
        self._used += 1
        if isinstance(row, np.ndarray):
            return row if isinstance(x, np.ndarray) else torch.from_numpy(row).to(x.device)
        return row.cpu().numpy() if isinstance(x, np.ndarray) else row.to(x.device)

    def block(self, steps: int, x: Tensor) -> Tensor:
        """Noise for so many steps (steps, N, ...), where `x` is, for `use`."""
        return as_tensor(self._drawn(x, steps), x.device)

    def use(self, rows: Array) -> None:
        """Hand out these from now on, and none of those that were drawn before."""
        self._rows, self._used = rows, 0

    def _drawn(self, x: Array, steps: int) -> Array:
        shape = (steps, self._n_envs)
        if isinstance(x, np.ndarray) or x.device.type == "cpu":
            return self._draw(shape, self._generator).numpy()
        if self._there is None:
            self._there = Randomness(self._generator, x.device)
        self._there.reseed()
        assert self._there.there is not None
        return self._draw(shape, self._there.there)

    def get_state(self) -> dict[str, Any]:
        """The rows that are drawn and not used yet."""
        return {"rest": self._rows[self._used :]}

    def set_state(self, state: dict[str, Any]) -> None:
        self.use(state["rest"])
