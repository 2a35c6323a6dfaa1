"""Bellman's operators on a finite MDP, the kernels that every exact solver shares.

Written for SciPy's sparse product and NumPy's segment reductions: nothing to compile, so that a
small model is solved in milliseconds. Equations as in Puterman, Markov Decision Processes (1994).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from rlkit.mdp.model import MDP, FloatArray, IntArray


def q_values(mdp: MDP, V: FloatArray) -> FloatArray:
    """Q(s, a) = r(s, a) + γ Σ_s' p(s' | s, a) V(s'), as (L,) over the pairs. V: (S,)."""
    return np.asarray(mdp.r + mdp.gamma * (mdp.P @ V), dtype=np.float64)


def state_max(mdp: MDP, Q: FloatArray) -> FloatArray:
    """(S,) max_a Q(s, a); 0 at terminal states. Q: (L,)."""
    best = np.zeros(mdp.n_states)
    if mdp.live.size:
        best[mdp.live] = np.maximum.reduceat(Q, mdp.offsets[mdp.live])
    return best


def greedy(mdp: MDP, Q: FloatArray, slack: float, incumbent: IntArray | None = None) -> IntArray:
    """The greedy policy, as (S_live,) numbers of pairs, one per non-terminal state.

    Actions within `slack` of the best count as tied. The incumbent is kept where it is among them
    (so that policy iteration stops); otherwise the one of lowest label is taken.
    """
    if not mdp.live.size:
        return np.empty(0, dtype=np.int64)
    firsts = mdp.offsets[mdp.live]
    best = np.maximum.reduceat(Q, firsts)
    tied = Q - np.repeat(best, np.diff(mdp.offsets)[mdp.live]) >= -slack
    choice = np.minimum.reduceat(np.where(tied, np.arange(Q.size), Q.size), firsts)
    if incumbent is not None:
        choice = np.where(tied[incumbent], incumbent, choice)
    return choice


def policy_matrix(mdp: MDP, choice: IntArray) -> csr_array:
    """P_π as (S, S), with empty rows at terminal states. choice: (S_live,) numbers of pairs."""
    rows = mdp.P[choice]
    counts = np.zeros(mdp.n_states, dtype=rows.indptr.dtype)
    counts[mdp.live] = np.diff(rows.indptr)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(rows.indptr.dtype)
    return csr_array((rows.data, rows.indices, indptr), shape=(mdp.n_states, mdp.n_states))


def policy_rewards(mdp: MDP, choice: IntArray) -> FloatArray:
    """r_π as (S,), 0 at terminal states. choice: (S_live,) numbers of pairs."""
    r = np.zeros(mdp.n_states)
    r[mdp.live] = mdp.r[choice]
    return r


def rounding(mdp: MDP, V: FloatArray) -> float:
    """A bound on the float64 rounding error of any entry of TV − V as computed here.

    A dot product of k terms errs by at most k u Σ|p||v| (Higham, Accuracy and Stability of
    Numerical Algorithms, §3.1; u is half of eps); the rest covers r +, γ · and − V.
    """
    eps = float(np.finfo(np.float64).eps)
    size = float(np.abs(mdp.r).max(initial=0.0) + 2.0 * np.abs(V).max(initial=0.0))
    return (mdp.width + 4) * eps * size
