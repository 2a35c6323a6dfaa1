"""Value iteration: apply Bellman's optimality operator until the bounds are tight.

Bellman, Dynamic Programming (1957); Puterman, Markov Decision Processes (1994), §6.3.
"""

from __future__ import annotations

import numpy as np

from rlkit.mdp.bellman import q_values, state_max
from rlkit.mdp.bounds import Bounds, Certifier
from rlkit.mdp.goal import Goal
from rlkit.mdp.model import MDP
from rlkit.mdp.solver import exact_solver


@exact_solver("value-iteration")
def value_iteration(mdp: MDP, goal: Goal) -> Bounds:
    """Solve `mdp` to ‖values − V*‖∞ ≤ goal.tol by Jacobi sweeps from V = 0; see `rlkit.solve`."""
    certify = Certifier(mdp, goal)
    V = np.zeros(mdp.n_states)
    while True:
        # Q(s, a) = r(s, a) + γ Σ_s' p(s' | s, a) V_n(s')
        Q = q_values(mdp, V)
        # V_{n+1}(s) = max_a Q(s, a)
        TV = state_max(mdp, Q)
        goal.sweeps += 1
        bounds = certify(V, Q, TV)
        if bounds is not None:
            return bounds
        V = TV
