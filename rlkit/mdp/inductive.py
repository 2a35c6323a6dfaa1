"""Bounds at γ = 1: V ∓ εw, proven by one sweep on each side.

After Hartmanns and Kaminski, Optimistic Value Iteration (2020). Let w be the longest expected time
to the end under the actions that are optimal at V up to a gap. With T as in rlkit/mdp/bounds.py, if
    T(V + εw) < V + εw  everywhere, and  T_π(V − εw) ≥ V − εw  for a π that ends for sure,
then V − εw ≤ V* ≤ V + εw: the strict inequality makes every policy that runs for ever lose without
end, so that none of them does better. Both are checked on the numbers, not inferred.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlkit.mdp.bellman import backup, greedy, policy_matrix, rounding, state_max
from rlkit.mdp.bounds import Bounds
from rlkit.mdp.compact import Compact
from rlkit.mdp.graph import end_components
from rlkit.mdp.linear import solve_chain
from rlkit.mdp.model import MDP, BoolArray, FloatArray, IntArray


@dataclass(frozen=True)
class Unproven:
    """Why no bounds within the tolerance follow: the error that would, or states that can loop."""

    error: float
    loop: IntArray


class Times(Protocol):
    """Ways to find w for `inductive_bounds`."""

    @property
    def guess(self) -> float:
        """At the largest of `longest`, for a start."""
        ...

    def longest(self, tied: BoolArray) -> FloatArray | Unproven:
        """w (S,) of `longest_times`, for the tied pairs (L,) of the model."""
        ...

    def lossy(self, V: FloatArray, step: float) -> FloatArray | None:
        """w (S,) for V (S,) and ε = step, where any action may be taken at its loss; or None."""
        ...


class LinearTimes:
    """w by the linear systems of `longest_times`."""

    guess = 0.0

    def __init__(self, mdp: MDP, check_time: Callable[[], None] | None = None) -> None:
        self._mdp, self._check_time = mdp, check_time

    def longest(self, tied: BoolArray) -> FloatArray | Unproven:
        return longest_times(self._mdp, tied, self._check_time)

    def lossy(self, V: FloatArray, step: float) -> FloatArray | None:
        return None


def inductive_bounds(
    mdp: MDP,
    V: FloatArray,
    Q: FloatArray,
    residual: float,
    tol: float,
    times: Times,
) -> Bounds | Unproven:
    """V ∓ εw where that is proven and no wider than tol. `residual` bounds |TV − V|, rounding too.

    With w from `times.longest`, the slack of tied actions in both checks is at least
    ε/2 − residual, and that of the others at least gap − ε max w: hence ε = 2.25 residual (the rest
    is for rounding, four times which `residual` has to include), and a gap that is raised until it
    exceeds ε max w; a good `times.guess` saves raising it.

    w from `times.lossy`, if there is any, needs no gap: any action may be taken, but a step of it
    counts for 1 − (V − Q)/ε and not for 1. That is what r + ε would add to V, in units of ε: the
    least w that the upper check allows. An action that is worse than the best by 10⁻¹⁰ then
    lengthens w only where it pays, and not all those count that lie within a gap that is as wide as
    all of them.
    That the policy of the lower check ends follows from both: T_π(V + εw) < V + εw and
    T_π(V − εw) ≥ V − εw give P_π w < w.

    Q: (L,) of V; where it is empty, compiled kernels make both checks, in less memory.
    """
    if not mdp.live.size:
        return Bounds(V, V, V)
    residual = max(residual, 1e-150)  # the checks are strict, so that 0 would not do
    step, gap = 2.25 * residual, 16.0 * residual * max(1.0, times.guess / 5)
    lost = times.lossy(V, step)
    if lost is not None:
        every = np.ones(mdp.n_pairs, dtype=np.bool_)
        proof = _around(mdp, V, step * lost, tol, every, compiled=not Q.size)
        if isinstance(proof, Bounds) or step * float(lost.max()) > tol:
            return proof
    while True:
        tied = _within(mdp, V, Q, gap)
        w = times.longest(tied)
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
