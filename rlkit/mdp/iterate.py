"""Values and a policy of a model in flow order, and the sweeps that improve them.

Inexact policy iteration: Gauss–Seidel sweeps of Bellman's operator while actions still switch, then
the policy's values by Gauss–Seidel, or by BiCGSTAB with Gauss–Seidel as its preconditioner where
that converges slowly, only as accurately as the next improvement needs them.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_array

from rlkit.errors import RunError
from rlkit.mdp import kernels
from rlkit.mdp.bellman import largest
from rlkit.mdp.compact import UintArray
from rlkit.mdp.flow import Flow
from rlkit.mdp.goal import Goal
from rlkit.mdp.krylov import bicgstab
from rlkit.mdp.linear import solve_chain
from rlkit.mdp.model import FloatArray

_EPS = float(np.finfo(np.float64).eps)
_MOST_IMPROVEMENTS = 20  # Gauss–Seidel improvement sweeps before the policy is evaluated anyway
_PROBE = 6  # evaluation sweeps after which the rate of convergence is judged
_MOST_EVALUATIONS = 40  # more of them than this predicted: BiCGSTAB
_MOST_STEPS = 300  # of BiCGSTAB
_FACTORISED = 50_000  # states up to which SuperLU is taken where BiCGSTAB fails
_SWEEPS_AT_ONCE = 50  # of Gauss–Seidel value iteration, from one look at the bounds to the next
_ROUNDS = 60  # of improvement and evaluation
_PATIENCE = 10  # rounds in which the change has to halve
_INFINITE = 1e100
_PART = 65_536  # pairs, as many as caches hold


class StalledError(Exception):
    """The values no longer get closer to the target; there is another way to go."""


class Iterate:
    """V (n,) and policy (n,) of a model in flow order.

    policy[s] is the number of a pair of `flow`. begun: whether V holds anything. slid: whether a
    window has gone over all states. wanders: whether none would, since policies go to and fro.
    """

    def __init__(self, flow: Flow, goal: Goal) -> None:
        self.flow, self.goal = flow, goal
        self.V: FloatArray = np.zeros(flow.n_states)
        self.begun = self.slid = self.wanders = False
        self.policy: UintArray = flow.off[:-1].copy()
        self.size = largest(flow.r)
        self.width = _widest(flow.ptr)

    @property
    def slack(self) -> float:
        """What rounding can make of a difference of 0 between two values."""
        return self.slack_for(largest(self.V))

    def slack_for(self, value: float) -> float:
        """The same, where no value is larger than this."""
        return (self.width + 4) * _EPS * (self.size + 2 * value)

    def begin(self) -> None:
        """First values, from the ends outwards, where there are none yet."""
        if not self.begun:
            kernels.start(*self.flow.model, self.V, self.policy, 0, self.flow.n_states)
            self.goal.sweeps += 1
            self.begun = True

    def improve(self, step: int) -> tuple[float, int]:
        """A sweep of Bellman's operator; the largest change, and how many actions switched."""
        self.goal.sweeps += 1
        first, last = self._range(step)
        return kernels.improve(*self.flow.model, self.V, self.policy, first, last, step, self.slack)

    def evaluate(self, step: int) -> float:
        """A sweep of the policy's operator; the largest change."""
        self.goal.sweeps += 1
        flow, (first, last) = self.flow, self._range(step)
        return kernels.evaluate(
            flow.ptr, flow.idx, flow.p, flow.r, self.V, self.policy, first, last, step
        )

    def _range(self, step: int) -> tuple[int, int]:
        n = self.flow.n_states
        return (0, n) if step > 0 else (n - 1, -1)


def _widest(ptr: UintArray) -> int:
    """The largest number of successors of a pair, without an array of all these numbers."""
    parts = (ptr[begin : begin + _PART + 1] for begin in range(0, ptr.size - 1, _PART))
    return max((int(np.diff(part).max()) for part in parts), default=0)


