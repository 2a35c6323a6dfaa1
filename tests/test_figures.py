"""The figures of benchmarks/figures, shortened: what the book draws holds here too."""

import sys
from pathlib import Path

import numpy as np
import pytest

import rlkit
from rlkit.envs.model_env import ModelVectorEnv
from rlkit.envs.models import make_model

FIGURES = Path(__file__).parent.parent / "benchmarks" / "figures"
sys.path.insert(0, str(FIGURES))

import baird  # noqa: E402
import cliff_walking  # noqa: E402
import copies  # noqa: E402
import iterations  # noqa: E402
import maximisation_bias  # noqa: E402
import overestimation  # noqa: E402
import random_walk  # noqa: E402
import regret  # noqa: E402

sys.path.remove(str(FIGURES))


# ----------------------------------------------------------------- many runs in one


def test_side_by_side_runs_never_touch_each_other():
    """Each run's table is what Q-learning's loop makes of its own transitions alone."""
    mdp, runs = make_model("maximisation-bias").mdp, 5
    q, told = np.zeros((runs, 2, 10)), {"gamma": 0.9, "learning_rate": 0.3, "exploration": 0.5}
    for now in copies.play("q-learning", ModelVectorEnv(mdp, runs), told, 20):
        step = now.step
        for i in np.flatnonzero(step.valid):
            allowed = q[i, 1] if now.state[i] == 0 and not step.terminated[i] else np.zeros(1)
            pair = i, now.state[i], step.action[i]
            q[pair] += 0.3 * (step.reward[i] + 0.9 * allowed.max() - q[pair])
    np.testing.assert_allclose(now.tables[0], q, atol=1e-7)  # rewards are float32
    assert len(np.unique(q[:, 1], axis=0)) == runs
    assert (now.episode >= 19).all()


def test_episodes_are_counted_and_paid_as_the_book_does():
    paid = {0: [], 1: [], 2: []}
    length = {}
    mdp = random_walk.model()
    for now in copies.play("td-lambda", random_walk.walks(mdp, 3), {}, 4):
        for run in np.flatnonzero(now.step.valid):
            length[run, now.episode[run]] = length.get((run, now.episode[run]), 0) + 1
            paid[run].append((now.step.terminated[run], now.step.reward[run], now.state[run]))
    for steps in paid.values():
        assert {reward for ended, reward, _ in steps if not ended} == {0.0}
        ends = {(reward, state) for ended, reward, state in steps if ended}
        assert ends <= {(-1.0, 0), (1.0, 18)}
        assert sum(ended for ended, _, _ in steps) >= 4
    assert min(length.values()) >= 10  # from the middle of 19 states to an end
    assert {episode for _, episode in length} >= set(range(4))


# ----------------------------------------------------------------- figure 6.5


def test_q_learning_is_drawn_to_the_largest_noise_and_double_q_learning_is_not():
    plain, double = (
        maximisation_bias.measure(agent, runs=400, episodes=300)
        for agent in maximisation_bias.AGENTS
    )
    # The book's curve: at first far more often left than right,
    assert plain.left[9:40].min() > 0.75
    # and in the end still more often than exploring asks for, which is 5 %.
    assert 0.08 < plain.left[-50:].mean() < 0.20
    # Double Q-learning is not drawn there.
    assert double.left.max() < 0.60
    assert double.left[50:100].mean() < 0.20
    assert 0.05 < double.left[-50:].mean() < plain.left[-50:].mean() - 0.02
    assert abs(plain.left[0] - 0.5) < 0.1  # equal values, chosen from at random
    # The largest of the estimates is too high, the other table's estimate of it is not.
    assert plain.value.max() > 0.05
    assert double.value.max() < 0.02
    assert double.value[-1] < plain.value[-1] - 0.02


# ----------------------------------------------------------------- example 6.6


def test_on_the_cliff_sarsa_earns_more_and_q_learning_knows_more():
    found = {agent: cliff_walking.measure(agent, runs=12) for agent in cliff_walking.AGENTS}
    plain, sarsa, expected = found.values()
    best = cliff_walking.best_exploring()
    # The book's figure: online about -50 and -25.
    assert -57 < plain.late < -43
    assert -33 < sarsa.late < best
    assert sarsa.late < expected.late < best + 1
    # What the tables are worth exactly: the path along the edge has 13 moves, others more.
    np.testing.assert_allclose(plain.greedy, -13)
    assert np.median(sarsa.greedy) <= -15
    assert np.median(expected.greedy) == pytest.approx(-15)
    assert np.median(expected.exploring) == pytest.approx(best, abs=0.7)
    assert np.mean(plain.exploring) == pytest.approx(plain.late, abs=6)
    assert len(plain.path) == 14  # states, with 13 moves between them
    assert set(plain.path[1:-1]) == set(range(24, 36))  # the row above the cliff


