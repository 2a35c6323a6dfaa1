"""The strongly connected components of a model.

States of a component can all be reached from one another; what leaves it never comes back. In
reverse topological order, where every component comes after all those that it leads to, each can be
settled for good before the next. The algorithm that finds them lists them in this order: Tarjan,
Depth-First Search and Linear Graph Algorithms (1972).
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from rlkit.mdp.compact import MOST_ENTRIES, Compact, UintArray
from rlkit.mdp.kernels import U, kernel
from rlkit.mdp.model import MDP

NEARLY_ALL = 0.9  # of the states in one component: there is nothing to be put in order
_PATIENCE = 1_000  # states after which a search for components in which few were found is given up


@dataclass(frozen=True)
class Components:
    """The strongly connected components of a model's states, each after all those it leads to.

    Fields:
        order: (n,) the states that are not terminal, component by component.
        starts: (components + 1,) where each begins in the order, and at last n.
    """

    order: UintArray
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, mdp: MDP) -> Components:
        """Those of the model; found once for a model."""
        found = cls.if_many(mdp) or _found_in_all.get(mdp)
        if found is None:
            found = cls._search(mdp, forwards=True, patience=0)
            assert found is not None  # without end of patience
            _found_in_all[mdp] = found
        return found

    @classmethod
    def if_many(cls, mdp: MDP) -> Components | None:
        """Those of the model, unless few of the states that a search sees first are left for good.

        A search from the last state, or else from the first, finds none for long where cycles are
        long; it finds none either where the way to an end takes more than about a thousand steps in
        the direction in which it searches. What else was found out about the model changes nothing.
        """
        if mdp not in _found_soon:
            patience = min(_PATIENCE, mdp.n_states // 16)
            _found_soon[mdp] = cls._search(mdp, forwards=False, patience=patience) or cls._search(
                mdp, forwards=True, patience=patience
            )
        return _found_soon[mdp]

    @classmethod
    def _search(cls, mdp: MDP, forwards: bool, patience: int) -> Components | None:
        order = np.empty(mdp.live.size, dtype=np.uint32)
        starts = np.empty(order.size + 1, dtype=np.int64)
        model = Compact.of(mdp).arrays[:3]
        count = find_components(*model, order, starts, forwards, patience)
        return None if count < 0 else cls(order, starts[: count + 1].copy())

    @property
    def count(self) -> int:
        return self.starts.size - 1

    @property
    def largest(self) -> int:
        """How many states the largest has."""
        return int(np.diff(self.starts).max(initial=0))


_found_soon: WeakKeyDictionary[MDP, Components | None] = WeakKeyDictionary()
_found_in_all: WeakKeyDictionary[MDP, Components] = WeakKeyDictionary()


@kernel(f"int64({U}, {U}, {U}, uint32[::1], int64[::1], boolean, int64)")
def find_components(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    order: UintArray,
    starts: NDArray[np.int64],
    forwards: bool,
    patience: int,
) -> int:
    """Fill order and starts of `Components` by Tarjan's algorithm, on a stack of its own.

    Args:
        starts: long enough for a component per state and one entry more.
        forwards: whether searches begin at the first state, and not at the last.
        patience: give up where fewer components were found than half this number of states seen,
            or half of twice, four times, ... the number; 0: never.

    Returns:
        how many components there are; -1 where it was given up.
    """
    n, unseen, done = off.size - 1, np.uint32(MOST_ENTRIES), np.uint32(MOST_ENTRIES - 1)
    low = np.full(n, unseen, dtype=np.uint32)  # Tarjan's lowlink; `done` outside the stack
    entered = np.empty(n, dtype=np.uint32)
    edge = np.empty(n, dtype=np.uint32)  # the next one to be looked at
    path = np.empty(n, dtype=np.uint32)  # from the root to the current state
    stack = np.empty(n, dtype=np.uint32)
    clock, height, placed, found = 0, 0, 0, 0
    for number in range(n):
        root = np.uint32(number if forwards else n - 1 - number)
        if low[root] != unseen or off[root] == off[root + np.uint32(1)]:
            continue
        depth, s, entering = 0, root, True
        while depth >= 0:
            if entering:
                path[depth] = stack[height] = s
                low[s] = entered[s] = clock
                edge[s] = ptr[off[s]]
                clock, height = clock + 1, height + 1
                if clock == patience:
                    if 2 * found < clock:
                        return -1
                    patience *= 2
            s = path[depth]
            k, last, lowest, entering = edge[s], ptr[off[s + np.uint32(1)]], low[s], False
            while k < last and not entering:
                to = idx[k]
                k += np.uint32(1)
                if low[to] == unseen:
                    entering = off[to] != off[to + np.uint32(1)]
                elif low[to] != done:
                    lowest = min(lowest, entered[to])
            low[s], edge[s] = lowest, k
            if entering:
                depth, s = depth + 1, to
                continue
            depth -= 1
            if depth >= 0:
                low[path[depth]] = min(low[path[depth]], low[s])
            if low[s] == entered[s]:
                starts[found] = placed
                found += 1
                while low[s] != done:  # s comes last
                    height -= 1
                    order[placed] = stack[height]
                    low[stack[height]] = done
                    placed += 1
    starts[found] = placed
    return found
