"""When values on a device are certified: the proofs of rlkit/mdp/bounds.py, by sweeps there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.mdp.bounds import refusal, shifts, unbounded
from rlkit.mdp.certifier import Patience
from rlkit.mdp.device.model import DeviceMDP
from rlkit.mdp.device.rows import Rows
from rlkit.mdp.device.sweep import backup, change
from rlkit.mdp.goal import Goal

_HALF = 0.5 - 1e-3  # how little an expected time to the end must still grow to be taken
_UNSEEN = 8  # sweeps for such times from one look at them to the next
_MOST_SWEEPS = 3_000_000  # for such times
_GRACE = 1.0  # seconds for a proof when the time is over


class UnprovenError(Exception):
    """γ = 1: no bounds were proven of the values V, TV (S + 1,), be they at rest or not."""

    def __init__(self, V: Tensor, TV: Tensor, at_rest: bool, words: str) -> None:
        super().__init__(words)
        self.V, self.TV, self.at_rest = V, TV, at_rest


@dataclass(frozen=True, eq=False)
class Certified:
    """Values (S,) with bounds (S,), the largest error, and why that is not what was asked for."""

    values: Tensor
    lower: Tensor
    upper: Tensor
    error: float
    shortfall: str | None = None


class Proof:
    """Says when values are within `goal.tol` of V*; `sweeps` are made from one call to the next.

    `latest` are the values that it was last asked about, or what has been made of them since, and
    `residual` is how much the sweep changed them.

    Raises RunError where nothing at all can be certified; UnprovenError at γ = 1.
    """

    def __init__(self, model: DeviceMDP, goal: Goal, sweeps: int) -> None:
        self.model, self.goal, self.sweeps = model, goal, sweeps
        self.patience = Patience(model.gamma, sweeps)
        self.gate = goal.tol  # γ = 1: try the costly proof when a sweep changes no more than this
        self.latest: Tensor | None = None
        self.residual = math.inf
        self._w: Tensor | None = None

    def __call__(self, V: Tensor, TV: Tensor, changes: Tensor) -> Certified | None:
        """Bounds within the tolerance, or as good as they get; None: sweep on.

        V, TV: (S + 1,). changes: what the sweep from one to the other returned. Waits for the
        device.
        """
        self.latest, late = V, None
        if self.goal.seconds > self.goal.max_seconds:
            late = f"max_seconds={self.goal.max_seconds:g} are over"
        return self._judge(V, TV, changes, late)

    def size_of(self, changes: Tensor) -> float:
        """The largest change of a sweep that returned this."""
        return self._size(*change(changes).tolist())

    def _size(self, low: float, high: float) -> float:
        """Without an end, that all values change by the same amount is of no consequence."""
        return (high - low) / 2 if self.model.closed else max(-low, high)

    def reached(self, V: Tensor, why: str) -> Certified:
        """What is certified by V (S + 1,), after which no more is done; in words, why."""
        TV = torch.zeros_like(V)
        found = self._judge(V, TV, backup(self.model.rows, V, TV), why)
        assert found is not None
        return found

    def _judge(self, V: Tensor, TV: Tensor, changes: Tensor, end: str | None) -> Certified | None:
        least, most = torch.aminmax(V)
        low, high, bottom, top = torch.cat([change(changes), torch.stack([least, most])]).tolist()
        size, self.residual = max(-bottom, top), self._size(low, high)
        if end is not None:
            end = f"{end} after {self.goal.seconds:.3g} s, before tol={self.goal.tol:g} was reached"
        if self.model.gamma < 1.0:
            return self._discounted(TV, low, high, size, end)
        return self._undiscounted(V, TV, max(-low, high), size, end)

    def _discounted(
        self, TV: Tensor, low: float, high: float, size: float, end: str | None
    ) -> Certified | None:
        model, tol, closed = self.model, self.goal.tol, self.model.closed
        if not closed:  # termination is a state that never changes
            low, high = min(low, 0.0), max(high, 0.0)
        margin = model.rounding(size)
        down, up = shifts(low, high, model.gamma, model.width, margin)
        down, up = down - margin, up + margin
        error = ((up - down) / 2 if closed else max(up, -down)) + 2 * margin
        self.goal.report(error)
        floor = 4 * margin / (1.0 - model.gamma)
        stuck = not error > floor or self.patience.is_over(error)
        if error > tol and end is None and not stuck and math.isfinite(error):
            return None
        if not math.isfinite(error):
            if end is None:
                raise unbounded(tol)
            return self._nothing(TV, end)
        found = _enclosure(model, TV[:-1], down, up)
        if found.error <= tol:
            return found
        words = end or refusal(tol, found.error, max(floor, found.error))
        return Certified(found.values, found.lower, found.upper, found.error, words)

    def _nothing(self, V: Tensor, why: str) -> Certified:
        far = torch.where(self.model.live, torch.inf, 0.0).to(V.dtype)
        return Certified(V[:-1], -far, far, math.inf, why)

    def _undiscounted(
        self, V: Tensor, TV: Tensor, residual: float, size: float, end: str | None
    ) -> Certified | None:
        margin, tol = self.model.rounding(size), self.goal.tol
        self.goal.report(math.inf)
        converged = residual <= 2 * margin
        if not (converged or residual <= self.gate or end):
            if self.patience.is_over(residual) or not math.isfinite(residual):
                raise UnprovenError(
                    V,
                    TV,
                    False,
                    f"sweeps converge too slowly for tol={tol:g} at gamma=1: they still change "
                    f"values by {residual:.2g} each, or will do so for ever; use gamma < 1, or "
                    "device cpu",
                )
            return None
        found, width = self._inductive(
            V, residual + 4 * margin, math.inf if end else tol, _GRACE if end else math.inf
        )
        if found is not None:
            self.goal.report(found.error)
            if found.error <= tol:
                return found
            return Certified(found.values, found.lower, found.upper, found.error, end)
        if end:
            return self._nothing(V, end)
        if converged:
            words = (
                refusal(tol, width, 2 * width)
                if math.isfinite(width)
                else "at gamma=1 nothing is certified: states can loop at no cost that float64 "
                "tells from 0; use gamma < 1, or a clear cost per step"
            )
            raise UnprovenError(V, TV, True, words)
        self.gate = residual * min(tol / (2 * width) if math.isfinite(width) else 1.0, 0.25)
        return None

    def _inductive(
        self, V: Tensor, residual: float, tol: float, seconds: float
    ) -> tuple[Certified | None, float]:
        """V ∓ εw where that is proven and no wider than tol, and that width; the numbers are those
        of `rlkit.mdp.bounds.inductive_bounds`. Takes so many seconds, about, and no more."""
        rows = self.model.rows
        if residual <= 6 * self.model.rounding(float(V.abs().max())):
            self._w = None  # the last try: no longer times than these tied actions need
        residual = max(residual, 1e-150)
        step, gap = 2.25 * residual, 16.0 * residual
        losses = rows.per_pair(V[:-1]) - rows.q(V)
        self.goal.sweeps += 1
        until = self.goal.seconds + seconds
        while True:
            tied = (losses <= gap) & rows.pairs
            w = self._longest_times(tied, until)
            if w is None:
                return None, math.inf
            width = step * float(w.max())
            if not width <= 0.999 * tol:
                return None, width
            if 1.25 * width <= gap:
                break
            gap = 2.0 * width
        del losses
        lower, upper = V - step * w, V + step * w
        if self._hold(lower, upper, tied):
            found = Certified(V[:-1], lower[:-1], upper[:-1], 0.0)
            return _measured(found), width
        return None, max(4.0 * width, 2.0 * self.goal.tol)

    def _hold(self, lower: Tensor, upper: Tensor, tied: Tensor) -> bool:
        """Whether T upper < upper and, with tied actions, T lower ≥ lower, rounding included."""
        model, rows = self.model, self.model.rows
        margin = 2.0 * model.rounding(float(upper.abs().max()))
        margin += model.rounding(float(lower.abs().max()))
        after = torch.zeros_like(upper)
        backup(rows, upper, after)
        above = ((after + margin < upper)[:-1] | ~model.live).all()
        backup(rows.rewarded(rows.r, tied), lower, after)
        below = ((after - margin >= lower)[:-1] | ~model.live).all()
        self.goal.sweeps += 2
        return bool(above & below)

    def _longest_times(self, tied: Tensor, until: float) -> Tensor | None:
        """w (S + 1,) with w ≥ 1/2 + P_a w for every tied pair, 0 at terminals; by sweeps.

        They begin with what was found for fewer tied pairs, or for a few more.
        """
        model = self.model
        live = model.rows.per_pair(model.live)
        counting: Rows = model.rows.rewarded(torch.where(live, 1.0, 0.0).to(torch.float64), tied)
        w, after = model.values() if self._w is None else self._w.clone(), model.values()
        # Values have come to rest in so many sweeps: what ends at all has mostly ended by then.
        for number in range(min(1_000 + 4 * math.ceil(self.goal.sweeps), _MOST_SWEEPS)):
            grown = backup(counting, w, after)
            self.goal.sweeps += 1
            if number % _UNSEEN == 0:
                if float(change(grown)[1]) <= _HALF:
                    self._w = w
                    return w
                if self.goal.seconds > until:
                    return None
            w, after = after, w
        return None


def _enclosure(model: DeviceMDP, TV: Tensor, down: float, up: float) -> Certified:
    """TV + down ≤ V* ≤ TV + up at live states, and the middle where no episode ever ends."""
    live = model.live.to(TV.dtype)  # a number times a bool would be one of 32 bits
    values = TV + (down + up) / 2 * live if model.closed else TV
    return _measured(Certified(values, TV + down * live, TV + up * live, 0.0))


def _measured(found: Certified) -> Certified:
    """With the error that its bounds come to."""
    above, below = (found.upper - found.values).max(), (found.values - found.lower).max()
    error = max(0.0, *torch.stack([above, below]).tolist())
    return Certified(found.values, found.lower, found.upper, error)
