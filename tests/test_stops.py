"""Solvers that are stopped, by their time or by Ctrl-C; and what other packages get wrong.

Each fault of the second kind was seen in a widely used solver of finite MDPs.
"""

from __future__ import annotations

import _thread
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
from scipy.sparse import csr_array

from rlkit import MDP, evaluate_policy, registry, solve
from rlkit.envs.gridworld import GridWorld
from rlkit.errors import ModelError, RlkitWarning, UsageError
from rlkit.mdp import certifier
from rlkit.mdp.goal import OutOfTimeError

METHODS = sorted(registry.SOLVERS)
TOL = 1e-2  # of values of 10⁵
SWEEPING = ["gauss-seidel", "modified-policy-iteration", "value-iteration"]


def fair_walk(n, gamma):
    """On or back, half each, at a cost of 1: sweeps need about n² of them."""
    i = np.arange(n)
    P = np.zeros((n, n))
    P[i[:-1], i[1:]] = P[i[1:], i[:-1]] = 0.5
    return MDP.from_pairs(csr_array(P), -np.ones(n), np.arange(n + 1), gamma)


@pytest.mark.parametrize(
    ("method", "gamma"),
    [*((method, 1 - 1e-6) for method in SWEEPING), ("gauss-seidel", 1.0), ("value-iteration", 1.0)],
)
def test_time_limits_end_with_what_is_certified_so_far(method, gamma):
    mdp = fair_walk(400, gamma)
    exact = solve(mdp, "policy-iteration", tol=TOL)
    since = time.perf_counter()
    with pytest.warns(RlkitWarning, match=r"max_seconds=0\.1 are over .* certified to within"):
        solution = solve(mdp, method, tol=TOL, max_seconds=0.1)
    assert time.perf_counter() - since < 5
    assert solution.error_bound > TOL
    assert np.all(solution.lower <= exact.upper)
    assert np.all(exact.lower <= solution.upper)
    assert np.isfinite(solution.values).all()


@pytest.mark.parametrize("method", METHODS)
def test_time_limits_that_suffice_change_nothing(method):
    mdp = GridWorld(size=10).mdp(0.9)
    limited, free = solve(mdp, method, max_seconds=60), solve(mdp, method)
    np.testing.assert_array_equal(limited.values, free.values)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_time_limits_that_are_none_are_refused(seconds):
    with pytest.raises(UsageError, match="max_seconds="):
        solve(GridWorld(size=5).mdp(0.9), max_seconds=seconds)


@pytest.mark.parametrize("method", SWEEPING)
def test_ctrl_c_returns_the_bounds_reached_so_far(method):
    mdp = fair_walk(1000, 1 - 1e-6)
    exact = solve(mdp, "policy-iteration", tol=TOL)
    timer = threading.Timer(0.15, _thread.interrupt_main)
    timer.start()
    with pytest.warns(RlkitWarning, match="interrupted after"):
        solution = solve(mdp, method, tol=TOL)
    timer.join()
    assert np.all(solution.lower <= exact.upper)
    assert np.all(exact.lower <= solution.upper)


@pytest.fixture
def at_a_loss(monkeypatch):
    """Nothing can be proven of the values; but there is time."""
    monkeypatch.setattr(certifier, "reached_bounds", lambda *_: None)
    monkeypatch.setattr(certifier, "_GRACE", 60.0)


def stopped(r):
    """What is left of a solve of a fair walk with rewards r at γ = 1, and the exact values."""
    walk = fair_walk(len(r), 1.0)
    mdp = MDP.from_pairs(walk.P, r, walk.offsets, 1.0)
    exact = evaluate_policy(mdp, np.zeros(len(r), dtype=int))
    found = certifier.stopped_bounds(mdp, np.random.default_rng(6).normal(size=len(r)))
    slack = 1e-9 * np.abs(exact).max()
    assert np.all(found.lower <= np.minimum(found.values, exact + slack))
    assert np.all(found.upper >= np.maximum(found.values, exact - slack))
    return found, exact


@pytest.mark.usefixtures("at_a_loss")
def test_costs_are_bounded_before_values_are_any_good():
    # They are nothing at most, and what it takes to go on until it ends for sure at least.
    found, exact = stopped(-np.ones(500))
    s = np.arange(500)
    np.testing.assert_allclose(exact, -(s + 1.0) * (500 - s))
    assert np.all(found.upper <= 0.0)
    np.testing.assert_allclose(found.lower, exact, rtol=1e-6)


def test_rewards_for_ending_bound_the_values(at_a_loss, monkeypatch):
    monkeypatch.setattr(certifier, "_PROMPT", 0)  # as of large models: no linear systems
    r = np.zeros(500)
    r[[0, -1]] = 4.0, 1.0  # which end half of the time: they are worth 8 and 2
    found, exact = stopped(r)
    assert exact.max() > 7.98
    assert exact.min() < 2.02
    np.testing.assert_allclose(found.lower, 2.0, rtol=1e-6)
    np.testing.assert_allclose(found.upper, 8.0, rtol=1e-6)


