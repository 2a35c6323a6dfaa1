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
        levels: (levels + 1,) where each level of the search begins; states from which no end can
            be reached come after the last.
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

    @property
    def ends(self) -> bool:
        """Whether an end can be reached from every state."""
        return int(self.levels[-1]) == self.n_states


def flow_order(mdp: MDP, compact: Compact) -> tuple[UintArray, NDArray[np.int64]]:
    """The order and the levels of `Flow`."""
    first, before = _predecessors(compact)
    order = np.empty(mdp.live.size, dtype=np.uint32)
    levels = np.empty(mdp.n_states + 2, dtype=np.int64)
    starts = np.zeros(mdp.n_states, dtype=np.bool_)
    starts[mdp.pair_state[mdp.ends]] = True
    found = _search(compact.off, first, before, starts, order, levels)
    return order, levels[:found].copy()


def arrange(
    mdp: MDP,
    compact: Compact,
    order: UintArray,
    levels: NDArray[np.int64],
    r: FloatArray,
    allowed: BoolArray | None = None,
) -> Flow:
    """The model in the given order, with the `allowed` (L,) pairs only.

    r: (L,) rewards; where it is empty, they are all 1.
    """
    number = np.full(mdp.n_states, MOST_ENTRIES, dtype=np.uint32)
    number[order] = np.arange(order.size, dtype=np.uint32)
    allowed = np.empty(0, dtype=np.bool_) if allowed is None else allowed
    pairs, entries = mdp.n_pairs, mdp.P.nnz
    if allowed.size:
        pairs = int(np.count_nonzero(allowed))
        entries = int(np.diff(mdp.P.indptr)[allowed].sum())
    off = np.empty(order.size + 1, dtype=np.uint32)
    ptr = np.empty(pairs + 1, dtype=np.uint32)
    idx, p = np.empty(entries, dtype=np.uint32), np.empty(entries)
    new_r = np.empty(pairs)
    pairs, entries = _arrange(
        *compact.arrays[:4], r, mdp.gamma, allowed, order, number, off, ptr, idx, p, new_r
    )
    return Flow(off, ptr[: pairs + 1], idx[:entries], p[:entries], new_r[:pairs], order, levels)


def _predecessors(compact: Compact) -> tuple[UintArray, UintArray]:
    """The states that can go to state s in a step are before[first[s]:first[s + 1]]."""
    n = compact.off.size - 1
    first = np.zeros(n + 2, dtype=np.uint32)
    seen = np.full(n, MOST_ENTRIES, dtype=np.uint32)
    _count_predecessors(compact.off, compact.ptr, compact.idx, seen, first)
    before = np.empty(int(first[-1]), dtype=np.uint32)
    seen[:] = MOST_ENTRIES
    _list_predecessors(compact.off, compact.ptr, compact.idx, seen, first, before)
    return first, before


@kernel(f"void({U}, {U}, {U}, uint32[::1], uint32[::1])")
def _count_predecessors(
    off: UintArray, ptr: UintArray, idx: UintArray, seen: UintArray, first: UintArray
) -> None:
    """first[s + 2] = how many predecessors come before those of s + 1."""
    for s in range(off.size - 1):
        seen[s] = s  # no state counts as its own predecessor
        for k in range(ptr[off[s]], ptr[off[s + 1]]):
            successor = idx[k]
            if seen[successor] != s:
                seen[successor] = s
                first[successor + np.uint32(2)] += np.uint32(1)
    for s in range(2, first.size):
        first[s] += first[s - 1]


@kernel(f"void({U}, {U}, {U}, uint32[::1], uint32[::1], uint32[::1])")
def _list_predecessors(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    seen: UintArray,
    first: UintArray,
    before: UintArray,
) -> None:
    """Fill `before`, which moves first[s + 1] from the first predecessor of s past the last."""
    for s in range(off.size - 1):
        seen[s] = s
        for k in range(ptr[off[s]], ptr[off[s + 1]]):
            successor = idx[k]
            if seen[successor] != s:
                seen[successor] = s
                before[first[successor + np.uint32(1)]] = s
                first[successor + np.uint32(1)] += np.uint32(1)


@kernel(f"int64({U}, {U}, {U}, {B}, uint32[::1], int64[::1])")
def _search(
    off: UintArray,
    first: UintArray,
    before: UintArray,
    starts: BoolArray,
    order: UintArray,
    levels: NDArray[np.int64],
) -> int:
    """Number states by their distance from the end; returns how many entries `levels` has."""
    n = off.size - 1
    reached = np.zeros(n, dtype=np.bool_)
    tail = 0
    for s in range(n):  # the first level: states that may end, or that may go where it has ended
        if off[s] == off[s + 1]:
            reached[s] = True
            for k in range(first[s], first[s + 1]):
                state = before[k]
                if not reached[state] and off[state] < off[state + np.uint32(1)]:
                    reached[state] = True
                    order[tail] = state
                    tail += 1
        elif starts[s] and not reached[s]:
            reached[s] = True
            order[tail] = s
            tail += 1
    levels[0] = 0
    found, head = 1, 0
    while head < tail:
        levels[found] = tail
        found += 1
        for place in range(head, tail):
            s = order[place]
            for k in range(first[s], first[s + np.uint32(1)]):
                state = before[k]
                if not reached[state]:
                    reached[state] = True
                    order[tail] = state
                    tail += 1
        head = levels[found - 1]
    for s in range(n):
        if not reached[s]:
            order[tail] = s
            tail += 1
    return found


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
