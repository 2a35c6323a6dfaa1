"""The Markov chain that a policy makes of a model: its values and its visits, exactly.

With P and r of the policy over the n states that are not terminal,

    V = r + γ·P·V            and            x = μ + γ·Pᵀ·x

for the values V and the discounted numbers of visits x of episodes that begin as μ: two systems
with I − γP and its transpose, which one sparse factorisation serves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.linalg import MatrixRankWarning, bicgstab, gmres

from rlkit.errors import RunError
from rlkit.mdp.graph import can_end
from rlkit.mdp.linear import sparse_factors
from rlkit.mdp.model import BoolArray, FloatArray

_FEW_STATES = 1_000  # that are factorised in a few milliseconds, however dense
_FEW = 40  # iterations of BiCGSTAB take less time than the factors of a sparse grid
_MANY, _RESTART = 1_000, 50  # iterations after which it fails, and between restarts
_RELATIVE = 1e-9  # the residual they go to beside the right-hand side, before the refinement


class Systems:
    """I − γP, (n, n): `solve` gives x with (I − γP)·x = b, or with its transpose.

    By SuperLU and one step of iterative refinement; or, where `iterate`, by Krylov's methods: in
    chains that mix fast these take few steps, and the factors of even a sparse matrix are dense.

    Raises RunError where the matrix is singular to float64's precision.
    """

    def __init__(self, P: csr_array, gamma: float, iterate: bool) -> None:
        self._matrix = (eye_array(P.shape[0], format="csr") - gamma * P).tocsc()
        self._solve = self._by_iteration if iterate else self._by_factors()

    def solve(self, b: FloatArray, transposed: bool = False) -> FloatArray:
        A = self._matrix.T if transposed else self._matrix
        try:
            x = self._solve(A, b, transposed)
            x = x + self._solve(A, b - A @ x, transposed)  # iterative refinement
        except (RuntimeError, MatrixRankWarning):
            x = np.full(b.size, np.nan)
        if not np.all(np.isfinite(x)):
            raise RunError("the policy's value equations are singular in float64")
        return np.asarray(x, dtype=np.float64)

    def _by_factors(self) -> Callable[[csc_array, FloatArray, bool], FloatArray]:
        with warnings.catch_warnings():
            warnings.simplefilter("error", MatrixRankWarning)
            try:
                lu = sparse_factors(self._matrix)
            except (RuntimeError, MatrixRankWarning) as error:
                raise RunError("the policy's value equations are singular in float64") from error
        return lambda A, b, transposed: lu.solve(b, "T" if transposed else "N")

    def _by_iteration(self, A: csc_array, b: FloatArray, transposed: bool) -> FloatArray:
        x, failed = _bicgstab(A, b, _MANY)
        if failed:
            x, failed = gmres(A, b, rtol=_RELATIVE, restart=_RESTART, maxiter=_MANY // _RESTART)
        return np.full(b.size, np.nan) if failed else x


def _bicgstab(A: csc_array, b: FloatArray, most: int) -> tuple[FloatArray, bool]:
    """x with A·x = b, and whether it failed in `most` iterations."""
    size = float(np.linalg.norm(b))  # taken off: SciPy ends at inner products below 5e-32
    if size == 0.0:
        return np.zeros_like(b), False
    x, info = bicgstab(A.tocsr(), b / size, rtol=_RELATIVE, maxiter=most)
    return size * x, info != 0


def mixes_fast(P: csr_array, r: FloatArray, gamma: float) -> bool:
    """Whether the equations of such a chain are solved sooner by iteration than by factors."""
    if P.shape[0] <= _FEW_STATES or gamma == 1.0:
        return False
    _, failed = _bicgstab(eye_array(P.shape[0], format="csr") - gamma * P, r, _FEW)
    return not failed


@dataclass(frozen=True, eq=False)
class Valued:
    """A policy's values and visits over n states.

    Fields:
        values: (n,) V^π; 0 where it is not `finite`.
        finite: (n,) bool; all True for γ < 1. At γ = 1 False where the policy may go on for ever
            and earn rewards all the while.
        visits: (n,) the share of the discounted visits that each state gets, with sum 1; None where
            the start is not all `finite`.
    """

    values: FloatArray
    finite: BoolArray
    visits: FloatArray | None


def valued(
    P: csr_array,
    r: FloatArray,
    earns: BoolArray,
    ends: BoolArray,
    start: FloatArray,
    gamma: float,
    iterate: bool,
) -> Valued:
    """Values and visits of a policy; see the module for the equations.

    Args:
        P, r: (n, n) and (n,), of the policy, among the states that are not terminal.
        earns: (n,) whether one of its actions there earns a reward other than 0.
        ends: (n,) whether one of its actions there may end the episode.
        start: (n,) μ.
        gamma: γ.
        iterate: see `Systems`.

    At γ = 1 a state from which nothing is earned any more has the value 0, whether or not its
    episode ends (and no visits: it may have infinitely many). Raises RunError as `Systems` does.
    """
    n = r.size
    finite, idle = np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    if gamma == 1.0:
        chain, nowhere = np.arange(n), np.zeros(n, dtype=np.bool_)
        idle = ~can_end(P, chain, nowhere, terminal=earns)
        endless = ~can_end(P, chain, ends, terminal=idle)
        finite = ~can_end(P, chain, nowhere, terminal=endless)
    kept = np.flatnonzero(finite & ~idle)
    if kept.size < n:
        P = P[kept][:, kept]
    systems = Systems(P, gamma, iterate)
    values = np.zeros(n)
    if kept.size:
        values[kept] = systems.solve(r[kept])
    if np.any(start[~finite] > 0):
        return Valued(values, finite, None)
    visits = np.zeros(n)
    if start[kept].any():
        visits[kept] = systems.solve(start[kept], transposed=True).clip(min=0.0)
    else:  # it begins where nothing is earned any more
        visits[:] = start
    return Valued(values, finite, visits / visits.sum())
