"""Epochs of minibatches over the steps of a rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rlkit.arrays import Array, like
from rlkit.device.engine import Randomness


def minibatches(
    columns: Sequence[Array | None], parts: int, epochs: int, generator: torch.Generator
) -> Iterator[tuple[Any, ...]]:
    """The columns (K, ...) in a new order for each epoch, in `parts` of about equal length.

    A column that is None stays None; the first is not.
    """
    first: Array = columns[0]
    count = len(first)
    for _ in range(epochs):
        order = like(first, torch.randperm(count, generator=generator))
        shuffled = [None if column is None else column[order] for column in columns]
        for start, end in _bounds(count, parts):
            yield tuple(None if column is None else column[start:end] for column in shuffled)


def minibatch_indices(count: int, parts: int, epochs: int, random: Randomness) -> Iterator[Tensor]:
    """Of `count` rows which are in each of the minibatches that `minibatches` makes: int64.

    On a device rows are picked where they are learned from.
    """
    for _ in range(epochs):
        order = random.permutation(count)
        for start, end in _bounds(count, parts):
            yield order[start:end]


def _bounds(count: int, parts: int) -> Iterator[tuple[int, int]]:
    return pairwise(round(count * part / parts) for part in range(parts + 1))


class Mean:
    """The mean over the rows of a minibatch; with `live`, over those where it is 1 and not 0."""

    def __init__(self, column: Array, live: Array | None = None) -> None:
        self._live = live
        self.count: Array = len(column) if live is None else live.sum()
        # of several ranks one may have no rows here
        self._n: Array = max(1, len(column)) if live is None else live.sum().clip(1)

    def __call__(self, x: Array) -> Array:
        return (x if self._live is None else self._live * x).sum() / self._n

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Mean and variance of x."""
        centre = self(x)
        centred = x - centre
        return centre, self(centred * centred)

    def share(self, g: Array | float) -> Array:
        """∂L/∂x, each row's, from ∂L/∂mean(x): 0 in those that don't count."""
        return g / self._n if self._live is None else g * (self._live / self._n)


def parts_of(count: float, size: int) -> int:
    """How many parts of `size` rows, or nearly so, `count` rows make.

    Of equal parts none is left with a handful of rows.
    """
    return max(1, round(count / size))
