"""Certified bounds on the optimal values: a solver may stop when these say so, and not before.

Write T for Bellman's optimality operator, (TV)(s) = max_a r(s, a) + γ Σ p(s' | s, a) V(s').

γ < 1, MacQueen's bounds (Puterman 1994, §6.6.2–6.6.3). With Δ = TV − V,
    TV + γ/(1−γ) min Δ ≤ V* ≤ TV + γ/(1−γ) max Δ.
Termination is a state with Δ = 0, and takes part in the min and the max.

γ = 1, inductive bounds (after Hartmanns and Kaminski, Optimistic Value Iteration, 2020). Let w be
the longest expected time to the end under the actions that are optimal at V up to a gap. If
    T(V + εw) < V + εw  everywhere, and  T_π(V − εw) ≥ V − εw  for a π that ends for sure,
then V − εw ≤ V* ≤ V + εw: the strict inequality makes every policy that runs for ever lose without
end, so that none of them does better. Both are checked on the numbers, not inferred.

Each comparison allows for the rounding of float64, so the bounds hold for the model as stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from rlkit.errors import RunError
from rlkit.mdp.bellman import backup, greedy, policy_matrix, rounding, state_max
from rlkit.mdp.compact import Compact
from rlkit.mdp.goal import Goal, OutOfTimeError
from rlkit.mdp.graph import end_components
from rlkit.mdp.linear import solve_chain
from rlkit.mdp.model import MDP, BoolArray, FloatArray, IntArray

_EPS = float(np.finfo(np.float64).eps)
_GRACE = 1.0  # seconds for a proof when the time is over
_PROMPT = 50_000  # states up to which a linear system takes less than that


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


class Certifier:
    """Says when the values of a Jacobi sweep are within `tol` of V*, and what the bounds are.

    sweeps: how many an algorithm makes from one call to the next.
    times: a way of its own to find what `longest_times` finds.
    longest: a guess at the largest of them.
    lossy: a way to find them where suboptimal actions may be taken at their loss.

    Raises:
        ImpreciseError: float64 cannot certify `tol` for this model; holds the bounds that it can.
        RunError: float64 cannot certify anything for this model.
        OutOfTimeError: the goal's time is over.
        FreeLoopError: γ = 1, and states can loop for ever at no cost that float64 tells from 0.
    """

    def __init__(
        self,
        mdp: MDP,
        goal: Goal,
        sweeps: int = 1,
        times: LongestTimes | None = None,
        longest: float = 0.0,
        lossy: LossyTimes | None = None,
    ) -> None:
        self.mdp = mdp
        self.lossy = lossy
        self.longest = longest
        self.times = times or partial(longest_times, mdp, check_time=goal.check_time)
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
                raise shortfall(self.mdp, V, words, self.times, self.lossy)
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
        proof = inductive_bounds(
            self.mdp, V, Q, residual, self.tol, self.times, self.longest, self.lossy
        )
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
        return shortfall(self.mdp, V, words, self.times, self.lossy)


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


def shortfall(
    mdp: MDP,
    V: FloatArray,
    words: str,
    times: LongestTimes | None = None,
    lossy: LossyTimes | None = None,
) -> Exception:
    """What to raise where no better values than V (S,) are to be had."""
    bounds = reached_bounds(mdp, V, times, lossy)
    return RunError(words) if bounds is None else ImpreciseError(bounds, words)


def reached_bounds(
    mdp: MDP,
    V: FloatArray,
    times: LongestTimes | None = None,
    lossy: LossyTimes | None = None,
) -> Bounds | None:
    """The bounds that hold around V (S,), however far apart; None where none can be proven.

    At γ = 1, without `times`, none where a proof takes more than about a second.
    """
    Q, TV = backup(mdp, V)
    if mdp.gamma == 1.0:
        residual = float(np.abs(TV - V).max(initial=0.0)) + 4 * rounding(mdp, V)
        if times is None and mdp.n_states > _PROMPT:
            return None
        grace = Goal(np.inf, _GRACE)
        times = times or partial(longest_times, mdp, check_time=grace.check_time)
        try:
            proof = inductive_bounds(mdp, V, Q, residual, np.inf, times, lossy=lossy)
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


def enclosure(TV: FloatArray, down: float, up: float, live: BoolArray, closed: bool) -> Bounds:
    """TV + down ≤ V* ≤ TV + up. Without an end every value may be off by the same amount, so that
    the middle is then the better guess."""
    values = TV + (down + up) / 2 * live if closed else TV
    return Bounds(values, TV + down * live, TV + up * live)


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


@dataclass(frozen=True)
class Unproven:
    """Why no bounds within the tolerance follow: the error that would, or states that can loop."""

    error: float
    loop: IntArray


# w of `longest_times` for the tied pairs (L,) bool of a model.
LongestTimes = Callable[[BoolArray], "FloatArray | Unproven"]

# w of `inductive_bounds` for V (S,) and ε, where any action may be taken at its loss; or None.
LossyTimes = Callable[[FloatArray, float], "FloatArray | None"]


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


def inductive_bounds(
    mdp: MDP,
    V: FloatArray,
    Q: FloatArray,
    residual: float,
    tol: float,
    times: LongestTimes,
    longest: float = 0.0,
    lossy: LossyTimes | None = None,
) -> Bounds | Unproven:
    """V ∓ εw where that is proven and no wider than tol. `residual` bounds |TV − V|, rounding too.

    With w from `longest_times`, the slack of tied actions in both checks is at least
    ε/2 − residual, and that of the others at least gap − ε max w: hence ε = 2.25 residual (the rest
    is for rounding, four times which `residual` has to include), and a gap that is raised until it
    exceeds ε max w; `longest`, a guess at max w, may save raising it.

    lossy, if there is one, needs no gap: any action may be taken, but a step of it counts for
    1 − (V − Q)/ε and not for 1. That is what r + ε would add to V, in units of ε: the least w that
    the upper check allows. An action that is worse than the best by 10⁻¹⁰ then lengthens w only
    where it pays, and not all those count that lie within a gap that is as wide as all of them.
    That the policy of the lower check ends follows from both: T_π(V + εw) < V + εw and
    T_π(V − εw) ≥ V − εw give P_π w < w.

    Q: (L,) of V; where it is empty, compiled kernels make both checks, in less memory.
    """
    if not mdp.live.size:
        return Bounds(V, V, V)
    residual = max(residual, 1e-150)  # the checks are strict, so that 0 would not do
    step, gap = 2.25 * residual, 16.0 * residual * max(1.0, longest / 5)
    lost = None if lossy is None else lossy(V, step)
    if lost is not None:
        every = np.ones(mdp.n_pairs, dtype=np.bool_)
        proof = _around(mdp, V, step * lost, tol, every, compiled=not Q.size)
        if isinstance(proof, Bounds) or step * float(lost.max()) > tol:
            return proof
    while True:
        tied = _within(mdp, V, Q, gap)
        w = times(tied)
        if not isinstance(w, np.ndarray):
            return w
        width = step * float(w.max())
        if not width <= 0.999 * tol or 1.25 * width <= gap:
            return _around(mdp, V, step * w, tol, tied, compiled=not Q.size)
        gap = 2.0 * width


def _around(
    mdp: MDP, V: FloatArray, width: FloatArray, tol: float, tied: BoolArray, compiled: bool
) -> Bounds | Unproven:
    """V ∓ width (S,) where that is proven and no wider than tol."""
    widest, nowhere = float(width.max()), np.empty(0, dtype=np.int64)
    if not widest <= 0.999 * tol:
        return Unproven(widest, nowhere)
    lower, upper = V - width, V + width
    if _enclosed(mdp, lower, upper, tied, compiled):
        return Bounds(V, lower, upper)
    return Unproven(max(4.0 * widest, 2.0 * tol), nowhere)


def _enclosed(
    mdp: MDP, lower: FloatArray, upper: FloatArray, tied: BoolArray, compiled: bool
) -> bool:
    """Whether T upper < upper and T_π lower ≥ lower, rounding included, for a π of tied pairs."""
    margin = 2.0 * rounding(mdp, upper) + rounding(mdp, lower)
    if compiled:
        from rlkit.mdp import kernels

        return kernels.enclosed(*Compact.of(mdp).arrays, lower, upper, tied, margin)
    _, above = backup(mdp, upper)
    below = state_max(mdp, backup(mdp, lower)[0], tied)
    live = mdp.live
    less = np.all(above[live] + margin < upper[live])
    return bool(less and np.all(below[live] - margin >= lower[live]))


def _within(mdp: MDP, V: FloatArray, Q: FloatArray, gap: float) -> BoolArray:
    """(L,) bool: the pairs with V − Q ≤ gap. No such difference is kept: it may be large."""
    if not Q.size:
        from rlkit.mdp import kernels

        tied = np.empty(mdp.n_pairs, dtype=np.bool_)
        kernels.within(*Compact.of(mdp).arrays, V, gap, tied)
        return tied
    difference = V[mdp.pair_state]
    difference -= Q
    return np.asarray(difference <= gap)


def longest_times(
    mdp: MDP, tied: BoolArray, check_time: Callable[[], None] | None = None
) -> FloatArray | Unproven:
    """w (S,) > 0 with w ≥ 1/2 + P_a w for every tied pair; 0 at terminals.

    Policy iteration for the longest expected time to the end, with only the tied actions; it need
    not be run to its end. Where they could be followed for ever there is no such w; where they can
    be followed for so long that policies come back, by rounding, none is found.

    check_time: called now and then; what it raises ends the search.
    """
    labels, _ = end_components(mdp, tied)
    if np.any(labels >= 0):
        return Unproven(np.inf, np.flatnonzero(labels >= 0))
    ones = (~mdp.terminal).astype(np.float64)
    choice = greedy(mdp, np.where(tied, 0.0, -np.inf), 0.0)
    seen: set[int] = set()
    while hash(choice.tobytes()) not in seen:
        if check_time is not None:
            check_time()
        seen.add(hash(choice.tobytes()))
        w = solve_chain(policy_matrix(mdp, choice), 1.0, ones)
        times = np.where(tied, 1.0 + mdp.P @ w, -np.inf)
        if np.all(state_max(mdp, times)[mdp.live] <= w[mdp.live] + 0.5 - 1e-3):
            return w
        choice = greedy(mdp, times, 0.25, choice)
    return Unproven(np.inf, np.empty(0, dtype=np.int64))


def _round_up(x: float) -> float:
    """x rounded up to two digits, so that what an error recommends will do."""
    if not np.isfinite(x) or x <= 0:
        return x
    unit = 10.0 ** (np.floor(np.log10(x)) - 1)
    return float(np.ceil(x / unit) * unit)
