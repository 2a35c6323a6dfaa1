"""Upwind Gauss–Seidel where episodes need not end, or end where nobody wants them to.

What is counted are sweeps, which are the same on every machine.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import csr_array

from rlkit import MDP, solve
from rlkit.envs.grid_maps import GridMaps, model
from rlkit.envs.grids import frozen_lake
from rlkit.envs.gridworld import GridWorld
from rlkit.mdp import compiled_solver, upwind
from rlkit.mdp import order as order_module
from rlkit.mdp.compact import Compact
from rlkit.mdp.compiled_solver import Ordered
from rlkit.mdp.graph import can_end
from rlkit.mdp.order import _predecessors, ending_rewards, flow_order, upwind_order


def walled(n, seed=0, share=0.1):
    """A map with cells that its walls cut off, and the same map with those cells filled in."""
    cells = np.where(np.random.default_rng(seed).random((n, n)) < share, "#", ".")
    cells[0, 0], cells[-1, -1] = "S", "G"
    parts, _ = ndimage.label(cells != "#")
    filled = np.where(parts == parts[0, 0], cells, "#")
    return ["".join(row) for row in cells], ["".join(row) for row in filled]


def overlap(a, b):
    return np.all(a.lower <= b.upper) and np.all(b.lower <= a.upper)


@pytest.mark.parametrize("gamma", [0.99, 0.999])
def test_cells_without_a_way_out_cost_no_more_than_others(gamma):
    cells, filled = (GridWorld(rows) for rows in walled(200))
    cut_off = filled.grid.cells[cells.grid.cells != "#"] == "#"
    assert cut_off.any()
    solution, plain = (solve(env.mdp(gamma), "upwind-gauss-seidel") for env in (cells, filled))
    assert solution.error_bound <= 1e-6
    assert solution.reason == "it was asked for"  # no other method had to help
    assert solution.sweeps <= plain.sweeps + 5
    np.testing.assert_allclose(solution.values[~cut_off], plain.values, rtol=0, atol=2e-6)
    for_ever = -cells.step_cost / (1 - gamma)
    np.testing.assert_allclose(solution.values[cut_off], for_ever, rtol=0, atol=1e-6)


def test_values_that_are_flat_need_no_more_sweeps_than_steep_ones():
    env = GridWorld(size=200, slip=0.2)
    flat, steep = (solve(env.mdp(gamma), "upwind-gauss-seidel") for gamma in (0.9, 0.999))
    level = -env.step_cost / (1 - 0.9)
    assert np.mean(np.abs(flat.values - level) < 1e-3) > 0.9
    assert np.mean(np.abs(flat.values - level) < 1e-12) > 0.3  # but for rounding
    assert flat.sweeps < steep.sweeps <= 80


@pytest.mark.parametrize("gamma", [0.99, 0.999])
def test_lakes_are_swept_from_their_goal_alone(gamma):
    mdp = frozen_lake(gamma, size=60, seed=1)
    solution = solve(mdp, "upwind-gauss-seidel")
    exact = solve(mdp, "policy-iteration", tol=1e-7)
    assert solution.error_bound <= 1e-6
    assert solution.reason == "it was asked for"
    assert overlap(solution, exact)


def test_far_from_all_rewards_hardly_anything_is_swept():
    few, many = (solve(frozen_lake(0.99, size=n), "upwind-gauss-seidel") for n in (60, 240))
    assert many.sweeps < few.sweeps / 2


@pytest.mark.parametrize("seed", range(6))
def test_traps_are_settled_before_what_leads_into_them(seed, monkeypatch):
    monkeypatch.setattr(upwind, "_LEAST_STATES", 1)
    monkeypatch.setattr(upwind, "_LEVELS", (2, 3))
    monkeypatch.setattr(upwind, "_MOST_AGAINST", 1.0)
    mdp = trapped(seed, 0.95)
    slid = []
    slide = upwind._slide
    monkeypatch.setattr(upwind, "_slide", lambda *args: slid.append(slide(*args)))
    solution = solve(mdp, "upwind-gauss-seidel")
    assert slid
    assert solution.error_bound <= 1e-6
    assert overlap(solution, solve(mdp, "policy-iteration", tol=1e-7))


def trapped(seed, gamma, n=60):
    """A random walk along a line that ends on the left, with 12 states off it that never end."""
    rng = np.random.default_rng(seed)
    rows, r, counts = [], [], []
    for s in range(n):
        counts.append(2)
        for on in (0.7, 0.4):
            row = np.zeros(n + 12)
            if s:
                row[s - 1] = on
            row[min(s + 1, n - 1)] += 0.9 - on
            row[n + rng.integers(12)] = 0.1
            rows.append(row)
            r.append(rng.normal())
    for _ in range(12):
        counts.append(2)
        for _ in range(2):
            row = np.zeros(n + 12)
            row[n:] = rng.dirichlet(np.ones(12))
            rows.append(row)
            r.append(rng.normal())
    return MDP.from_pairs(csr_array(rows), r, np.concatenate([[0], np.cumsum(counts)]), gamma)


@pytest.mark.parametrize("seed", range(6))
def test_states_without_an_end_come_first_and_lead_to_one_another_only(seed):
    mdp = trapped(seed, 0.9)
    order, levels = flow_order(mdp, Compact.of(mdp))
    first = order[: levels[0]]
    ends = can_end(mdp.P, mdp.pair_state, mdp.ends, mdp.terminal)
    np.testing.assert_array_equal(np.sort(first), np.flatnonzero(~ends))
    assert sorted(order.tolist()) == mdp.live.tolist()
    inside = np.isin(mdp.pair_state, first)
    assert np.all(np.isin(mdp.P[np.flatnonzero(inside)].indices, first))


def ends_of(step, ends, gamma=0.9):
    #   0: on, or end    1: on, or end    2: back, or on to the terminal 3
    P = csr_array(
        np.array([[0, 1, 0, 0], [0] * 4, [0, 0, 1, 0], [0] * 4, [1, 0, 0, 0], [0, 0, 0, 1]], float)
    )
    r = [step, ends[0], step, ends[1], step, ends[2]]
    return MDP.from_pairs(P, r, [0, 2, 4, 6, 6], gamma)


def test_the_search_begins_at_ends_that_earn_more_than_any_other_step():
    def first_level(step, ends):
        mdp = ends_of(step, ends)
        compact = Compact.of(mdp)
        rewards, largest = ending_rewards(mdp, compact, _predecessors(compact))
        assert (rewards.tolist(), largest) == ([*ends, -np.inf], step)
        order, levels = upwind_order(mdp, compact)
        return sorted(order[levels[0] : levels[1]].tolist())

    assert first_level(0.0, (1.0, 0.0, 0.5)) == [0, 2]
    assert first_level(0.7, (1.0, 0.0, 0.5)) == [0]
    assert first_level(2.0, (1.0, 0.0, 0.5)) == [0, 1, 2]  # none does: all of them
    assert first_level(-1.0, (-1.0, -1.0, -1.0)) == [0, 1, 2]


def two_rooms(gamma, pit):
    """Two rooms in a row of three cells each: the first has a goal at its left, both have a pit."""
    rows, r = [], []
    for s in range(6):
        for to in (s - 1, s + 1):
            row = np.zeros(6)
            inside = to // 3 == s // 3
            row[to if inside else 0] = inside
            rows.append(row)
            r.append(-0.01 if inside else 1.0 if to == -1 else pit)
    return MDP.from_pairs(csr_array(np.array(rows)), r, np.arange(0, 13, 2), gamma)


@pytest.mark.parametrize(
    ("gamma", "pit", "levels"),
    [
        (1.0, -1.0, [0, 2, 3, 4, 5, 6]),  # whoever has no goal ends sooner or later
        (0.999, -1.0, [0, 2, 3, 4, 5, 6]),  # -10 for ever
        (0.99, -1.01, [3, 4, 5, 6]),  # -1 for ever
    ],
)
def test_without_a_goal_ends_are_sought_that_pay_more_than_going_on_for_ever(gamma, pit, levels):
    mdp = two_rooms(gamma, pit)
    order, found = upwind_order(mdp, Compact.of(mdp))
    assert found.tolist() == levels
    assert sorted(order[:3].tolist()) == [3, 4, 5]
    assert order[3:].tolist() == [0, 1, 2]


@pytest.mark.parametrize("gamma", [0.9, 0.99, 0.999, 1.0])
@pytest.mark.parametrize(("size", "maps"), [(8, 300), (16, 60), (28, 20)])
def test_many_maps_with_crashes_at_once_take_few_sweeps(size, maps, gamma):
    rules = GridMaps(size)
    state = rules.start([np.random.default_rng((size, i)) for i in range(maps)])
    walls = state[: size**2].T.reshape(maps, size, size) > 0
    mdp = model(walls, state[size**2], gamma)
    solution = solve(mdp, "upwind-gauss-seidel")
    assert solution.error_bound <= 1e-6
    assert solution.reason == "it was asked for"
    assert solution.sweeps <= 60
    assert overlap(solution, solve(mdp, "policy-iteration", tol=1e-7))


def test_at_gamma_1_a_model_is_searched_once(monkeypatch):
    seen = []
    search = order_module._predecessors
    monkeypatch.setattr(order_module, "_predecessors", lambda x: seen.append(x) or search(x))
    solve(GridWorld(size=160, slip=0.2).mdp(1.0), "upwind-gauss-seidel")
    assert len(seen) == 1


@pytest.mark.parametrize("seed", range(2))
def test_lakes_without_discount_are_certified(seed):
    small, large = (frozen_lake(1.0, size=n, seed=seed) for n in (60, 150))
    solution = solve(small, "upwind-gauss-seidel")
    assert solution.error_bound <= 1e-6
    assert overlap(solution, solve(small, "policy-iteration"))
    solution = solve(large, "upwind-gauss-seidel")
    assert solution.error_bound <= 1e-6
    assert solution.sweeps <= 3600


def test_the_proof_for_a_lake_takes_no_longer_because_some_episodes_do(monkeypatch):
    def refuse(*_):
        raise AssertionError("the time that the longest episodes take was asked for")

    lake = frozen_lake(1.0, size=120, seed=1)
    exact = solve(lake, "inexact-policy-iteration", tol=1e-9)
    for name in ("_until_all_end", "longest"):
        monkeypatch.setattr(Ordered, name, refuse)
    for tol in (1e-4, 1e-6):
        found = solve(lake, "upwind-gauss-seidel", tol)
        assert found.error_bound <= tol
        assert np.all(found.lower <= exact.upper)
        assert np.all(exact.lower <= found.upper)
    monkeypatch.setattr(compiled_solver, "_MOST_STEPS", 2)  # in which nearly no episode ends
    with pytest.raises(AssertionError, match="longest episodes"):
        solve(lake, "upwind-gauss-seidel")
