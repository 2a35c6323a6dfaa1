"""Epochs of minibatches over the steps of a rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch

from rlkit.arrays import Array, like


def minibatches(
    columns: Sequence[Array | None], size: int, epochs: int, generator: torch.Generator
) -> Iterator[tuple[Any, ...]]:
    """The columns (K, ...) in a new order for each epoch, in parts of `size` rows or nearly so.

    The parts of an epoch are of about equal length, so that none is left with a handful of rows.
    A column that is None stays None; the first is not.
    """
    first: Array = columns[0]
    count = len(first)
    parts = max(1, round(count / size))
    ends = [round(count * part / parts) for part in range(parts + 1)]
    for _ in range(epochs):
        order = like(first, torch.randperm(count, generator=generator))
        shuffled = [None if column is None else column[order] for column in columns]
        for start, end in pairwise(ends):
            yield tuple(None if column is None else column[start:end] for column in shuffled)
