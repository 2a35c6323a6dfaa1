"""When values are certified to be as accurate as was asked for, or that they never will be."""

from __future__ import annotations

import numpy as np

from rlkit.errors import RunError
from rlkit.mdp.bellman import backup, rounding
from rlkit.mdp.bounds import (
    Bounds,
    FreeLoopError,
    ImpreciseError,
    enclosure,
    macqueen_shifts,
    refusal,
    unbounded,
)
from rlkit.mdp.coarse import narrowed, no_bounds
from rlkit.mdp.goal import Goal, OutOfTimeError
from rlkit.mdp.inductive import LinearTimes, Times, inductive_bounds
from rlkit.mdp.model import MDP, FloatArray

_GRACE = 1.0  # seconds for a proof when the time is over
_PROMPT = 50_000  # states up to which a linear system takes less than that


class Certifier:
    """Says when the values of a Jacobi sweep are within `tol` of V*, and what the bounds are.

    sweeps: how many an algorithm makes from one call to the next.
    times: how to find the times to the end that bounds at γ = 1 take.

    Raises:
        ImpreciseError: float64 cannot certify `tol` for this model; holds the bounds that it can.
        RunError: float64 cannot certify anything for this model.
        OutOfTimeError: the goal's time is over.
        FreeLoopError: γ = 1, and states can loop for ever at no cost that float64 tells from 0.
    """

    def __init__(self, mdp: MDP, goal: Goal, sweeps: int = 1, times: Times | None = None) -> None:
        self.mdp = mdp
        self.times = times or LinearTimes(mdp, goal.check_time)
        self.goal = goal
        self.tol = tol = goal.tol
        self.closed = not (mdp.ends.any() or mdp.terminal.any())
        self.gate = tol  # γ = 1: try the costly proof when a sweep changes no more than this
        self.reached = np.inf
        self.patience = Patience(mdp.gamma, sweeps)

    def __call__(self, V: FloatArray, Q: FloatArray, TV: FloatArray) -> Bounds | None:
        """Bounds within `tol`, or None: sweep on.

        V, TV: (S,). Q: (L,) of V, TV its maximum; or empty, and compiled kernels do without it.
        """
        if self.mdp.gamma < 1.0:
            self.goal.keep(V)
            return self._macqueen(V, TV)
        self.goal.note(V)
        residual = float(np.abs(TV - V).max(initial=0.0))
        converged = residual <= 2 * rounding(self.mdp, V)
        if not converged and residual > self.gate:
            if self.patience.is_over(residual):
                words = (
                    f"sweeps converge too slowly for tol={self.tol:g}: they still change values by "
                    f"{residual:.2g} each; use method policy-iteration"
                )
                raise shortfall(self.mdp, V, words, self.times)
            return None
        bounds = self._inductive(V, Q, residual, converged)
        if bounds is None:
            # No bound at all: loops that cost less than the residual tells. How much is not known.
            short = self.tol / (2 * self.reached) if np.isfinite(self.reached) else 1.0
            self.gate = residual * min(short, 1 / 4)
        return bounds

    def final(self, V: FloatArray, Q: FloatArray, TV: FloatArray) -> Bounds:
        """Bounds within `tol` for values that no further work would improve."""
        if self.mdp.gamma == 1.0:
            bounds = self._inductive(V, Q, float(np.abs(TV - V).max(initial=0.0)), converged=True)
        else:
            bounds = self._macqueen(V, TV)
        if bounds is None:
            raise self._refusal(V, self.reached, 2 * self.reached)
        return bounds

    def _macqueen(self, V: FloatArray, TV: FloatArray) -> Bounds | None:
        mdp, margin = self.mdp, rounding(self.mdp, V)
        down, up = macqueen_shifts(mdp, V, TV, self.closed)
        bounds = enclosure(TV, down - margin, up + margin, ~mdp.terminal, self.closed)
        self.reached = bounds.error + 2 * margin if np.isfinite(up - down) else np.inf
        self.goal.report(self.reached)
        if self.reached > self.tol:
            floor = 4 * margin / (1.0 - mdp.gamma)
            hopeless = self.reached <= floor or not np.isfinite(self.reached)
            if hopeless or self.patience.is_over(self.reached):
                raise self._refusal(V, self.reached, max(floor, self.reached))
            return None
        return bounds

    def _inductive(
        self, V: FloatArray, Q: FloatArray, residual: float, converged: bool
    ) -> Bounds | None:
        residual += 4 * rounding(self.mdp, V)
        proof = inductive_bounds(self.mdp, V, Q, residual, self.tol, self.times)
        if isinstance(proof, Bounds):
            self.goal.report(proof.error)
            return proof
        self.reached = proof.error
        if converged and proof.loop.size:
            raise FreeLoopError(proof.loop, float(np.abs(V).max(initial=0.0)))
        if converged:
            raise self._refusal(V, proof.error, 2 * proof.error)
        return None

    def _refusal(self, V: FloatArray, reached: float, attainable: float) -> Exception:
        if not np.isfinite(reached):
            return unbounded(self.tol)
        words = refusal(self.tol, reached, attainable)
        return shortfall(self.mdp, V, words, self.times)


