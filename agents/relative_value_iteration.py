"""Relative value iteration: the best average reward per step, with bounds from every sweep.

White, Dynamic Programming, Markov Chains, and the Method of Successive Approximations (1963);
Puterman, Markov Decision Processes (1994), §8.5.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from rlkit.errors import ModelError, RlkitWarning, UsageError
from rlkit.mdp.bellman import backup, greedy, rounding
from rlkit.mdp.criteria import AverageSolution
from rlkit.mdp.goal import Goal, Watch
from rlkit.mdp.graph import end_components, states
from rlkit.mdp.model import MDP

# Of the way to TV that V goes in a sweep. Less than 1 makes periodic chains aperiodic: it mixes P
# with the identity (Puterman 1994, §8.5.4), and leaves gain and bounds as they are.
_STEP = 0.8


def relative_value_iteration(
    mdp: MDP, tol: float = 1e-6, max_sweeps: int = 1_000_000, watch: Watch | None = None
) -> AverageSolution:
    """Maximise the long-run average reward per step; the model's discount is not used.

    With Δ = TV − V for γ = 1, min Δ ≤ g* ≤ max Δ, and the greedy policy earns min Δ at least
    (Puterman 1994, theorem 8.5.5); both bounds close in where the model is weakly communicating:
    one set of states that are all reachable from one another, all others left for good.

    Args:
        mdp: the model. It may not end.
        tol: a bound on the error of the gain, in units of reward per step.
        max_sweeps: where `tol` is not reached in so many sweeps, or not in float64, a warning says
            so, and the bounds of the result say what is.
        watch: whom to tell how far it has got; see `rlkit.mdp.goal.Watch`.

    Raises:
        UsageError: `tol` is not positive.
        ModelError: the model may end, or is multichain; names the states.
    """
    if not (tol > 0 and math.isfinite(tol)):
        raise UsageError(f"tol={tol} is out of range; it must be a positive number")
    goal = Goal(tol, math.inf, watch)
    _refuse_ends(mdp)
    _refuse_multichain(mdp)
    undiscounted = MDP.from_pairs(mdp.P, mdp.r, mdp.offsets, 1.0, mdp.actions)
    V, sweeps = np.zeros(mdp.n_states), 0
    lower, upper = -np.inf, np.inf
    while True:
        # Δ(s) = max_a [r(s, a) + Σ_s' p(s' | s, a) V(s')] − V(s)
        Q, TV = backup(undiscounted, V)
        change = TV - V
        margin = rounding(undiscounted, V)
        sweeps += 1
        down, up = float(change.min()) - margin, float(change.max()) + margin
        closer = up - down < upper - lower
        if closer:
            lower, upper = down, up
            best, policy = V, mdp.actions[greedy(undiscounted, Q, 4.0 * margin)]
        goal.sweeps = sweeps
        goal.report((upper - lower) / 2)
        done = upper - lower <= 2.0 * tol
        if done or sweeps >= max_sweeps or (not closer and up - down <= 8.0 * margin):
            break
        V = V + _STEP * (change - change[0])
    if not done:
        warnings.warn(
            f"tol={tol:g} could not be certified in {sweeps:,} sweeps: the gain is known to "
            f"± {(upper - lower) / 2:.2g}",
            RlkitWarning,
            stacklevel=2,
        )
    return AverageSolution(lower, upper, best - best[0], policy, sweeps, goal.seconds)


def _refuse_ends(mdp: MDP) -> None:
    found = mdp.terminal.copy()
    found[mdp.pair_state[mdp.ends]] = True
    if found.any():
        raise ModelError(
            f"the episode may end in {states(np.flatnonzero(found))}, after which the average "
            "reward is 0; use gamma=1 for the total reward of an episode, or let it begin anew"
        )


def _refuse_multichain(mdp: MDP) -> None:
    """Refuse models in which the best average may depend on the state that one is in.

    In a model without an end every policy comes to stay in some end component, so that with a
    single one the model is weakly communicating (Puterman 1994, §8.3.1).
    """
    labels, _ = end_components(mdp, np.ones(mdp.n_pairs, dtype=bool))
    several = int(labels.max()) + 1
    if several > 1:
        first, second = (np.flatnonzero(labels == label) for label in (0, 1))
        raise ModelError(
            f"the model is multichain: {several} sets of states, such as {states(first)} and "
            f"{states(second)}, can each be stayed in for ever and don't all reach one another, so "
            "that the best average may depend on the state; use gamma < 1, or give each set a model"
        )
