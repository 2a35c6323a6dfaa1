"""Linear programming: the optimal values are the least that no backup can raise.

d'Epenoux (1963); Puterman, Markov Decision Processes (1994), §6.9 for γ < 1; Bertsekas and
Tsitsiklis (1991) for γ = 1. By HiGHS, through SciPy, whose dual solution is an optimal policy. The
values are those of this policy, and their bounds are proven as anywhere: HiGHS need not be trusted.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from rlkit.errors import RunError
from rlkit.mdp.bellman import backup, greedy, policy_rewards
from rlkit.mdp.bounds import Bounds
from rlkit.mdp.certifier import Certifier
from rlkit.mdp.goal import Goal
from rlkit.mdp.linear import linear_program, policy_values
from rlkit.mdp.model import MDP
from rlkit.mdp.solver import exact_solver


@exact_solver("linear-programming")
def linear_programming(mdp: MDP, goal: Goal) -> Bounds:
    """Solve `mdp` to ‖values − V*‖∞ ≤ goal.tol by linear programming; see `rlkit.solve`."""
    certify = Certifier(mdp, goal)
    # min Σ_s V(s) with V(s) ≥ r(s, a) + γ Σ_s' p(s' | s, a) V(s') for all pairs
    here = csr_array(
        (np.ones(mdp.n_pairs), (np.arange(mdp.n_pairs), mdp.pair_state)), shape=mdp.P.shape
    )
    scale = float(np.abs(mdp.r).max(initial=0.0)) or 1.0  # HiGHS' tolerances are absolute
    limits = [(0, 0) if end else (None, None) for end in mdp.terminal]
    found = linear_program(
        np.ones(mdp.n_states), mdp.gamma * mdp.P - here, -mdp.r / scale, limits, goal
    )
    if found.status != 0:
        raise RunError(
            f"HiGHS finds no values to tol={goal.tol:g} ({found.message.rstrip('.')}); "
            "take another method, or use a smaller gamma"
        )
    # The dual variables are how often each pair is taken, from every state once: > 0 where optimal.
    taken = -np.asarray(found.ineqlin.marginals, dtype=np.float64)
    policy = greedy(mdp, taken, 0.0)
    V = policy_values(mdp, policy, policy_rewards(mdp, policy))
    goal.sweeps += 1
    goal.note(V)
    return certify.final(V, *backup(mdp, V))