def test_the_best_exploring_policy_is_better_than_all_others_of_its_kind():
    mdp, best = make_model("cliff").mdp, cliff_walking.best_exploring()
    assert -21 < best < -20
    rng = np.random.default_rng(0)
    q = rlkit.solve(mdp).q_table()
    worth = [
        rlkit.evaluate_policy(mdp, cliff_walking.epsilon_greedy(q + noise))[36]
        for noise in rng.normal(scale=1.5, size=(40, *q.shape))
    ]
    assert max(worth) < best
    values = cliff_walking.epsilon_greedy(rlkit.solve(cliff_walking.exploring_model()).q_table())
    assert rlkit.evaluate_policy(mdp, values)[36] == pytest.approx(best, abs=1e-6)


def test_a_policy_that_walks_in_circles_never_arrives():
    mdp, q = make_model("cliff").mdp, np.zeros((48, 4))
    assert cliff_walking.path_of(mdp, q.argmax(-1)) == [36, 24, 12, 0]  # up, and up for ever
    assert cliff_walking.value_of_greedy(mdp, q, [36, 24, 12, 0]) == -np.inf


# ----------------------------------------------------------------- figures 7.2, 12.3 and 12.6


def test_intermediate_n_and_lambda_are_best():
    # Figure 7.2: n = 4 near α = 0.4 is best, about 0.27; single steps and Monte Carlo are worse.
    error = {
        (n, alpha): random_walk.n_step_td(n, alpha, runs=40)
        for n, alpha in [(1, 0.4), (1, 0.8), (4, 0.1), (4, 0.4), (4, 1.0), (16, 0.2), (512, 0.02)]
    }
    assert min(error, key=error.get) == (4, 0.4)
    assert 0.25 < error[4, 0.4] < 0.29
    assert 0.33 < error[1, 0.8] < 0.38
    assert 0.45 < error[512, 0.02] < 0.52
    # Figures 12.3 and 12.6: at its best α TD(λ) does as the λ-return, beyond it far worse.
    lambdas, alphas = (0.0, 0.8, 0.95, 1.0), (0.02, 0.1, 0.4, 0.5, 0.8)
    returns = random_walk.offline(lambdas, alphas, runs=40)
    assert np.unravel_index(returns.argmin(), returns.shape) == (1, 2)
    assert 0.25 < returns[1, 2] < 0.29
    assert random_walk.td_lambda(0.8, 0.4, runs=40) == pytest.approx(returns[1, 2], abs=0.02)
    assert random_walk.td_lambda(0.95, 0.02, runs=40) == pytest.approx(returns[2, 0], abs=0.02)
    assert random_walk.td_lambda(0.95, 0.5, runs=40) > returns[2, 3] + 0.2
    # λ = 0 is one step, whichever way.
    one = random_walk.n_step_td(1, 0.4, runs=40)
    assert random_walk.td_lambda(0.0, 0.4, runs=40) == pytest.approx(one, abs=1e-12)
    assert random_walk.td_lambda(1.0, 1.0, runs=40) > 1e6  # or even ∞


def test_n_steps_longer_than_any_walk_are_the_lambda_return_of_one():
    """Monte Carlo both: each state of a walk goes to what the walk ended with."""
    mdp = random_walk.model()
    true, error = np.arange(-18, 19, 2) / 20, 0.0
    for run in random_walk.episodes(mdp, 3, seed=0):
        V = np.zeros(19)
        for states, end in run:
            for s in states:
                V[s] += 0.1 * (end - V[s])
            error += np.sqrt(np.mean((V - true) ** 2)) / 30
    assert random_walk.offline([1.0], [0.1], 3)[0, 0] == pytest.approx(error, abs=1e-6)
    assert random_walk.n_step_td(2000, 0.1, 3) == pytest.approx(error, abs=1e-6)


def test_traces_are_those_of_the_books_loop_over_the_same_walks():
    mdp = random_walk.model()
    true, error = np.arange(-18, 19, 2) / 20, 0.0
    for run in random_walk.episodes(mdp, 3, seed=0):
        V = np.zeros(19)
        for states, end in run:
            z = np.zeros(19)
            for s, s_next in zip(states, [*states[1:], None], strict=True):
                delta = (end if s_next is None else V[s_next]) - V[s]
                z *= 0.9
                z[s] += 1
                V += 0.2 * delta * z
            error += np.sqrt(np.mean((V - true) ** 2)) / 30
    assert random_walk.td_lambda(0.9, 0.2, 3) == pytest.approx(error, abs=1e-6)


# ----------------------------------------------------------------- γ^k


