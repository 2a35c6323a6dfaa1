"""What the compiled solvers share: a model in flow order, and proofs by sweeps over the model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rlkit import registry
from rlkit.mdp.bellman import greedy, rounding, state_max
from rlkit.mdp.bounds import (
    Bounds,
    Certifier,
    LongestTimes,
    LossyTimes,
    Unproven,
    longest_times,
    shortfall,
)
from rlkit.mdp.compact import Compact, UintArray
from rlkit.mdp.flow import arrange, upwind_order
from rlkit.mdp.goal import Goal
from rlkit.mdp.iterate import Iterate, StalledError, evaluate
from rlkit.mdp.iterate import settle as iterated
from rlkit.mdp.model import MDP, BoolArray, FloatArray
from rlkit.mdp.parallel import Sweeps
from rlkit.mdp.solver import Solver

FEW = 50_000  # states up to which a policy's equations may be factorised
_MOST_CALLS = 20  # before the times to the end are taken to be too long to be found
_STEPS = 3.0  # a guess at how many it takes to get past a level
_SHARPER = 1e3  # than the error asks for, so that w is found sooner
_MOST_LOST = 1e6  # steps that w may be raised by an action that is not the best
_MOST_MIXING_SWEEPS = 40  # more predicted: policy iteration

Settle = Callable[[Iterate, float], float]


def certified(
    mdp: MDP,
    goal: Goal,
    settle: Settle,
    arranged: tuple[UintArray, NDArray[np.int64]] | None = None,
) -> Bounds:
    """Bounds by values that `settle` brings ever closer to a solution of Bellman's equation.

    settle: called with an iterate and a target; improves it until a Gauss–Seidel sweep changes no
        value by more than the target or by more than rounding does, or for a while; returns the
        change. Raises StalledError where that will not get any smaller.
    arranged: the order and the levels of the iterate's flow; without them flow order is taken, and
        only where sweeps over the model as it is do not settle it.
    """
    compact = Compact.of(mdp)
    begin = _mix(mdp, compact, goal) if arranged is None else None
    if isinstance(begin, Bounds):
        return begin
    if arranged is None:
        arranged = upwind_order(mdp, compact)
    order, levels = arranged

    def original(x: FloatArray) -> FloatArray:
        """(S,) in the model's numbering, 0 at terminals."""
        y = np.zeros(mdp.n_states)
        y[order] = x
        return y

    def lossy(V: FloatArray, step: float) -> FloatArray | None:
        """By policy iteration, from the policy that is greedy for V."""
        if iterate.slid:  # then w comes by the same window, in one go
            return None
        Q, policy = np.empty(mdp.n_pairs), np.empty(mdp.n_states, dtype=np.uint32)
        sweep(V, TV, Q, policy)
        chosen = np.zeros(mdp.n_pairs, dtype=np.bool_)
        chosen[policy[mdp.live]] = True
        Q -= V[mdp.pair_state]
        Q /= step
        Q += 1.0
        walk = Iterate(arrange(mdp, compact, order, levels, Q, chosen), goal)
        iterate.flow = arrange(mdp, compact, order, levels, Q, Q > -_MOST_LOST, into=whole)
        clock = Iterate(iterate.flow, goal)
        try:
            if walk.flow.r.size == clock.V.size:  # none stays where it is for ever
                evaluate(walk, 0.1)
                clock.V, clock.begun = walk.V, True
            if iterated(clock, 0.3) <= 0.3:
                return original(clock.V)
        except StalledError:
            pass
        return None

    def times(tied: BoolArray) -> FloatArray | Unproven:
        iterate.flow = arrange(mdp, compact, order, levels, np.empty(0), tied, into=whole)
        clock = Iterate(iterate.flow, goal)
        try:
            for _ in range(_MOST_CALLS):
                if settle(clock, 0.3) <= 0.3:
                    return original(clock.V)
        except StalledError:
            pass
        if mdp.n_states > FEW:
            return Unproven(np.inf, np.empty(0, dtype=np.int64))
        return longest_times(mdp, tied, goal.check_time)

    certify = Certifier(mdp, goal, times=times, longest=_STEPS * levels.size, lossy=lossy)
    whole = arrange(mdp, compact, order, levels, mdp.r)
    iterate = Iterate(whole, goal)
    if begin is not None:
        iterate.V[:] = begin[order]
        iterate.begun = True

    def values() -> FloatArray:
        return original(iterate.V)

    # The error is at most the residual times the time to the end (four times, if proven so).
    longest = 1.0 / (1.0 - mdp.gamma) if mdp.gamma < 1.0 else 4 * _STEPS * levels.size
    target = goal.tol / 2 / longest
    Q, TV = np.empty(0), np.empty(mdp.n_states)
    sweep = Sweeps(compact, mdp.gamma, goal.threads)
    while True:
        goal.latest = values
        try:
            change = settle(iterate, target)
            if mdp.gamma == 1.0 and not iterate.slid:
                change = settle(iterate, target / _SHARPER)
        except StalledError:
            change = np.inf
        V = values()
        sweep(V, TV, Q)
        goal.sweeps += 1
        bounds = certify(V, Q, TV)
        if bounds is not None:
            return bounds
        if iterate.flow is not whole:  # the proof took its memory
            whole = iterate.flow = arrange(mdp, compact, order, levels, mdp.r, into=whole)
        if change == np.inf:
            return _last_resort(mdp, goal, V, times, lossy)
        if change <= max(target, 2 * iterate.slack):
            if target <= rounding(mdp, V):
                return certify.final(V, Q, TV)
            target = min(target, certify.gate) / 4


