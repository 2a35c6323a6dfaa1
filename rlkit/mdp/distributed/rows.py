"""The part of a model that one rank holds: the rows of its own states, in the kernels' arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rlkit.errors import ModelError, UsageError
from rlkit.mdp.checks import ROW_SUM_TOLERANCE, normalise, row_sums
from rlkit.mdp.compact import UintArray
from rlkit.mdp.distributed.exchange import Exchange
from rlkit.mdp.generate import Generated, Packed, starts_of
from rlkit.mdp.model import MDP, BoolArray, FloatArray, IntArray

_MOST = 2**31 - 1  # entries and columns of a rank, as SciPy's 32-bit indices can number them


@dataclass(frozen=True, eq=False)
class Rows:
    """States `first` to before `last`, with arrays as in rlkit/mdp/kernels.py.

    A terminal state has one pair here: labelled -1, with reward 0 and without a successor, which is
    what it means to end. Columns are this rank's own states, then those of others as an exchange
    keeps them.

    Fields:
        off: (n + 1,) uint32. ptr: (L + 1,) uint32. idx: (N,) uint32. p: (N,) float64.
        r: (L,) float64. labels: (L,) int32, of actions.
        ends: whether an episode may end in a pair of these.
        width: the largest number of successors of a pair of these.
    """

    first: int
    last: int
    off: UintArray
    ptr: UintArray
    idx: UintArray
    p: FloatArray
    r: FloatArray
    labels: NDArray[np.int32]
    ends: bool
    width: int

    @property
    def arrays(self) -> tuple[UintArray, UintArray, UintArray, FloatArray, FloatArray]:
        return self.off, self.ptr, self.idx, self.p, self.r

    @property
    def live(self) -> BoolArray:
        """(n,) bool: the states that are not terminal."""
        return np.asarray(self.labels[self.off[:-1]] >= 0)

    @property
    def n_pairs(self) -> int:
        """How many pairs there are, those of terminal states left out."""
        return int(np.count_nonzero(self.labels >= 0))

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.arrays, self.labels))


def part_of(model: Generated | MDP, first: int, last: int) -> Iterator[Packed]:
    """The pairs of states `first` to before `last`, in blocks."""
    if isinstance(model, Generated):
        yield from model.part(first, last)
        return
    pairs = slice(*model.offsets[[first, last]])
    entries = slice(*model.P.indptr[[pairs.start, pairs.stop]])
    yield Packed(
        model.P.data[entries],
        model.P.indices[entries],
        np.diff(model.P.indptr[pairs.start : pairs.stop + 1]),
        model.r[pairs],
        model.actions[pairs],
        np.diff(model.offsets[first : last + 1]),
    )


def halo_of(blocks: Iterable[Packed], first: int, last: int) -> IntArray:
    """(H,) int64: the successors in these blocks that are not among the own states, sorted."""
    found = [np.empty(0, dtype=np.int64)]
    for block in blocks:
        successors = block.indices
        found.append(np.unique(successors[(successors < first) | (successors >= last)]))
    return np.unique(np.concatenate(found)).astype(np.int64)


def check_rewards(blocks: Iterable[Packed], first: int) -> None:
    """Refuse what is no reward; the rest was checked when the blocks were made."""
    for block in blocks:
        for pair in np.flatnonzero(~np.isfinite(block.r))[:1]:
            state = first + int(np.searchsorted(np.cumsum(block.pairs), pair, side="right"))
            raise ModelError(
                f"state {state}, action {block.actions[pair]}: reward {block.r[pair]} is not a "
                "finite number"
            )
        first += block.pairs.size


def joined(blocks: list[Packed], first: int, last: int, exchange: Exchange) -> Rows:
    """The rows of states `first` to before `last`; `blocks` is empty afterwards."""
    entries = sum(block.data.size for block in blocks)
    columns = last - first + exchange.width
    if max(entries, columns) > _MOST:
        raise UsageError(
            f"states {first} to {last - 1} have {entries:,} transitions to {columns:,} states, and "
            f"a rank holds {_MOST:,} of either at most; start more ranks"
        )
    whole = [_own_terms(block, first, last, exchange) for block in blocks]
    blocks.clear()
    data, idx, lengths, r, labels, pairs = (_concatenated(whole, part) for part in range(6))
    ptr = starts_of(lengths, np.dtype(np.int32))
    P = csr_array((data, idx, ptr), shape=(r.size, columns))
    # Said, lest they are sorted by the numbers of this partition: a row's sum, to the last bit,
    # must not depend on how many ranks there are.
    P.has_canonical_format = True
    normalise(P, ROW_SUM_TOLERANCE)
    return Rows(
        first,
        last,
        starts_of(pairs, np.dtype(np.uint32)),
        P.indptr.view(np.uint32),
        P.indices.view(np.uint32),
        P.data,
        r,
        labels,
        bool(np.any(row_sums(P) < 1.0 - ROW_SUM_TOLERANCE / 2)),
        int(lengths.max(initial=0)),
    )


def _own_terms(block: Packed, first: int, last: int, exchange: Exchange) -> list[NDArray[Any]]:
    """The block's columns with this rank's numbers of successors, and pairs for terminal states."""
    successors = block.indices
    own = (successors >= first) & (successors < last)
    idx = np.empty(successors.size, dtype=np.int32)
    idx[own] = successors[own] - first
    idx[~own] = last - first + exchange.columns(successors[~own].astype(np.int64))
    data, lengths, r = block.data, block.row_lengths, block.r
    labels, pairs = block.actions.astype(np.int32), block.pairs
    terminal = np.flatnonzero(pairs == 0)
    if terminal.size:
        places = starts_of(pairs, np.dtype(np.int64))[terminal]
        lengths, r = np.insert(lengths, places, 0), np.insert(r, places, 0.0)
        labels = np.insert(labels, places, -1)
        pairs = np.maximum(pairs, 1)
    return [data, idx, lengths, r, labels, pairs]


def _concatenated(blocks: list[list[NDArray[Any]]], part: int) -> NDArray[Any]:
    pieces = [block[part] for block in blocks]
    for block in blocks:
        block[part] = pieces[0][:0]  # so that no more than one column stands twice
    return np.concatenate(pieces)
