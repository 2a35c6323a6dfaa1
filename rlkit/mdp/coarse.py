"""Bounds at γ = 1 that need no good values: what is left where a solve is stopped early.

From above and below by constants: if r + P c ≤ c for all pairs, c in each state, then V* ≤ c; and
V* ≥ c where the opposite holds. From below also by a policy: V* ≥ V^π. Both need what
`merge_free_loops` has made sure of: from every state one can end, and what never ends loses without
end.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlkit.errors import RunError
from rlkit.mdp.bellman import policy_rewards, rounding
from rlkit.mdp.bounds import Bounds
from rlkit.mdp.goal import OutOfTimeError
from rlkit.mdp.graph import proper_choice
from rlkit.mdp.linear import policy_values
from rlkit.mdp.model import MDP, FloatArray, IntArray

_SLIP = 1e-9  # how far rounding takes rows of sum 1 from it, in as many steps as episodes have


def no_bounds(mdp: MDP, V: FloatArray) -> Bounds:
    """All that is known of the value before anything has been proven. V: (S,)."""
    nothing = np.where(mdp.terminal, 0.0, np.inf)
    return Bounds(V, -nothing, nothing)


def narrowed(mdp: MDP, bounds: Bounds, most: int, check_time: Callable[[], None]) -> Bounds:
    """The same bounds at γ = 1, narrower where that is easily done; values are moved inside them.

    most: states up to which a policy is evaluated where there is no lower bound. check_time: called
        before that, with linear systems to solve; where it raises OutOfTimeError, that is left out.
    """
    low, high = _constants(mdp)
    lower = np.maximum(bounds.lower, np.where(mdp.terminal, 0.0, low))
    upper = np.minimum(bounds.upper, np.where(mdp.terminal, 0.0, high))
    if mdp.n_states <= most and np.any(np.isinf(lower)):
        lower = np.maximum(lower, _proper_value(mdp, check_time))
    return Bounds(np.clip(bounds.values, lower, upper), lower, upper)


def _constants(mdp: MDP) -> tuple[float, float]:
    """Constants between which all optimal values lie; infinite where none will do.

    Only where rewards on the way are of one sign: r/m then bounds the worth of ending, with m the
    probability to end, which rounding may have made a little larger or smaller.
    """
    to_terminal = mdp.P @ mdp.terminal.astype(np.float64)
    missing = np.where(mdp.ends, 1.0 - np.asarray(mdp.P.sum(axis=1)), 0.0)
    m = to_terminal + missing
    ending, slip = m > 0, (mdp.width + 4) * float(np.finfo(np.float64).eps)
    on_the_way = mdp.r[~ending]
    with np.errstate(divide="ignore"):
        least = 1.0 / np.maximum(m[ending] - slip, 0.0)
        worth = mdp.r[ending] * np.where(mdp.r[ending] > 0, least, 1.0 / (m[ending] + slip))
        cost = mdp.r[ending] * np.where(mdp.r[ending] < 0, least, 1.0 / (m[ending] + slip))
    high = float(worth.max(initial=-np.inf)) if np.all(on_the_way <= 0) else np.inf
    low = float(cost.min(initial=np.inf)) if np.all(on_the_way >= 0) else -np.inf
    return low - _SLIP * abs(low), high + _SLIP * abs(high)


def _proper_value(mdp: MDP, check_time: Callable[[], None]) -> FloatArray | float:
    """(S,) below V^π of a policy that ends for sure; −inf where float64 does not tell it.

    With x for V^π and w for the time to the end as solved for, x − δw ≤ T_π(x − δw) where
    w ≥ 1/2 + P_π w and δ/2 exceeds what x lacks of T_π x: then x − δw ≤ V^π.
    """
    policy: IntArray = proper_choice(mdp)
    ones = (~mdp.terminal).astype(np.float64)
    try:
        check_time()
        x = policy_values(mdp, policy, policy_rewards(mdp, policy))
        check_time()
        w = policy_values(mdp, policy, ones)
    except (RunError, OutOfTimeError):
        return -np.inf
    live = mdp.live
    grows = w[live] - mdp.P[policy] @ w - rounding(mdp, w)
    if not np.all(grows >= 0.5):
        return -np.inf
    lacks = x[live] - (mdp.r[policy] + mdp.P[policy] @ x) + rounding(mdp, x)
    lower = x - (2.0 * max(float(lacks.max(initial=0.0)), 0.0) + rounding(mdp, x)) * w
    return np.asarray(lower - rounding(mdp, x))
