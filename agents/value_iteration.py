"""Value iteration: apply Bellman's optimality operator until the bounds are tight.

Bellman, Dynamic Programming (1957); Puterman, Markov Decision Processes (1994), §6.3.
"""

from __future__ import annotations

import numpy as np

from rlkit.mdp.bellman import q_values, state_max
from rlkit.mdp.bounds import Bounds
from rlkit.mdp.certifier import Certifier
from rlkit.mdp.compact import Compact, worth_compiling
from rlkit.mdp.goal import Goal
from rlkit.mdp.model import MDP
from rlkit.mdp.parallel import Sweeps
from rlkit.mdp.solver import exact_solver

_UNCHECKED = 8  # sweeps over a large model from one look at the bounds to the next


@exact_solver("value-iteration")
def value_iteration(mdp: MDP, goal: Goal) -> Bounds:
    """Solve `mdp` to ‖values − V*‖∞ ≤ goal.tol by Jacobi sweeps from V = 0; see `rlkit.solve`."""
    if worth_compiling(mdp):
        return _compiled(mdp, goal)
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


def _compiled(mdp: MDP, goal: Goal) -> Bounds:
    """The same by compiled sweeps, of which proving bounds takes several times one's time."""
    certify = Certifier(mdp, goal, _UNCHECKED)
    sweep = Sweeps.often(Compact.of(mdp), mdp.gamma, goal.threads)
    V, TV = np.zeros(mdp.n_states), np.empty(mdp.n_states)
    Q = np.empty(mdp.n_pairs if mdp.gamma == 1.0 else 0)
    scale = mdp.gamma / (1.0 - mdp.gamma) if mdp.gamma < 1.0 else 1.0
    while True:
        for left in reversed(range(_UNCHECKED)):
            low, high = sweep(V, TV, Q)
            goal.sweeps += 1
            change = (high - low) / 2 if certify.closed else max(high, -low)
            if not left or scale * change <= (goal.tol if mdp.gamma < 1.0 else certify.gate):
                break
            V, TV = TV, V
        bounds = certify(V, Q, TV)
        if bounds is not None:
            return bounds
        V, TV = TV, V
