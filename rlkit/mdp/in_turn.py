"""A model's values one strongly connected component at a time, compiled.

The states are in the order of rlkit/mdp/components.py: what a component leads to is settled before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkit.mdp import kernels
from rlkit.mdp.compact import UintArray
from rlkit.mdp.kernels import MODEL, F, U, kernel
from rlkit.mdp.model import FloatArray
from rlkit.mdp.upwind import settle_window

_DENSE = 32  # states of a component up to which a policy's equations are solved by elimination
_ROUNDS = 50  # of improvement and evaluation
_SMALLEST_PIVOT = 1e-14  # a policy that stays for longer than that says has no values

_improve, _start = kernels.improve.load(), kernels.start.load()
_settle_window = settle_window.load()


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
