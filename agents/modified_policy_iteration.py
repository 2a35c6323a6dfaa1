"""Modified policy iteration: policy iteration whose evaluation is a few sweeps, not a solve.

Puterman and Shin, Modified Policy Iteration Algorithms for Discounted Markov Decision Problems
(1978); Puterman, Markov Decision Processes (1994), §6.5.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from rlkit.mdp.bellman import backup, greedy, policy_matrix, policy_rewards, rounding
from rlkit.mdp.bounds import Bounds
from rlkit.mdp.certifier import Certifier
from rlkit.mdp.compact import NO_PAIR, Compact, worth_compiling
from rlkit.mdp.goal import Goal
from rlkit.mdp.graph import proper_choice
from rlkit.mdp.linear import policy_values
from rlkit.mdp.model import MDP, FloatArray, IntArray
from rlkit.mdp.parallel import Sweeps
from rlkit.mdp.solver import exact_solver

# A sweep of T_π costs a fraction of one of T. More of them pay while the policy no longer moves.
EVALUATION_SWEEPS = 50


@exact_solver("modified-policy-iteration")
def modified_policy_iteration(mdp: MDP, goal: Goal) -> Bounds:
    """Solve `mdp` to ‖values − V*‖∞ ≤ goal.tol by modified policy iteration; see `rlkit.solve`."""
    certify = Certifier(mdp, goal, 1 + EVALUATION_SWEEPS)
    improve, evaluate = _operators(mdp, goal.threads)
    # Far from any reward all actions tie at first: there this policy at least gets somewhere.
    policy = proper_choice(mdp)
    V = values_from_below(mdp, policy)
    while True:
        # Q(s, a) = r(s, a) + γ Σ_s' p(s' | s, a) V(s')
        Q, TV = improve(V)
        goal.sweeps += 1
        bounds = certify(V, Q, TV)
        if bounds is not None:
            return bounds
        # π(s) = argmax_a Q(s, a), then V ← T_π V again and again
        policy = greedy(mdp, Q, rounding(mdp, V), incumbent=policy)
        V = evaluate(policy, TV)
        goal.sweeps += EVALUATION_SWEEPS


def _operators(
    mdp: MDP, threads: int
) -> tuple[
    Callable[[FloatArray], tuple[FloatArray, FloatArray]],
    Callable[[IntArray, FloatArray], FloatArray],
]:
    """Q and TV of V; and, of a policy and V, what sweeps of T_π V = r_π + γ P_π V make of it."""
    if not worth_compiling(mdp):
        return partial(backup, mdp), partial(_evaluate, mdp)
    sweep = Sweeps.often(Compact.of(mdp), mdp.gamma, threads)

    def improve(V: FloatArray) -> tuple[FloatArray, FloatArray]:
        Q, TV = np.empty(mdp.n_pairs), np.empty(mdp.n_states)
        sweep(V, TV, Q)
        return Q, TV

    def evaluate(policy: IntArray, V: FloatArray) -> FloatArray:
        pairs = np.full(mdp.n_states, NO_PAIR, dtype=np.uint32)
        pairs[mdp.live] = policy
        follow, other = sweep.following(pairs), np.empty(mdp.n_states)
        for _ in range(EVALUATION_SWEEPS):
            follow(V, other)
            V, other = other, V
        return V

    return improve, evaluate


def _evaluate(mdp: MDP, policy: IntArray, V: FloatArray) -> FloatArray:
    P_pi, r_pi = policy_matrix(mdp, policy), policy_rewards(mdp, policy)
    for _ in range(EVALUATION_SWEEPS):
        V = r_pi + mdp.gamma * (P_pi @ V)
    return V


def values_from_below(mdp: MDP, proper: IntArray) -> FloatArray:
    """(S,) V with V ≤ TV ≤ V*, from which the values rise to V* and never overshoot.

    proper: (S_live,) numbers of pairs, a policy that ends for sure if γ = 1.
    """
    if mdp.gamma == 1.0:
        return policy_values(mdp, proper, policy_rewards(mdp, proper))
    V = np.zeros(mdp.n_states)
    # V = min r / (1 − γ) is below every policy's; so is 0 where that is positive.
    V[mdp.live] = min(0.0, float(mdp.r.min(initial=0.0))) / (1.0 - mdp.gamma)
    return V