def test_value_iteration_keeps_to_its_bound_and_policy_iteration_takes_few_steps():
    found = iterations.measure("jacks-car-rental", 0.9)
    slack = 2 * iterations.EXACT
    assert (found.value_iteration <= found.bound + slack).all()
    # A chain that never ends: its error falls by γ a sweep in the long run, and no faster.
    late = found.value_iteration[-20:-10]
    np.testing.assert_allclose(late[1:] / late[:-1], 0.9, atol=1e-3)
    assert 0.9 * found.promised < found.value_iteration.size - 1 <= found.promised
    # Sutton and Barto (2018), figure 4.2: from π₀, which moves no car, to π₄, the best.
    assert found.policy_iteration.size == 5
    assert (np.diff(found.policy_iteration) < 0).all()
    assert found.policy_iteration[-1] < slack
    assert found.policy_iteration[-2] > 100 * slack
    maze = iterations.measure("maze", 0.99)
    assert (maze.value_iteration <= maze.bound + slack).all()
    assert maze.policy_iteration.size < maze.value_iteration.size / 4
    assert maze.value_iteration.size < maze.promised / 4


# ----------------------------------------------------------------- figure 11.2


def test_bairds_counterexample_diverges_without_a_target_net():
    td, dp = baird.semi_gradient_td(), baird.semi_gradient_dp()
    for weights in (td, dp):
        assert (weights[0] == [1, 1, 1, 1, 1, 1, 10, 1]).all()
        # Figure 11.2: w₈ grows to about 300, w₁ to w₆ to about 100; w₇ stays below 10.
        assert 200 < weights[-1, 7] < 500
        assert 60 < weights[-1, :6].mean() < 200
        assert weights[-1, 6] < 10
        late = np.linalg.norm(weights[500::50], axis=1)
        assert (np.diff(late) > 0).all()
    # As fast as the spectral radius says, for which the values' growth is the referee.
    values = baird.largest_value(baird.semi_gradient_dp(6000))
    assert (values[-1] / values[-1001]) ** 1e-3 == pytest.approx(baird.baird(1), abs=1e-6)
    assert baird.baird(1) > 1


