"""Upwind Gauss–Seidel: a window of sweeps that slides once over the model, away from the ends.

See rlkit/mdp/upwind.py. The idea is that of upwind sweeps for transport equations (fast sweeping:
Zhao, A Fast Sweeping Method for Eikonal Equations, 2005) on the graph of a Markov decision process.
"""

from __future__ import annotations

from rlkit.mdp.bounds import Bounds
from rlkit.mdp.compiled_solver import certified
from rlkit.mdp.goal import Goal
from rlkit.mdp.model import MDP
from rlkit.mdp.solver import exact_solver
from rlkit.mdp.upwind import Upwind


@exact_solver("upwind-gauss-seidel")
def upwind_gauss_seidel(mdp: MDP, goal: Goal) -> Bounds:
    """Solve `mdp` to ‖values − V*‖∞ ≤ goal.tol by upwind Gauss–Seidel; see `rlkit.solve`."""
    return certified(mdp, goal, Upwind())
