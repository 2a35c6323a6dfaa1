"""The compiled solvers on models of some size: against linear programs, and against each other."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import csr_array

from rlkit import MDP, evaluate_policy, registry, solve
from rlkit.envs.gridworld import GridWorld
from rlkit.errors import ModelError
from rlkit.mdp import compiled_solver, iterate, upwind

METHODS = sorted(registry.SOLVERS)
COMPILED = ["gauss-seidel", "inexact-policy-iteration", "upwind-gauss-seidel"]
SEEDS = st.integers(0, 10**6)


def linear_program(mdp):
    """V*, or None where it is not finite: min Σ V with V(s) ≥ r + γ Σ p V for all pairs.

    At γ = 1 the states that free loops join would have to be merged first: rewards are not 0 here.
    """
    here = csr_array(
        (np.ones(mdp.n_pairs), (np.arange(mdp.n_pairs), mdp.pair_state)), shape=mdp.P.shape
    )
    limits = [(0, 0) if end else (None, None) for end in mdp.terminal]
    found = linprog(
        np.ones(mdp.n_states), A_ub=mdp.gamma * mdp.P - here, b_ub=-mdp.r, bounds=limits
    )
    return found.x if found.status == 0 else None


def random_model(seed, gamma, rewards):
    """30 to 80 states: terminals, ragged action sets, missing mass, ties, unreachable states."""
    rng = np.random.default_rng(seed)
    S = int(rng.integers(30, 80))
    local = rng.random() < 0.5  # successors near by, so that the way to the end is long
    rows, r, counts = [], [], []
    for state in range(S):
        count = 0 if state in (0, S // 2) else int(rng.integers(1, 5))
        counts.append(count)
        for _ in range(count):
            reach = 4 if local else S
            successors = (state + rng.integers(-reach, reach + 1, size=3)) % S
            row = np.zeros(S)
            np.add.at(row, successors, rng.multinomial(8, [0.5, 0.3, 0.2]) / 8)
            if rng.random() < 0.1:
                row *= rng.integers(0, 8) / 8  # ends with the rest
            rows.append(row)
            r.append(float(rng.choice(rewards)))
            if rng.random() < 0.2:  # the same action once more
                rows.append(row)
                r.append(r[-1])
                counts[-1] += 1
    return MDP.from_pairs(
        csr_array(np.array(rows)), r, np.concatenate([[0], np.cumsum(counts)]), gamma
    )


def assert_solves(mdp, method, exact, tol):
    solution = solve(mdp, method, tol)
    slop = 1e-6 * max(1.0, np.abs(exact).max())  # HiGHS' own tolerances
    assert solution.error_bound <= tol
    assert np.all(solution.upper - solution.lower <= 2 * tol)
    assert np.all(solution.lower - slop <= exact)
    assert np.all(exact <= solution.upper + slop)
    np.testing.assert_allclose(solution.values, exact, rtol=0, atol=slop + tol)
    worth = evaluate_policy(mdp, solution.policy)
    np.testing.assert_allclose(worth, solution.values, rtol=1e-5, atol=1e-4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=SEEDS, gamma=st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_discounted_models_agree_with_a_linear_program(seed, gamma):
    mdp = random_model(seed, gamma, rewards=(-2, -1, 0, 0, 1, 3))
    exact = linear_program(mdp)
    for method in METHODS:
        assert_solves(mdp, method, exact, 1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_undiscounted_models_agree_with_a_linear_program(seed):
    mdp = random_model(seed, 1.0, rewards=(-2, -1, -1, -0.5))
    exact = linear_program(mdp)
    for method in METHODS:
        if exact is None:
            with pytest.raises(ModelError, match="can reach no terminal state"):
                solve(mdp, method)
        else:
            assert_solves(mdp, method, exact, 1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_undiscounted_models_with_rewards_are_solved_or_refused_by_all_alike(seed):
    mdp = random_model(seed, 1.0, rewards=(-2, -1, 0, 0, 0.25))
    try:
        exact = solve(mdp, "policy-iteration", tol=1e-7)
    except ModelError as refusal:
        for method in METHODS:
            with pytest.raises(ModelError, match="^" + re.escape(str(refusal)) + "$"):
                solve(mdp, method)
        return
    for method in METHODS:
        solution = solve(mdp, method)
        assert np.all(solution.lower <= exact.upper)
        assert np.all(exact.lower <= solution.upper)
        np.testing.assert_allclose(
            evaluate_policy(mdp, solution.policy), exact.values, rtol=1e-5, atol=1e-4
        )


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of a few states, so that small models have many."""
    monkeypatch.setattr(upwind, "_LEAST_STATES", 1)
    monkeypatch.setattr(upwind, "_LEVELS", (2, 60))
    monkeypatch.setattr(upwind, "_MOST_AGAINST", 1.0)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("gamma", [0.9, 0.999, 1.0])
