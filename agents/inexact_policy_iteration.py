"""Inexact policy iteration: policies evaluated only as accurately as their improvement needs.

Compiled Gauss–Seidel sweeps along the way from the ends, BiCGSTAB where those are slow; see
rlkit/mdp/iterate.py. Dembo and Haurie, and later Gargiani et al., Inexact Policy Iteration Methods
for Large-Scale Markov Decision Processes (2024), study the family.
"""

from __future__ import annotations

from rlkit.mdp.bounds import Bounds
from rlkit.mdp.compiled_solver import certified
from rlkit.mdp.goal import Goal
from rlkit.mdp.iterate import settle
from rlkit.mdp.model import MDP
from rlkit.mdp.solver import exact_solver


@exact_solver("inexact-policy-iteration")
def inexact_policy_iteration(mdp: MDP, goal: Goal) -> Bounds:
    """Solve `mdp` to ‖values − V*‖∞ ≤ goal.tol by inexact policy iteration; see `rlkit.solve`."""
    return certified(mdp, goal, settle)
