"""The strongly connected components of a model, and its values one component at a time.

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

from rlkit.mdp import kernels
from rlkit.mdp.compact import MOST_ENTRIES, Compact, UintArray
from rlkit.mdp.kernels import MODEL, F, U, kernel
from rlkit.mdp.model import MDP, FloatArray
from rlkit.mdp.upwind import settle_window

NEARLY_ALL = 0.9  # of the states in one component: there is nothing to be put in order
_DENSE = 32  # states of a component up to which a policy's equations are solved by elimination
_ROUNDS = 50  # of improvement and evaluation
_PATIENCE = 1_000  # states after which a search for components in which few were found is given up
_SMALLEST_PIVOT = 1e-14  # a policy that stays for longer than that says has no values

_improve, _start = kernels.improve.load(), kernels.start.load()
_settle_window = settle_window.load()


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
        if mdp not in _found:
            found = cls._search(mdp, forwards=True, patience=0)
            assert found is not None  # without end of patience
            _found[mdp] = found
        return _found[mdp]

    @classmethod
    def if_many(cls, mdp: MDP) -> Components | None:
        """Those of the model, unless few of the states that a search sees first are left for good.

        A search from the last state, or else from the first, finds none for long where cycles are
        long; it finds none either where the way to an end takes more than about a thousand steps in
        the direction in which it searches.
        """
        patience = min(_PATIENCE, mdp.n_states // 16)
        found = _found.get(mdp) or cls._search(mdp, forwards=False, patience=patience)
        found = found or cls._search(mdp, forwards=True, patience=patience)
        if found is not None:
            _found[mdp] = found
        return found

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


_found: WeakKeyDictionary[MDP, Components] = WeakKeyDictionary()


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
    n = off.size - 1
    unseen, done = np.uint32(MOST_ENTRIES), np.uint32(MOST_ENTRIES - 1)
    low = np.full(n, unseen, dtype=np.uint32)  # Tarjan's lowlink; `done` outside the stack
    entered = np.empty(n, dtype=np.uint32)
    edge = np.empty(n, dtype=np.uint32)  # the next one to be looked at
    path = np.empty(n, dtype=np.uint32)  # from the root to the current state
    stack = np.empty(n, dtype=np.uint32)
    clock, height, placed, found = 0, 0, 0, 0
    for number in range(n):
        root = number if forwards else n - 1 - number
        if low[root] != unseen or off[root] == off[root + 1]:
            continue
        depth = 0
        path[0] = root
        low[root] = entered[root] = clock
        clock += 1
        edge[root] = ptr[off[root]]
        stack[height] = root
        height += 1
        while depth >= 0:
            s = path[depth]
            k, last = edge[s], ptr[off[s + np.uint32(1)]]
            lowest, deeper = low[s], False
            while k < last:
                to = idx[k]
                k += np.uint32(1)
                if low[to] == unseen:
                    if off[to] == off[to + np.uint32(1)]:
                        continue
                    depth += 1
                    path[depth] = to
                    low[to] = entered[to] = clock
                    clock += 1
                    if clock == patience:
                        if 2 * found < clock:
                            return -1
                        patience *= 2
                    edge[to] = ptr[off[to]]
                    stack[height] = to
                    height += 1
                    deeper = True
                    break
                if low[to] != done:
                    lowest = min(lowest, entered[to])
            low[s], edge[s] = lowest, k
            if deeper:
                continue
            depth -= 1
            if depth >= 0:
                below = path[depth]
                low[below] = min(low[below], lowest)
            if lowest == entered[s]:
                starts[found] = placed
                found += 1
                while True:
                    height -= 1
                    member = stack[height]
                    low[member] = done
                    order[placed] = member
                    placed += 1
                    if member == s:
                        break
    starts[found] = placed
    return found


@kernel(f"boolean({U}, {U}, {F}, {F}, float64[::1], {U}, int64, int64)")
def eliminate(
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    V: FloatArray,
    policy: UintArray,
    first: int,
    last: int,
) -> bool:
    """The policy's values of states first..last, those before them given, by elimination.

    Whether the policy has any. I − P is a diagonally dominant M-matrix: no pivoting is needed.
    """
    n = last - first
    A, b = np.zeros((n, n)), np.empty(n)
    for i in range(n):
        pair = policy[first + i]
        b[i] = r[pair]
        A[i, i] = 1.0
        for k in range(ptr[pair], ptr[pair + 1]):
            to = np.int64(idx[k]) - first
            if to < 0:
                b[i] += p[k] * V[idx[k]]
            else:
                A[i, to] -= p[k]
    for i in range(n):
        if A[i, i] < _SMALLEST_PIVOT:
            return False
        for below in range(i + 1, n):
            factor = A[below, i] / A[i, i]
            if factor != 0.0:
                for j in range(i + 1, n):
                    A[below, j] -= factor * A[i, j]
                b[below] -= factor * b[i]
    for i in range(n - 1, -1, -1):
        total = b[i]
        for j in range(i + 1, n):
            total -= A[i, j] * V[first + j]
        V[first + i] = total / A[i, i]
    return True


_eliminate = eliminate.load()


@kernel(f"float64({F}, int64, int64)")
def _size(V: FloatArray, first: int, last: int) -> float:
    """The largest |V| of states first..last."""
    largest = 0.0
    for s in range(first, last):
        largest = max(largest, abs(V[s]))
    return largest


_size_of = _size.load()


@kernel(
    f"Tuple((int64, float64, float64))({MODEL}, float64[::1], uint32[::1], int64[::1], int64, "
    "int64, boolean, float64, float64, float64)"
)
def settle_components(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    V: FloatArray,
    policy: UintArray,
    starts: NDArray[np.int64],
    component: int,
    most: int,
    begun: bool,
    target: float,
    least: float,
    unit: float,
) -> tuple[int, float, float]:
    """Settle one component after the other, from the given one on, until one is too hard for it.

    A state alone takes one backup. In others, a sweep of improvement changes no value by more than
    the target in the end, or by more than rounding may.

    Args:
        starts: (components + 1,) where each begins.
        most: components of more states are too hard.
        begun: whether V and policy hold anything to begin with.
        least, unit: rounding is `least` for values of 0, and `unit` more for each unit of them.

    Returns:
        the component that is too hard, or how many there are; how many states were visited; the
        largest change of a last sweep.
    """
    visits, worst, count, size = 0.0, 0.0, starts.size - 1, _size_of(V, 0, starts[component])
    while component < count:
        first, last = starts[component], starts[component + 1]
        if last - first == 1:  # and all those alone that follow
            while component < count and starts[component + 1] - starts[component] == 1:
                component += 1
            last = starts[component]
            _improve(off, ptr, idx, p, r, V, policy, first, last, 1, least + unit * size)
            visits += last - first
            size = max(size, _size_of(V, first, last))
            continue
        if last - first > most:
            return component, visits, worst
        if not begun:
            _start(off, ptr, idx, p, r, V, policy, first, last)
            visits += last - first
        small = last - first <= _DENSE
        change, enough = np.inf, target
        for _ in range(_ROUNDS):
            slack = least + unit * max(size, _size_of(V, first, last))
            enough = max(target, 2.0 * slack)
            if small:
                change, _ = _improve(off, ptr, idx, p, r, V, policy, first, last, 1, slack)
                visits += last - first
            else:
                change, work = _settle_window(
                    off, ptr, idx, p, r, V, policy, first, last, last, enough, slack, 2, 2
                )
                visits += work
            if change <= enough:
                break
            if small:
                _eliminate(ptr, idx, p, r, V, policy, first, last)
                visits += last - first
        if not change <= enough:
            return component, visits, worst
        worst = max(worst, change)
        size = max(size, _size_of(V, first, last))
        component += 1
    return component, visits, worst
