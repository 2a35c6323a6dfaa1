"""What all exact solvers have in common around their algorithm: γ = 1, the clock, the Solution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from time import perf_counter

import numpy as np

from rlkit.errors import ModelError, UsageError
from rlkit.mdp.bellman import greedy, q_values, rounding
from rlkit.mdp.bounds import Bounds, FreeLoopError
from rlkit.mdp.episodic import merge_free_loops
from rlkit.mdp.graph import states
from rlkit.mdp.model import MDP, IntArray
from rlkit.mdp.solution import Solution


@dataclass(frozen=True)
class Outcome:
    """What an algorithm found: certified values, and how many sweeps it took."""

    bounds: Bounds
    sweeps: int


Algorithm = Callable[[MDP, float], Outcome]
Solver = Callable[[MDP, float], Solution]


def exact_solver(method: str) -> Callable[[Algorithm], Solver]:
    """Make a solver ``(mdp, tol) -> Solution`` of an algorithm ``(mdp, tol) -> Outcome``.

    At γ = 1 the algorithm sees the model with its free loops merged (rlkit/mdp/episodic.py).
    """

    def decorate(algorithm: Algorithm) -> Solver:
        @wraps(algorithm)
        def solver(mdp: MDP, tol: float) -> Solution:
            if not (tol > 0 and math.isfinite(tol)):
                raise UsageError(f"tol={tol} is out of range; it must be a positive number")
            begun = perf_counter()
            if mdp.gamma == 1.0:
                outcome, choice, bounds = _undiscounted(mdp, tol, algorithm)
            else:
                outcome = algorithm(mdp, tol)
                bounds = outcome.bounds
                choice = _greedy(mdp, bounds)
            return _solution(mdp, method, bounds, choice, outcome.sweeps, begun)

        return solver

    return decorate


def _undiscounted(mdp: MDP, tol: float, algorithm: Algorithm) -> tuple[Outcome, IntArray, Bounds]:
    merged = merge_free_loops(mdp)
    try:
        outcome = algorithm(merged.mdp, tol)
    except FreeLoopError as error:
        raise ModelError(
            f"{states(merged.members(error.loop))} can loop for ever at no cost that float64 tells "
            f"from 0 beside values of {error.size:.2g}, so the value at gamma=1 is uncertain; "
            "use gamma < 1, or a clear cost per step"
        ) from error
    choice = merged.choice(_greedy(merged.mdp, outcome.bounds))
    found = outcome.bounds
    lifted = Bounds(*(x[merged.state] for x in (found.values, found.lower, found.upper)))
    return outcome, choice, lifted


def _greedy(mdp: MDP, bounds: Bounds) -> IntArray:
    return greedy(mdp, q_values(mdp, bounds.values), 4.0 * rounding(mdp, bounds.values))


def _solution(
    mdp: MDP, method: str, bounds: Bounds, choice: IntArray, sweeps: int, begun: float
) -> Solution:
    policy = np.full(mdp.n_states, -1, dtype=np.int64)
    policy[mdp.live] = mdp.actions[choice]
    return Solution(
        values=bounds.values,
        policy=policy,
        q=q_values(mdp, bounds.values),
        lower=bounds.lower,
        upper=bounds.upper,
        offsets=mdp.offsets,
        actions=mdp.actions,
        gamma=mdp.gamma,
        start_value=None if mdp.start is None else float(mdp.start @ bounds.values),
        method=method,
        sweeps=sweeps,
        seconds=perf_counter() - begun,
    )
