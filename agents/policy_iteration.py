"""Policy iteration: evaluate the policy exactly, act greedily on its values, repeat.

Howard, Dynamic Programming and Markov Processes (1960); Puterman, Markov Decision Processes (1994),
§6.4 for γ < 1; Bertsekas and Tsitsiklis (1991) for γ = 1, from a policy that ends for sure.
"""

from __future__ import annotations

import numpy as np

from rlkit.mdp.bellman import backup, greedy, policy_rewards, rounding
from rlkit.mdp.bounds import Bounds, Certifier
from rlkit.mdp.goal import Goal
from rlkit.mdp.graph import proper_choice
from rlkit.mdp.linear import policy_values
from rlkit.mdp.model import MDP
from rlkit.mdp.solver import exact_solver


@exact_solver("policy-iteration")
def policy_iteration(mdp: MDP, goal: Goal) -> Bounds:
    """Solve `mdp` to ‖values − V*‖∞ ≤ goal.tol by Howard's policy iteration; see `rlkit.solve`."""
    certify = Certifier(mdp, goal)
    policy = proper_choice(mdp)
    seen: set[int] = set()
    while True:
        # V = (I − γ P_π)⁻¹ r_π
        V = policy_values(mdp, policy, policy_rewards(mdp, policy))
        # π'(s) = argmax_a r(s, a) + γ Σ_s' p(s' | s, a) V(s'), and π(s) where it is among them
        Q, TV = backup(mdp, V)
        goal.sweeps += 1
        goal.note(V)
        improved = greedy(mdp, Q, 4.0 * rounding(mdp, V), incumbent=policy)
        seen.add(hash(policy.tobytes()))
        # Values never fall, so a policy that comes back differs by nothing but rounding.
        if np.array_equal(improved, policy) or hash(improved.tobytes()) in seen:
            return certify.final(V, Q, TV)
        policy = improved
