"""Jacobi sweeps in every layout, by one thread and by several, against NumPy and each other."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from mdp_referee import random_mdp
from scipy.sparse import csr_array

from rlkit import MDP, solve
from rlkit.envs.gridworld import GridWorld
from rlkit.errors import UsageError
from rlkit.mdp import bellman, ell, parallel
from rlkit.mdp.compact import NO_PAIR, Compact
from rlkit.mdp.parallel import Sweeps


def uniform(S, A, K, gamma=0.9, seed=0):
    """K different successors for each of A actions in each of S states."""
    rng = np.random.default_rng(seed)
    indices = np.argsort(rng.random((S * A, S)), axis=1)[:, :K]
    data = rng.dirichlet(np.ones(K), S * A)
    P = csr_array((data.ravel(), indices.ravel(), np.arange(0, S * A * K + 1, K)), (S * A, S))
    return MDP.from_pairs(P, rng.normal(size=S * A), np.arange(0, S * A + 1, A), gamma)


MODELS = {
    "ragged": lambda: random_mdp(1, 0.9, n_states=60, n_actions=4),
    "grid": lambda: GridWorld(size=20, slip=0.3).mdp(0.9),
    "three successors": lambda: uniform(50, 4, 3),
    "wide rows": lambda: uniform(80, 3, 41),
    "nothing but ends": lambda: MDP.from_pairs(csr_array((0, 2)), [], [0, 0, 0], 0.9),
}


@pytest.fixture(params=sorted(MODELS))
def mdp(request):
    return MODELS[request.param]()


@pytest.fixture(params=[0, 10**9], ids=["ahead", "cached"])
def anywhere(request, monkeypatch):
    """Any model is asked for ahead of a sweep, or none; any is worth sharing."""
    monkeypatch.setattr(ell, "_CACHED", request.param)
    monkeypatch.setattr(parallel, "_SHARE", 1)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("make", [Sweeps, Sweeps.often])
def test_sweeps_are_bellmans_operator(mdp, make, threads):
    V = np.random.default_rng(0).normal(size=mdp.n_states)
    Q, TV = np.full(mdp.n_pairs, np.nan), np.full(mdp.n_states, np.nan)
    policy = np.full(mdp.n_states, NO_PAIR, dtype=np.uint32)
    sweep = make(Compact.of(mdp), mdp.gamma, threads)
    low, high = sweep(V, TV, Q, policy)
    np.testing.assert_allclose(Q, bellman.q_values(mdp, V), rtol=0, atol=1e-13)
    np.testing.assert_array_equal(TV, bellman.state_max(mdp, Q))
    np.testing.assert_array_equal(policy[mdp.live], bellman.greedy(mdp, Q, 0.0))
    assert np.all(policy[mdp.terminal] == NO_PAIR)
    if mdp.live.size:
        change = (TV - V)[mdp.live]
        assert (low, high) == (change.min(), change.max())
    again = np.empty(mdp.n_states)
    assert sweep(V, again) == (low, high)
    np.testing.assert_array_equal(again, TV)
    followed = np.full(mdp.n_states, np.nan)
    assert sweep.following(policy)(V, followed) == (low, high)
    np.testing.assert_array_equal(followed, TV)


def test_rows_are_filled_up_where_few_entries_are_added():
    full = Compact.of(uniform(50, 4, 3))
    assert ell.fixed_rows(full) == (3, full)
    assert ell.fixed_rows(Compact.of(random_mdp(1, 0.9, n_states=60))) is None
    assert ell.fixed_rows(Compact.of(uniform(50, 2, 9))) is None
    nearly = uniform(100, 2, 4)
    P = nearly.P.toarray()
    P[7] = np.eye(100)[3]
    P[11] = 0
    short = MDP.from_pairs(csr_array(P), nearly.r, nearly.offsets, 0.9)
    K, filled = ell.fixed_rows(Compact.of(short))
    assert K == 4
    rows = csr_array((filled.p, filled.idx.astype(np.int32), filled.ptr.astype(np.int32)), P.shape)
    np.testing.assert_array_equal(rows.toarray(), short.P.toarray())


@pytest.mark.parametrize("gamma", [0.9, 1.0])
@pytest.mark.parametrize("method", ["value-iteration", "modified-policy-iteration"])
def test_compiled_iterations_agree_with_uncompiled_ones(method, gamma, monkeypatch):
    mdp = GridWorld(size=15, slip=0.2).mdp(gamma)
    plain = solve(mdp, method)
    monkeypatch.setattr("rlkit.mdp.compact._LARGE", 0)
    compiled = solve(mdp, method)
    assert compiled.error_bound <= 1e-6
    np.testing.assert_allclose(compiled.values, plain.values, rtol=0, atol=2e-6)
    assert np.all(compiled.lower <= plain.upper)
    assert np.all(plain.lower <= compiled.upper)


@pytest.mark.parametrize(
    "method", ["value-iteration", "modified-policy-iteration", "inexact-policy-iteration"]
)
def test_threads_change_nothing_but_the_time(method, monkeypatch):
    monkeypatch.setattr("rlkit.mdp.compact._LARGE", 0)
    monkeypatch.setattr(parallel, "_SHARE", 1)
    used = []
    pool = parallel.ThreadPoolExecutor
    monkeypatch.setattr(parallel, "ThreadPoolExecutor", lambda n: used.append(n) or pool(n))
    mdp = uniform(60, 4, 5, gamma=0.95)
    one, three = solve(mdp, method), solve(mdp, method, threads=3)
    assert 2 in used
    for field in ("values", "lower", "upper", "policy", "q"):
        np.testing.assert_array_equal(getattr(one, field), getattr(three, field))
    assert one.sweeps == three.sweeps


def test_no_threads_are_left_behind(monkeypatch):
    monkeypatch.setattr(parallel, "_SHARE", 1)
    model = Compact.of(uniform(50, 2, 3))
    for _ in range(5):
        Sweeps(model, 0.9, threads=4)(np.zeros(50), np.empty(50))
    gc.collect()
    mine = [one for one in threading.enumerate() if one.name.startswith("ThreadPoolExecutor")]
    for thread in mine:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in mine)


@pytest.mark.parametrize("threads", [0, -2])
def test_numbers_of_threads_that_are_refused(threads):
    with pytest.raises(UsageError, match=f"threads={threads} is out of range"):
        solve(uniform(10, 2, 3), threads=threads)