def test_a_target_net_saves_it_where_the_features_fit_and_is_slow_enough():
    C = baird.least_period()
    assert baird.baird(C - 1) >= 1 > baird.baird(C)
    assert all(baird.baird(c) > 1 for c in range(1, C, 5))
    assert all(baird.baird(c) < 1 for c in range(C, 3000, 50))
    assert baird.baird(baird.SOLVED) == pytest.approx(baird.GAMMA)
    # What was computed is what happens, on either side.
    for period in (C // 2, 2 * C):
        w = baird.semi_gradient_dp(period, period)
        X, D = baird.features(), np.eye(7) / 7
        T = baird.one_period(X, baird.to_the_seventh(), D, period)
        np.testing.assert_allclose(X @ w[-1], T @ X @ w[0], rtol=1e-9)
    assert baird.largest_value(baird.semi_gradient_dp(20_000, 50))[-1] > 1e3
    assert baird.largest_value(baird.semi_gradient_dp(20_000, 125))[-1] < 1
    assert baird.largest_value(baird.semi_gradient_td(20_000, 125))[-1] < 1
    # Example 11.1, eq. 11.10: (6 − 4ε)/5·γ, and no period below 1.
    assert baird.example_11_1(baird.SOLVED) == pytest.approx(5.6 / 5 * 0.99)
    assert min(baird.example_11_1(c) for c in range(1, 1000)) > 1
    assert baird.on_policy() < 1  # the third side of the triad


# ----------------------------------------------------------------- the command line


@pytest.mark.parametrize("module", [baird, iterations, maximisation_bias], ids=lambda m: m.__name__)
def test_one_command_prints_a_table_and_draws_a_figure(module, monkeypatch, tmp_path, capsys):
    told = [] if module is not maximisation_bias else ["--runs", "20"]
    out = tmp_path / "figure.png"
    monkeypatch.setattr(sys, "argv", ["figure", "--out", str(out), *told])
    monkeypatch.setattr(baird, "TARGET_STEPS", 500)
    monkeypatch.setattr(iterations, "CASES", (("maze", 0.9), ("maze", 0.99)))
    module.main()
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| ") for line in lines) >= 4
    assert out.read_bytes().startswith(b"\x89PNG")


def test_the_other_two_draw_what_they_have(tmp_path):
    learned = cliff_walking.measure("q-learning", runs=2, episodes=60)
    drawn = cliff_walking.figure({"q-learning": learned}, -20.7)
    drawn.savefig(tmp_path / "cliff.png")
    errors = random_walk.offline((0.0, 0.8), random_walk.ALPHAS, runs=1)
    method = random_walk.Method("off-line λ-return", "12.3", "λ", (0.0, 0.8), errors)
    least, setting, alpha = method.best()
    assert least == errors.min()
    assert errors[(0.0, 0.8).index(setting), random_walk.ALPHAS.index(alpha)] == least
    random_walk.figure([method] * 3).savefig(tmp_path / "walk.png")


# ----------------------------------------------------------------- overestimation


def test_dqn_believes_too_much_and_double_dqn_less(monkeypatch):
    monkeypatch.setattr(overestimation, "MEASUREMENTS", 10)
    plain, double = (
        overestimation.measure(each, runs=1, steps=16_000)
        for each in overestimation.AGENTS.values()
    )
    np.testing.assert_array_equal(plain.steps, np.arange(1_600, 16_001, 1_600))
    # Figure 3 of van Hasselt et al. (2016): far above the truth; less with double Q-learning.
    late = plain.late
    assert plain.bias[:, late].mean() > 20
    assert double.bias[:, late].mean() < plain.bias[:, late].mean() - 20
    for each in (plain, double):
        assert (each.true < each.best).all()  # nobody is better than the best


def test_what_is_believed_and_true_is_averaged_over_the_visits():
    seen = overestimation.model()
    ruler = overestimation.Ruler(seen)
    *_, (done, agent) = overestimation.learn(double=True, steps=2_400, seed=1)
    assert done == 2_400
    believed, true, best, _ = overestimation.look(agent, seen, ruler)
    mdp, found = seen.mdp, agent.estimates(seen.observe(seen.states), seen.mask)
    allowed = np.where(seen.mask, found.q, -np.inf)
    pairs = mdp.offsets[:-1] + [
        list(mdp.actions[mdp.offsets[s] : mdp.offsets[s + 1]]).index(allowed[s].argmax())
        for s in range(mdp.n_states)
    ]
    unknown = np.eye(mdp.n_states) - 0.9 * mdp.P[pairs].toarray()
    d = np.linalg.solve(unknown.T, mdp.start) * 0.1
    assert d.sum() == pytest.approx(1)
    assert believed == pytest.approx(d @ allowed.max(-1), abs=1e-6)
    assert true == pytest.approx(d @ np.linalg.solve(unknown, mdp.r[pairs]), abs=1e-6)
    assert best == pytest.approx(d @ rlkit.solve(mdp).values, abs=1e-4)


def test_the_interval_of_a_bias_holds_its_runs_middle(tmp_path):
    curves = np.linspace(-1, 1, 12)[:, None] + np.arange(4.0)
    middle, low, high = overestimation.interval(curves)
    np.testing.assert_allclose(middle, np.arange(4), atol=1e-12)  # symmetric about it
    assert (low < middle).all()
    assert (high > middle).all()
    steps = 100 * np.arange(1, 5)
    it = overestimation.Learned(steps, curves + 5, curves, curves + 9, curves)
    name, bias, star, *_ = overestimation.row("DQN", it)
    assert (name, bias, star) == ("DQN", "+5.0 [+5.0, +5.0]", "-4.0 [-4.0, -4.0]")
    overestimation.figure({"DQN": it, "double DQN": it}).savefig(tmp_path / "over.png")


# ----------------------------------------------------------------- regret


def test_the_regret_of_a2c_and_ppo_falls_to_a_little_of_random_plays(tmp_path, monkeypatch):
    monkeypatch.setattr(regret, "MEASUREMENTS", 12)
    exact = regret.train(str(tmp_path / "runs"), runs=3, steps=16_000)
    random = regret.random_regret(exact)
    assert random == pytest.approx(3.761, abs=1e-3)
    found = regret.compare(str(tmp_path / "runs"))
    for policy, comparison in found.items():
        assert [group.label for group in comparison.groups] == ["a2c", "ppo"]
        for group in comparison.groups:
            assert (group.curve >= 0).all()  # nobody is better than the optimum
            assert group.curve[0] > 0.7 * random
            assert group.iqm.value < 0.1 * random
            assert group.low.size == group.x.size > regret.MEASUREMENTS / 2
            step = regret.first_below(group, 0.5 * random)
            assert 1_000 < step < 12_000
            assert (group.curve[group.x >= step] < 0.5 * random).all()
            assert regret.first_below(group, 0.0) is None
        values = rlkit.compare(tmp_path / "runs", metric=f"exact/{policy}_value")
        for group, value in zip(comparison.groups, values.groups, strict=True):
            np.testing.assert_allclose(group.scores, exact.optimum - value.scores, atol=1e-9)
    assert len(regret.rows(found, random)) == 4
    regret.figure(found, random).savefig(tmp_path / "regret.png")
