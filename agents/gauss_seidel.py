"""Gauss–Seidel value iteration: each backup uses the values that the sweep has already renewed.

Puterman, Markov Decision Processes (1994), §6.3.3. Compiled; states are swept along the way from
the ends and back again in turn, and the bounds come from a Jacobi sweep now and then.
"""

from __future__ import annotations

from rlkit.mdp.bounds import Bounds
from rlkit.mdp.compiled_solver import certified
from rlkit.mdp.goal import Goal
from rlkit.mdp.iterate import sweep
from rlkit.mdp.model import MDP
from rlkit.mdp.solver import exact_solver


@exact_solver("gauss-seidel")
def gauss_seidel(mdp: MDP, goal: Goal) -> Bounds:
    """Solve `mdp` to ‖values − V*‖∞ ≤ goal.tol by Gauss–Seidel sweeps; see `rlkit.solve`."""
    return certified(mdp, goal, sweep)