def settle(iterate: Iterate, target: float) -> float:
    """Inexact policy iteration until a sweep of improvement changes no value by more than target.

    Returns the change, which rounding may keep above the target.

    Raises:
        StalledError: it does not get there.
        OutOfTimeError: the goal's time is over.
    """
    iterate.begin()
    best, waited, sweeps_alone = math.inf, 0, False
    for _ in range(_ROUNDS):
        for sweep in range(_MOST_IMPROVEMENTS):
            iterate.goal.check_time()
            change, switched = iterate.improve(-1 if sweep % 2 else 1)
            if not change < _INFINITE:
                raise StalledError
            if change <= max(target, 2 * iterate.slack):
                return change
            if not (switched or sweeps_alone):
                break
        if change < best / 2:
            best, waited = change, 0
        waited += 1
        if waited > _PATIENCE:
            break
        before = iterate.V.copy()
        try:
            evaluate(iterate, max(min(target, change / 100), iterate.slack))
        except StalledError:  # at γ = 1 this policy may never end; sweeps get past it
            iterate.V[:] = before
            sweeps_alone = True
    raise StalledError


def sweep(iterate: Iterate, target: float) -> float:
    """Gauss–Seidel value iteration: sweeps of improvement, forwards and backwards in turn.

    Returns the last change, which may be above the target: this ends after some sweeps in any case.
    """
    iterate.begin()
    for number in range(_SWEEPS_AT_ONCE):
        iterate.goal.check_time()
        change, _ = iterate.improve(-1 if number % 2 else 1)
        if change <= max(target, 2 * iterate.slack):
            break
    return change


def evaluate(iterate: Iterate, target: float) -> None:
    """The values of the policy, until a sweep changes none by more than target, if that works."""
    before = iterate.evaluate(1)
    first = before
    for sweep in range(1, _PROBE + 8 * _MOST_EVALUATIONS):
        change = iterate.evaluate(1)
        if change <= target:
            return
        if sweep % _PROBE == 0:
            iterate.goal.check_time()
            rate = (change / before) ** (1 / _PROBE)
            before = change
            if rate >= 1 or math.log(target / change) / math.log(rate) > _MOST_EVALUATIONS:
                _solve(iterate, target)
                return
    if not iterate.evaluate(1) < 1e3 * first:
        raise StalledError


def _solve(iterate: Iterate, target: float) -> None:
    """V with V = r_π + P_π V, by BiCGSTAB or, where that fails on few states, by SuperLU."""
    flow, n = iterate.flow, iterate.flow.n_states
    ptr, r = np.empty(n + 1, dtype=np.uint32), np.empty(n)
    entries = int(np.diff(flow.ptr)[iterate.policy].sum())
    idx, p = np.empty(entries, dtype=np.uint32), np.empty(entries)
    kernels.chain(flow.ptr, flow.idx, flow.p, flow.r, iterate.policy, ptr, idx, p, r)

    def tick(steps: int) -> None:
        iterate.goal.sweeps += 4 * steps
        iterate.goal.check_time()

    def residual(x: FloatArray) -> float:
        y = np.empty(n)
        kernels.apply(ptr, idx, p, x, y)
        y -= r
        return largest(y)

    V = iterate.V.copy()
    solved = bicgstab(ptr, idx, p, r, V, target, _MOST_STEPS, tick)
    # A policy that never ends has no values at γ = 1: what comes out then solves nothing.
    enough = max(100 * target, 1e-6 * iterate.size)
    if not solved or not residual(V) <= enough:
        if n > _FACTORISED:
            raise StalledError
        P = csr_array((p, idx.astype(np.int32), ptr.astype(np.int32)), shape=(n, n))
        try:
            V = solve_chain(P, 1.0, r)  # γ is in P already
        except RunError as error:
            raise StalledError from error
        if not residual(V) <= enough:
            raise StalledError
    iterate.V[:] = V
