"""The certified bounds, and the promise that `tol` bounds the true error."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mdp_referee import discounted_optimum, random_mdp, undiscounted_optimum
from scipy.sparse import csr_array

from rlkit import MDP, evaluate_policy, registry, solve
from rlkit.errors import ModelError, RlkitWarning, RunError
from rlkit.mdp.bellman import q_values, state_max
from rlkit.mdp.bounds import macqueen_shifts
from rlkit.mdp.coarse import narrowed, no_bounds
from rlkit.mdp.episodic import merge_free_loops
from rlkit.mdp.goal import Goal
from rlkit.mdp.inductive import Unproven, longest_times

METHODS = sorted(registry.SOLVERS)
SEEDS = st.integers(0, 10**6)


def assert_encloses(solution, optimum, tol):
    assert np.all(solution.lower <= solution.upper)
    assert solution.error_bound <= tol
    for value, lower, upper, exact in zip(
        solution.values, solution.lower, solution.upper, optimum, strict=True
    ):
        assert Fraction(float(lower)) <= exact <= Fraction(float(upper))
        assert abs(Fraction(float(value)) - exact) <= Fraction(tol)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS, gamma=st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999]))
def test_bounds_enclose_the_rational_optimum(seed, gamma):
    mdp = random_mdp(seed, gamma)
    optimum = discounted_optimum(mdp)
    for method in METHODS:
        assert_encloses(solve(mdp, method, tol=1e-6), optimum, 1e-6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_undiscounted_models_are_solved_or_refused_as_enumeration_says(seed):
    mdp = random_mdp(seed, 1.0)
    optimum = undiscounted_optimum(mdp)
    for method in METHODS:
        if optimum is None:
            with pytest.raises(ModelError, match=r"^states? \d"):
                solve(mdp, method)
        else:
            solution = solve(mdp, method, tol=1e-6)
            assert_encloses(solution, optimum, 1e-6)
            # The policy is worth it: it neither misses an exit nor loops where that costs.
            value = evaluate_policy(mdp, solution.policy)
            np.testing.assert_allclose(value, solution.values, atol=1e-4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=SEEDS)
def test_undiscounted_models_without_positive_rewards(seed):
    mdp = random_mdp(seed, 1.0, rewards=(-3, -1, 0))
    optimum = undiscounted_optimum(mdp)
    for method in METHODS:
        if optimum is None:
            with pytest.raises(ModelError, match="can reach no terminal state"):
                solve(mdp, method)
        else:
            assert_encloses(solve(mdp, method, tol=1e-6), optimum, 1e-6)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(seed=SEEDS, rewards=st.sampled_from([(-3, -1, 0), (0, 1, 2), (-2, 0, 1)]))
def test_bounds_of_solves_that_are_stopped_at_once(seed, rewards):
    mdp = random_mdp(seed, 1.0, rewards=rewards)
    optimum = undiscounted_optimum(mdp)
    if optimum is None:
        return
    merged = merge_free_loops(mdp, Goal(1e-6, np.inf))
    for states in (0, 100):  # up to which there is time for a policy
        nothing = no_bounds(merged.mdp, np.zeros(merged.mdp.n_states))
        found = narrowed(merged.mdp, nothing, states, lambda: None)
        if states:
            assert np.all(np.isfinite(found.lower))
        for state, exact in zip(merged.state, optimum, strict=True):
            assert found.lower[state] <= exact <= found.upper[state]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=SEEDS, gamma=st.sampled_from([0.5, 0.9, 0.99]), spread=st.floats(0.0, 100.0))
def test_macqueen_bounds_hold_from_any_values(seed, gamma, spread):
    mdp = random_mdp(seed, gamma)
    V = np.random.default_rng(seed).normal(scale=spread, size=mdp.n_states) * ~mdp.terminal
    TV = state_max(mdp, q_values(mdp, V))
    closed = not (mdp.ends.any() or mdp.terminal.any())
    down, up = macqueen_shifts(mdp, V, TV, closed)
    optimum = discounted_optimum(mdp)
    for s in mdp.live:
        assert Fraction(TV[s]) + Fraction(down) <= optimum[s] <= Fraction(TV[s]) + Fraction(up)


@pytest.mark.parametrize("method", METHODS)
def test_a_small_residual_is_not_taken_for_a_small_error(method):
    # One state that pays 1e-6 and ends once in 4096 steps: V = 0 has a residual below tol.
    mdp = MDP.from_pairs(csr_array([[4095 / 4096]]), [1e-6], [0, 1], 1.0)
    solution = solve(mdp, method, tol=1e-5)
    assert abs(solution.values[0] - 4096e-6) <= solution.error_bound <= 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gamma", [0.99, 1.0])
def test_what_float64_cannot_certify_is_said_with_what_it_can(method, gamma):
    P = csr_array([[0.4, 0.3], [0.2, 0.5], [0.1, 0.7]])
    mdp = MDP.from_pairs(P, [1e9 / 3, 1e9 / 7, -1e9 / 9], [0, 1, 3], gamma)
    with pytest.warns(RlkitWarning, match=r"tol=1e-06 cannot be certified.*give tol=") as said:
        solution = solve(mdp, method)
    assert 1e-6 < solution.error_bound < 1.0
    assert f"to within {solution.error_bound:.2g}" in str(said[0].message)
    optimum = discounted_optimum(mdp) if gamma < 1 else undiscounted_optimum(mdp)
    assert_encloses(solution, optimum, solution.error_bound)
    advised = float(str(said[0].message).split("give tol=")[1].split(" ")[0])
    assert advised < 1.0
    assert solve(mdp, method, tol=advised).error_bound <= advised


@pytest.mark.parametrize("method", METHODS)
def test_free_loops_beside_costs_are_worth_nothing_or_better(method):
    # 0: wait for free, or pay 5 to go to 1. 1: wait for free, or end with 3.
    P = csr_array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    solution = solve(MDP.from_pairs(P, [0, -5, 0, 3], [0, 2, 4], 1.0), method)
    np.testing.assert_allclose(solution.values, [0.0, 3.0], atol=1e-6)
    assert solution.policy.tolist() == [0, 1]


@pytest.mark.parametrize("method", METHODS)
def test_the_policy_leaves_a_free_loop_where_that_pays(method):
    # 0, 1, 2 are joined by free moves; only 2 has a way out, which pays 1. Action 0 idles.
    P = csr_array(
        [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]], dtype=float
    )
    mdp = MDP.from_pairs(P, [0, 0, 0, 0, 0, 0, 1], [0, 2, 4, 7], 1.0)
    solution = solve(mdp, method)
    np.testing.assert_allclose(solution.values, 1.0, atol=1e-6)
    assert solution.policy.tolist() == [1, 1, 2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("P", "r", "message"),
    [
        ([[0, 1, 0], [0, 1, 0], [0, 0, 0]], [-1, -1, 0], "^states 0, 1 can reach no terminal"),
        ([[0, 0, 1], [0, 1, 0], [0, 0, 0]], [-1, 1, 0], "^state 1 can reach no terminal"),
    ],
)
def test_states_that_cannot_end_are_named(method, P, r, message):
    with pytest.raises(ModelError, match=message):
        solve(MDP.from_pairs(csr_array(P, dtype=float), r, [0, 1, 2, 3], 1.0), method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("back", [-1.0, -0.5])
def test_loops_that_pay_or_break_even_are_named(method, back):
    # 0 → 1 pays 1, 1 → 0 pays `back`; 1 may also end.
    P = csr_array([[0, 1], [1, 0], [0, 0]], dtype=float)
    with pytest.raises(ModelError, match=r"^states 0, 1 can be looped through for ever"):
        solve(MDP.from_pairs(P, [1, back, 0], [0, 1, 3], 1.0), method)


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_that_costs_next_to_nothing_is_solved_or_refused_but_never_wrong(method):
    P = csr_array([[1, 0], [0, 1], [0, 0]], dtype=float)
    mdp = MDP.from_pairs(P, [-1e-17, -1, -2], [0, 2, 3], 1.0)
    with pytest.raises((ModelError, RunError)):
        solve(mdp, method)


def test_states_are_named_as_the_user_numbers_them():
    # 0 and 1 are merged by their free moves, so that 2 and 3 have other numbers inside.
    P = csr_array(
        [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]],
        dtype=float,
    )
    mdp = MDP.from_pairs(P, [0, -1, 0, -1, -1e-17, -2], [0, 2, 3, 4, 6], 1.0)
    with pytest.raises(ModelError, match=r"^state 3 can loop for ever at no cost"):
        solve(mdp)


@pytest.mark.parametrize("method", METHODS)
def test_long_thin_random_walks(method):
    # Fair walk on 0..n, ends beyond either side, cost 1 a step: V(i) = -(i + 1)(n + 1 - i).
    n = 40
    P = np.zeros((n + 1, n + 1))
    i = np.arange(n)
    P[i, i + 1] = P[i + 1, i] = 0.5
    solution = solve(MDP.from_pairs(csr_array(P), -np.ones(n + 1), np.arange(n + 2), 1.0), method)
    k = np.arange(n + 1)
    np.testing.assert_allclose(solution.values, -(k + 1.0) * (n + 1 - k), atol=1e-6, rtol=0)


def walk_uphill(seed, n=50, n_actions=3):
    """On with about 0.42, else back to some state before: ends after about 10^9 steps."""
    rng = np.random.default_rng(seed)
    P = np.zeros((n, n_actions, n))
    on = 0.42 + rng.uniform(-0.05, 0.05, size=(n, n_actions))
    for s, a in np.ndindex(n, n_actions):
        P[s, a, rng.integers(0, s + 1)] += 1.0 - on[s, a]
        if s + 1 < n:
            P[s, a, s + 1] += on[s, a]
    offsets = n_actions * np.arange(n + 1)
    return MDP.from_pairs(csr_array(P.reshape(-1, n)), -np.ones(n * n_actions), offsets, 1.0)


@pytest.mark.timeout(20)
def test_times_so_long_that_rounding_hides_the_longest_are_given_up():
    given_up = 0
    for seed in range(10):
        mdp = walk_uphill(seed)
        w = longest_times(mdp, np.ones(mdp.n_pairs, dtype=bool))
        if isinstance(w, Unproven):
            given_up += 1
        else:
            assert np.all(w[mdp.pair_state] >= 0.5 + mdp.P @ w)
    assert given_up
    with pytest.raises(RunError):
        solve(walk_uphill(0))
