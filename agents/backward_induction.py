"""Backward induction: the best policy for a given number of steps, which depends on the step.

Bellman, Dynamic Programming (1957); Puterman, Markov Decision Processes (1994), §4.5.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike

from rlkit.errors import UsageError
from rlkit.mdp.bellman import backup, greedy, rounding
from rlkit.mdp.criteria import FiniteHorizonSolution
from rlkit.mdp.goal import Reached, Watch
from rlkit.mdp.model import MDP, FloatArray
from rlkit.system import require_memory

_EPS = float(np.finfo(np.float64).eps)


def backward_induction(
    mdp: MDP, horizon: int, final: ArrayLike | None = None, watch: Watch | None = None
) -> FiniteHorizonSolution:
    """Maximise the expected sum of γ^t r_t over `horizon` steps; γ may be 1.

    Args:
        mdp: the model.
        horizon: H, the number of steps, 1 or more.
        final: (S,) what it is worth to be in a state when the steps are over; without it 0. It is
            not paid in terminal states, nor where the episode has ended.
        watch: whom to tell after each step how many are done, as sweeps.

    Raises:
        UsageError: the horizon is less than 1, `final` has another shape or holds what is no
            number, or values and policy of all steps would not fit into the free memory.
    """
    S = mdp.n_states
    if horizon < 1:
        raise UsageError(f"horizon is {horizon!r}; allowed: a whole number, 1 or more")
    require_memory(
        16 * S * (horizon + 1),
        f"horizon is {horizon:,}",
        "the values and policies of all steps",
        lambda free: f"{free // (16 * S):,}",
    )
    begun = perf_counter()
    values = np.zeros((horizon + 1, S))
    policy = np.full((horizon, S), -1, dtype=np.int64)
    values[horizon, mdp.live] = _final_values(final, S)[mdp.live]
    error = 0.0
    for t in range(horizon - 1, -1, -1):
        V, margin = values[t + 1], rounding(mdp, values[t + 1])
        # Q_t(s, a) = r(s, a) + γ Σ_s' p(s' | s, a) V_{t+1}(s'),  V_t(s) = max_a Q_t(s, a)
        Q, values[t] = backup(mdp, V)
        policy[t, mdp.live] = mdp.actions[greedy(mdp, Q, 2.0 * (error + margin))]
        error = mdp.gamma * (1.0 + (mdp.width + 2) * _EPS) * error + margin
        seconds = perf_counter() - begun
        if watch is not None and seconds >= watch.after:
            watch.tell(Reached(horizon - t, seconds, error))
    start = None if mdp.start is None else float(mdp.start @ values[0])
    return FiniteHorizonSolution(values, policy, error, mdp.gamma, start, perf_counter() - begun)


def _final_values(final: ArrayLike | None, S: int) -> FloatArray:
    found = np.zeros(S) if final is None else np.asarray(final, dtype=np.float64)
    if found.shape != (S,):
        raise UsageError(f"final has shape {found.shape}; it must be ({S},)")
    if not np.all(np.isfinite(found)):
        state = int(np.flatnonzero(~np.isfinite(found))[0])
        raise UsageError(f"final is {found[state]} in state {state}; it must be a finite number")
    return found
