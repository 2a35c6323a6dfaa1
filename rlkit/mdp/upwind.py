"""Gauss–Seidel in a window that slides along the flow, away from the ends, once.

Where policies carry episodes mostly one way, values depend mostly on states that lie nearer to an
end. In flow order those come first: they can be settled first, and what comes later hardly changes
them. So the states are cut into tiles, and a window of four tiles slides over them. The first of
the four leaves the window once its values and those of the second have converged; by then those of
the next two are good enough to lean on. A tile that enters starts from values that continue those
below it. All sweeps stay inside the window, which stays inside the processor's cache: the time
grows linearly with the number of states.

Where policies go to and fro and rewards are rare, no window slides: values are 0 to begin with, and
tiles are swept as long as they change, which the rewards make those near them do. Where nothing
comes that is worth as much as the tolerance, nothing is done.

What a tile's near side feels of its far side dies away like ((1 − u) / u)^-depth, where u is the
share of probability with which the policy moves against the order; this sets the depth of tiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlkit.mdp import kernels
from rlkit.mdp.compact import UintArray
from rlkit.mdp.flow import Flow
from rlkit.mdp.iterate import Iterate, settle
from rlkit.mdp.kernels import MODEL, F, U, kernel
from rlkit.mdp.model import FloatArray

_MOST_AGAINST = 0.45  # u above this: the window would have to be too wide
_LEAST_STATES = 50  # in a tile: fewer cost more in calls than they save
_LEVELS = (5, 90)  # of the search, least and most in a tile
_ROUNDS = 100  # in a window
_VISITS = 1e5  # of states, about a millisecond, from one look at the clock to the next
_MOST_SWEEPS = 200  # over all states, before it is given up
_MOST_SWEEPS_FROM_0 = 2000  # in cache these take less time than what comes after them
_RARE = 0.05  # share of the pairs that have rewards
_DEPTH_FROM_0 = 40  # levels in a tile
_WINDOW = 4  # tiles
_CONVERGED = 2  # tiles of it whose values have to be, before the first of them leaves


@dataclass(frozen=True)
class Plan:
    """Where tiles begin, and at last n; and how often a policy is swept, there and back, a round.

    No tiles where a sliding window does not suit the model; `slides` is False where it is tiles in
    place that are swept, from values of 0.
    """

    tiles: NDArray[np.int64]
    pairs: int
    slides: bool = True


_NO_PLAN = Plan(np.empty(0, dtype=np.int64), 0)

_improve, _evaluate = kernels.improve.load(), kernels.evaluate.load()
_start = kernels.start.load()


class Upwind:
    """Brings iterates in the same flow order to their targets by a sliding window.

    By `settle` where a window does not suit the model.
    """

    def __init__(self) -> None:
        self._plan: Plan | None = None

    def __call__(self, iterate: Iterate, target: float) -> float:
        """As `settle`: see there for what is raised."""
        if self._plan is None:
            self._plan = _plan(iterate)
            if self._plan.tiles.size and self._plan.slides:
                iterate.begun = False
            if not self._plan.slides:
                iterate.V[:], iterate.wanders = 0.0, True
        target = max(target, 2 * iterate.slack)
        if self._plan.tiles.size and (self._plan.slides or iterate.begun):
            _settle_endless(iterate, target)
            if not iterate.begun:
                _slide(iterate, self._plan, target)
            if _patch(iterate, self._plan, target):
                return target
            self._plan = _NO_PLAN
            iterate.goal.notes.append("the window did not settle it: inexact policy iteration")
        return settle(iterate, target)


def _plan(iterate: Iterate) -> Plan:
    flow = iterate.flow
    if flow.levels.size < _WINDOW * _LEVELS[0]:
        return _NO_PLAN
    iterate.begin()
    iterate.improve(1)
    iterate.improve(1)
    u = against(flow.ptr, flow.idx, flow.p, iterate.policy, flow.levels[0])
    if u > _MOST_AGAINST and np.count_nonzero(flow.r) <= _RARE * flow.r.size:
        return _tiles(flow, _DEPTH_FROM_0, 2, slides=False)
    if u > _MOST_AGAINST:
        iterate.goal.notes.append(
            f"a share {u:.2f} of the moves goes against the flow: inexact policy iteration"
        )
        return _NO_PLAN
    # Measured: ln of how much less a tile's near side should feel than its far side, and sweeps.
    decay, pairs = (14.5, 2) if u <= 0.2 else (20.0, 4)
    rate = math.log((1 - u) / u) if u > 0 else math.inf
    depth = min(max(math.ceil(decay / max(0.2, rate)), _LEVELS[0]), _LEVELS[1])
    return _tiles(flow, depth, pairs)


def _tiles(flow: Flow, depth: int, pairs: int, slides: bool = True) -> Plan:
    """Tiles of so many levels, or of more where they are small."""
    cuts = [int(flow.levels[0])]
    for cut in flow.levels[depth::depth].tolist():
        if cut - cuts[-1] >= _LEAST_STATES:
            cuts.append(cut)
    if flow.n_states - cuts[-1] < _LEAST_STATES and len(cuts) > 1:
        cuts.pop()
    if len(cuts) <= _WINDOW:
        return _NO_PLAN
    return Plan(np.array([*cuts, flow.n_states]), pairs, slides)


def _settle_endless(iterate: Iterate, target: float) -> None:
    """Settle the states from which no end can be reached: others may depend on them, they on none.

    No window would do for them, since they have no side on which to begin.
    """
    n = int(iterate.flow.levels[0])
    if n == 0:
        return
    part = Iterate(iterate.flow.first(n), iterate.goal)
    part.V, part.policy, part.begun = iterate.V[:n], iterate.policy[:n], True
    before = iterate.goal.sweeps
    settle(part, target)
    iterate.goal.sweeps = before + (iterate.goal.sweeps - before) * n / iterate.flow.n_states


def _slide(iterate: Iterate, plan: Plan, target: float) -> None:
    """One pass of the window; a tile that takes more than `_ROUNDS` is left as it is."""
    iterate.begun = iterate.slid = True
    flow, V, policy, tiles = iterate.flow, iterate.V, iterate.policy, plan.tiles
    tile, ready = 0, 0
    while tile < tiles.size - 1:
        tile, ready, work = slide(
            *flow.model,
            V,
            policy,
            tiles,
            tile,
            ready,
            target,
            iterate.slack_for(1.0),
            plan.pairs,
            _VISITS,
        )
        iterate.goal.sweeps += work / flow.n_states
        iterate.goal.check_time()


def _patch(iterate: Iterate, plan: Plan, target: float) -> bool:
    """Sweep over tiles that still change, until none does by more than the target; False: too long.

    What changes a tile may change its neighbours.
    """
    flow, V, policy, tiles = iterate.flow, iterate.V, iterate.policy, plan.tiles
    target = max(target, 2 * iterate.slack)
    budget = iterate.goal.sweeps + (_MOST_SWEEPS if plan.slides else _MOST_SWEEPS_FROM_0)
    active = np.ones(tiles.size - 1, dtype=np.bool_)
    rounds = 1
    while active.any():
        change, work = sweep_tiles(
            *flow.model, V, policy, tiles, active, target, iterate.slack_for(1.0), rounds
        )
        iterate.goal.sweeps += work / flow.n_states
        iterate.goal.check_time()
        if iterate.goal.sweeps > budget or not np.isfinite(change):
            return False
        rounds = 3
    return True


@kernel(f"float64({U}, {U}, {F}, {U}, int64)")
def against(ptr: UintArray, idx: UintArray, p: FloatArray, policy: UintArray, first: int) -> float:
    """The share of the policy's probability that leads to states with higher numbers, from the
    states that are numbered from `first` on."""
    up, total = 0.0, 0.0
    for s in range(first, policy.size):
        pair = policy[s]
        for k in range(ptr[pair], ptr[pair + 1]):
            total += p[k]
            if idx[k] > s:
                up += p[k]
    return up / max(total, 1e-300)


@kernel(
    f"UniTuple(float64, 2)({MODEL}, float64[::1], uint32[::1], int64, int64, int64, float64, "
    "float64, int64, int64)"
)
def settle_window(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    V: FloatArray,
    policy: UintArray,
    first: int,
    middle: int,
    last: int,
    target: float,
    slack: float,
    rounds: int,
    pairs: int,
) -> tuple[float, float]:
    """Sweep over states first..last until an improvement changes first..middle by ≤ target.

    Returns the last change, and how many states were visited.
    """
    change, visits = np.inf, 0
    for _ in range(rounds):
        change, _ = _improve(off, ptr, idx, p, r, V, policy, first, middle, 1, slack)
        visits += middle - first
        if change <= target:
            break
        _improve(off, ptr, idx, p, r, V, policy, middle, last, 1, slack)
        for _ in range(pairs):
            _evaluate(ptr, idx, p, r, V, policy, last - 1, first - 1, -1)
            _evaluate(ptr, idx, p, r, V, policy, first, last, 1)
        _evaluate(ptr, idx, p, r, V, policy, last - 1, first - 1, -1)
        visits += last - middle + (2 * pairs + 1) * (last - first)
    return change, float(visits)


_settle_window = settle_window.load()


@kernel(
    f"Tuple((int64, int64, float64))({MODEL}, float64[::1], uint32[::1], int64[::1], int64, int64, "
    "float64, float64, int64, float64)"
)
def slide(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    V: FloatArray,
    policy: UintArray,
    tiles: NDArray[np.int64],
    tile: int,
    ready: int,
    target: float,
    slack: float,
    pairs: int,
    most: float,
) -> tuple[int, int, float]:
    """Slide the window until every tile has left it, or so many states were visited.

    Takes and returns the tile that leaves next, and how many have entered; and returns how many
    states were visited.
    """
    last, visits = tiles.size - 1, 0.0
    while tile < last and visits < most:
        while ready < min(tile + _WINDOW + 1, last):  # the window, and a tile that it leans on
            _start(off, ptr, idx, p, r, V, policy, tiles[ready], tiles[ready + 1])
            ready += 1
        first, end = tiles[tile], tiles[min(tile + _WINDOW, last)]
        middle = tiles[min(tile + _CONVERGED, last)]
        _, work = _settle_window(
            off, ptr, idx, p, r, V, policy, first, middle, end, target, slack, _ROUNDS, pairs
        )
        visits += work
        tile += 1
    return tile, ready, visits


@kernel(
    f"UniTuple(float64, 2)({MODEL}, float64[::1], uint32[::1], int64[::1], boolean[::1], float64, "
    "float64, int64)"
)
def sweep_tiles(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    V: FloatArray,
    policy: UintArray,
    tiles: NDArray[np.int64],
    active: NDArray[np.bool_],
    target: float,
    slack: float,
    rounds: int,
) -> tuple[float, float]:
    """Up to `rounds` of sweeps over each active tile, which activate the tiles beside those that
    change by more than the target. Returns the largest change and the number of states visited."""
    worst, visits = 0.0, 0.0
    for tile in range(active.size):
        if not active[tile]:
            continue
        first, last = tiles[tile], tiles[tile + 1]
        moved = 0.0
        for _ in range(rounds):
            change, _ = _improve(off, ptr, idx, p, r, V, policy, first, last, 1, slack)
            visits += last - first
            moved = max(moved, change)
            if change <= target:
                break
            for _ in range(2):
                _evaluate(ptr, idx, p, r, V, policy, last - 1, first - 1, -1)
                _evaluate(ptr, idx, p, r, V, policy, first, last, 1)
            visits += 4 * (last - first)
        worst = max(worst, moved)
        active[tile] = moved > target
        if moved > target:
            active[max(tile - 1, 0)] = True
            active[min(tile + 1, active.size - 1)] = True
    return worst, visits
