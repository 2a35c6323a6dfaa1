"""What all exact solvers have in common around their algorithm: γ = 1, the clock, the Solution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from warnings import warn

import numpy as np

from rlkit.errors import ModelError, RlkitWarning, RunError, UsageError
from rlkit.mdp.bellman import backup, greedy, rounding
from rlkit.mdp.bounds import Bounds, FreeLoopError, ImpreciseError
from rlkit.mdp.certifier import reached_bounds, stopped_bounds
from rlkit.mdp.coarse import no_bounds
from rlkit.mdp.episodic import merge_free_loops
from rlkit.mdp.goal import Goal, OutOfTimeError, Watch
from rlkit.mdp.graph import states
from rlkit.mdp.model import MDP, FloatArray, IntArray
from rlkit.mdp.solution import Solution

Algorithm = Callable[[MDP, Goal], Bounds]

# At γ = 1 bounds take a policy iteration: with more states, too long a one for a watcher's sake.
_MOST_MEASURED = 20_000


class InterruptedWarning(RlkitWarning):
    """Ctrl-C ended the solve; the solution has the bounds that were reached."""


@dataclass(frozen=True)
class Solver:
    """An exact solver, as the registry names it: an algorithm that certifies what a goal asks for.

    At γ = 1 the algorithm sees the model with its free loops merged (rlkit/mdp/episodic.py).
    """

    method: str
    algorithm: Algorithm

    def __call__(
        self,
        mdp: MDP,
        tol: float,
        max_seconds: float = math.inf,
        reason: str = "it was asked for",
        watch: Watch | None = None,
        threads: int = 1,
    ) -> Solution:
        """See `rlkit.solve`; `reason` is why this solver was taken."""
        _check_positive("tol", tol, "in units of reward")
        if max_seconds != math.inf:
            _check_positive("max_seconds", max_seconds, "of seconds")
        if threads < 1:
            raise UsageError(f"threads={threads} is out of range; allowed: a whole number >= 1")
        goal = Goal(tol, max_seconds, watch, threads)
        if mdp.gamma == 1.0:
            bounds, Q, choice = _undiscounted(mdp, goal, self.algorithm)
        else:
            bounds = _reached(mdp, goal, self.algorithm)
            Q, choice = _greedy(mdp, bounds)
        reason = "; ".join([reason, *goal.notes])
        return _solution(mdp, self.method, reason, bounds, Q, choice, goal)


def exact_solver(method: str) -> Callable[[Algorithm], Solver]:
    """Make a `Solver` of an algorithm."""
    return partial(Solver, method)


def _check_positive(name: str, value: float, what: str) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"{name}={value} is out of range; it must be a positive number {what}")


def _reached(mdp: MDP, goal: Goal, algorithm: Algorithm) -> Bounds:
    """The algorithm's bounds; wider ones, with a warning, where precision, time or patience end."""
    kind: type[RlkitWarning] = RlkitWarning
    if mdp.gamma < 1.0 or mdp.n_states <= _MOST_MEASURED:
        goal.measure = partial(_certified_error, mdp)
    try:
        return algorithm(mdp, goal)
    except ImpreciseError as error:
        bounds, why = error.bounds, str(error)
    except (OutOfTimeError, KeyboardInterrupt) as stop:
        if goal.latest is None:
            if isinstance(stop, KeyboardInterrupt):
                raise
            latest = np.zeros(mdp.n_states)
        else:
            latest = goal.latest()
        try:
            bounds = stopped_bounds(mdp, latest)
        except KeyboardInterrupt:  # again: whoever asks can't wait for a proof
            bounds = no_bounds(mdp, latest)
        if isinstance(stop, KeyboardInterrupt):
            kind = InterruptedWarning
        why = _cut_short(goal, stop)
    warn(f"{why}; values are certified {_how_far(bounds)}", kind, stacklevel=4)
    return bounds


def _cut_short(goal: Goal, stop: BaseException) -> str:
    interrupted = isinstance(stop, KeyboardInterrupt)
    cause = "interrupted" if interrupted else f"max_seconds={goal.max_seconds:g} are over"
    return f"{cause} after {goal.seconds:.3g} s, before tol={goal.tol:g} was reached"


def _how_far(bounds: Bounds) -> str:
    if bounds.error < np.inf:
        return f"to within {bounds.error:.2g}"
    sides = {"above": bounds.upper, "below": bounds.lower}
    known = [side for side, bound in sides.items() if np.all(np.isfinite(bound))]
    return f"from {known[0]} alone" if known else "to nothing yet"


def _certified_error(mdp: MDP, V: FloatArray) -> float:
    """A bound on ‖V − V*‖∞; inf where none can be proven. V: (S,)."""
    try:
        bounds = reached_bounds(mdp, V)
    except RunError:
        return math.inf
    return math.inf if bounds is None else bounds.error


def _undiscounted(
    mdp: MDP, goal: Goal, algorithm: Algorithm
) -> tuple[Bounds, FloatArray, IntArray]:
    try:
        merged = merge_free_loops(mdp, goal)
    except OutOfTimeError as stop:  # not even whether there is a finite value is known
        bounds = no_bounds(mdp, np.zeros(mdp.n_states))
        why = _cut_short(goal, stop)
        warn(f"{why}; values are certified to nothing yet", RlkitWarning, stacklevel=3)
        return bounds, *_greedy(mdp, bounds)
    try:
        found = _reached(merged.mdp, goal, algorithm)
    except FreeLoopError as error:
        raise ModelError(
            f"{states(merged.members(error.loop))} can loop for ever at no cost that float64 tells "
            f"from 0 beside values of {error.size:.2g}, so the value at gamma=1 is uncertain; "
            "use gamma < 1, or a clear cost per step"
        ) from error
    Q, choice = _greedy(merged.mdp, found)
    if merged.mdp is mdp:
        return found, Q, choice
    lifted = Bounds(*(x[merged.state] for x in (found.values, found.lower, found.upper)))
    return lifted, backup(mdp, lifted.values)[0], merged.choice(choice)


def _greedy(mdp: MDP, bounds: Bounds) -> tuple[FloatArray, IntArray]:
    Q = backup(mdp, bounds.values)[0] if bounds.q is None else bounds.q
    return Q, greedy(mdp, Q, 4.0 * rounding(mdp, bounds.values))


def _solution(
    mdp: MDP,
    method: str,
    reason: str,
    bounds: Bounds,
    Q: FloatArray,
    choice: IntArray,
    goal: Goal,
) -> Solution:
    policy = np.full(mdp.n_states, -1, dtype=np.int64)
    policy[mdp.live] = mdp.actions[choice]
    return Solution(
        values=bounds.values,
        policy=policy,
        q=Q,
        lower=bounds.lower,
        upper=bounds.upper,
        offsets=mdp.offsets,
        actions=mdp.actions,
        gamma=mdp.gamma,
        start_value=None if mdp.start is None else float(mdp.start @ bounds.values),
        method=method,
        sweeps=math.ceil(goal.sweeps),
        seconds=goal.seconds,
        reason=reason,
    )
