"""A model as the compiled solvers take it: states renumbered along the way from the ends.

States are numbered by breadth-first search backwards from where episodes end, so that a sweep in
rising order carries values from the ends outwards, and neighbours lie close in memory. Terminal
states are left out (their value is 0), γ is folded into the weights, and self-loops are solved for:
V = r + γ p V + ..., with p the probability to stay, is V = (r + ...) / (1 − γ p).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlkit.mdp.compact import MOST_ENTRIES, Compact, UintArray
from rlkit.mdp.kernels import B, F, U, kernel
from rlkit.mdp.model import MDP, BoolArray, FloatArray
from rlkit.mdp.prefetch import prefetch

_AHEAD = 8  # states
_LINES = 16  # of memory that are asked for ahead of a state; the processor guesses the rest
_LINE = 8  # float64 in each


@dataclass(frozen=True)
class Flow:
    """A model in flow order, with n states, none of them terminal; see rlkit/mdp/kernels.py.

    Fields:
        model: the arrays; weights include γ, and there are neither ends nor self-loops.
        order: (n,) the original number of each state.
        levels: (levels + 1,) where each level of the search begins. Before the first come the
            states from which no end can be reached: they lead to one another only.
    """

    off: UintArray
    ptr: UintArray
    idx: UintArray
    p: FloatArray
    r: FloatArray
    order: UintArray
    levels: NDArray[np.int64]

    @property
    def model(self) -> tuple[UintArray, UintArray, UintArray, FloatArray, FloatArray]:
        return self.off, self.ptr, self.idx, self.p, self.r

    @property
    def n_states(self) -> int:
        return int(self.order.size)

    def first(self, n: int) -> Flow:
        """The first n states alone, where they lead to one another only."""
        pairs = int(self.off[n])
        entries = int(self.ptr[pairs])
        return Flow(
            self.off[: n + 1],
            self.ptr[: pairs + 1],
            self.idx[:entries],
            self.p[:entries],
            self.r[:pairs],
            self.order[:n],
            np.array([n]),
        )


def arrange(
    mdp: MDP,
    compact: Compact,
    order: UintArray,
    levels: NDArray[np.int64],
    r: FloatArray,
    allowed: BoolArray | None = None,
    into: Flow | None = None,
) -> Flow:
    """The model in the given order, with the `allowed` (L,) pairs only.

    r: (L,) rewards; where it is empty, they are all 1. into: a flow of the model, no longer needed,
        whose memory to take.
    """
    number = np.full(mdp.n_states, MOST_ENTRIES, dtype=np.uint32)
    number[order] = np.arange(order.size, dtype=np.uint32)
    allowed = np.empty(0, dtype=np.bool_) if allowed is None else allowed
    pairs, entries = mdp.n_pairs, mdp.P.nnz
    if allowed.size:
        pairs = int(np.count_nonzero(allowed))
        entries = int(np.diff(mdp.P.indptr)[allowed].sum())
    if into is None:
        off = np.empty(order.size + 1, dtype=np.uint32)
        ptr = np.empty(pairs + 1, dtype=np.uint32)
        idx, p = np.empty(entries, dtype=np.uint32), np.empty(entries)
        new_r = np.empty(pairs)
    else:
        off, ptr, idx, p, new_r = into.model
    pairs, entries = _arrange(
        *compact.arrays[:4], r, mdp.gamma, allowed, order, number, off, ptr, idx, p, new_r
    )
    return Flow(off, ptr[: pairs + 1], idx[:entries], p[:entries], new_r[:pairs], order, levels)


@kernel(
    f"UniTuple(int64, 2)({U}, {U}, {U}, {F}, {F}, float64, {B}, {U}, {U}, uint32[::1], "
    "uint32[::1], uint32[::1], float64[::1], float64[::1])"
)
def _arrange(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    gamma: float,
    allowed: BoolArray,
    order: UintArray,
    number: UintArray,
    new_off: UintArray,
    new_ptr: UintArray,
    new_idx: UintArray,
    new_p: FloatArray,
    new_r: FloatArray,
) -> tuple[int, int]:
    """Copy the model in a new order; returns how many pairs and entries it has there.

    Loops that never end at γ = 1 are left out: none of them is optimal, or `merge_free_loops` has
    taken care of it.
    """
    pairs, entries = 0, 0
    restricted = allowed.size > 0
    new_ptr[0] = 0
    n = order.size
    for place in range(n):
        if place + 3 * _AHEAD < n:  # first where a state's pairs are, then where their entries are
            prefetch(off, order[place + 3 * _AHEAD])
        if place + 2 * _AHEAD < n:
            pair = off[order[place + 2 * _AHEAD]]
            prefetch(ptr, pair)
            if r.size:
                prefetch(r, pair)
        if place + _AHEAD < n:
            s = order[place + _AHEAD]
            begin, end = ptr[off[s]], ptr[off[s + np.uint32(1)]]
            for k in range(begin, min(end, begin + _LINES * _LINE), _LINE):
                prefetch(p, k)
            for k in range(begin, min(end, begin + _LINES * _LINE), 2 * _LINE):
                prefetch(idx, k)
        s = order[place]
        new_off[place] = pairs
        for pair in range(off[s], off[s + np.uint32(1)]):
            if restricted and not allowed[pair]:
                continue
            begin, stay = entries, 0.0
            for k in range(ptr[pair], ptr[pair + 1]):
                successor = idx[k]
                if successor == s:
                    stay += p[k]
                elif number[successor] != MOST_ENTRIES:
                    new_idx[entries] = number[successor]
                    new_p[entries] = gamma * p[k]
                    entries += 1
            leave = 1.0 - gamma * stay
            if leave <= 0.0:
                entries = begin
                continue
            if stay > 0.0:
                for k in range(begin, entries):
                    new_p[k] /= leave
            new_r[pairs] = (r[pair] if r.size else 1.0) / leave
            pairs += 1
            new_ptr[pairs] = entries
    new_off[order.size] = pairs
    return pairs, entries
