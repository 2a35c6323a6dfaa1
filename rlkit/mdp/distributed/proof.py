"""When values that several ranks hold parts of are certified: the proofs of rlkit/mdp/bounds.py.

All numbers that decide are the same on all ranks, so that all of them stop at the same sweep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlkit.errors import RunError
from rlkit.mdp.bellman import largest
from rlkit.mdp.bounds import Bounds, enclosure, refusal, shifts, unbounded
from rlkit.mdp.certifier import Patience
from rlkit.mdp.distributed.sweeps import Sweeps
from rlkit.mdp.goal import Goal
from rlkit.mdp.model import BoolArray, FloatArray

_HALF = 0.5 - 1e-3  # how little an expected time to the end must still grow to be taken
_MOST_SWEEPS = 3_000_000  # that may go by while nothing gets better


@dataclass(frozen=True)
class Certified:
    """A rank's part of the bounds, the global error, and why that is not what was asked for."""

    bounds: Bounds
    error: float
    shortfall: str | None = None


class Proof:
    """Says when values are within `goal.tol` of V*; `sweeps` are made from one call to the next.

    Raises RunError, on all ranks alike, where nothing at all can be certified.
    """

    def __init__(self, sweeps: Sweeps, goal: Goal, every: int) -> None:
        self.sweeps, self.goal = sweeps, goal
        self.live = sweeps.rows.live
        self.patience = Patience(sweeps.gamma, every)
        self.gate = goal.tol  # γ = 1: try the costly proof when a sweep changes no more than this

    def __call__(self, V: FloatArray, TV: FloatArray, low: float, high: float) -> Certified | None:
        """Bounds within the tolerance, or as good as they get; None: sweep on.

        V, TV: (own + width,), TV up to date for own states alone. low, high: the least and the
        largest TV − V of those.
        """
        late = self.goal.seconds > self.goal.max_seconds
        found = self.sweeps.largest(-low, high, largest(V[: self.sweeps.n]), late)
        low, high, size, is_late = -float(found[0]), float(found[1]), float(found[2]), found[3] > 0
        if self.sweeps.gamma < 1.0:
            return self._discounted(TV, low, high, size, is_late)
        return self._undiscounted(V, max(-low, high), size, is_late)

    def _discounted(
        self, TV: FloatArray, low: float, high: float, size: float, late: bool
    ) -> Certified | None:
        closed, gamma = self.sweeps.closed, self.sweeps.gamma
        if not closed:  # termination is a state that never changes
            low, high = min(low, 0.0), max(high, 0.0)
        margin = self.sweeps.rounding(size)
        down, up = shifts(low, high, gamma, self.sweeps.width, margin)
        down, up = down - margin, up + margin
        error = ((up - down) / 2 if closed else max(up, -down)) + 2 * margin
        self.goal.report(error)
        floor = 4 * margin / (1.0 - gamma)
        stuck = not error > floor or self.patience.is_over(error)
        if error > self.goal.tol and not (late or stuck) and math.isfinite(error):
            return None
        if not math.isfinite(error):
            if not late:
                raise unbounded(self.goal.tol)
            nothing = np.where(self.live, np.inf, 0.0)
            own = TV[: self.sweeps.n]
            return Certified(Bounds(own, -nothing, nothing), np.inf, self._late())
        bounds = enclosure(TV[: self.sweeps.n], down, up, self.live, closed)
        # Rounding in the bounds themselves is within the margins.
        reached = float(self.sweeps.largest(bounds.error)[0])
        if reached <= self.goal.tol:
            return Certified(bounds, reached)
        if late:
            return Certified(bounds, reached, self._late())
        return Certified(bounds, reached, refusal(self.goal.tol, reached, max(floor, reached)))

    def _late(self) -> str:
        return (
            f"max_seconds={self.goal.max_seconds:g} are over after {self.goal.seconds:.3g} s, "
            f"before tol={self.goal.tol:g} was reached"
        )

    def _undiscounted(
        self, V: FloatArray, change: float, size: float, late: bool
    ) -> Certified | None:
        margin = self.sweeps.rounding(size)
        converged = change <= 2 * margin
        if not (converged or change <= self.gate or late):
            if self.patience.is_over(change) or not math.isfinite(change):
                raise RunError(
                    f"sweeps converge too slowly for tol={self.goal.tol:g} at gamma=1: they still "
                    f"change values by {change:.2g} each; use gamma < 1, or solve in one process"
                )
            return None
        tol = math.inf if late else self.goal.tol
        bounds, width = self._inductive(V, change + 4 * margin, tol)
        if bounds is not None:
            error = float(self.sweeps.largest(bounds.error)[0])
            self.goal.report(error)
            return Certified(bounds, error, self._late() if error > self.goal.tol else None)
        if late or (converged and not math.isfinite(width)):
            raise RunError(
                "at gamma=1 nothing is certified: states can loop at no cost that float64 tells "
                "from 0, or sweeps are too few; use gamma < 1, or solve in one process, which "
                "merges such loops"
            )
        if converged:
            raise RunError(refusal(self.goal.tol, width, 2 * width))
        self.gate = change * min(self.goal.tol / (2 * width) if math.isfinite(width) else 1.0, 0.25)
        return None

    def _inductive(self, V: FloatArray, residual: float, tol: float) -> tuple[Bounds | None, float]:
        """V ∓ εw where that is proven and no wider than tol, and that width: see
        `rlkit.mdp.bounds.inductive_bounds`, whose numbers these are."""
        sweeps = self.sweeps
        Q, TV = np.empty(sweeps.rows.r.size), sweeps.values()
        sweeps.backup(V, TV, Q)
        self.goal.sweeps += 1
        residual = max(residual, 1e-150)
        step, gap = 2.25 * residual, 16.0 * residual
        while True:
            tied: BoolArray = sweeps.pair_values(V) - Q <= gap
            w = self._longest_times(tied)
            if w is None:
                return None, math.inf
            width = step * float(sweeps.largest(w[: sweeps.n].max(initial=0.0))[0])
            if not width <= 0.999 * tol:
                return None, width
            if 1.25 * width <= gap:
                break
            gap = 2.0 * width
        lower, upper = V - step * w, V + step * w
        if self._hold(lower, upper, Q, TV, tied):
            own = slice(sweeps.n)
            return Bounds(V[own], lower[own], upper[own]), width
        return None, max(4.0 * width, 2.0 * self.goal.tol)

    def _hold(
        self, lower: FloatArray, upper: FloatArray, Q: FloatArray, TV: FloatArray, tied: BoolArray
    ) -> bool:
        """Whether T upper < upper and, with tied actions, T lower ≥ lower, on all ranks."""
        sweeps, own = self.sweeps, slice(self.sweeps.n)
        sizes = sweeps.largest(largest(upper[own]), largest(lower[own]))
        margin = 2.0 * sweeps.rounding(float(sizes[0])) + sweeps.rounding(float(sizes[1]))
        sweeps.backup(upper, TV)
        above = np.all((TV[own] + margin < upper[own])[self.live])
        sweeps.backup(lower, TV, Q)
        below = np.all((sweeps.best(Q, tied) - margin >= lower[own])[self.live])
        self.goal.sweeps += 2
        return not sweeps.largest(not (above and below))[0]

    def _longest_times(self, tied: BoolArray) -> FloatArray | None:
        """w (own + width,) with w ≥ 1/2 + P_a w for every tied pair, 0 at terminals; by sweeps."""
        sweeps, rows = self.sweeps, self.sweeps.rows
        steps = (rows.labels >= 0).astype(np.float64)
        sweep = sweeps.sweep_of(steps, 1.0)
        w, Q, TV = sweeps.values(), np.empty(rows.r.size), np.empty(sweeps.n)
        # Values have come to rest in so many sweeps: what ends at all has mostly ended by then.
        for _ in range(min(1_000 + 4 * math.ceil(self.goal.sweeps), _MOST_SWEEPS)):
            sweep(w, TV, Q)
            after = sweeps.best(Q, tied)
            self.goal.sweeps += 1
            growth = (after - w[: sweeps.n]).max(initial=0.0)
            if sweeps.largest(growth)[0] <= _HALF:
                return w
            w[: sweeps.n] = after
            sweeps.refresh(w)
        return None
