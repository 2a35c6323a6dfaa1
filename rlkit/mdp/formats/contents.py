"""What a reader takes from a file, and what all of them make of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from rlkit.errors import ModelError, UsageError
from rlkit.mdp.build import Pairs, index_dtype, without_absorbing
from rlkit.mdp.model import BoolArray, FloatArray, IntArray
from rlkit.registry import did_you_mean

# Files hold probabilities with few digits: rows that differ from 1 by no more than this are meant
# to sum to 1. The tools that these formats come from (PRISM, pomdp-solve) allow as much.
FILE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Choice:
    """What to take of a file that holds several models: a reward structure, a goal; by name."""

    rewards: str | None = None
    goal: str | None = None

    def refuse(self, path: object, ending: str) -> None:
        """Raise where something was chosen and the format has nothing to choose."""
        for name in ("rewards", "goal"):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"model file {str(path)!r}: {name} is for .drn and .tra files, "
                    f"not for {ending}; leave it out"
                )


@dataclass(frozen=True, eq=False)
class Contents:
    """The pairs in a file (see `rlkit.mdp.build.Pairs`), and what else it names of the model."""

    pairs: Pairs
    gamma: float | None = None
    start: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Rows:
    """Transitions as a file lists them, N of them in L rows, for `assemble`.

    Fields:
        owner, labels: (L,) the state and the action label of each row, sorted by both.
        row: (N,) the row that each transition belongs to.
        successors, p: (N,) of each transition.
        r: (L,) expected reward of each row.
        goal: (S,) bool: states to be terminal, whatever the file says of them.
    """

    owner: IntArray
    labels: IntArray
    row: IntArray
    successors: IntArray
    p: FloatArray
    r: FloatArray
    goal: BoolArray


def assemble(name: str, rows: Rows) -> Pairs:
    """The pairs behind rows that must sum to 1, scaled to that within `FILE_TOLERANCE`."""
    S, L = rows.goal.size, rows.owner.size
    mass = np.bincount(rows.row, rows.p, minlength=L)
    off = np.flatnonzero(~(np.abs(mass - 1.0) <= FILE_TOLERANCE))
    if off.size:
        pair = int(off[0])
        raise ModelError(
            f"{name}: state {rows.owner[pair]}, action {rows.labels[pair]}: probabilities sum to "
            f"{mass[pair]:.9g}; in this format they must sum to 1"
        )
    index = index_dtype(S, rows.p.size)
    P = csr_array(
        (
            rows.p / mass[rows.row],
            (rows.row.astype(index), rows.successors.astype(index)),
        ),
        shape=(L, S),
    )
    kept = np.flatnonzero(~rows.goal[rows.owner])
    if kept.size < L:
        P = P[kept]
    return without_absorbing(P, rows.r[kept], rows.owner[kept], rows.labels[kept], S)


def chosen(kind: str, name: str, wanted: str | None, known: list[str]) -> int:
    """The place of `wanted` among the file's `known`; with one alone, nothing need be wanted."""
    listing = f"it has: {', '.join(known)}" if known else "it has none"
    if wanted is None and len(known) == 1:
        return 0
    if wanted is None:
        raise UsageError(f"{name} has {len(known)} {kind}s; {listing}; choose one")
    if wanted not in known:
        hint = did_you_mean(wanted, known, listing)
        raise UsageError(f"{name} has no {kind} {wanted!r}; {hint}")
    return known.index(wanted)


def uniform(states: IntArray, n_states: int) -> FloatArray | None:
    """(S,) the distribution over these states with equal probability; None where there are none."""
    if not states.size:
        return None
    start = np.zeros(n_states)
    start[states] = 1.0 / states.size
    return start
