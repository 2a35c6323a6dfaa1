"""The order in which the compiled solvers take a model's states: along the way from the ends.

A breadth-first search backwards from where episodes end, so that a sweep in rising order carries
values from the ends outwards, and neighbours lie close in memory. rlkit/mdp/flow.py brings models
into it.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from rlkit.mdp.compact import MOST_ENTRIES, Compact, UintArray
from rlkit.mdp.kernels import B, F, U, kernel
from rlkit.mdp.model import MDP, BoolArray, FloatArray


class Order(NamedTuple):
    """States that are not terminal, by their distance from the ends of a search.

    Fields:
        states: (n,) their numbers.
        levels: (levels + 1,) where each level of the search begins. Before the first come the
            states from which no end can be reached: they lead to one another only.
    """

    states: UintArray
    levels: NDArray[np.int64]


def flow_order(mdp: MDP, compact: Compact) -> Order:
    """The order of a search from all states where the episode may end."""
    predecessors = _predecessors(compact)
    rewards, _ = ending_rewards(mdp, compact, predecessors)
    return _ordered(mdp, predecessors, [rewards > -np.inf])


def upwind_order(mdp: MDP, compact: Compact) -> Order:
    """The order of a search from the ends that episodes are drawn to; made once.

    Those are the ends that pay more than any step that does not end: goals, but not the pits beside
    the way. From where none of them can be reached, it is those that pay more than going on for
    ever could: at γ = 1 all of them. Such states come before the others, since they lead to one
    another only. Where no end pays more than any step, the order is that of `flow_order`.
    """
    if mdp not in _ordered_once:
        predecessors = _predecessors(compact)
        rewards, step = ending_rewards(mdp, compact, predecessors)
        sought = rewards > step
        starts = [rewards > -np.inf]
        if sought.any():
            for_ever = step / (1.0 - mdp.gamma) if mdp.gamma < 1.0 else -np.inf
            starts = [sought, rewards > for_ever]
        _ordered_once[mdp] = _ordered(mdp, predecessors, starts)
    return _ordered_once[mdp]


_ordered_once: WeakKeyDictionary[MDP, Order] = WeakKeyDictionary()


def _ordered(mdp: MDP, predecessors: tuple[UintArray, UintArray], starts: list[BoolArray]) -> Order:
    """Searches from one set of starts (S,) after the other, each among what is left by then; what
    they find comes in reverse, and what none finds comes first."""
    order = np.empty(mdp.live.size, dtype=np.uint32)
    reached = mdp.terminal.copy()
    searches, placed = [], 0
    for start in starts:
        levels = np.empty(mdp.n_states + 2, dtype=np.int64)
        found = _search(*predecessors, start, reached, order[placed:], levels)
        searches.append((order[placed : placed + int(levels[found - 1])], levels[:found].copy()))
        placed += int(levels[found - 1])
    if placed == order.size and placed == searches[0][0].size:
        return Order(order, searches[0][1])
    parts, cuts = [np.flatnonzero(~reached).astype(np.uint32)], [np.array([order.size - placed])]
    for part, levels in reversed(searches):
        cuts.append(levels[1:] + sum(part.size for part in parts))
        parts.append(part)
    return Order(np.concatenate(parts), np.concatenate(cuts))


def ending_rewards(
    mdp: MDP, compact: Compact, predecessors: tuple[UintArray, UintArray]
) -> tuple[FloatArray, float]:
    """(S,) the largest reward of each state's pairs that may end the episode, by missing mass or in
    a terminal state, -inf where it has none; and the largest of all pairs that may not."""
    rewards = np.empty(mdp.n_states)
    step = _ending_rewards(*compact.arrays[:3], mdp.r, mdp.ends, *predecessors, rewards)
    return rewards, step


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


@kernel(f"float64({U}, {U}, {U}, {F}, {B}, {U}, {U}, float64[::1])")
def _ending_rewards(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    r: FloatArray,
    ends: BoolArray,
    first: UintArray,
    before: UintArray,
    rewards: FloatArray,
) -> float:
    """`ending_rewards`, which looks at successors only beside terminal states."""
    n = off.size - 1
    beside = np.zeros(n, dtype=np.bool_)
    for s in range(n):
        if off[s] == off[s + 1]:
            for k in range(first[s], first[s + 1]):
                beside[before[k]] = True
    step = -np.inf
    for s in range(n):
        best = -np.inf
        for pair in range(off[s], off[s + 1]):
            end = ends[pair]
            if beside[s] and not end:
                for k in range(ptr[pair], ptr[pair + 1]):
                    end = end or off[idx[k]] == off[idx[k] + np.uint32(1)]
            if end:
                best = max(best, r[pair])
            else:
                step = max(step, r[pair])
        rewards[s] = best
    return step


@kernel(f"int64({U}, {U}, {B}, boolean[::1], uint32[::1], int64[::1])")
def _search(
    first: UintArray,
    before: UintArray,
    starts: BoolArray,
    reached: BoolArray,
    order: UintArray,
    levels: NDArray[np.int64],
) -> int:
    """Number states that are not reached yet by their distance from the starts among them; returns
    how many entries `levels` has."""
    tail = 0
    for s in range(starts.size):
        if starts[s] and not reached[s]:
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
    return found
