"""BiCGSTAB for a policy's equations: van der Vorst, Bi-CGSTAB (1992), compiled.

Vectors are added up here and not by a linear algebra library, whose threads take longer to meet
than such sums do, on a machine that has other things to do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rlkit.mdp import kernels
from rlkit.mdp.compact import UintArray
from rlkit.mdp.kernels import F, U, kernel
from rlkit.mdp.model import FloatArray

_AT_ONCE = 2_000_000  # states visited from one look at the clock to the next

_apply, _smooth = kernels.apply.load(), kernels.smooth.load()


def bicgstab(
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    b: FloatArray,
    x: FloatArray,
    target: float,
    most: int,
    tick: Callable[[int], None],
) -> bool:
    """Bring x (n,) to |b − (I − P) x| ≤ target in every entry, in up to `most` steps of BiCGSTAB.

    Args:
        ptr, idx, p: P, as in rlkit/mdp/kernels.py; a symmetric Gauss–Seidel step is the
            preconditioner.
        tick: called now and then with the number of steps made since.

    Returns whether that is reached.
    """
    memory, scalars = np.zeros((8, b.size)), np.zeros(3)
    at_once, made = max(1, _AT_ONCE // max(1, b.size)), 0
    with np.errstate(all="ignore"):
        while made < most:
            steps, residual = bicgstab_steps(
                ptr, idx, p, b, x, memory, scalars, made == 0, target, min(at_once, most - made)
            )
            made += steps
            tick(steps)
            if residual <= target:
                return True
            if not residual < np.inf or not steps:
                return False
    return False


@kernel(f"float64({F}, {F})")
def _dot(x: FloatArray, y: FloatArray) -> float:
    total = 0.0
    for i in range(x.size):
        total += x[i] * y[i]
    return total


_product = _dot.load()


@kernel(
    f"Tuple((int64, float64))({U}, {U}, {F}, {F}, float64[::1], float64[:, ::1], float64[::1], "
    "boolean, float64, int64)"
)
def bicgstab_steps(
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    b: FloatArray,
    x: FloatArray,
    memory: NDArray[np.float64],
    scalars: FloatArray,
    first: bool,
    target: float,
    steps: int,
) -> tuple[int, float]:
    """Up to so many steps; how many it were, and the largest entry of the residual.

    memory (8, n) and scalars (3,) are kept from one call to the next. first: there is nothing in
    them yet. No step is made, or the residual is not finite, where the method breaks down.
    """
    r, shadow, d, v = memory[0], memory[1], memory[2], memory[3]
    s, t, y, z = memory[4], memory[5], memory[6], memory[7]
    n = b.size
    if first:
        _apply(ptr, idx, p, x, v)
        for i in range(n):
            r[i] = b[i] - v[i]
            shadow[i] = r[i]
            d[i] = v[i] = 0.0
        scalars[:] = 1.0
    rho, alpha, omega = scalars
    worst = 0.0
    for i in range(n):
        worst = max(worst, abs(r[i]))
    for step in range(steps):
        if worst <= target:
            return step, worst
        new = _product(shadow, r)
        if new == 0.0 or omega == 0.0:
            return step, np.inf
        beta = new / rho * (alpha / omega)
        rho = new
        for i in range(n):
            d[i] = r[i] + beta * (d[i] - omega * v[i])
        _smooth(ptr, idx, p, d, y)
        _apply(ptr, idx, p, y, v)
        alpha = rho / _product(shadow, v)
        for i in range(n):
            s[i] = r[i] - alpha * v[i]
        _smooth(ptr, idx, p, s, z)
        _apply(ptr, idx, p, z, t)
        length = _product(t, t)
        omega = _product(t, s) / length if length > 0.0 else 0.0
        worst = 0.0
        for i in range(n):
            x[i] += alpha * y[i] + omega * z[i]
            r[i] = s[i] - omega * t[i]
            worst = max(worst, abs(r[i]))
        scalars[0], scalars[1], scalars[2] = rho, alpha, omega
        if not worst < np.inf:
            return step + 1, np.inf
    return steps, worst
