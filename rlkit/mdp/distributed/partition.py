"""Which rank holds which states: contiguous blocks, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rlkit.errors import UsageError
from rlkit.mdp.model import FloatArray, IntArray


def even(n_states: int, ranks: int) -> IntArray:
    """(ranks + 1,) first states of each rank's block, and the end: as many states each.

    Raises UsageError where there are more ranks than states.
    """
    _refuse_idle(n_states, ranks)
    return np.array([n_states * rank // ranks for rank in range(ranks + 1)], dtype=np.int64)


def weighted(weights: ArrayLike, ranks: int) -> IntArray:
    """(ranks + 1,) first states of each rank's block, and the end: about as much weight each.

    weights: (S,) such as the transitions of each state, none of them negative.

    Raises UsageError where there are more ranks than states.
    """
    known: FloatArray = np.asarray(weights, dtype=np.float64)
    _refuse_idle(known.size, ranks)
    if not (np.all(known >= 0) and np.isfinite(known.sum())):
        raise UsageError("weights must be finite numbers, and none negative")
    until = np.cumsum(known)
    wanted = until[-1] * np.arange(1, ranks) / ranks
    starts = np.concatenate([[0], np.searchsorted(until, wanted) + 1, [known.size]])
    # Each rank holds a state at least, however much a single one weighs.
    forwards = np.maximum.accumulate(starts - np.arange(ranks + 1)) + np.arange(ranks + 1)
    return np.minimum(forwards, known.size - ranks + np.arange(ranks + 1)).astype(np.int64)


def checked(starts: Sequence[int] | IntArray, n_states: int, ranks: int) -> IntArray:
    """`starts`, which must be as `even` and `weighted` return it."""
    found = np.asarray(starts)
    rises = found.shape == (ranks + 1,) and found.dtype.kind in "iu" and np.all(np.diff(found) > 0)
    if not (rises and found[0] == 0 and found[-1] == n_states):
        raise UsageError(
            f"starts={starts} must be {ranks + 1} numbers for {ranks} ranks, which rise "
            f"from 0 to the number of states, {n_states}"
        )
    return found.astype(np.int64)


def _refuse_idle(n_states: int, ranks: int) -> None:
    if ranks > n_states:
        raise UsageError(
            f"{ranks} ranks for {n_states} states: some would have none; start {n_states} at most"
        )
