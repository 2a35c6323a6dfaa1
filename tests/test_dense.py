"""Few states with very many transitions: dense factors and policy iteration by them, refereed by
sparse ones, linear programming and definitions."""

from __future__ import annotations

import numpy as np
import pytest
from mdp_referee import random_mdp
from scipy.sparse import csr_array

from rlkit import MDP, solve
from rlkit.agents import policy_iteration
from rlkit.errors import RunError
from rlkit.mdp import linear
from rlkit.mdp.bellman import q_values, state_max
from rlkit.mdp.bounds import Bounds
from rlkit.mdp.compact import Compact
from rlkit.mdp.linear import quickly_solved, solve_chain
from rlkit.mdp.parallel import Sweeps


def inventory(levels=40, gamma=0.99, seed=0):
    """Levels 0..n, order up to n, random demand; states and rows are shuffled by the seed."""
    rng = np.random.default_rng(seed)
    sizes = np.arange(levels, -1, -1) + 1
    stock = np.concatenate([np.arange(level, levels + 1) for level in range(levels + 1)])
    bought = stock - np.repeat(np.arange(levels + 1), sizes)
    demand = rng.dirichlet(np.ones(levels + 1))
    P = np.zeros((stock.size, levels + 1))
    for d, p in enumerate(demand):
        np.add.at(P, (np.arange(stock.size), np.maximum(stock - d, 0)), p)
    sold = np.minimum(stock[:, None], np.arange(levels + 1)) @ demand
    r = 8.0 * sold - 2.0 * bought - 3.0 * (bought > 0) - stock
    return MDP.from_pairs(csr_array(P), r, np.append(0, np.cumsum(sizes)), gamma)


def ending(seed, gamma=0.95, S=12, A=30):
    """Dense rows, some of which lose mass; one state is terminal."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(S), (S - 1) * A) * rng.choice([1.0, 0.9], ((S - 1) * A, 1))
    offsets = np.append(np.arange(0, (S - 1) * A + 1, A), (S - 1) * A)
    offsets[5:] = np.append(offsets[4], offsets[5:])[: S - 4]  # state 4 is the terminal one
    return MDP.from_pairs(csr_array(P), rng.normal(size=(S - 1) * A), offsets, gamma)


MODELS = {
    "inventory": inventory,
    "inventory that forgets": lambda: inventory(seed=1, gamma=0.3),
    "ends": lambda: ending(0),
    "ends, undiscounted": lambda: ending(1, 1.0),
}


@pytest.fixture(params=sorted(MODELS))
def mdp(request):
    return MODELS[request.param]()


@pytest.mark.parametrize("seed", range(5))
def test_dense_factors_solve_what_sparse_ones_do(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    P = csr_array(rng.dirichlet(np.ones(30), 30) * 0.999)
    b = rng.normal(size=30)
    dense = solve_chain(P, 1.0, b)
    np.testing.assert_allclose(dense - P @ dense, b, rtol=0, atol=1e-12)
    used = []
    sparse = linear._sparse_solve
    monkeypatch.setattr(linear, "_sparse_solve", lambda *given: used.append(1) or sparse(*given))
    np.testing.assert_array_equal(solve_chain(P, 1.0, b), dense)
    assert not used
    monkeypatch.setattr(linear, "_MOST_DENSE", 0)
    np.testing.assert_allclose(solve_chain(P, 1.0, b), dense, rtol=1e-10)
    assert used


def test_a_dense_chain_that_never_ends_is_refused():
    for size in (1, 2, 4):
        P = csr_array(np.full((size, size), 1.0 / size))
        with pytest.raises(RunError, match="singular"):
            solve_chain(P, 1.0, np.ones(size))


def test_they_are_taken_where_they_take_less_than_a_sweep():
    assert all(quickly_solved(make()) for make in MODELS.values())
    assert not quickly_solved(random_mdp(0, 0.9, n_states=60, n_actions=3))  # a few pairs a state
    assert not quickly_solved(MDP.from_pairs(csr_array((0, 2)), [], [0, 0, 0], 0.9))


@pytest.mark.parametrize("large", [0, 10**9], ids=["compiled", "plain"])
def test_policy_iteration_by_them_agrees_with_linear_programming(mdp, large, monkeypatch):
    monkeypatch.setattr("rlkit.mdp.compact._LARGE", large)
    quick = solve(mdp, "policy-iteration")
    assert quick.error_bound <= 1e-6
    programmed = solve(mdp, "linear-programming")
    assert np.all(quick.lower <= programmed.upper)
    assert np.all(programmed.lower <= quick.upper)
    assert np.all((quick.lower <= quick.values) & (quick.values <= quick.upper))
    np.testing.assert_allclose(quick.q, q_values(mdp, quick.values), rtol=1e-12, atol=1e-9)
    monkeypatch.setattr(linear, "_MOST_DENSE", 0)
    slow = solve(mdp, "policy-iteration")
    np.testing.assert_allclose(quick.values, slow.values, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(quick.policy, slow.policy)


def test_states_that_switch_are_improved_by_themselves(monkeypatch):
    """On a model of which the plain algorithm needs more sweeps; the answer is the same."""
    monkeypatch.setattr("rlkit.mdp.compact._LARGE", 0)
    mdp = inventory(120)
    monkeypatch.setattr(policy_iteration, "_FEW", 0.0)
    plain = solve(mdp, "policy-iteration")
    monkeypatch.setattr(policy_iteration, "_FEW", 1.0)
    ahead = solve(mdp, "policy-iteration")
    assert ahead.sweeps < plain.sweeps
    np.testing.assert_array_equal(ahead.policy, plain.policy)
    np.testing.assert_allclose(ahead.values, plain.values, rtol=1e-12)


def test_values_outside_their_bounds_are_not_returned():
    zero, one = np.zeros(3), np.ones(3)
    bounds = Bounds(zero, zero - 1e-7, zero + 1e-7)
    inside = policy_iteration._with_q(bounds, zero + 5e-8, one, 1e-6)
    assert inside.q is one
    assert inside.values[0] == 5e-8
    for V, tol in ((zero + 2e-7, 1e-6), (zero - 2e-7, 1e-6), (zero + 5e-8, 1.2e-7)):
        assert policy_iteration._with_q(bounds, V, one, tol) is bounds


def test_a_sweep_over_some_states_leaves_the_others_alone():
    mdp = random_mdp(3, 0.9, n_states=30, n_actions=3)
    V = np.random.default_rng(0).normal(size=30)
    for states in ([0], [3, 4, 5], [0, 2, 3, 17, 29], list(range(30))):
        Q, TV = np.full(mdp.n_pairs, np.nan), np.full(30, np.nan)
        Sweeps(Compact.of(mdp), 0.9).some(np.array(states), V, TV, Q)
        swept = np.isin(np.arange(30), states)
        np.testing.assert_array_equal(np.isnan(TV), ~swept)
        np.testing.assert_array_equal(np.isnan(Q), ~swept[mdp.pair_state])
        expected = q_values(mdp, V)
        np.testing.assert_allclose(Q[swept[mdp.pair_state]], expected[swept[mdp.pair_state]])
        np.testing.assert_allclose(TV[swept], state_max(mdp, expected)[swept])
