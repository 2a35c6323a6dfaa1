"""Compiled kernels against NumPy, and the order that models are brought into."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from mdp_referee import random_mdp
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from rlkit import MDP, solve
from rlkit.envs.gridworld import GridWorld
from rlkit.mdp import bellman, inductive, kernels
from rlkit.mdp.compact import Compact
from rlkit.mdp.flow import arrange
from rlkit.mdp.graph import end_components, unending_states
from rlkit.mdp.krylov import bicgstab
from rlkit.mdp.order import flow_order
from rlkit.mdp.parallel import Sweeps

SEEDS = range(8)


def models(gamma):
    """Ragged, with terminals, self-loops and missing mass; one of them without pairs at all."""
    yield from (random_mdp(seed, gamma, n_states=40, n_actions=4) for seed in SEEDS)
    yield GridWorld(size=20, slip=0.3).mdp(gamma)
    yield MDP.from_pairs(csr_array((0, 2)), [], [0, 0, 0], gamma)


def test_large_models_get_the_same_operators(monkeypatch):
    for mdp in models(0.9):
        rng = np.random.default_rng(1)
        V, allowed = rng.normal(size=mdp.n_states), rng.random(mdp.n_pairs) < 0.7
        allowed[mdp.offsets[mdp.live]] = True
        results = []
        for large in (10**9, 0):  # once compiled kernels have seen a model, it stays with them
            monkeypatch.setattr("rlkit.mdp.compact._LARGE", large)
            Q, TV = bellman.backup(mdp, V)
            # Rewards are few, so that many actions tie.
            first = bellman.greedy(mdp, np.round(Q), 0.0)
            kept = bellman.greedy(mdp, np.round(Q), 0.5, incumbent=first)
            best = bellman.state_max(mdp, Q, allowed)
            results.append((Q, TV, first, kept, best, unending_states(mdp)))
        for plain, compiled in zip(*results, strict=True):
            np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-13)


def test_a_sweep_of_a_policy_without_maximum():
    mdp = MDP.from_arrays(np.full((5, 3, 5), 0.2), np.arange(15.0).reshape(5, 3), 0.9)
    V, TV = np.arange(5.0), np.empty(5)
    policy = np.array([2, 4, 6, 11, 12], dtype=np.uint32)
    kernels.follow(*Compact.of(mdp).arrays[1:], 0.9, policy, V, TV)
    np.testing.assert_allclose(TV, mdp.r[policy] + 0.9 * 2.0, rtol=0, atol=1e-14)


def reference_sweep(mdp, V, order, choice=None):
    """Gauss–Seidel backups one state at a time, self-loops solved for; V is changed in place."""
    dense, switched = mdp.P.toarray(), {}
    for s in order:
        best, arg = -np.inf, None
        pairs = range(mdp.offsets[s], mdp.offsets[s + 1]) if choice is None else [choice[s]]
        for pair in pairs:
            stay = mdp.gamma * dense[pair, s]
            rest = mdp.gamma * (dense[pair] @ V - dense[pair, s] * V[s])
            q = (mdp.r[pair] + rest) / (1 - stay)
            if q > best:
                best, arg = q, pair
        V[s], switched[s] = best, arg
    return switched


@pytest.mark.parametrize("step", [1, -1])
def test_gauss_seidel_sweeps_in_flow_order(step):
    for mdp in models(0.9):
        if not mdp.live.size:
            continue
        compact = Compact.of(mdp)
        order, levels = flow_order(mdp, compact)
        flow = arrange(mdp, compact, order, levels, mdp.r)
        V = np.random.default_rng(2).normal(size=mdp.n_states) * ~mdp.terminal
        mine, policy = V[order], flow.off[:-1].copy()
        n = order.size
        ends = (0, n) if step > 0 else (n - 1, -1)
        before = V.copy()
        taken = reference_sweep(mdp, V, order[::step])
        change, _ = kernels.improve(*flow.model, mine, policy, *ends, step, 0.0)
        np.testing.assert_allclose(mine, V[order], rtol=0, atol=1e-12)
        assert change == pytest.approx(np.abs(V - before).max(), abs=1e-12)
        # The same policy's own sweep.
        before = V.copy()
        reference_sweep(mdp, V, order[::step], taken)
        change = kernels.evaluate(*flow.model[1:], mine, policy, *ends, step)
        np.testing.assert_allclose(mine, V[order], rtol=0, atol=1e-12)
        assert change == pytest.approx(np.abs(V - before).max(), abs=1e-12)


def test_incumbents_stay_on_ties():
    # All end at once: ties but for rounding in states 0 and 1, and 1e-9 to be gained in state 2.
    r = [-1, -1, -1, -1 - 1e-13, -1, -1 - 1e-9]
    mdp = MDP.from_pairs(csr_array((6, 3)), r, [0, 2, 4, 6], 0.9)
    compact = Compact.of(mdp)
    flow = arrange(mdp, compact, *flow_order(mdp, compact), mdp.r)
    policy = np.array([1, 3, 5], dtype=np.uint32)
    _, switched = kernels.improve(*flow.model, np.zeros(3), policy, 0, 3, 1, 1e-12)
    assert (policy.tolist(), switched) == ([1, 3, 4], 1)


def test_flow_order_is_a_breadth_first_search_from_the_ends():
    for mdp in models(1.0):
        compact = Compact.of(mdp)
        order, levels = flow_order(mdp, compact)
        assert sorted(order.tolist()) == mdp.live.tolist()
        assert levels[0] == 0
        S = mdp.n_states
        steps = mdp.P.tocoo()
        tails = np.concatenate([mdp.pair_state[steps.coords[0]], mdp.pair_state[mdp.ends]])
        heads = np.concatenate([steps.coords[1], np.full(int(mdp.ends.sum()), S)])
        ends = [S, *np.flatnonzero(mdp.terminal).tolist()]  # S is the end in between states
        graph = csr_array((np.ones(tails.size), (heads, tails)), shape=(S + 1, S + 1))
        distance = shortest_path(graph, unweighted=True, indices=ends).min(axis=0)[:S]
        for level, (first, last) in enumerate(itertools.pairwise(levels)):
            assert np.all(distance[order[first:last]] == level + 1)
        assert levels[-1] == order.size
        assert not unending_states(mdp).size


def test_a_flow_may_take_the_memory_of_another():
    for mdp in models(1.0):
        compact = Compact.of(mdp)
        order, levels = flow_order(mdp, compact)
        allowed = np.random.default_rng(3).random(mdp.n_pairs) < 0.5
        whole = arrange(mdp, compact, order, levels, mdp.r)
        expected = [array.copy() for array in whole.model]
        for r, some in ((np.empty(0), allowed), (mdp.r, None)):  # there and back
            fresh = arrange(mdp, compact, order, levels, r, some)
            taken = arrange(mdp, compact, order, levels, r, some, into=whole)
            for a, b in zip(fresh.model, taken.model, strict=True):
                np.testing.assert_array_equal(a, b)
            assert np.shares_memory(taken.off, whole.off)
        for a, b in zip(expected, taken.model, strict=True):
            np.testing.assert_array_equal(a, b)


def test_proofs_without_q_are_those_with_it():
    mdp = GridWorld(size=12, slip=0.3).mdp(1.0)
    V = solve(mdp, "policy-iteration", tol=1e-9).values
    Q = bellman.q_values(mdp, V)
    for gap in (1e-6, 1e-3):
        tied = inductive._within(mdp, V, Q, gap)
        np.testing.assert_array_equal(inductive._within(mdp, V, np.empty(0), gap), tied)
        w = inductive.longest_times(mdp, tied)
        for down, up in itertools.product((-1e-8, 0.0, 1e-8), repeat=2):
            found = [
                inductive._enclosed(mdp, V - down * w, V + up * w, tied, compiled)
                for compiled in (False, True)
            ]
            assert found == [down > 0 and up > 0] * 2, (gap, down, up)


@pytest.mark.parametrize("seed", SEEDS)
def test_end_components_of_large_models_are_those_of_small_ones(seed, monkeypatch):
    mdp = random_mdp(seed, 1.0, n_states=40, n_actions=3)
    allowed = np.random.default_rng(seed).random(mdp.n_pairs) < 0.8
    plain = end_components(mdp, allowed)
    monkeypatch.setattr("rlkit.mdp.compact._LARGE", 0)
    for small, large in zip(plain, end_components(mdp, allowed), strict=True):
        np.testing.assert_array_equal(small, large)


def test_bicgstab_solves_a_policys_equations():
    rng = np.random.default_rng(4)
    P = rng.random((300, 300)) * (rng.random((300, 300)) < 0.02)
    P *= 0.999 / np.maximum(P.sum(axis=1, keepdims=True), 1e-9)
    np.fill_diagonal(P, 0.0)
    b, sparse = rng.normal(size=300), csr_array(P)
    arrays = (sparse.indptr.astype(np.uint32), sparse.indices.astype(np.uint32), sparse.data)
    x, steps = np.zeros(300), []
    assert bicgstab(*arrays, b, x, 1e-10, 300, steps.append)
    np.testing.assert_allclose(x, np.linalg.solve(np.eye(300) - P, b), rtol=1e-7, atol=1e-7)
    assert np.abs(b - x + P @ x).max() < 1e-9
    assert 3 < sum(steps) < 100
    assert bicgstab(*arrays, b, x, 1e-9, 300, steps.append)  # there already
    x[:] = 0.0
    assert not bicgstab(*arrays, b, x, 1e-10, 3, steps.append)


def test_indices_of_64_bits_are_taken():
    mdp = random_mdp(3, 0.9, n_states=20)
    wide = csr_array(
        (mdp.P.data, mdp.P.indices.astype(np.int64), mdp.P.indptr.astype(np.int64)), mdp.P.shape
    )
    object.__setattr__(mdp, "P", wide)
    compact = Compact.of(mdp)
    V, TV, Q = np.ones(20), np.empty(20), np.empty(mdp.n_pairs)
    Sweeps(compact, 0.9)(V, TV, Q)
    np.testing.assert_allclose(Q, bellman.q_values(mdp, V), rtol=0, atol=1e-13)
