"""Direct solves of (I − γP) x = b for a Markov chain; and linear programs, by HiGHS."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import lu_factor, lu_solve
from scipy.sparse import csc_array, csr_array, eye_array
from scipy.sparse.linalg import MatrixRankWarning, SuperLU, splu

from rlkit.errors import RunError
from rlkit.mdp.bellman import policy_matrix
from rlkit.mdp.goal import Goal, OutOfTimeError
from rlkit.mdp.model import MDP, FloatArray, IntArray

_MOST_DENSE = 2_000  # states of a chain that may be written out as a dense matrix
_DENSE = 0.05  # share of its entries from which on elimination fills it up anyway
_OUT_OF_TIME = 1  # SciPy's status of a linear program whose time or iterations are over
_QUICK = 10  # S³ a transition; measured: .03 ns for LU factors, .4 ns for a sweep


def solve_chain(P: csr_array, gamma: float, b: FloatArray) -> FloatArray:
    """x with (I − γP) x = b, as (S,): LU factors, then one step of iterative refinement.

    Few states of many successors: LAPACK.

    Raises:
        RunError: the matrix is singular to float64's precision.
    """
    solve = _dense_solve if _is_dense(b.size, P.nnz) else _sparse_solve
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", MatrixRankWarning)
            warnings.simplefilter("error", RuntimeWarning)  # of LAPACK
            x = solve(P, gamma, b)
    except (RuntimeError, MatrixRankWarning, RuntimeWarning):
        x = np.full(b.size, np.nan)
    if not np.all(np.isfinite(x)):
        raise RunError(
            "the value equations of a policy are singular in float64: it runs practically for "
            "ever; use a smaller gamma, or give the model ends that are reached sooner"
        )
    return np.asarray(x, dtype=np.float64) + 0.0  # which makes 0 of -0


def quickly_solved(mdp: MDP) -> bool:
    """Whether to solve for a policy's values takes less time than a sweep over the model."""
    entries = mdp.P.nnz * mdp.n_states // max(1, mdp.n_pairs)  # of an average policy
    return _is_dense(mdp.n_states, entries) and mdp.n_states**3 <= _QUICK * mdp.P.nnz


def _is_dense(n_states: int, entries: int) -> bool:
    return n_states <= _MOST_DENSE and entries >= _DENSE * n_states**2


def sparse_factors(A: csc_array) -> SuperLU:
    """Sparse LU factors of A = I − γP, which is a row diagonally dominant M-matrix.

    So elimination needs no pivoting, and the ordering may be chosen for sparsity alone. Raises
    RuntimeError, or warns with MatrixRankWarning, where A is singular.
    """
    return splu(
        A,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


def _sparse_solve(P: csr_array, gamma: float, b: FloatArray) -> FloatArray:
    A = (eye_array(P.shape[0], format="csr") - gamma * P).tocsc()
    lu = sparse_factors(A)
    x = lu.solve(b)
    x += lu.solve(b - A @ x)
    return np.asarray(x)


def _dense_solve(P: csr_array, gamma: float, b: FloatArray) -> FloatArray:
    A = P.toarray()
    A *= -gamma
    A.flat[:: b.size + 1] += 1.0
    lu = lu_factor(A, check_finite=False)
    x = lu_solve(lu, b, check_finite=False)
    x += lu_solve(lu, b - A @ x, check_finite=False)
    return np.asarray(x)


def policy_values(mdp: MDP, choice: IntArray, r: FloatArray) -> FloatArray:
    """V with V = r + γ P_π V, as (S,). choice: (S_live,) numbers of pairs; r: (S,)."""
    return solve_chain(policy_matrix(mdp, choice), mdp.gamma, r)


def linear_program(
    cost: FloatArray,
    A: csr_array,
    b: FloatArray,
    limits: Sequence[tuple[float | None, float | None]],
    goal: Goal,
) -> Any:
    """SciPy's result for the x that minimises cost · x where A x ≤ b and x is within its limits.

    Raises OutOfTimeError where the goal's time is over.
    """
    from scipy.optimize import linprog  # takes longer to import than a small model to solve

    left = {"time_limit": max(goal.max_seconds - goal.seconds, 0.0)}
    found = linprog(cost, A, b, bounds=limits, method="highs", options=left)
    if found.status == _OUT_OF_TIME:
        raise OutOfTimeError
    return found
