"""Certified bounds on the optimal values: a solver may stop when these say so, and not before.

Write T for Bellman's optimality operator, (TV)(s) = max_a r(s, a) + γ Σ p(s' | s, a) V(s').

γ < 1, MacQueen's bounds (Puterman 1994, §6.6.2–6.6.3). With Δ = TV − V,
    TV + γ/(1−γ) min Δ ≤ V* ≤ TV + γ/(1−γ) max Δ.
Termination is a state with Δ = 0, and takes part in the min and the max.

Those at γ = 1 are proven in rlkit/mdp/inductive.py; rlkit/mdp/certifier.py says when. Each
comparison allows for the rounding of float64, so the bounds hold for the model as stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlkit.errors import RunError
from rlkit.mdp.bellman import rounding
from rlkit.mdp.model import MDP, BoolArray, FloatArray, IntArray

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Bounds:
    """Values (S,) with lower (S,) ≤ V* ≤ upper (S,); `error` bounds ‖values − V*‖∞.

    q is Q (L,) of the values, where an algorithm has it anyway.
    """

    values: FloatArray
    lower: FloatArray
    upper: FloatArray
    q: FloatArray | None = None

    @property
    def error(self) -> float:
        """The largest distance of a value to its bounds."""
        above, below = self.upper - self.values, self.values - self.lower
        return float(max(above.max(initial=0.0), below.max(initial=0.0)))


class ImpreciseError(Exception):
    """float64 cannot certify what was asked for: the bounds that it can, and words that say so."""

    def __init__(self, bounds: Bounds, words: str) -> None:
        super().__init__(words)
        self.bounds = bounds


class FreeLoopError(Exception):
    """γ = 1: `loop` are states, as the algorithm numbers them, that can loop at no clear cost.

    `size` is the largest |V|: the larger it is, the larger the costs that drown in its rounding.
    """

    def __init__(self, loop: IntArray, size: float) -> None:
        super().__init__(loop, size)
        self.loop = loop
        self.size = size


def macqueen_shifts(mdp: MDP, V: FloatArray, TV: FloatArray, closed: bool) -> tuple[float, float]:
    """(down, up): TV + down ≤ V* ≤ TV + up at every non-terminal state, for γ < 1."""
    change = (TV - V)[mdp.live]
    low = float(change.min(initial=np.inf if closed else 0.0))
    high = float(change.max(initial=-np.inf if closed else 0.0))
    return shifts(low, high, mdp.gamma, mdp.width, rounding(mdp, V))


def shifts(low: float, high: float, gamma: float, width: int, margin: float) -> tuple[float, float]:
    """(down, up) of `macqueen_shifts`, from the least and the largest of TV − V.

    width: the largest number of successors of a pair. margin: what rounding may add to TV − V.
    """
    low, high = low - margin, high + margin
    # A row that should sum to 1 sums to 1 within `slip`: take the worse discount of the two.
    slip = (width + 2) * _EPS
    most, least = gamma * (1.0 + slip), gamma * (1.0 - slip)
    if most >= 1.0:
        return -np.inf, np.inf
    longest, shortest = most / (1.0 - most), least / (1.0 - least)
    return (
        low * (longest if low < 0 else shortest) - margin,
        high * (longest if high > 0 else shortest) + margin,
    )


def enclosure(TV: FloatArray, down: float, up: float, live: BoolArray, closed: bool) -> Bounds:
    """TV + down ≤ V* ≤ TV + up. Without an end every value may be off by the same amount, so that
    the middle is then the better guess."""
    values = TV + (down + up) / 2 * live if closed else TV
    return Bounds(values, TV + down * live, TV + up * live)


def unbounded(tol: float) -> RunError:
    """What to raise where float64 bounds nothing."""
    return RunError(
        f"no tol can be certified in float64 for this model, tol={tol:g} included: "
        "it runs practically for ever; use a smaller gamma, or let it end sooner"
    )


def refusal(tol: float, reached: float, attainable: float) -> str:
    """What to say where float64 bounds the error, but not by `tol`."""
    return (
        f"tol={tol:g} cannot be certified in float64 for this model: the bound reached is "
        f"{reached:.2g}; give tol={_round_up(attainable):g} or more, or scale the rewards down"
    )


def _round_up(x: float) -> float:
    """x rounded up to two digits, so that what an error recommends will do."""
    if not np.isfinite(x) or x <= 0:
        return x
    unit = 10.0 ** (np.floor(np.log10(x)) - 1)
    return float(np.ceil(x / unit) * unit)
