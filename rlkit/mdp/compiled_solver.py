"""What the compiled solvers share: a model in flow order, and proofs by sweeps over the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from rlkit import registry
from rlkit.mdp.bellman import greedy, rounding, state_max
from rlkit.mdp.bounds import Bounds
from rlkit.mdp.certifier import Certifier, shortfall
from rlkit.mdp.compact import Compact, UintArray
from rlkit.mdp.flow import arrange
from rlkit.mdp.goal import Goal
from rlkit.mdp.inductive import Times, Unproven, longest_times
from rlkit.mdp.iterate import Iterate, StalledError, evaluate
from rlkit.mdp.iterate import settle as iterated
from rlkit.mdp.model import MDP, BoolArray, FloatArray
from rlkit.mdp.order import Order, upwind_order
from rlkit.mdp.parallel import Sweeps
from rlkit.mdp.solver import Solver

FEW = 50_000  # states up to which a policy's equations may be factorised
_MOST_CALLS = 20  # before the times to the end are taken to be too long to be found
_STEPS = 3.0  # a guess at how many it takes to get past a level
_SHARPER = 1e3  # than the error asks for, so that w is found sooner
_MOST_STEPS = 400  # in which some of all episodes must end, where they wander
_MOST_LOST = 1e6  # steps that w may be raised by an action that is not the best
_MOST_MIXING_SWEEPS = 40  # more predicted: policy iteration

Settle = Callable[[Iterate, float], float]


def certified(mdp: MDP, goal: Goal, settle: Settle, order: Order | None = None) -> Bounds:
    """Bounds by values that `settle` brings ever closer to a solution of Bellman's equation.

    settle: called with an iterate and a target; improves it until a Gauss–Seidel sweep changes no
        value by more than the target or by more than rounding does, or for a while; returns the
        change. Raises StalledError where that will not get any smaller.
    order: of the iterate's flow; without one flow order is taken, and only where sweeps over the
        model as it is do not settle it.
    """
    bounds = _certified(mdp, goal, settle, order)
    if bounds.q is not None:
        return bounds
    Q = np.empty(mdp.n_pairs)
    Sweeps(Compact.of(mdp), mdp.gamma, goal.threads)(bounds.values, np.empty(mdp.n_states), Q)
    return replace(bounds, q=Q)


def _certified(mdp: MDP, goal: Goal, settle: Settle, order: Order | None) -> Bounds:
    compact = Compact.of(mdp)
    begin = _mix(mdp, compact, goal) if order is None else None
    if isinstance(begin, Bounds):
        return begin
    solved = Ordered(mdp, compact, order or upwind_order(mdp, compact), goal, settle)
    if begin is not None:
        solved.begin(begin)
    certify = Certifier(mdp, goal, times=solved)
    # The error is at most the residual times the time to the end (four times, if proven so).
    longest = 1.0 / (1.0 - mdp.gamma) if mdp.gamma < 1.0 else 4 * solved.guess
    target = goal.tol / 2 / longest
    Q, TV = np.empty(0), np.empty(mdp.n_states)
    while True:
        goal.latest = solved.values
        try:
            change = solved.improve(target)
        except StalledError:
            change = np.inf
        V = solved.values()
        solved.sweep(V, TV, Q)
        goal.sweeps += 1
        bounds = certify(V, Q, TV)
        if bounds is not None:
            return bounds
        solved.restore()
        if change == np.inf:
            return _last_resort(mdp, goal, V, solved)
        if change <= max(target, 2 * solved.iterate.slack):
            if target <= rounding(mdp, V):
                return certify.final(V, Q, TV)
            target = min(target, certify.gate) / 4


class Ordered:
    """An iterate over a model in the given order; and times to the end, as `inductive.Times`.

    Those are found by the same sweeps, over a model of some of the pairs that takes the memory of
    the one that is solved: `restore` brings that back.
    """

    def __init__(
        self, mdp: MDP, compact: Compact, order: Order, goal: Goal, settle: Settle
    ) -> None:
        self.mdp, self.goal, self._compact = mdp, goal, compact
        self.sweep = Sweeps(compact, mdp.gamma, goal.threads)
        self.guess = _STEPS * order.levels.size
        self._arranged = partial(arrange, mdp, compact, *order)
        self._order, self._settle = order.states, settle
        self._whole = self._arranged(mdp.r)
        self.iterate = Iterate(self._whole, goal)

    def begin(self, V: FloatArray) -> None:
        """Go on from values V (S,)."""
        self.iterate.V[:] = V[self._order]
        self.iterate.begun = True

    def improve(self, target: float) -> float:
        """As `Settle`; more accurate than that where no window has slid, see `lossy`."""
        change = self._settle(self.iterate, target)
        if self.mdp.gamma == 1.0 and not self.iterate.slid:
            change = self._settle(self.iterate, target / _SHARPER)
        return change

    def values(self) -> FloatArray:
        """(S,) the latest ones."""
        return self._original(self.iterate.V)

    def restore(self) -> None:
        """Take back the memory that times to the end were found in, if they were."""
        if self.iterate.flow is not self._whole:
            self._whole = self.iterate.flow = self._arranged(self.mdp.r, into=self._whole)

    def longest(self, tied: BoolArray) -> FloatArray | Unproven:
        """See `inductive.Times`: the model's sweeps where every step earns 1."""
        clock = self._clock(np.empty(0), tied)
        try:
            for _ in range(_MOST_CALLS):
                if self._settle(clock, 0.3) <= 0.3:
                    return self._original(clock.V)
        except StalledError:
            pass
        if self.mdp.n_states > FEW:
            return Unproven(np.inf, np.empty(0, dtype=np.int64))
        return longest_times(self.mdp, tied, self.goal.check_time)

    def lossy(self, V: FloatArray, step: float) -> FloatArray | None:
        """See `inductive.Times`."""
        if self.iterate.slid:  # then w comes by the same window, in one go
            return None
        w = self._until_some_end(V, step) if self.iterate.wanders else None
        return self._until_all_end(V, step) if w is None else w

    def _until_some_end(self, V: FloatArray, step: float) -> FloatArray | None:
        """w by few Jacobi sweeps, where ends are near everywhere, however long some episodes are.

        Let w be the longest time to the end or to n steps, which n sweeps from 0 give. One more
        adds to it, at most, the probability 1 − q to be under way by then: w ≥ q + P w, and w/q
        will do. In w a loss counts for (V − Q)/(ε/q), so that this holds for actions at their loss.
        How small q may be follows from the error asked for.
        """
        least = 2.0 * _MOST_STEPS * step / self.goal.tol  # of q, since w ≤ n
        if not least < 1.0:
            return None
        rewards, _ = self._losses(V, step / least)
        sweep = Sweeps(replace(self._compact, r=rewards), 1.0, self.goal.threads)
        w, Tw = np.zeros(V.size), np.empty(V.size)
        for _ in range(_MOST_STEPS):
            self.goal.check_time()
            _, more = sweep(w, Tw)
            self.goal.sweeps += 1
            if 1.0 - more >= least:
                return w / least
            w, Tw = Tw, w
        return None

    def _losses(self, V: FloatArray, step: float) -> tuple[FloatArray, UintArray]:
        """1 − (V − Q)/step (L,), and the pairs (S,) of the policy that is greedy for V."""
        mdp = self.mdp
        Q, policy = np.empty(mdp.n_pairs), np.empty(mdp.n_states, dtype=np.uint32)
        self.sweep(V, np.empty(mdp.n_states), Q, policy)
        Q -= V[mdp.pair_state]
        Q /= step
        Q += 1.0
        return Q, policy

    def _until_all_end(self, V: FloatArray, step: float) -> FloatArray | None:
        """w by policy iteration, from the policy that is greedy for V."""
        mdp = self.mdp
        Q, policy = self._losses(V, step)
        chosen = np.zeros(mdp.n_pairs, dtype=np.bool_)
        chosen[policy[mdp.live]] = True
        walk = Iterate(self._arranged(Q, chosen), self.goal)
        clock = self._clock(Q, Q > -_MOST_LOST)
        try:
            if walk.flow.r.size == clock.V.size:  # none stays where it is for ever
                evaluate(walk, 0.1)
                clock.V, clock.begun = walk.V, True
            if iterated(clock, 0.3) <= 0.3:
                return self._original(clock.V)
        except StalledError:
            pass
        return None

    def _clock(self, r: FloatArray, allowed: BoolArray) -> Iterate:
        """An iterate of the `allowed` pairs (L,) alone, with other rewards (L,); empty: all 1."""
        self.iterate.flow = self._arranged(r, allowed, into=self._whole)
        return Iterate(self.iterate.flow, self.goal)

    def _original(self, x: FloatArray) -> FloatArray:
        """(S,) in the model's numbering, 0 at terminals."""
        y = np.zeros(self.mdp.n_states)
        y[self._order] = x
        return y


def _last_resort(mdp: MDP, goal: Goal, V: FloatArray, times: Times) -> Bounds:
    """Howard's policy iteration, unless there are too many states for its linear systems."""
    if mdp.n_states > FEW:
        words = f"values no longer get closer to the optimum before tol={goal.tol:g} is reached"
        raise shortfall(mdp, V, words, times)
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
