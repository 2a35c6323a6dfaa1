"""Sparse direct solves of (I − γP) x = b for a Markov chain."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import MatrixRankWarning, splu

from rlkit.errors import RunError
from rlkit.mdp.bellman import policy_matrix
from rlkit.mdp.model import MDP, FloatArray, IntArray


def solve_chain(P: csr_array, gamma: float, b: FloatArray) -> FloatArray:
    """x with (I − γP) x = b, as (S,): SuperLU, then one step of iterative refinement.

    I − γP is a row diagonally dominant M-matrix, so that elimination needs no pivoting and the
    ordering may be chosen for sparsity alone.

    Raises:
        RunError: the matrix is singular to float64's precision.
    """
    A = (eye_array(P.shape[0], format="csr") - gamma * P).tocsc()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", MatrixRankWarning)
            lu = splu(
                A,
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
        x = lu.solve(b)
        x += lu.solve(b - A @ x)
    except (RuntimeError, MatrixRankWarning):
        x = np.full(b.size, np.nan)
    if not np.all(np.isfinite(x)):
        raise RunError(
            "the value equations of a policy are singular in float64: it runs practically for "
            "ever; use a smaller gamma, or give the model ends that are reached sooner"
        )
    return np.asarray(x, dtype=np.float64)


def policy_values(mdp: MDP, choice: IntArray, r: FloatArray) -> FloatArray:
    """V with V = r + γ P_π V, as (S,). choice: (S_live,) numbers of pairs; r: (S,)."""
    return solve_chain(policy_matrix(mdp, choice), mdp.gamma, r)
