"""Bellman's operators on a finite MDP, which all exact solvers share.

By SciPy's sparse product and NumPy's segment reductions for small models: nothing to compile, so
that they are solved in milliseconds. By compiled kernels for large ones. Equations as in Puterman,
Markov Decision Processes (1994).
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from rlkit.mdp.compact import Compact, compiled_by_now, worth_compiling
from rlkit.mdp.model import MDP, BoolArray, FloatArray, IntArray
from rlkit.mdp.parallel import Sweeps


def backup(mdp: MDP, V: FloatArray, threads: int = 1) -> tuple[FloatArray, FloatArray]:
    """Q of V as (L,) over the pairs, and TV = max_a Q as (S,). V: (S,).

    threads: how many at most share the sweep of a large model.
    """
    if not worth_compiling(mdp):  # and never by what is loaded: sums are rounded in another order
        Q = q_values(mdp, V)
        return Q, state_max(mdp, Q)
    Q, TV = np.empty(mdp.n_pairs), np.empty(mdp.n_states)
    Sweeps(Compact.of(mdp), mdp.gamma, threads)(V, TV, Q)
    return Q, TV


def q_values(mdp: MDP, V: FloatArray) -> FloatArray:
    """Q(s, a) = r(s, a) + γ Σ_s' p(s' | s, a) V(s'), as (L,) over the pairs. V: (S,)."""
    return np.asarray(mdp.r + mdp.gamma * (mdp.P @ V), dtype=np.float64)


def state_max(mdp: MDP, Q: FloatArray, allowed: BoolArray | None = None) -> FloatArray:
    """(S,) max_a Q(s, a) over the allowed (L,) pairs; 0 at terminal states. Q: (L,)."""
    best = np.zeros(mdp.n_states)
    if allowed is not None and compiled_by_now(mdp):
        from rlkit.mdp import kernels

        kernels.largest(Compact.of(mdp).off, Q, allowed, best)
        return best
    if allowed is not None:
        Q = np.where(allowed, Q, -np.inf)
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
    if compiled_by_now(mdp):
        from rlkit.mdp import kernels

        kept = np.empty(0, dtype=np.int64) if incumbent is None else incumbent
        chosen = np.empty(mdp.live.size, dtype=np.int64)
        kernels.best_pairs(Compact.of(mdp).off, Q, slack, kept, chosen)
        return chosen
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
    Numerical Algorithms, §3.1); the rest covers r +, γ · and − V. u is half of eps: twice that.
    """
    return rounding_of(mdp.width, largest(mdp.r) + largest(V))


def rounding_of(width: int, size: float) -> float:
    """`rounding`, from the largest number of successors of a pair and max |r| + max |V|."""
    return (width + 4) * float(np.finfo(np.float64).eps) * size


def largest(x: FloatArray) -> float:
    """max |x|, without a copy."""
    return float(max(x.max(initial=0.0), -x.min(initial=0.0)))