def _last_resort(
    mdp: MDP, goal: Goal, V: FloatArray, times: LongestTimes, lossy: LossyTimes
) -> Bounds:
    """Howard's policy iteration, unless there are too many states for its linear systems."""
    if mdp.n_states > FEW:
        words = f"values no longer get closer to the optimum before tol={goal.tol:g} is reached"
        raise shortfall(mdp, V, words, times, lossy)
    solver: Solver = registry.load(registry.SOLVERS["policy-iteration"].target)
    return solver.algorithm(mdp, goal)


def _mix(mdp: MDP, compact: Compact, goal: Goal) -> Bounds | FloatArray | None:
    """Modified policy iteration where nothing ends, while the span of changes shrinks fast.

    There MacQueen's bounds settle a model as fast as it forgets where it began, whatever γ is. That
    the values are all off by the same amount is of no consequence to the bounds.
    Returns bounds, or values (S,) to go on from, or None.
    """
    certify = Certifier(mdp, goal)
    if not certify.closed or mdp.gamma == 1.0:
        return None
    gamma, n = mdp.gamma, mdp.n_states
    sweep = Sweeps(compact, gamma, goal.threads)
    # The first sweep, from V = 0, needs no transitions.
    V, TV, Q = np.zeros(n), state_max(mdp, mdp.r), np.empty(0)
    policy = greedy(mdp, mdp.r, 0.0).astype(np.uint32)
    low, high = float(TV.min()), float(TV.max())
    wanted = 2 * goal.tol * (1.0 - gamma) / max(gamma, 1e-9)
    before = np.inf
    for number in range(2 * _MOST_MIXING_SWEEPS):
        if number:
            low, high = sweep(V, TV, Q, policy)
        goal.sweeps += 1
        if high - low <= wanted:  # proving bounds takes about as long as a sweep
            bounds = certify(V, Q, TV)
            if bounds is not None:
                return bounds
        else:
            goal.note(V)
        V, TV = TV, V
        ratio, before = (high - low) / before, high - low
        if number > 3 and not wanted > before * ratio**_MOST_MIXING_SWEEPS:
            break
        # As many sweeps of the policy as cost half a sweep of all actions, or a little more.
        follow = sweep.following(policy)
        for _ in range(1 + mdp.n_pairs // (2 * n)):
            follow(V, TV)
            goal.sweeps += 1
            V, TV = TV, V
    return V + gamma / (1 - gamma) * (low + high) / 2
