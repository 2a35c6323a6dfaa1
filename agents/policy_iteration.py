"""Policy iteration: evaluate the policy exactly, act greedily on its values, repeat.

Howard, Dynamic Programming and Markov Processes (1960); Puterman, Markov Decision Processes (1994),
§6.4 for γ < 1; Bertsekas and Tsitsiklis (1991) for γ = 1, from a policy that ends for sure.
"""

from __future__ import annotations

import numpy as np

from rlkit.mdp.bellman import backup, greedy, policy_rewards, rounding
from rlkit.mdp.bounds import Bounds
from rlkit.mdp.certifier import Certifier
from rlkit.mdp.compact import Compact, worth_compiling
from rlkit.mdp.goal import Goal
from rlkit.mdp.graph import proper_choice
from rlkit.mdp.linear import policy_values, quickly_solved
from rlkit.mdp.model import MDP, FloatArray, IntArray
from rlkit.mdp.parallel import Sweeps
from rlkit.mdp.solver import exact_solver

_FEW = 1 / 8  # of the transitions: states with no more of them are improved by themselves
_MOST_ROUNDS = 10  # of that


@exact_solver("policy-iteration")
def policy_iteration(mdp: MDP, goal: Goal) -> Bounds:
    """Solve `mdp` to ‖values − V*‖∞ ≤ goal.tol by Howard's policy iteration; see `rlkit.solve`."""
    certify = Certifier(mdp, goal)
    quick = quickly_solved(mdp)
    policy = greedy(mdp, mdp.r, 0.0) if quick and mdp.gamma < 1.0 else proper_choice(mdp)
    V = _values(mdp, policy)
    seen: set[int] = set()
    while True:
        # π'(s) = argmax_a r(s, a) + γ Σ_s' p(s' | s, a) V(s'), and π(s) where it is among them
        Q, TV = backup(mdp, V, goal.threads)
        goal.sweeps += 1
        goal.note(V)
        improved = greedy(mdp, Q, 4.0 * rounding(mdp, V), incumbent=policy)
        seen.add(hash(policy.tobytes()))
        # Values never fall, so a policy that comes back differs by nothing but rounding.
        if np.array_equal(improved, policy) or hash(improved.tobytes()) in seen:
            return _with_q(certify.final(V, Q, TV), V, Q, goal.tol)
        switched = mdp.live[improved != policy]
        policy, V = improved, _values(mdp, improved)
        if quick:
            policy, V = _improved_at(mdp, switched, policy, V)


def _values(mdp: MDP, policy: IntArray) -> FloatArray:
    """V = (I − γ P_π)⁻¹ r_π"""
    return policy_values(mdp, policy, policy_rewards(mdp, policy))


def _improved_at(
    mdp: MDP, states: IntArray, policy: IntArray, V: FloatArray
) -> tuple[IntArray, FloatArray]:
    """The policy and its values, improved in these states alone until they no longer switch.

    Often it is a few states that switch again and again. To improve a policy in some states is an
    improvement in all (Puterman, §6.4.1), and takes a sweep over their pairs only.
    """
    firsts, ends = mdp.offsets[states], mdp.offsets[states + 1]
    entries = (mdp.P.indptr[ends] - mdp.P.indptr[firsts]).sum()
    if entries > _FEW * mdp.P.nnz or not worth_compiling(mdp):
        return policy, V
    sweep, TV = Sweeps(Compact.of(mdp), mdp.gamma), np.empty(mdp.n_states)
    for _ in range(_MOST_ROUNDS):
        Q = np.full(mdp.n_pairs, -np.inf)
        # Other states have one pair that counts, the incumbent.
        Q[policy] = 0.0
        sweep.some(states, V, TV, Q)
        improved = greedy(mdp, Q, 4.0 * rounding(mdp, V), incumbent=policy)
        if np.array_equal(improved, policy):
            break
        policy, V = improved, _values(mdp, improved)
    return policy, V


def _with_q(bounds: Bounds, V: FloatArray, Q: FloatArray, tol: float) -> Bounds:
    """The same bounds around V, whose Q is known, if it is as good as the values that they have."""
    around = Bounds(V, bounds.lower, bounds.upper, Q)
    inside = np.all(bounds.lower <= V) and np.all(bounds.upper >= V)
    return around if inside and around.error <= tol else bounds
