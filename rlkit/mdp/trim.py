"""Pairs that can't be inside an end component, left out one after the other, compiled."""

from __future__ import annotations

import numpy as np

from rlkit.mdp.compact import Compact, UintArray
from rlkit.mdp.kernels import U, kernel
from rlkit.mdp.model import MDP, BoolArray, IntArray


class Trimmer:
    """Leaves out the pairs of a model that may lead to states from which none is left."""

    def __init__(self, mdp: MDP) -> None:
        compact = Compact.of(mdp)
        ptr, idx = compact.ptr, compact.idx
        self.first = np.zeros(mdp.n_states + 2, dtype=np.uint32)
        self.entering = np.empty(idx.size, dtype=np.uint32)
        self.owner = mdp.pair_state
        _list_entering(ptr, idx, self.first, self.entering)

    def __call__(self, dead: IntArray, kept: BoolArray, count: IntArray) -> None:
        """Take from kept (L,), and from count (S,), how many pairs of each state are kept, the
        pairs that may lead to the `dead` states, then to those that lose their last pair, ..."""
        stack = np.empty(count.size, dtype=np.int64)
        stack[: dead.size] = dead
        _trim(self.first, self.entering, self.owner, stack, dead.size, kept, count)


@kernel(f"void({U}, {U}, uint32[::1], uint32[::1])")
def _list_entering(ptr: UintArray, idx: UintArray, first: UintArray, entering: UintArray) -> None:
    """The pairs that may lead to state s are entering[first[s]:first[s + 1]]."""
    for k in range(idx.size):
        first[idx[k] + np.uint32(2)] += np.uint32(1)
    for s in range(2, first.size):
        first[s] += first[s - 1]
    for pair in range(ptr.size - 1):
        for k in range(ptr[pair], ptr[pair + 1]):
            place = idx[k] + np.uint32(1)
            entering[first[place]] = pair
            first[place] += np.uint32(1)


@kernel(
    f"void({U}, {U}, Array(int64, 1, 'C', readonly=True), int64[::1], int64, boolean[::1], "
    "int64[::1])"
)
def _trim(
    first: UintArray,
    entering: UintArray,
    owner: IntArray,
    stack: IntArray,
    height: int,
    kept: BoolArray,
    count: IntArray,
) -> None:
    while height > 0:
        height -= 1
        dead = stack[height]
        for k in range(first[dead], first[dead + 1]):
            pair = entering[k]
            if kept[pair]:
                kept[pair] = False
                s = owner[pair]
                count[s] -= 1
                if count[s] == 0:
                    stack[height] = s
                    height += 1
