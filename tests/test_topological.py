"""Strongly connected components in turn: against SciPy's, and against direct solves."""

from __future__ import annotations

import numpy as np
import pytest
from mdp_referee import random_mdp
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from rlkit import MDP, solve
from rlkit.agents import topological
from rlkit.envs.gridworld import GridWorld
from rlkit.mdp.components import Components
from rlkit.mdp.solve import pick_method


def layered(layers, width, actions=3, successors=4, gamma=0.99, seed=0, back=0.0):
    """Each layer leads to the next, the last to the end; with probability `back` to a state of the
    same layer."""
    rng = np.random.default_rng(seed)
    n = layers * width
    P = np.zeros((n * actions, n + 1))
    for s in range(n):
        first = (s // width + 1) * width
        for a in range(actions):
            to = np.minimum(first + rng.integers(0, width, successors), n)
            np.add.at(P[s * actions + a], to, (1 - back) / successors)
            P[s * actions + a, first - width + rng.integers(0, width)] += back
    offsets = np.append(np.arange(0, n * actions + 1, actions), n * actions)
    r = -rng.integers(1, 9, n * actions).astype(float)
    return MDP.from_pairs(csr_array(P), r, offsets, gamma)


def successors(mdp):
    """(S, S) pattern of the steps between states that are not terminal."""
    steps = mdp.P.tocoo()
    tails, heads = mdp.pair_state[steps.coords[0]], steps.coords[1]
    kept = ~mdp.terminal[heads]
    shape = (mdp.n_states, mdp.n_states)
    return csr_array((np.ones(int(kept.sum())), (tails[kept], heads[kept])), shape=shape)


def models():
    yield from (random_mdp(seed, 0.9, n_states=60, n_actions=2) for seed in range(12))
    yield layered(6, 5, back=0.2)
    yield GridWorld(size=12, slip=0.3).mdp(0.9)
    yield MDP.from_pairs(csr_array((0, 2)), [], [0, 0, 0], 0.9)


def test_components_are_scipys_and_each_follows_those_it_leads_to():
    for mdp in models():
        found = Components.of(mdp)
        assert sorted(found.order.tolist()) == mdp.live.tolist()
        mine = np.full(mdp.n_states, -1)
        mine[found.order] = np.repeat(np.arange(found.count), np.diff(found.starts))
        graph = successors(mdp)
        _, other = connected_components(graph, directed=True, connection="strong")
        pairs = set(zip(mine[mdp.live], other[mdp.live], strict=True))
        assert len(pairs) == found.count == np.unique(other[mdp.live]).size
        tails, heads = graph.tocoo().coords
        assert np.all(mine[tails] >= mine[heads])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_search_that_is_given_up(reverse):
    ahead = layered(400, 1, successors=1)  # a path: the first search from its beginning is long
    n = ahead.n_states
    order = np.arange(n)[::-1] if reverse else np.arange(n)
    counts = np.diff(ahead.offsets)[order]
    rows = np.concatenate([np.arange(*ahead.offsets[s : s + 2]) for s in order])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    path = MDP.from_pairs(ahead.P[rows][:, order], ahead.r[rows], offsets, 0.9)
    found = Components.if_many(path)
    assert found is not None
    assert found.count == n - 1
    assert Components.if_many(GridWorld(size=40).mdp(0.9)) is None


@pytest.mark.parametrize("gamma", [0.5, 0.99])
def test_an_acyclic_model_takes_one_backup_a_state_and_one_to_certify(gamma):
    mdp = layered(30, 20, gamma=gamma)
    solution = solve(mdp, "topological")
    assert solution.sweeps == 2
    assert solution.error_bound <= 1e-9
    V = np.zeros(mdp.n_states)
    for s in range(mdp.n_states - 2, -1, -1):  # backward induction, in the model's own order
        pairs = slice(*mdp.offsets[s : s + 2])
        V[s] = (mdp.r[pairs] + gamma * (mdp.P[pairs] @ V)).max()
    np.testing.assert_allclose(solution.values, V, rtol=0, atol=1e-11)


def test_staying_is_solved_for_not_iterated():
    n = 50
    P = np.zeros((n, n))
    P[np.arange(n), np.arange(n)] = 0.999
    P[np.arange(n - 1), np.arange(1, n)] = 0.001
    mdp = MDP.from_pairs(csr_array(P), -np.ones(n), np.arange(n + 1), 1.0)
    solution = solve(mdp, "topological", tol=1e-3)
    np.testing.assert_allclose(solution.values, -1000.0 * np.arange(n, 0, -1), rtol=1e-9)


@pytest.fixture(params=["eliminated", "swept", "alone"])
def way(request, monkeypatch):
    """How components of several states are settled; kernels are compiled, so their limits stay."""
    dense = 1 if request.param == "swept" else 32
    if request.param == "alone":
        monkeypatch.setattr(topological, "_LARGE", 1)
    return 20 if dense == 32 else 60


@pytest.mark.parametrize("gamma", [0.9, 0.999, 1.0])
def test_components_of_several_states_agree_with_policy_iteration(way, gamma, monkeypatch):
    mdp = layered(8, way, gamma=gamma, back=0.5)
    alone = []
    settle = topological.InTurn._settle
    monkeypatch.setattr(
        topological.InTurn, "_settle", lambda *args: alone.append(args) or settle(*args)
    )
    assert Components.of(mdp).largest > (32 if way == 60 else 2)
    solution = solve(mdp, "topological")
    exact = solve(mdp, "policy-iteration", tol=1e-7)
    assert solution.error_bound <= 1e-6
    assert "components" in solution.reason
    assert bool(alone) == (topological._LARGE == 1)
    assert np.all(solution.lower <= exact.upper)
    assert np.all(exact.lower <= solution.upper)


def test_a_component_too_hard_for_sweeps_is_solved_as_a_model_of_its_own(monkeypatch):
    # Two fair walks of 60 states, one after the other: sweeps alone take thousands of rounds.
    n = 60
    i = np.arange(2 * n)
    P = np.zeros((2 * n, 2 * n + 1))
    P[i, i + 1] += 0.5
    P[i, np.where(i % n, i - 1, i)] += 0.5
    offsets = np.append(np.arange(2 * n + 1), 2 * n)
    mdp = MDP.from_pairs(csr_array(P), -np.ones(2 * n), offsets, 1.0)
    settled = []
    settle = topological.InTurn._settle

    def spied(self, iterate, component, target):
        settled.append(component)
        return settle(self, iterate, component, target)

    monkeypatch.setattr(topological.InTurn, "_settle", spied)
    monkeypatch.setattr(topological, "_LARGE", 50)
    solution = solve(mdp, "topological")
    # from place j of a walk of n it takes n(n + 1) − j(j + 1) steps
    steps = n * (n + 1) - np.arange(n) * (np.arange(n) + 1)
    np.testing.assert_allclose(solution.values[n:-1], -steps, rtol=1e-9)
    np.testing.assert_allclose(solution.values[:n], -steps - steps[0], rtol=1e-9)
    assert {0, 1} <= set(settled)


def test_one_component_of_nearly_all_is_left_to_the_window():
    mdp = GridWorld(size=60).mdp(0.99)
    solution = solve(mdp, "topological")
    assert "upwind" in solution.reason
    np.testing.assert_array_equal(solution.values, solve(mdp, "upwind-gauss-seidel").values)


def test_auto_takes_it_where_states_never_come_back():
    assert pick_method(layered(150, 20, successors=8, actions=4))[0] == "topological"
    assert pick_method(GridWorld(size=120).mdp(0.99))[0] == "upwind-gauss-seidel"