@pytest.mark.parametrize("slip", [0.0, 0.2, 0.4])
def test_windows_over_many_tiles(gamma, slip, monkeypatch):
    mdp = GridWorld(size=40, slip=slip, step_cost=0.7).mdp(gamma)
    calls = []
    slide = upwind._slide
    monkeypatch.setattr(upwind, "_slide", lambda *args: calls.append(slide(*args)))
    solution = solve(mdp, "upwind-gauss-seidel")
    exact = solve(mdp, "policy-iteration", tol=1e-7)
    assert solution.error_bound <= 1e-6
    assert np.all(solution.lower <= exact.upper)
    assert np.all(exact.lower <= solution.upper)
    assert calls


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("wrong", [-1e3, 1e3])
def test_a_window_that_begins_with_wrong_values_ends_with_the_right_ones(wrong, monkeypatch):
    mdp = GridWorld(size=40, slip=0.2).mdp(0.99)

    def start(off, ptr, idx, p, r, V, policy, first, last):
        V[first:last] = wrong
        policy[first:last] = off[first:last]

    monkeypatch.setattr(upwind.kernels, "start", start)
    solution = solve(mdp, "upwind-gauss-seidel")
    exact = solve(mdp, "policy-iteration", tol=1e-7)
    assert solution.error_bound <= 1e-6
    assert np.all(solution.lower <= exact.upper)
    assert np.all(exact.lower <= solution.upper)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("gamma", [0.99, 1.0])
def test_what_the_window_leaves_unsettled_is_swept_again(gamma, monkeypatch):
    mdp = GridWorld(size=40, slip=0.2).mdp(gamma)

    def no_slide(iterate, plan, target):
        iterate.begun = True

    monkeypatch.setattr(upwind, "_slide", no_slide)
    solution = solve(mdp, "upwind-gauss-seidel")
    exact = solve(mdp, "policy-iteration", tol=1e-7)
    assert solution.error_bound <= 1e-6
    assert solution.reason == "it was asked for"  # no other method had to help
    assert np.all(solution.lower <= exact.upper)
    assert np.all(exact.lower <= solution.upper)


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_policies_that_cannot_be_evaluated_are_swept_past(gamma, monkeypatch):
    mdp = GridWorld(size=12, slip=0.2).mdp(gamma)

    def evaluate(it, target):
        it.V[:] = -1e9
        raise iterate.StalledError

    def last_resort(*_):
        raise AssertionError("sweeps should have done")

    monkeypatch.setattr(iterate, "evaluate", evaluate)
    monkeypatch.setattr(compiled_solver, "_last_resort", last_resort)
    solution = solve(mdp, "inexact-policy-iteration")
    exact = solve(mdp, "policy-iteration", tol=1e-7)
    assert solution.error_bound <= 1e-6
    assert np.all(solution.lower <= exact.upper)
    assert np.all(exact.lower <= solution.upper)


@pytest.mark.parametrize("gamma", [0.99, 1.0])
def test_what_stalls_is_left_to_howard(gamma, monkeypatch):
    mdp = GridWorld(size=20, slip=0.2).mdp(gamma)
    expected = solve(mdp, "policy-iteration")

    def settle(iterate, target):
        raise compiled_solver.StalledError

    found = compiled_solver.certified(mdp, compiled_solver.Goal(1e-6, np.inf), settle)
    np.testing.assert_array_equal(found.values, expected.values)


@pytest.mark.parametrize("method", COMPILED)
def test_no_more_than_numpy_decides_what_is_returned(method):
    # The numbering is not what the solver works in: permute, solve, permute back.
    mdp = GridWorld(size=30, slip=0.2).mdp(0.99)
    order = np.random.default_rng(0).permutation(mdp.n_states)
    new = np.argsort(order)
    counts = np.diff(mdp.offsets)[order]
    rows = np.concatenate([np.arange(*mdp.offsets[s : s + 2]) for s in order])
    shuffled = MDP.from_pairs(
        mdp.P[rows][:, order], mdp.r[rows], np.concatenate([[0], np.cumsum(counts)]), 0.99
    )
    one, other = solve(mdp, method), solve(shuffled, method)
    np.testing.assert_allclose(one.values, other.values[new], rtol=0, atol=2e-6)
    assert one.values.shape == one.policy.shape == (mdp.n_states,)
    np.testing.assert_array_equal(one.policy < 0, mdp.terminal)


def shuffled_path(n, rng):
    """To the end and past it, or two at a time at a cost; the states have numbers in no order."""
    number = rng.permutation(n)
    rows = np.repeat(np.arange(2 * n), 2)
    place = np.minimum(np.arange(n)[:, None] + [1, 2, 2, 3], n - 1)[np.argsort(number)]
    data = np.tile([0.7, 0.2, 0.6, 0.3], n)
    P = csr_array((data, (rows, number[place].ravel())), shape=(2 * n, n))
    return MDP.from_pairs(P, rng.normal(size=2 * n), np.arange(0, 2 * n + 1, 2), 0.99)


@pytest.mark.parametrize("wide", [False, True])
def test_what_was_solved_before_does_not_change_a_bit(wide):
    def make():
        rng = np.random.default_rng(5)
        if not wide:  # where `auto` gives up the search for components, and "topological" does not
            return shuffled_path(6000, rng)
        P = rng.dirichlet(np.ones(120), size=360)  # compiled sweeps add up rows in four parts
        return MDP.from_pairs(csr_array(P), rng.normal(size=360), range(0, 361, 3), 0.9)

    methods = ["auto", *(name for name in METHODS if name != "linear-programming")]
    alone = {method: solve(make(), method) for method in methods}
    used = make()
    for _ in range(2):  # the second time after all the others
        after = {method: solve(used, method) for method in methods}
    for method in methods:
        assert alone[method].reason == after[method].reason
        for name in ("values", "lower", "upper", "q", "policy"):
            one, other = (getattr(found[method], name) for found in (alone, after))
            np.testing.assert_array_equal(one, other, err_msg=f"{method} {name}")