def shortfall(mdp: MDP, V: FloatArray, words: str, times: Times | None = None) -> Exception:
    """What to raise where no better values than V (S,) are to be had."""
    bounds = reached_bounds(mdp, V, times)
    return RunError(words) if bounds is None else ImpreciseError(bounds, words)


def reached_bounds(mdp: MDP, V: FloatArray, times: Times | None = None) -> Bounds | None:
    """The bounds that hold around V (S,), however far apart; None where none can be proven.

    At γ = 1, without `times`, none where a proof takes more than about a second.
    """
    Q, TV = backup(mdp, V)
    if mdp.gamma == 1.0:
        residual = float(np.abs(TV - V).max(initial=0.0)) + 4 * rounding(mdp, V)
        if times is None and mdp.n_states > _PROMPT:
            return None
        grace = Goal(np.inf, _GRACE)
        times = times or LinearTimes(mdp, grace.check_time)
        try:
            proof = inductive_bounds(mdp, V, Q, residual, np.inf, times)
        except OutOfTimeError:
            if grace.seconds < _GRACE:
                raise
            return None
        return proof if isinstance(proof, Bounds) else None
    closed = not (mdp.ends.any() or mdp.terminal.any())
    down, up = macqueen_shifts(mdp, V, TV, closed)
    if not (np.isfinite(down) and np.isfinite(up)):
        return None
    live = ~mdp.terminal
    margin = rounding(mdp, V)
    return enclosure(TV, down - margin, up + margin, live, closed)


def stopped_bounds(mdp: MDP, V: FloatArray) -> Bounds:
    """The bounds around V (S,) that are left where a solve is stopped: infinite, at worst."""
    try:
        found = reached_bounds(mdp, V)
    except RunError:
        found = None
    found = found or no_bounds(mdp, V)
    if mdp.gamma < 1.0:
        return found
    return narrowed(mdp, found, _PROMPT, Goal(np.inf, _GRACE).check_time)


class Patience:
    """Ends what should converge and does not, because only rounding is left of it."""

    def __init__(self, gamma: float, sweeps: int) -> None:
        # Twice the sweeps in which a contraction by γ halves an error. At γ = 1 no rate is known,
        # and close to it that is for ever.
        halving = np.log(0.5) / np.log(gamma) if 0 < gamma < 1 else np.inf
        self.allowed = min(100 + 2 * halving, 3e6 / sweeps)
        self.best = np.inf
        self.waited = 0

    def is_over(self, error: float) -> bool:
        self.waited += 1
        if error < self.best / 2:
            self.best, self.waited = error, 0
        return self.waited > self.allowed
