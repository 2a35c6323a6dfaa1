"""From transitions, one entry each, to state–action pairs; behind `MDP.from_triplets`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from rlkit.errors import ModelError
from rlkit.mdp.build import Pairs, index_dtype, numbers, without_absorbing
from rlkit.mdp.checks import ROW_SUM_TOLERANCE, integers
from rlkit.mdp.model import FloatArray, IntArray
from rlkit.system import require_memory

_BYTES_PER_STATE = 32  # at least, whatever the transitions are


def triplets_to_pairs(columns: Sequence[ArrayLike], n_states: int | None = None) -> Pairs:
    """Pairs of an MDP given by its transitions, in five columns; see `MDP.from_triplets`."""
    states, actions, successors, probabilities, rewards = columns
    s, a, t = (
        integers(name, column, copy=False)
        for name, column in (("states", states), ("actions", actions), ("successors", successors))
    )
    p, gains = (
        numbers(name, column).astype(np.float64, copy=False)
        for name, column in (("probabilities", probabilities), ("rewards", rewards))
    )
    for name, column in (
        ("actions", a),
        ("successors", t),
        ("probabilities", p),
        ("rewards", gains),
    ):
        if column.shape != s.shape:
            raise ModelError(f"{name} has shape {column.shape}; states has {s.shape}")
    found = int(max(s.max(initial=-1), t.max(initial=-1))) + 1
    S = found if n_states is None else n_states
    require_memory(
        S * _BYTES_PER_STATE,
        f"the transitions are of {S:,} states",
        "the model",
        lambda free: f"{free // _BYTES_PER_STATE:,} states",
    )
    _check_triplets(s, a, t, p, gains, S)
    owner, labels, row = _pairs_of(s, a)
    r = np.bincount(row, p * gains, minlength=owner.size).astype(np.float64)
    mass = np.bincount(row, p, minlength=owner.size).astype(np.float64)
    _refuse_excess(mass, owner, labels)
    inside = np.flatnonzero(t >= 0)
    index = index_dtype(S, inside.size)
    P = csr_array(
        (p[inside], (row[inside].astype(index), t[inside].astype(index))), shape=(owner.size, S)
    )
    return without_absorbing(P, r, owner, labels, S)


def _pairs_of(s: IntArray, a: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """The pairs that occur, in order: their states, their labels; and each entry's pair."""
    first = np.ones(s.size, dtype=bool)
    first[1:] = (np.diff(s) != 0) | (np.diff(a) != 0)
    rises = np.diff(s) > 0
    if np.all(rises | ((np.diff(s) == 0) & (np.diff(a) >= 0))):  # sorted, as most files are
        return s[first], a[first], np.cumsum(first) - 1
    pairs, row = np.unique(np.stack([s, a], axis=1), axis=0, return_inverse=True)
    return pairs[:, 0], pairs[:, 1], row.ravel()


def _check_triplets(
    s: IntArray, a: IntArray, t: IntArray, p: FloatArray, gains: FloatArray, S: int
) -> None:
    if S < 1:
        raise ModelError("there is no state; a model has at least one")
    for what, wrong, found in (
        (f"states are 0 to {S - 1}", (s < 0) | (s >= S), s),
        (f"successors are 0 to {S - 1}, and -1 ends the episode", (t < -1) | (t >= S), t),
        ("a probability lies in [0, 1]", ~(p >= 0), p),
        ("a reward is a finite number", ~np.isfinite(gains), gains),
    ):
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise ModelError(
                f"transition {place}: found {found[place]} (state {s[place]}, action {a[place]}); "
                f"{what}"
            )


def _refuse_excess(mass: FloatArray, owner: IntArray, labels: IntArray) -> None:
    """The mass that ends is not in the matrix, so that `MDP` cannot see when a sum exceeds 1."""
    excess = np.flatnonzero(mass > 1.0 + ROW_SUM_TOLERANCE)
    if excess.size:
        pair = int(excess[0])
        raise ModelError(
            f"state {owner[pair]}, action {labels[pair]}: probabilities sum to {mass[pair]:.12g}; "
            "they may sum to 1 at most"
        )
