"""Finite horizons and average rewards: against brute force, linear programs and printed numbers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from mdp_referee import random_mdp
from scipy.optimize import linprog
from scipy.sparse import csr_array

import rlkit
from rlkit import MDP
from rlkit.agents.backward_induction import backward_induction
from rlkit.agents.relative_value_iteration import relative_value_iteration
from rlkit.envs.models import make_model
from rlkit.errors import ModelError, RlkitWarning, UsageError
from rlkit.mdp.criteria import AverageSolution, FiniteHorizonSolution
from rlkit.mdp.goal import Watch


def made(name, gamma=None, **options):
    return make_model(name, gamma, options).mdp


# ------------------------------------------------------------------------------ a finite horizon


def best_of_all_plans(mdp, horizon, final):
    """V_0 by trying every policy of every step."""
    S = mdp.n_states
    spans = [range(a, b) or (None,) for a, b in itertools.pairwise(mdp.offsets.tolist())]
    choices = list(itertools.product(*spans))
    P, best = mdp.P.toarray(), np.full(S, -np.inf)
    for plan in itertools.product(choices, repeat=horizon):
        V = np.where(mdp.terminal, 0.0, final)
        for step in reversed(plan):
            V = np.array([0.0 if k is None else mdp.r[k] + mdp.gamma * (P[k] @ V) for k in step])
        best = np.maximum(best, V)
    return best


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_no_plan_is_better_than_backward_induction(seed, gamma):
    mdp = random_mdp(seed, gamma, n_states=3, n_actions=2)
    final = np.array([1.0, -2.0, 0.5])
    solution = backward_induction(mdp, 3, final)
    np.testing.assert_allclose(solution.values[0], best_of_all_plans(mdp, 3, final), atol=1e-12)
    assert solution.error_bound < 1e-12
    # Following the policy earns the values.
    V = solution.values[3]
    for t in (2, 1, 0):
        Q = mdp.r + gamma * (mdp.P @ V)
        taken = np.flatnonzero(mdp.actions == solution.policy[t][mdp.pair_state])
        V = np.zeros(3)
        V[mdp.pair_state[taken]] = Q[taken]
        np.testing.assert_allclose(V, solution.values[t], atol=1e-12)
    assert (solution.policy[:, mdp.terminal] == -1).all()


def test_putermans_inventory_over_three_periods():
    # Puterman (1994), §4.6.1: u*_t(s) for t = 1, ..., 4 and the optimal policy.
    solution = backward_induction(made("inventory", 1.0), 3)
    printed = np.array([[67, 129, 194, 227], [32, 100, 160, 168], [0, 80, 96, 80], [0, 0, 0, 0]])
    np.testing.assert_allclose(16 * solution.values, printed, atol=1e-11)
    assert solution.policy.tolist() == [[3, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]


def test_the_mdp_toolboxs_forest_over_three_periods():
    # The documentation of pymdptoolbox, mdptoolbox.mdp.FiniteHorizon: forest(), 0.9, 3 periods.
    solution = backward_induction(made("forest", 0.9), 3)
    printed = [[2.6973, 0.81, 0, 0], [5.9373, 3.24, 1, 0], [9.9373, 7.24, 4, 0]]
    np.testing.assert_allclose(solution.values.T, printed, atol=1e-12)
    assert solution.policy.T.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_a_long_horizon_is_the_infinite_one():
    mdp = made("gambler")
    long = backward_induction(mdp, 60)
    np.testing.assert_allclose(long.values[0], rlkit.solve(mdp).values, atol=1e-6)
    assert long.horizon == 60
    # With one step to go nothing but the goal itself is worth a stake.
    assert long.values[-2][49:51].tolist() == [0.0, 0.4]


def test_nothing_is_paid_at_the_end_where_the_episode_is_over():
    # 0 goes to the terminal state 1, or ends, or stays.
    P = csr_array(np.array([[0, 1.0], [0, 0], [1.0, 0]]))
    mdp = MDP.from_pairs(P, [0, 0, 0], [0, 3, 3], 1.0)
    solution = backward_induction(mdp, 2, [-3.0, 7.0])
    assert solution.values.tolist() == [[0, 0], [0, 0], [-3, 0]]
    assert backward_induction(mdp, 2, [3.0, 7.0]).policy.tolist() == [[2, -1], [2, -1]]


@pytest.mark.parametrize(
    ("horizon", "final", "message"),
    [
        (0, None, "horizon is 0; allowed: a whole number, 1 or more"),
        (10**15, None, "horizon is 1,000,000,000,000,000: the values and policies .* would take"),
        (2, [1.0], r"final has shape \(1,\); it must be \(3,\)"),
        (2, [1.0, np.nan, 0.0], "final is nan in state 1"),
    ],
)
def test_bad_horizons_are_refused(horizon, final, message):
    with pytest.raises(UsageError, match=message):
        backward_induction(made("forest"), horizon, final)


# ----------------------------------------------------------------------------- an average reward


def communicating(seed, n_states=6, n_actions=3, sharp=False):
    """A random model in which every state reaches every other, with unequal action sets."""
    rng = np.random.default_rng(seed)
    P, r, counts = [], [], []
    for state in range(n_states):
        counts.append(int(rng.integers(1, n_actions + 1)))
        for action in range(counts[-1]):
            row = np.zeros(n_states)
            targets = rng.integers(0, n_states, size=1 if sharp else 3)
            np.add.at(row, targets, 1 / targets.size)
            if action == 0:  # a ring
                row = np.eye(n_states)[(state + 1) % n_states]
            P.append(row)
            r.append(float(rng.normal()))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return MDP.from_pairs(csr_array(np.array(P)), r, offsets, 0.9)


def gain_by_linear_programming(mdp):
    """min g such that g + h(s) ≥ r(s, a) + Σ p h for all pairs (Puterman 1994, §8.8)."""
    here = np.eye(mdp.n_states)[mdp.pair_state]
    A = np.hstack([np.ones((mdp.n_pairs, 1)), here - mdp.P.toarray()])
    cost = np.eye(1, mdp.n_states + 1).ravel()
    return linprog(cost, A_ub=-A, b_ub=-mdp.r, bounds=(None, None), method="highs").fun


def gain_of(mdp, policy):
    """The least average reward of a deterministic policy over all starts, by iterating P_π."""
    taken = np.flatnonzero(mdp.actions == policy[mdp.pair_state])
    P = (mdp.P.toarray()[taken] + np.eye(mdp.n_states)) / 2  # lazy, so that powers converge
    return (np.linalg.matrix_power(P, 2**20) @ mdp.r[taken]).min()


@pytest.mark.parametrize("sharp", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_the_bounds_hold_the_gain_of_the_linear_program(seed, sharp):
    mdp = communicating(seed, sharp=sharp)
    solution = relative_value_iteration(mdp, 1e-7)
    gain = gain_by_linear_programming(mdp)
    assert solution.lower - 1e-9 <= gain <= solution.upper + 1e-9
    assert solution.error_bound <= 1e-7
    assert solution.gain == pytest.approx(gain, abs=2e-7)
    assert gain_of(mdp, solution.policy) >= solution.lower - 1e-9


def test_periodic_chains_converge():
    for n in (2, 3, 50):
        ring = MDP.from_pairs(
            csr_array(np.roll(np.eye(n), 1, axis=1)), np.arange(n), range(n + 1), 1
        )
        assert relative_value_iteration(ring).gain == pytest.approx((n - 1) / 2, abs=1e-6)


def test_howards_taxicab():
    # Howard, Dynamic Programming and Markov Processes (1960), the taxicab problem: the second
    # alternative in each town, with a gain of 13.34 and relative values -1.18, 12.66 and 0.
    towns = {
        0: [([8, 4, 4], [10, 4, 8]), ([1, 12, 3], [8, 2, 4]), ([4, 2, 10], [4, 6, 4])],
        1: [([8, 0, 8], [14, 0, 18]), ([1, 14, 1], [8, 16, 8])],
        2: [([4, 4, 8], [10, 2, 8]), ([2, 12, 2], [6, 4, 2]), ([12, 1, 3], [4, 0, 8])],
    }
    table = {
        town: {
            action: [
                (p / 16, to, gain, False) for to, (p, gain) in enumerate(zip(*row, strict=True))
            ]
            for action, row in enumerate(alternatives)
        }
        for town, alternatives in towns.items()
    }
    solution = relative_value_iteration(MDP.from_gymnasium(table, 0.9), 1e-8)
    assert solution.policy.tolist() == [1, 1, 1]
    assert round(solution.gain, 2) == 13.34
    assert np.round(solution.bias - solution.bias[2], 2).tolist() == [-1.18, 12.66, 0.0]


def test_printed_gains():
    # Hillier and Lieberman, the prototype example: 5,000 / 3 a week.
    worn = relative_value_iteration(made("machine-replacement"))
    assert worn.gain == pytest.approx(-5000 / 3, abs=1e-6)
    assert worn.policy.tolist() == [0, 0, 1, 2]
    # The documentation of pymdptoolbox, mdptoolbox.mdp.RelativeValueIteration: forest(), 3.24.
    assert relative_value_iteration(made("forest")).gain == pytest.approx(3.24, abs=1e-6)
    # Strens (2000), table 1: the optimum earns 3677 in 1000 steps.
    assert round(1000 * relative_value_iteration(made("chain")).gain) == 3677


def test_transient_states_are_no_obstacle():
    # 0 goes to the pair 1, 2, which never comes back.
    P = np.array([[0, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1.0]])
    mdp = MDP.from_pairs(csr_array(P), [100, 1, 3, 2.5], [0, 1, 2, 4], 0.9)
    solution = relative_value_iteration(mdp)
    assert solution.gain == pytest.approx(2.5, abs=1e-6)
    assert solution.policy.tolist() == [0, 0, 1]


def test_multichain_models_are_refused_with_the_reason():
    P = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 1.0]])
    mdp = MDP.from_pairs(csr_array(P), [1, 2, 0, 3], [0, 1, 2, 4], 0.9)
    with pytest.raises(ModelError, match="multichain: 3 sets of states, such as state 0 and"):
        relative_value_iteration(mdp)


def test_models_that_end_are_refused():
    with pytest.raises(ModelError, match="may end in state 198, after which the average"):
        relative_value_iteration(made("maze"))
    mdp = MDP.from_pairs(csr_array(np.array([[0.5]])), [1.0], [0, 1], 0.9)
    with pytest.raises(ModelError, match="may end in state 0"):
        relative_value_iteration(mdp)
    with pytest.raises(UsageError, match="tol=0"):
        relative_value_iteration(made("forest"), 0)


def test_what_cannot_be_certified_is_said():
    with pytest.warns(RlkitWarning, match=r"tol=1e-09 could not be certified in 5 sweeps: .* 1.7"):
        short = relative_value_iteration(made("chain"), 1e-9, max_sweeps=5)
    assert short.sweeps == 5
    assert short.lower <= 3.6768 <= short.upper
    mdp = made("chain")
    huge = MDP.from_pairs(mdp.P, 1e9 * mdp.r, mdp.offsets, 0.9)
    with pytest.warns(RlkitWarning, match="tol=1e-09 could not be certified"):
        best = relative_value_iteration(huge, 1e-9)
    assert best.sweeps < 10_000
    assert best.lower <= 3.6768e9 <= best.upper
    assert best.error_bound < 1e-3


# ------------------------------------------------------------------------- results and the command


def test_results_are_saved_and_come_back(tmp_path):
    finite = backward_induction(made("cliff"), 20)
    finite.save(tmp_path / "finite.npz")
    back = FiniteHorizonSolution.load(tmp_path / "finite.npz")
    np.testing.assert_array_equal(back.values, finite.values)
    np.testing.assert_array_equal(back.policy, finite.policy)
    assert (back.start_value, back.gamma, repr(back)) == (-13.0, 1.0, repr(finite))
    average = relative_value_iteration(made("forest"))
    average.save(tmp_path / "average.npz")
    assert repr(AverageSolution.load(tmp_path / "average.npz")) == repr(average)
    with pytest.raises(UsageError, match="is not a saved average-reward solution"):
        AverageSolution.load(tmp_path / "finite.npz")
    with pytest.raises(ValueError, match="read-only"):
        back.values[0] = 0.0


def test_a_solution_as_a_data_frame(monkeypatch):
    pandas = pytest.importorskip("pandas")
    solution = rlkit.solve(made("russell-norvig"))
    frame = solution.to_frame()
    assert frame.columns.tolist() == ["value", "lower", "upper", "action"]
    assert frame.index.name == "state"
    np.testing.assert_array_equal(frame["value"], solution.values)
    assert frame["action"].isna().sum() == 2
    assert frame["action"].dropna().tolist() == solution.policy[solution.policy >= 0].tolist()
    assert isinstance(frame, pandas.DataFrame)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="to_frame needs pandas, which is not installed: pip inst"):
        solution.to_frame()


def test_the_command_line_takes_a_horizon(cli):
    found = json.loads(cli("solve", "inventory", "--gamma", "1", "--horizon", "3", "--json").out)
    assert list(found) == [
        *("env", "method", "gamma", "states", "pairs", "horizon", "seconds", "error_bound"),
        "start_value",
    ]
    assert (found["method"], found["horizon"]) == ("backward-induction", 3)
    called = cli("solve", "cliff", "--horizon", "20", "--save", "cliff.npz")
    assert "steps               20 (values and policy are the first one's)" in called.out
    assert "value of the start  -13" in called.out
    assert "│S ↑  │" in called.out
    assert FiniteHorizonSolution.load("cliff.npz").horizon == 20
    assert "drew cliff.png\n" in cli("solve", "cliff", "--horizon", "20", "--plot", "cliff.png").out
    assert Path("cliff.png").stat().st_size > 10_000


def test_a_watcher_is_told_how_many_steps_are_done():
    told = []
    found = backward_induction(made("forest"), 9, watch=Watch(told.append))
    assert [at.sweeps for at in told] == list(range(1, 10))
    assert told[-1].error == found.error_bound
    assert told[-1].seconds <= found.seconds
    told.clear()
    backward_induction(made("forest"), 9, watch=Watch(told.append, after=60.0))
    assert not told


def test_a_watcher_is_told_how_far_an_average_is_known():
    told = []
    average = relative_value_iteration(made("forest"), watch=Watch(told.append))
    assert [at.sweeps for at in told] == list(range(1, average.sweeps + 1))
    errors = [at.error for at in told]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == average.error_bound
    assert told[-1].seconds <= average.seconds


def test_the_command_line_takes_an_average(cli):
    found = json.loads(cli("solve", "chain", "--average", "--json").out)
    assert found["gain"] == pytest.approx(3.6768, abs=1e-6)
    assert found["lower"] <= found["gain"] <= found["upper"]
    called = cli("solve", "forest", "--average")
    assert "reward per step     3.24\n" in called.out
    assert "relative value" in called.out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("forest --average --horizon 3", "--average and --horizon are both given"),
        ("forest --average --method value-iteration", "--method does not go with --average"),
        ("forest --average --plot x.png", "--plot does not go with --average"),
        ("forest --average --gamma 0.9", "--gamma does not go with --average"),
        ("forest --horizon 0", "horizon is 0; allowed"),
        ("maze --average", "the episode may end in state 198"),
    ],
)
def test_the_command_line_refuses_on_one_line(cli, args, words):
    called = cli("solve", *args.split())
    assert (called.status, called.out) == (2, "")
    assert words in called.error
    assert not list(Path().iterdir())
