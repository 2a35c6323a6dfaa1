"""γ = 1 on models of some size: episodes that are long, and values that are large or small."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from rlkit import MDP, evaluate_policy, registry, solve
from rlkit.envs.grids import frozen_lake
from rlkit.envs.gridworld import GridWorld
from rlkit.errors import ModelError, RlkitWarning
from rlkit.mdp.bellman import backup, state_max
from rlkit.mdp.bounds import Bounds
from rlkit.mdp.certifier import reached_bounds
from rlkit.mdp.goal import OutOfTimeError
from rlkit.mdp.graph import proper_choice
from rlkit.mdp.inductive import Unproven, inductive_bounds, longest_times

METHODS = sorted(set(registry.SOLVERS) - {"linear-programming"})  # HiGHS takes minutes here


def from_rows(rows, r, counts):
    """An MDP at γ = 1 of pairs written as {successor: probability}; what is missing ends."""
    P = np.zeros((len(rows), len(counts)))
    for pair, row in enumerate(rows):
        P[pair, list(row)] = list(row.values())
    return MDP.from_pairs(csr_array(P), r, np.concatenate([[0], np.cumsum(counts)]), 1.0)


def assert_agreement(mdp, tol):
    """All methods, within the bounds of each other; and their policies are worth it."""
    solutions = [solve(mdp, method, tol) for method in METHODS]
    for one, other in itertools.combinations(solutions, 2):
        assert np.all(one.lower <= other.upper)
        assert np.all(other.lower <= one.upper)
    for solution in solutions:
        assert solution.error_bound <= tol
        worth = evaluate_policy(mdp, solution.policy)
        np.testing.assert_allclose(worth, solution.values, rtol=1e-6, atol=100 * tol)
    return solutions


@pytest.mark.parametrize("slip", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("size", [20, 50, 80, 120])
def test_methods_agree_on_mazes(size, slip):
    assert_agreement(GridWorld(size=size, slip=slip).mdp(1.0), 1e-6)


@pytest.mark.parametrize("slip", [0.0, 0.6])
@pytest.mark.parametrize("step_cost", [1e4, 1e-4, 1e-9, 0.0])
def test_methods_agree_however_large_the_costs(step_cost, slip):
    tol = 1e-3 if step_cost == 1e4 else 1e-6
    assert_agreement(GridWorld(size=50, slip=slip, step_cost=step_cost).mdp(1.0), tol)


@pytest.mark.parametrize("step_cost", [1e4, 0.04])
def test_without_slip_a_maze_is_a_shortest_path(step_cost):
    mdp = GridWorld(size=60, slip=0.0, step_cost=step_cost).mdp(1.0)
    steps = csr_array(
        (np.ones(mdp.n_pairs), (mdp.pair_state, mdp.P.indices)), shape=(mdp.n_states,) * 2
    )
    goal = int(np.flatnonzero(mdp.terminal)[0])
    distance = dijkstra(steps.T, indices=goal, unweighted=True)
    exact = np.where(mdp.terminal, 0.0, 1.0 - step_cost * distance)
    for solution in assert_agreement(mdp, 1e-4):
        np.testing.assert_allclose(solution.values, exact, rtol=1e-12, atol=solution.error_bound)


@pytest.mark.parametrize("method", METHODS)
def test_a_chain_of_2000_states(method):
    # On with 0.8, back with 0.2 (the first stays): h(i) = h(i + 1) + m(i) with m(0) = 1 / 0.8 and
    # m(i) = (1 + 0.2 m(i - 1)) / 0.8. The other action goes the other way.
    n = 2000
    on = [{min(i + 1, n): 0.8, max(i - 1, 0): 0.2} for i in range(n)]
    back = [{max(i - 1, 0): 0.8, min(i + 1, n): 0.2} for i in range(n)]
    rows = list(itertools.chain.from_iterable(zip(back, on, strict=True)))
    mdp = from_rows(rows, -np.ones(2 * n), [2] * n + [0])
    m = [1 / 0.8]
    for _ in range(n - 1):
        m.append((1 + 0.2 * m[-1]) / 0.8)
    exact = -np.append(np.cumsum(m[::-1])[::-1], 0.0)
    solution = solve(mdp, method, tol=1e-4)
    assert solution.error_bound <= 1e-4
    np.testing.assert_allclose(solution.values, exact, rtol=0, atol=1e-4)
    assert solution.policy.tolist() == [1] * n + [-1]


def test_the_tolerance_that_a_warning_recommends_will_do():
    mdp = GridWorld(size=50, step_cost=1e4).mdp(1.0)
    for method in METHODS:
        with pytest.warns(RlkitWarning, match=r"give tol=") as said:
            assert 1e-6 < solve(mdp, method).error_bound < 1e-3
        advised = float(str(said[0].message).split("give tol=")[1].split(" ")[0])
        assert solve(mdp, method, tol=advised).error_bound <= advised < 1e-3


def test_the_first_policy_ends_soon_not_by_luck():
    # Action 0 heads away from the end and gets nearer only when it fails, with 0.1.
    n = 60
    rows = []
    for i in range(n):
        rows += [{max(i - 1, 0): 0.9, i + 1: 0.1}, {max(i - 1, 0): 0.1, i + 1: 0.9}]
    mdp = from_rows(rows, -np.ones(2 * n), [2] * n + [0])
    assert mdp.actions[proper_choice(mdp)].tolist() == [1] * n
    # A near certain way of many steps is sooner than an exit that opens once in 10⁶ times.
    rows = [row for i in range(n) for row in ({i: 1 - 1e-6}, {i: 0.2, i + 1: 0.8})]
    mdp = from_rows(rows, -np.ones(2 * n), [2] * n + [0])
    assert mdp.actions[proper_choice(mdp)].tolist() == [1] * n


def test_the_first_policy_ends_for_sure():
    # In 0 and 1: wait, or go on. 2 ends once in 10¹⁸ times, beside which a step more is rounding.
    rows = [{0: 1.0}, {1: 1.0}, {1: 1.0}, {2: 1.0}, {2: 1.0, 3: 1e-18}]
    mdp = from_rows(rows, [0.0] * 5, [2, 2, 1, 0])
    assert proper_choice(mdp).tolist() == [1, 3, 4]


def test_a_refusal_names_the_size_of_the_values_in_which_a_cost_drowns():
    # 0 pays 1e9 to end, or waits for 1e-7 a step, which float64 cannot tell from 0 beside it.
    mdp = from_rows([{0: 1.0}, {}], [-1e-7, -1e9], [2])
    for method in ("policy-iteration", "modified-policy-iteration"):
        with pytest.raises(ModelError, match=r"^state 0 can loop .* beside values of 1e\+09"):
            solve(mdp, method, tol=1.0)


def test_a_proof_ends_with_the_time_for_it(monkeypatch):
    mdp = GridWorld(size=20).mdp(1.0)
    values = solve(mdp, "policy-iteration").values
    assert reached_bounds(mdp, values).error < 1e-6

    def over():
        raise OutOfTimeError

    first = np.zeros(mdp.n_pairs, dtype=bool)
    first[proper_choice(mdp)] = True
    assert longest_times(mdp, first).max() > 20
    with pytest.raises(OutOfTimeError):
        longest_times(mdp, first, over)
    monkeypatch.setattr("rlkit.mdp.certifier._GRACE", 1e-9)
    assert reached_bounds(mdp, values) is None


def test_the_time_spent_on_actions_that_are_not_the_best_is_weighed_against_their_loss():
    lake = frozen_lake(1.0, size=20)
    V = solve(lake, "policy-iteration", tol=1e-9).values
    Q, _ = backup(lake, V)
    step, lost = 1e-9, np.zeros(lake.n_states)
    for _ in range(6000):  # what 1 more a step is worth, in units of it
        before = lost
        lost = state_max(lake, 1.0 + (Q - V[lake.pair_state]) / step + lake.P @ lost)
    assert np.abs(lost - before).max() < 0.3
    nothing = Unproven(np.inf, np.empty(0, dtype=np.int64))

    def found(w):
        times = SimpleNamespace(guess=0.0, longest=lambda _: nothing, lossy=lambda *_: w)
        return inductive_bounds(lake, V, Q, step / 2.25, 1e-5, times)

    proof = found(1.01 * lost)
    assert isinstance(proof, Bounds)
    assert proof.error == pytest.approx(1.01 * step * lost.max())
    assert found(np.zeros(lake.n_states)) is nothing  # checked, not believed
    assert found(10 * lost).error > 1e-5


def test_loops_of_little_cost_do_not_put_off_the_proof():
    mdp = GridWorld(size=20, slip=0.6, step_cost=1e-4).mdp(1.0)
    rough, fine = (solve(mdp, "value-iteration", tol).sweeps for tol in (1e-2, 1e-9))
    assert rough < fine
