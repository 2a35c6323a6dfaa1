"""Value iteration in topological order: each strongly connected component once, ends first.

Dai, Mausam, Weld and Goldsmith, Topological Value Iteration Algorithms (Journal of Artificial
Intelligence Research 42, 2011). A component that is a single state takes one backup, whatever its
self-loops; small ones policy iteration or Gauss–Seidel sweeps, all of them compiled; large ones
what `rlkit.solve` would take for a model of their own. See rlkit/mdp/in_turn.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkit.mdp.bounds import Bounds
from rlkit.mdp.compact import Compact
from rlkit.mdp.compiled_solver import certified
from rlkit.mdp.components import NEARLY_ALL, Components
from rlkit.mdp.flow import Flow
from rlkit.mdp.goal import Goal
from rlkit.mdp.in_turn import settle_components
from rlkit.mdp.iterate import Iterate
from rlkit.mdp.model import MDP
from rlkit.mdp.order import Order, flow_order
from rlkit.mdp.solver import exact_solver
from rlkit.mdp.upwind import Upwind

_LARGE = 1_000  # states of a component that is solved like a model of its own


@exact_solver("topological")
def topological(mdp: MDP, goal: Goal) -> Bounds:
    """Solve `mdp` to ‖values − V*‖∞ ≤ goal.tol component by component; see `rlkit.solve`."""
    found = Components.of(mdp)
    if found.largest > max(_LARGE, NEARLY_ALL * mdp.n_states):
        goal.notes.append(f"one component has {found.largest:,} of the states: upwind Gauss-Seidel")
        return certified(mdp, goal, Upwind())
    goal.notes.append(f"{found.count:,} components, the largest of {found.largest:,} states")
    if found.largest <= 1:
        n = found.order.size
        in_turn = InTurn(found.starts, np.zeros(n, dtype=np.int64))
        return certified(mdp, goal, in_turn, Order(found.order, np.array([0, n])))
    component = np.empty(mdp.n_states, dtype=np.int32)
    component[found.order] = np.repeat(np.arange(found.count), np.diff(found.starts))
    # Inside a component, states follow one another along the way from the ends.
    flow, levels = flow_order(mdp, Compact.of(mdp))
    places = np.argsort(component[flow], kind="stable")
    in_turn = InTurn(found.starts, np.searchsorted(levels, places, side="right"))
    return certified(mdp, goal, in_turn, Order(flow[places], levels))


class InTurn:
    """Brings iterates in topological order to their targets, one component after the other.

    starts: (components + 1,) where each begins in the order.
    depth: (n,) the distance of each state of the order from an end, which rises in a component.
    """

    def __init__(self, starts: NDArray[np.int64], depth: NDArray[np.generic]) -> None:
        self._starts = starts
        self._depth = depth
        self._upwind: dict[int, Upwind] = {}  # for components that are large or hard

    def __call__(self, iterate: Iterate, target: float) -> float:
        """As `rlkit.mdp.iterate.settle`: see there for what is raised."""
        flow, goal = iterate.flow, iterate.goal
        least = iterate.slack_for(0.0)
        component, worst = 0, 0.0
        while True:
            component, visits, change = settle_components(
                *flow.model,
                iterate.V,
                iterate.policy,
                self._starts,
                component,
                _LARGE,
                iterate.begun,
                target,
                least,
                iterate.slack_for(1.0) - least,
            )
            goal.sweeps += visits / max(flow.n_states, 1)
            goal.check_time()
            worst = max(worst, change)
            if component == self._starts.size - 1:
                break
            worst = max(worst, self._settle(iterate, component, target))
            component += 1
        iterate.begun = True
        return worst

    def _settle(self, iterate: Iterate, component: int, target: float) -> float:
        """Settle a component that is large or hard, as a model of its own; the last change."""
        first, last = self._starts[component : component + 2].tolist()
        outer, share = iterate.goal, (last - first) / iterate.flow.n_states
        goal = Goal(outer.tol, max(outer.max_seconds - outer.seconds, 0.0))
        part = Iterate(self._alone(iterate, first, last), goal)
        part.begun = iterate.begun
        part.V[:] = iterate.V[first:last]
        part.policy[:] = iterate.policy[first:last] - iterate.flow.off[first]
        settled = self._upwind.setdefault(component, Upwind())
        try:
            return settled(part, target)
        finally:
            iterate.V[first:last] = part.V
            iterate.policy[first:last] = part.policy + iterate.flow.off[first]
            outer.sweeps += share * goal.sweeps

    def _alone(self, iterate: Iterate, first: int, last: int) -> Flow:
        """States first..last; what others, which are settled, are worth is part of the rewards."""
        flow = iterate.flow
        begin, end = int(flow.off[first]), int(flow.off[last])
        entries = slice(int(flow.ptr[begin]), int(flow.ptr[end]))
        idx, p = flow.idx[entries], flow.p[entries]
        row = np.repeat(np.arange(end - begin), np.diff(flow.ptr[begin : end + 1]))
        inside = idx >= first
        gone = ~inside
        counts = np.bincount(row[inside], minlength=end - begin)
        worth = p[gone] * iterate.V[idx[gone]]
        return Flow(
            flow.off[first : last + 1] - flow.off[first],
            np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32),
            idx[inside] - np.uint32(first),
            p[inside],
            flow.r[begin:end] + np.bincount(row[gone], worth, minlength=end - begin),
            np.arange(last - first, dtype=np.uint32),
            np.append(np.unique(self._depth[first:last], return_index=True)[1], last - first),
        )
