"""What arrays must be to make an MDP: the checks behind `rlkit.MDP`.

They run over the whole arrays at once and make no copies of them: what is looked for is found by a
minimum or a sum, and only an error is worth finding its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from rlkit.errors import ModelError

if TYPE_CHECKING:
    from rlkit.mdp.model import BoolArray, FloatArray, IntArray

# Rows whose sum differs from 1 by no more than this are meant to sum to 1, and are scaled to it;
# those in single precision, by no more than 8 of its eps.
ROW_SUM_TOLERANCE = 1e-9


def row_sum_tolerance(dtype: np.dtype[Any]) -> float:
    """How far from 1 the sum of a row may be that is meant to be 1: more in single precision."""
    single = dtype.kind == "f" and dtype.itemsize < 8
    return 8.0 * float(np.finfo(dtype).eps) if single else ROW_SUM_TOLERANCE


def integers(name: str, values: ArrayLike, copy: bool = True) -> IntArray:
    """`values` as a one-dimensional array of int64."""
    found = np.asarray(values)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise ModelError(
            f"{name} must be a one-dimensional array of integers; "
            f"found {found.dtype} of shape {found.shape}"
        )
    return found.astype(np.int64, copy=copy)


def discount(gamma: float) -> float:
    """`gamma`, which must lie in [0, 1]."""
    if not 0.0 <= gamma <= 1.0:
        raise ModelError(f"gamma={gamma} is out of range; a discount lies in [0, 1]")
    return float(gamma)


def distribution(start: ArrayLike, n_states: int) -> FloatArray:
    """`start` as (S,) probabilities that sum to 1."""
    found = np.array(start, dtype=np.float64)
    if found.shape != (n_states,):
        raise ModelError(f"start has shape {found.shape}; it must be ({n_states},)")
    if not np.all(found >= 0):
        state = int(np.flatnonzero(~(found >= 0))[0])
        raise ModelError(f"state {state}: start probability {found[state]} is not in [0, 1]")
    total = float(found.sum())
    if not abs(total - 1.0) <= 1e-6:
        raise ModelError(f"start probabilities sum to {total:.9g}; they must sum to 1")
    return found / total


def check_shapes(P: csr_array, r: FloatArray, offsets: IntArray, actions: IntArray) -> None:
    """Refuse arrays whose sizes do not fit one another, and successors that do not exist."""
    S, L = offsets.size - 1, r.size
    if S < 1 or offsets[0] != 0 or np.any(np.diff(offsets) < 0):
        raise ModelError("offsets must be S + 1 numbers that start at 0 and never decrease")
    for name, found, wanted in (
        ("r", r.shape, (int(offsets[-1]),)),
        ("actions", actions.shape, (L,)),
        ("P", tuple(P.shape), (L, S)),
    ):
        if found != wanted:
            raise ModelError(f"{name} has shape {found}; with these offsets it must be {wanted}")
    indices = P.indices
    if indices.size and (indices.min() < 0 or indices.max() >= S):
        bad = int(np.flatnonzero((indices < 0) | (indices >= S))[0])
        raise ModelError(
            f"{_name(_row_of(P, bad), offsets, actions)}: successor {indices[bad]} is out of "
            f"range; states are 0 to {S - 1}"
        )


def check_numbers(
    P: csr_array, r: FloatArray, offsets: IntArray, actions: IntArray, near_one: float
) -> None:
    """Refuse what is no probability, no reward or no label; rows may sum to 1 + `near_one`."""

    def refuse(pairs: IntArray, why: Callable[[int], str]) -> None:
        if pairs.size:
            pair = int(pairs[0])
            raise ModelError(f"{_name(pair, offsets, actions)}: {why(pair)}")

    if not P.data.min(initial=0.0) >= 0.0:  # a NaN is the minimum of whatever holds one
        pair = _row_of(P, int(np.flatnonzero(~(P.data >= 0))[0]))
        least = P.data[P.indptr[pair] : P.indptr[pair + 1]].min()
        refuse(np.array([pair]), lambda _: f"probability {least} is not a number in [0, 1]")
    sums = row_sums(P)
    refuse(
        np.flatnonzero(~(sums <= 1.0 + near_one)),
        lambda pair: f"probabilities sum to {sums[pair]:.12g}; they may sum to 1 at most",
    )
    refuse(
        np.flatnonzero(~np.isfinite(r)),
        lambda pair: f"reward {r[pair]} is not a finite number",
    )
    refuse(np.flatnonzero(actions < 0), lambda _: "action labels must not be negative")
    falls = np.diff(actions, prepend=-1) <= 0
    falls[offsets[:-1][offsets[:-1] < actions.size]] = False  # the first pair of each state
    refuse(np.flatnonzero(falls), lambda _: "action labels must increase within a state")


def normalise(P: csr_array, near_one: float) -> BoolArray:
    """Sum duplicates, drop zeros, and scale rows that are meant to sum to 1; in place.

    Indices get 32 bits where these suffice. Returns (L,) bool: the rows that sum to less than 1.
    """
    P.sum_duplicates()
    if P.indices.dtype == np.int64 and max(P.nnz, *P.shape) <= np.iinfo(np.int32).max:
        P.indices, P.indptr = P.indices.astype(np.int32), P.indptr.astype(np.int32)
    if np.any(P.data == 0.0):
        P.eliminate_zeros()
    sums = row_sums(P)
    near = (sums != 1.0) & (np.abs(sums - 1.0) <= near_one)
    if near.any():
        P.data /= np.repeat(np.where(near, sums, 1.0), np.diff(P.indptr))
    return np.asarray(sums < 1.0 - near_one)


def row_sums(P: csr_array) -> FloatArray:
    """(L,) sums of the rows of P (L, S)."""
    # Faster than P.sum(axis=1), which reduces row by row.
    return np.asarray(P @ np.ones(P.shape[1]))


def _row_of(P: csr_array, entry: int) -> int:
    return int(np.searchsorted(P.indptr, entry, side="right")) - 1


def _name(pair: int, offsets: IntArray, actions: IntArray) -> str:
    state = int(np.searchsorted(offsets, pair, side="right")) - 1
    return f"state {state}, action {actions[pair]}"