def test_where_rewards_are_of_both_signs_nothing_is_known_from_above(at_a_loss, monkeypatch):
    r = np.where(np.arange(500) % 3, -1.0, 1.0)
    found, exact = stopped(r)
    np.testing.assert_allclose(found.lower, exact, rtol=1e-6)
    assert np.all(found.upper == np.inf)
    monkeypatch.setattr(certifier, "_PROMPT", 0)
    assert np.all(stopped(r)[0].lower == -np.inf)


def test_wide_bounds_are_cut_where_no_value_can_be():
    mdp = fair_walk(500, 1.0)
    assert certifier.reached_bounds(mdp, np.zeros(500)).upper.max() > 1e5
    assert np.all(certifier.stopped_bounds(mdp, np.zeros(500)).upper <= 0.0)


@pytest.mark.parametrize("late", [1, 2, 3])
def test_time_limits_hold_while_loops_are_looked_for(monkeypatch, late):
    calls = []

    def check_time(goal):
        calls.append(goal)
        if len(calls) == late:
            raise OutOfTimeError

    monkeypatch.setattr("rlkit.mdp.goal.Goal.check_time", check_time)
    # Loops at 0 in the first two states, and one at a profit, less the cost to get there.
    P = csr_array(np.eye(4)[[0, 1, 1, 0, 3, 2, 3]] * [[1], [1], [1], [1], [1], [1], [0]])
    mdp = MDP.from_pairs(P, [0, 0, 0, 0, 1.0, -2.0, -1.0], [0, 1, 3, 5, 7], 1.0)
    with pytest.warns(RlkitWarning, match="are over .* certified to nothing yet"):
        solution = solve(mdp, "value-iteration", max_seconds=60.0)
    assert solution.error_bound == np.inf


def test_linear_programs_are_stopped():
    since = time.perf_counter()
    mdp = GridWorld(size=80, slip=0.3).mdp(0.999)
    with pytest.warns(RlkitWarning, match=r"max_seconds=0\.2 are over .* certified to within"):
        solve(mdp, "linear-programming", max_seconds=0.2)
    assert time.perf_counter() - since < 10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1"])
def test_tied_actions_end_policy_iteration(method, name):
    solution = solve(MDP.from_gymnasium(gym.make(name), 0.99), method)
    assert solution.error_bound <= 1e-6
    if method == "policy-iteration":
        assert solution.sweeps < 30


@pytest.mark.parametrize("method", METHODS)
def test_no_default_limit_of_sweeps_ends_with_a_wrong_answer(method):
    # 250 sweeps, a default elsewhere, would leave errors of hundreds here.
    mdp = fair_walk(60, 0.9999)
    P = mdp.P.toarray()
    exact = np.linalg.solve(np.eye(60) - 0.9999 * P, -np.ones(60))
    np.testing.assert_allclose(solve(mdp, method).values, exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_stopping_rule_allows_for_the_discount(method):
    # One state, cost 1 for ever: V = -1 / (1 - γ). A residual of 1e-6 is an error of 1e-3.
    mdp = MDP.from_pairs(csr_array([[1.0]]), [-1.0], [0, 1], 0.999)
    np.testing.assert_allclose(solve(mdp, method).values, -1000.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused_and_never_solved(bad):
    P = np.full((1, 2, 1), 1.0)
    with pytest.raises(ModelError, match="state 0, action 1"):
        MDP.from_arrays(P, [[0.0, bad]], 0.9)
    P[0, 1, 0] = bad
    with pytest.raises(ModelError, match="state 0, action 1"):
        MDP.from_arrays(P, [[0.0, 0.0]], 0.9)


@pytest.mark.parametrize("method", METHODS)
def test_undiscounted_models_come_with_a_guarantee(method):
    solution = solve(MDP.from_gymnasium(gym.make("CliffWalking-v1"), 1.0), method)
    assert solution.error_bound <= 1e-6
    assert solution.lower[36] <= -13 <= solution.upper[36]


@pytest.mark.parametrize("method", METHODS)
def test_duplicate_successors_count_twice_and_ends_end(method):
    # FrozenLake's P lists a successor twice, and leads on from what it calls terminated.
    P = {0: {0: [(0.25, 0, -1.0, False), (0.25, 0, -1.0, False), (0.5, 0, -1.0, True)]}}
    solution = solve(MDP.from_gymnasium(P, 1.0), method)
    np.testing.assert_allclose(solution.values, [-2.0], rtol=0, atol=1e-6)
