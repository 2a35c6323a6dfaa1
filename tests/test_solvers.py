"""Solvers and policy evaluation against books, HiGHS and enumeration by others' means."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array

from rlkit import MDP, Solution, evaluate_policy, registry, solve
from rlkit.errors import ModelError, RunError, UsageError

METHODS = sorted(registry.SOLVERS)


def by_linear_program(mdp):
    """V* as min Σ V with V(s) ≥ r + γ Σ p V for all pairs, by HiGHS (Puterman 1994, §6.9)."""
    here = csr_array(
        (np.ones(mdp.n_pairs), (np.arange(mdp.n_pairs), mdp.pair_state)), shape=mdp.P.shape
    )
    limits = [(0, 0) if end else (None, None) for end in mdp.terminal]
    cost = np.ones(mdp.n_states)
    return linprog(cost, A_ub=mdp.gamma * mdp.P - here, b_ub=-mdp.r, bounds=limits).x


def open_grid(n):
    """(n·n, 4) next cells of moves up, down, left, right, which stay put at the border."""
    i, j = np.divmod(np.arange(n * n), n)
    rows = [np.maximum(i - 1, 0), np.minimum(i + 1, n - 1), i, i]
    columns = [j, j, np.maximum(j - 1, 0), np.minimum(j + 1, n - 1)]
    return np.stack([a * n + b for a, b in zip(rows, columns, strict=True)], axis=1)


def deterministic(successors, R, gamma, terminal=None):
    return MDP.from_arrays(
        eye_array(successors.shape[0]).toarray()[successors], R, gamma, terminal=terminal
    )


def sutton_barto_4_1():
    return deterministic(open_grid(4), -np.ones((16, 4)), 1.0, terminal=[0, 15])


def sutton_barto_3_5():
    successors = open_grid(5)
    R = np.where(successors == np.arange(25)[:, None], -1.0, 0.0)
    successors[1], R[1] = 21, 10.0  # A to A'
    successors[3], R[3] = 13, 5.0  # B to B'
    return deterministic(successors, R, 0.9)


def test_values_of_the_random_policy_in_sutton_and_barto_figure_4_1():
    V = evaluate_policy(sutton_barto_4_1(), np.full((16, 4), 0.25))
    published = [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]]
    np.testing.assert_allclose(V.reshape(4, 4), published, atol=1e-10)


def test_values_of_the_random_policy_in_sutton_and_barto_figure_3_2():
    V = evaluate_policy(sutton_barto_3_5(), np.full((25, 4), 0.25))
    np.testing.assert_allclose(
        V[:10], [3.3, 8.8, 4.4, 5.3, 1.5, 1.5, 3.0, 2.3, 1.9, 0.5], atol=0.05
    )


@pytest.mark.parametrize("method", METHODS)
def test_optimal_values_of_sutton_and_barto_figure_3_5(method):
    published = [
        [22.0, 24.4, 22.0, 19.4, 17.5],
        [19.8, 22.0, 19.8, 17.8, 16.0],
        [17.8, 19.8, 17.8, 16.0, 14.4],
        [16.0, 17.8, 16.0, 14.4, 13.0],
        [14.4, 16.0, 14.4, 13.0, 11.7],
    ]
    V = solve(sutton_barto_3_5(), method).values
    np.testing.assert_allclose(V.reshape(5, 5), published, atol=0.0501)


@pytest.mark.parametrize("method", METHODS)
def test_the_gamblers_problem(method):
    # Sutton and Barto, example 4.3. Bold play is optimal (Dubins and Savage, 1965), which gives
    # V(50) = p, V(25) = p², V(75) = p + (1 - p) p.
    stakes = [(s, a) for s in range(1, 100) for a in range(1, min(s, 100 - s) + 1)]
    P = np.zeros((len(stakes), 101))
    r = np.zeros(len(stakes))
    for pair, (s, a) in enumerate(stakes):
        P[pair, s - a] = 0.6
        P[pair, s + a] = 0.4
        r[pair] = 0.4 * (s + a == 100)
    counts = np.bincount([s for s, _ in stakes], minlength=101)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    mdp = MDP.from_pairs(csr_array(P), r, offsets, 1.0, [a for _, a in stakes])
    solution = solve(mdp, method)
    np.testing.assert_allclose(solution.values[[25, 50, 75]], [0.16, 0.4, 0.64], atol=1e-6)
    np.testing.assert_allclose(evaluate_policy(mdp, solution.policy), solution.values, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gamma", [0.99, 1.0])
@pytest.mark.parametrize(
    "name", ["FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4", "CliffWalking-v1"]
)
def test_gymnasium_models_agree_with_a_linear_program(name, gamma, method):
    if name == "Taxi-v4" and name not in gym.registry:
        name = "Taxi-v3"
    mdp = MDP.from_gymnasium(gym.make(name), gamma)
    solution = solve(mdp, method)
    assert solution.method == method
    assert np.all(solution.lower <= solution.upper)
    np.testing.assert_allclose(solution.values, by_linear_program(mdp), atol=2e-6)
    # The policy is worth what it claims: it leaves no state in a loop.
    np.testing.assert_allclose(evaluate_policy(mdp, solution.policy), solution.values, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_cliff_walking_takes_13_steps(method):
    solution = solve(MDP.from_gymnasium(gym.make("CliffWalking-v1"), 1.0), method)
    assert solution.start_value == pytest.approx(-13.0, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 0.99, 0.999])
def test_methods_agree_with_a_linear_program_on_dense_models(gamma):
    rng = np.random.default_rng(7)
    mdp = MDP.from_arrays(rng.dirichlet(np.ones(30), size=(30, 4)), rng.normal(size=(30, 4)), gamma)
    exact = by_linear_program(mdp)
    for method in METHODS:
        solution = solve(mdp, method)
        np.testing.assert_allclose(solution.values, exact, atol=1e-6 + 1e-6 / (1 - gamma) * 1e-2)


def test_bounds_settle_mixing_models_in_few_sweeps():
    rng = np.random.default_rng(0)
    P, R = rng.dirichlet(np.ones(50), size=(50, 3)), rng.normal(size=(50, 3))
    assert solve(MDP.from_arrays(P, R, 0.999), "value-iteration").sweeps < 40


@pytest.mark.parametrize("gamma", [0.9, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_ties_stop_and_are_broken_by_the_lowest_label(method, gamma):
    # Both actions of each of 50 states do the same.
    P = np.zeros((50, 2, 50))
    P[np.arange(49), :, np.arange(1, 50)] = 0.5
    solution = solve(
        MDP.from_arrays(P, -np.ones((50, 2)), gamma, admissible=np.ones((50, 2))), method
    )
    assert solution.policy.tolist() == [0] * 50


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_a_model_of_terminal_states_only(method, gamma):
    solution = solve(MDP.from_pairs(csr_array((0, 2)), [], [0, 0, 0], gamma), method)
    assert solution.values.tolist() == [0, 0]
    assert solution.policy.tolist() == [-1, -1]
    assert solution.error_bound == 0


@pytest.mark.parametrize("method", METHODS)
def test_q_is_one_bellman_backup_of_the_values(method):
    mdp = MDP.from_gymnasium(gym.make("FrozenLake-v1"), 0.99)
    solution = solve(mdp, method)
    table = solution.q_table()
    assert table.shape == (16, 4)
    for state, actions in gym.make("FrozenLake-v1").unwrapped.P.items():
        for action, outcomes in actions.items():
            q = sum(p * (r + 0.99 * solution.values[t] * (not d)) for p, t, r, d in outcomes)
            expected = -np.inf if mdp.terminal[state] else q
            assert table[state, action] == pytest.approx(expected, abs=1e-12)


def test_auto_names_what_it_took_and_why():
    small = solve(sutton_barto_3_5())
    assert small.method == "policy-iteration"
    assert small.reason.startswith("25 states and 100 transitions are few")
    grid = deterministic(open_grid(50), -np.ones((2500, 4)), 0.9, terminal=[0])
    assert solve(grid).method == "upwind-gauss-seidel"
    assert "where episodes end" in solve(grid).reason
    endless = deterministic(open_grid(50), -np.arange(10_000.0).reshape(2500, 4), 0.9)
    assert solve(endless).method == "inexact-policy-iteration"
    assert solve(endless, "value-iteration").reason == "it was asked for"
    for mdp in (grid, endless):
        np.testing.assert_allclose(
            solve(mdp).values, solve(mdp, "policy-iteration").values, rtol=0, atol=2e-6
        )


def test_auto_goes_another_way_where_there_is_no_flow_and_says_so():
    # More moves lead back than on.
    n, rng = 3000, np.random.default_rng(0)
    i = np.arange(n)
    on, back = np.minimum(i + 1, n), np.maximum(i - 1, 0)
    P = csr_array(
        (np.tile([0.51, 0.49], n), (np.repeat(i, 2), np.stack([back, on], 1).ravel())), (n, n + 1)
    )
    mdp = MDP.from_pairs(P, -rng.random(n), np.append(np.arange(n + 1), n), 0.999)
    solution = solve(mdp)
    assert "against the flow: inexact policy iteration" in solution.reason
    np.testing.assert_allclose(
        solution.values, solve(mdp, "policy-iteration").values, rtol=0, atol=2e-6
    )


def test_unknown_methods_and_tolerances():
    mdp = sutton_barto_3_5()
    with pytest.raises(UsageError, match="did you mean policy-iteration"):
        solve(mdp, "policy-iteratoin")
    for tol in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="tol="):
            solve(mdp, tol=tol)


def test_what_is_no_mdp_is_named():
    with pytest.raises(UsageError, match=r"TimeLimit, not an MDP.*MDP\.from_gymnasium"):
        solve(gym.make("FrozenLake-v1"))


@pytest.mark.parametrize("closed", [True, False])
def test_discounts_that_float64_hardly_tells_from_1_are_refused_at_once(closed):
    P = csr_array([[0.0, 1.0], [1.0, 0.0]]) if closed else csr_array([[0.0, 1.0], [0.5, 0.0]])
    for method in METHODS:
        with pytest.raises(RunError, match=r"tol=1e-06.* use a smaller gamma"):
            solve(MDP.from_pairs(P, [-1.0, 0.0], [0, 1, 2], 1 - 2.0**-53), method)


def test_far_from_any_reward_modified_policy_iteration_heads_for_one():
    # Improved one state at a time, from the end, this would take an evaluation for each state.
    n = 1000
    P = np.zeros((n, 2, n))
    P[np.arange(n), 0, np.maximum(np.arange(n) - 1, 0)] = 1.0
    P[np.arange(n - 1), 1, np.arange(1, n)] = 1.0
    P[n - 1, 1, n - 1] = 1.0
    mdp = MDP.from_arrays(P, -np.ones((n, 2)), 0.99, terminal=[n - 1])
    assert solve(mdp, "modified-policy-iteration").sweeps < 2000


def test_solutions_are_read_only_and_survive_the_disk(tmp_path):
    for start in (None, np.eye(25)[0]):
        mdp = sutton_barto_3_5()
        mdp = MDP(mdp.P, mdp.offsets, mdp.r, mdp.actions, mdp.gamma, start)
        solution = solve(mdp)
        with pytest.raises(ValueError, match="read-only"):
            solution.values[0] = 1.0
        solution.save(tmp_path / "solution.npz")
        loaded = Solution.load(tmp_path / "solution.npz")
        for field in vars(solution):
            np.testing.assert_array_equal(getattr(loaded, field), getattr(solution, field))
        assert loaded.error_bound == solution.error_bound


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04broken"])
def test_files_that_are_no_solutions_are_named(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"other\.npz is not a saved solution"):
        Solution.load(path)


def test_pickles_are_never_read(tmp_path):
    path = tmp_path / "trap.npz"
    np.savez(path, values=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="is not a saved solution"):
        Solution.load(path)


def test_evaluation_of_deterministic_and_stochastic_policies_agrees():
    mdp = MDP.from_gymnasium(gym.make("FrozenLake-v1"), 0.99)
    policy = np.random.default_rng(0).integers(0, 4, size=16)
    np.testing.assert_allclose(
        evaluate_policy(mdp, policy), evaluate_policy(mdp, np.eye(4)[policy]), atol=1e-14
    )


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            [0, 1, 5] + [0] * 22,
            r"state 2: the policy takes action 5; admissible are \[0, 1, 2, 3\]",
        ),
        ([0.5] * 25, "integer action labels"),
        ([0] * 24, r"shape \(24,\)"),
        (np.full((25, 4), 0.3), "state 0: the policy's probabilities sum to 1.2"),
        (np.tile([1.5, -0.5, 0, 0], (25, 1)), r"state 0: .* must be in \[0, 1\]"),
        (np.tile([0.5, 0, 0, 0, 0.5], (25, 1)), "state 0: the policy gives 0.5 of its probability"),
        (np.ones((25, 3)), r"shape \(25, 3\)"),
    ],
)
def test_policies_that_do_not_fit_are_refused_by_name(policy, message):
    with pytest.raises(UsageError, match=message):
        evaluate_policy(sutton_barto_3_5(), policy)


def test_policies_that_never_end_are_refused_or_worth_nothing():
    mdp = sutton_barto_4_1()
    with pytest.raises(ModelError, match=r"^states 1, 2, 3, 5, 6 and 6 more: under this"):
        evaluate_policy(mdp, np.zeros(16, dtype=int))
    lake = MDP.from_gymnasium(gym.make("FrozenLake-v1"), 1.0)
    assert evaluate_policy(lake, np.zeros(16, dtype=int))[0] == 0.0
    P = csr_array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]])  # 2 pays once and then idles in 0 or 1
    assert evaluate_policy(MDP.from_pairs(P, [0, 0, 1], [0, 1, 2, 3], 1.0), [0] * 3)[2] == 1.0


@pytest.mark.parametrize("gamma", [0.99, 1.0])
def test_small_models_wait_for_neither_torch_nor_compilation(gamma):
    code = (
        "import sys, gymnasium, rlkit; "
        f"rlkit.solve(rlkit.MDP.from_gymnasium(gymnasium.make('Taxi-v4'), {gamma})); "
        "sys.exit(bool({'torch', 'numba'} & set(sys.modules)))"
    ).replace("Taxi-v4", "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
