"""`rlkit compare` and `rlkit.compare`: which runs, which groups, what they come to, the picture."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_imports import modules_after

import rlkit
from rlkit.cli import COMMANDS
from rlkit.comparison.curves import Curve, find_runs, read_curve
from rlkit.comparison.groups import Members
from rlkit.comparison.measures import Terms, summarise
from rlkit.comparison.plot import comparison_figure
from rlkit.errors import UsageError
from rlkit.run.folder import RunFolder, run_name
from rlkit.run.metrics import EVALUATED, METRICS, Metrics
from rlkit.statistics import (
    percentile_interval,
    pooled_interquartile_mean,
    stratified_bootstrap,
)

STEPS = 100


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(
    values,
    seed=0,
    agent="a2c",
    env="CartPole-v1",
    metric=EVALUATED,
    recipe=(),
    env_options=(),
    threshold=None,
    fps=1000.0,
    **config,
):
    """A run's folder as rlkit writes it; `values`: {step: value}, or one for each tenth step."""
    steps = values if isinstance(values, dict) else {10 * i + 10: v for i, v in enumerate(values)}
    told = {"agent": agent, "env": env, "seed": seed, "env_given": "name", **config}
    told |= {"recipe": {"steps": max(steps), **dict(recipe)}, "env_options": dict(env_options)}
    spec = None if threshold is None else json.dumps({"reward_threshold": threshold})
    folder = RunFolder.create(Path("runs"), run_name(agent, env), told, spec)
    with Metrics(folder) as metrics:
        for step, value in steps.items():
            if fps:
                metrics.scalars(step, {"time/fps": fps, "rollout/ep_rew_mean": value})
            metrics.scalars(step, {metric: value})
    return folder.path


def only(comparison):
    (group,) = comparison.groups
    return group


# -------------------------------------------------------------------------------------- which runs


def test_runs_go_by_folder_name_pattern_beginning_and_parent():
    first, second = make([1], seed=1), make([2], seed=2)
    hidden = make([3], env="CartPoleHidden-v0")
    elsewhere = Path("else")
    (elsewhere / "deep").mkdir(parents=True)

    def found(*names):
        return [run.path for run in find_runs(names)[0]]

    assert found(first) == found(first.name) == [first]
    assert found("a2c-CartPole-v1") == found("a2c-CartPole") == [first, second]
    assert found("runs/a2c-CartPole") == found("a2c-CartPole-v*") == [first, second]
    assert found("a2c") == found("runs") == found("a2c*") == [first, second, hidden]
    assert found(second, first) == [second, first]
    assert found(f"{first.name}") == [first]  # and not -10, -11, ... too
    swept = Path("runs/sweep-a2c")
    swept.mkdir()
    first.rename(swept / first.name)
    assert found("runs") == [second, hidden]  # nobody says that the folder is a sweep's
    (swept / "sweep.json").write_text("{}")
    assert found("runs") == [second, hidden, swept / first.name]
    assert found("runs/sweep-a2c") == [swept / first.name]


def test_a_run_that_is_given_twice_counts_once():
    path = make([1])
    compared = rlkit.compare([path, "runs", path])
    assert only(compared).scores.tolist() == [1]
    assert compared.notes[:2] == [f"{path} is given twice; it counts once"] * 2


def test_the_same_seed_and_values_are_one_sample():
    for seed in (0, 1, 1, 2):
        make([seed, seed + 1], seed=seed)
    make([5, 5], seed=1)  # as on another device
    compared = rlkit.compare("runs")
    assert sorted(only(compared).scores) == [1, 2, 3, 5]
    (note,) = compared.notes
    assert note.startswith("runs/a2c-CartPole-v1-2 repeats runs/a2c-CartPole-v1-1")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no runs to compare"),
        (["a2c-CartPole-v1-7"], "did you mean a2c-CartPole-v1-0"),
        (["nowhere/x"], "there is no run in nowhere"),
        (["empty"], "empty is no run: it holds no config.json"),
        (["*nothing*"], "unknown run"),
        (["a\0b"], "unknown run"),
        ([""], "run name is ''"),
    ],
)
def test_what_is_no_run_is_refused(names, words):
    make([1])
    Path("empty").mkdir()
    with pytest.raises(UsageError, match=words):
        rlkit.compare(names)


# ------------------------------------------------------------------------------------ what is read


def test_a_last_line_that_a_kill_cut_off_is_left_out():
    path = make([1, 2, 3])
    with (path / METRICS).open("ab") as file:
        file.write(b'{"step": 40, "eval/mean_rew')
    assert only(rlkit.compare(path)).scores.tolist() == [3]


def test_another_damaged_line_is_named():
    path = make([1, 2, 3])
    lines = (path / METRICS).read_bytes().splitlines(keepends=True)
    (path / METRICS).write_bytes(b"".join([*lines[:3], b"\0\0\0\n", *lines[3:]]))
    with pytest.raises(UsageError, match=rf"{METRICS}:4: not a line .* leave this run out"):
        rlkit.compare(path)


def test_values_that_are_not_finite_are_left_out_and_said():
    path = make([1.0, np.nan, 3.0, np.inf])
    compared = rlkit.compare(path)
    assert only(compared).runs[0].values.tolist() == [1, 3]
    assert f"{path}: 2 values of {EVALUATED} are not finite, and left out" in compared.notes


def test_lines_that_step_back_take_the_place_of_those_beyond():
    path = make([1, 2, 3])
    with (path / METRICS).open("a") as file:
        for line in ({"step": 20, EVALUATED: 7}, {"step": 30, EVALUATED: 8}):
            file.write(json.dumps(line) + "\n")
    run = read_curve(RunFolder.open(path), EVALUATED)
    assert (run.steps.tolist(), run.values.tolist()) == ([10, 20, 30], [1, 7, 8])


def test_strange_steps_and_values_are_left_out():
    path = make([1])
    strange = [
        *({"step": "x", EVALUATED: 1}, {"step": -1, EVALUATED: 1}, {"step": 1e300, EVALUATED: 1}),
        *({"step": 20, EVALUATED: "high"}, {"step": 30, EVALUATED: 10**400}, {EVALUATED: 9}, {}),
    ]
    with (path / METRICS).open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in strange)
    run = read_curve(RunFolder.open(path), EVALUATED)
    assert (run.steps.tolist(), run.values.tolist(), run.dropped) == ([10], [1], 2)


def test_a_resumed_run_is_one_curve():
    path = make([1, 2, 3])
    with Metrics(path, resume_step=20) as metrics:
        metrics.scalars(30, {EVALUATED: 30})
        metrics.scalars(40, {EVALUATED: 40})
    assert only(rlkit.compare(path)).runs[0].values.tolist() == [1, 2, 30, 40]


def test_seconds_are_those_of_training():
    path = make({100: 1.0, 300: 2.0}, fps=50.0)
    run = read_curve(RunFolder.open(path), EVALUATED)
    np.testing.assert_allclose(run.seconds, [2, 6])
    assert only(rlkit.compare(path, x="seconds")).x.tolist() == [2, 6]
    assert only(rlkit.compare(path)).seconds == 6


def test_runs_without_the_metric_are_left_out_and_named():
    path, other = make([1]), make([2], metric="eval/other", seed=1)
    compared = rlkit.compare("runs")
    assert only(compared).runs[0].run.path == path
    assert f"left out, as there is no value of {EVALUATED} in them: {other}" in compared.notes
    (other / METRICS).unlink()
    assert rlkit.compare("runs").notes == compared.notes
    with pytest.raises(UsageError, match=r"metric 'eval/mean_rewrd'; did you mean eval/mean_rew"):
        rlkit.compare("runs", "eval/mean_rewrd")
    with pytest.raises(UsageError, match=r"they have: eval/mean_reward, rollout/ep_rew_mean, time"):
        rlkit.compare("runs", "zzz")
    with pytest.raises(UsageError, match="nothing was measured in them yet"):
        rlkit.compare(other)


def test_unfinished_runs_are_named_and_drawn_as_far_as_they_are():
    for seed in range(3):
        make([1, 2, 3, 4], seed=seed)
    path = make([1, 2], seed=3, recipe={"steps": 40})
    compared = rlkit.compare("runs")
    group = only(compared)
    assert f"unfinished, counted with the last value so far: {path} (20 of 40 steps)" in (
        compared.notes
    )
    assert sorted(group.scores) == [2, 4, 4, 4]
    assert (group.steps, group.x.tolist()) == ((20, 40), [10, 20])
    assert [len(run.steps) for run in group.runs] == [4, 4, 4, 2]


# ----------------------------------------------------------------------------------- which groups


def test_seeds_of_one_setting_are_a_group_and_labels_say_what_differs():
    for seed in range(2):
        make([1], seed, recipe={"gamma": 0.9, "hidden": [64, 64], "n": 5}, device="cpu")
        make([2], seed, recipe={"gamma": 0.99, "hidden": [64, 64], "n": 5}, threads=2)
        make([3], seed, recipe={"gamma": 0.99, "hidden": [8], "n": 5})
    make([4], 0, agent="ppo", recipe={"gamma": 0.5, "clip": 0.2})
    groups = rlkit.compare("runs").groups
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("a2c, gamma=0.9, hidden=64x64", 2),
        ("a2c, gamma=0.99, hidden=64x64", 2),
        ("a2c, gamma=0.99, hidden=8", 2),
        ("ppo", 1),
    ]
    assert groups[0].name == "a2c, gamma=0.9, hidden=64x64 on CartPole-v1"


def test_environments_and_their_options_are_tasks_of_their_own():
    make([1])
    make([2], env="Acrobot-v1")
    make([3], env="Acrobot-v1", env_options={"slip": 0.1})
    compared = rlkit.compare("runs", optimum=False)
    assert compared.tasks == ["Acrobot-v1", "Acrobot-v1, slip=0.1", "CartPole-v1"]
    assert {group.label for group in compared.groups} == {"a2c"}
    assert compared.improvements == []


def test_what_only_says_how_to_run_makes_no_group_and_pixels_do():
    make([1], seed=0, device="cpu", eval_every=5, vectorization="sync")
    make([1], seed=1, device="cuda", eval_every=7)
    make([1], seed=2, pixels=True)
    labels = [group.label for group in rlkit.compare("runs").groups]
    assert labels == ["a2c, pixels=unset", "a2c, pixels=true"]


def test_groups_by_other_fields():
    for seed, rate in ((0, 0.1), (1, 0.1), (0, 0.2)):
        make([1 + seed], seed, recipe={"learning_rate": rate, "n": seed})
    rates = rlkit.compare("runs", by=["learning_rate"])
    assert [(g.label, len(g.runs)) for g in rates.groups] == [
        ("learning_rate=0.1", 2),
        ("learning_rate=0.2", 1),
    ]
    assert "learning_rate=0.1 on CartPole-v1: holds runs that differ in n" in rates.notes
    seeds = rlkit.compare("runs", by=["seed", "versions.rlkit"]).groups
    assert [g.label for g in seeds] == [
        f"seed={seed}, versions.rlkit={rlkit.__version__}" for seed in (0, 1)
    ]
    with pytest.raises(UsageError, match=r"'learning_rat' to group by .* did you mean learning_ra"):
        rlkit.compare("runs", by=["learning_rat"])


@pytest.mark.parametrize("part", [{"agent": 3}, {"recipe": []}, {"env_options": "x"}])
def test_a_config_that_is_not_rlkits_is_named(part):
    path = make([1])
    config = json.loads((path / "config.json").read_text()) | part
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"config.json: not as a run's config is written"):
        rlkit.compare(path)


# -------------------------------------------------------------------------- what they come to


def test_final_scores_and_their_interval():
    last = [3.0, 9.0, 4.0, 1.0, 100.0]
    for seed, value in enumerate(last):
        make([0.0, value], seed)
    group = only(rlkit.compare("runs"))
    assert sorted(group.scores) == sorted(last)
    assert group.iqm.value == pytest.approx(stats.trim_mean(last, 0.25)) == pytest.approx(16 / 3)
    assert (group.mean, group.median, group.worst, group.best) == (23.4, 4, 1, 100)
    drawn = stratified_bootstrap([group.scores], pooled_interquartile_mean, 2000, 0)
    np.testing.assert_allclose((group.iqm.low, group.iqm.high), percentile_interval(drawn, 0.95))
    assert only(rlkit.compare("runs")).iqm == group.iqm
    narrow = only(rlkit.compare("runs", confidence=0.5)).iqm
    assert group.iqm.low < narrow.low < narrow.high < group.iqm.high


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_get_no_interval(seeds):
    for seed in range(seeds):
        make([1, seed], seed)
    compared = rlkit.compare("runs")
    group = only(compared)
    assert (group.iqm.low, group.iqm.high, group.low.size, group.high.size) == (None, None, 0, 0)
    assert group.curve.tolist() == [1, (seeds - 1) / 2]
    said = f"no interval with fewer than 3 seeds: a2c on CartPole-v1 ({seeds})"
    assert compared.notes == [said]


def test_of_a_loss_less_is_better():
    for seed in range(3):
        make([seed + 1.0], seed, metric="train/value_loss")
        make([seed + 10.0], seed, metric="train/value_loss", agent="ppo")
    compared = rlkit.compare("runs", "train/value_loss")
    assert [(g.worst, g.best) for g in compared.groups] == [(3, 1), (12, 10)]
    (pair,) = compared.improvements
    assert (pair.better, pair.worse, pair.probability.value) == ("a2c", "ppo", 1)
    (pair,) = rlkit.compare("runs", "train/value_loss", higher_is_better=True).improvements
    assert (pair.better, pair.worse) == ("ppo", "a2c")


def test_the_probability_of_improvement_is_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, size=7).astype(float), rng.integers(1, 8, size=5).astype(float)
    for seed, value in enumerate(x):
        make([value], seed)
    for seed, value in enumerate(y):
        make([value], seed, agent="ppo")
    (pair,) = rlkit.compare("runs").improvements
    assert (pair.better, pair.worse) == ("ppo", "a2c")
    assert pair.probability.value == pytest.approx(stats.mannwhitneyu(y, x).statistic / 35)
    assert 0 < pair.probability.low < pair.probability.value < pair.probability.high <= 1


def test_curves_meet_at_common_steps_and_never_go_beyond_a_run():
    make({10: 0.0, 30: 20.0, 50: 40.0}, 0)
    make({20: 100.0, 40: 100.0}, 1, recipe={"steps": 50})
    make({10: 0.0, 50: 0.0}, 2)
    group = only(rlkit.compare("runs"))
    assert group.x.tolist() == [20, 30, 40]
    np.testing.assert_allclose(group.curve, [110 / 3, 40, 130 / 3])
    assert all((group.low <= group.curve) & (group.curve <= group.high))


def test_long_curves_are_thinned():
    make({10 * i + 10: float(i) for i in range(5000)})
    group = only(rlkit.compare("runs"))
    assert (len(group.x), group.x[0], group.x[-1]) == (200, 10, 50_000)
    np.testing.assert_allclose(group.curve, group.x / 10 - 1)


@given(
    st.lists(
        st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=6), min_size=1, max_size=6
    ),
    st.randoms(),
)
@settings(max_examples=60, deadline=None)
def test_curves_lie_within_the_seeds_and_heed_no_order(values, random):
    def curve(seed, found):
        steps = np.arange(1.0, len(found) + 1)
        config = {"recipe": {}, "seed": seed}
        run = RunFolder(Path(str(seed)), config)
        return Curve(run, steps, np.array(found), steps, len(found), 0, frozenset())

    def summary(curves):
        members = [Members("a", "b", curves)]
        (group,) = summarise(members, True, Terms(resamples=100), {}, {})
        return group

    curves = [curve(seed, found) for seed, found in enumerate(values)]
    group = summary(curves)
    shuffled = summary(random.sample(curves, len(curves)))
    np.testing.assert_allclose(group.curve, shuffled.curve)
    assert group.iqm.value == pytest.approx(shuffled.iqm.value)
    shortest = min(map(len, values))
    assert group.x.tolist() == list(range(1, shortest + 1))
    at = np.array([found[:shortest] for found in values])
    assert np.all((at.min(0) - 1e-9 <= group.curve) & (group.curve <= at.max(0) + 1e-9))
    assert group.worst <= group.iqm.value + 1e-9
    assert group.iqm.value <= group.best + 1e-9


def test_the_first_step_that_passes_the_threshold():
    for seed, found in enumerate([[1, 475, 2], [476, 1, 1], [1, 2, 3]]):
        make(found, seed, threshold=475)
    group = only(rlkit.compare("runs"))
    assert (group.threshold, group.passed, group.passed_at) == (475, 2, 20)
    own = only(rlkit.compare("runs", threshold=500))
    assert (own.threshold, own.passed, own.passed_at) == (500, 0, None)
    assert only(rlkit.compare("runs", "rollout/ep_rew_mean")).threshold == 475
    assert only(rlkit.compare("runs", "time/fps")).threshold is None


# -------------------------------------------------------------------------------------- the optimum


def horizon_value(env, steps, best):
    """The value of the first state over so many steps, of the best policy or of random play."""
    table = env.unwrapped.P
    V = np.zeros(len(table))
    for _ in range(steps):
        Q = [
            [sum(p * (r + (not end) * V[s]) for p, s, r, end in table[state][a]) for a in range(4)]
            for state in range(len(table))
        ]
        V = np.max(Q, axis=1) if best else np.mean(Q, axis=1)
    return env.unwrapped.initial_state_distrib @ V


@pytest.mark.parametrize("limit", [None, 30])
def test_returns_are_held_against_the_best_within_the_time_limit(limit):
    options = {} if limit is None else {"max_episode_steps": limit}
    for seed in range(3):
        make([0.1, 0.5], seed, env="FrozenLake-v1", env_options=options, threshold=0.7)
    env = gym.make("FrozenLake-v1")
    group = only(rlkit.compare("runs"))
    expected = horizon_value(env, limit or 100, best=True)
    assert group.optimum.value == pytest.approx(expected, abs=1e-9)
    assert group.optimum.what == f"undiscounted, {limit or 100} steps at most"
    assert group.fraction == pytest.approx(0.5 / expected)
    assert group.gap == pytest.approx(expected - 0.5)
    assert group.threshold == 0.7
    relative = only(rlkit.compare("runs", normalize="optimum"))
    random = horizon_value(env, limit or 100, best=False)
    assert relative.iqm.value == pytest.approx((0.5 - random) / (expected - random))
    assert relative.threshold == pytest.approx((0.7 - random) / (expected - random))
    assert (relative.optimum.value, relative.optimum.random) == (1, 0)


def test_without_a_time_limit_it_is_the_models():
    make([-15], env="CliffWalking-v1")
    group = only(rlkit.compare("runs"))
    assert group.optimum.value == pytest.approx(-13, abs=1e-6)
    assert group.optimum.what == "undiscounted"
    assert group.fraction is None  # of a negative one
    assert group.gap == pytest.approx(2, abs=1e-6)
    assert group.threshold == pytest.approx(-13.13, abs=1e-6)


@pytest.mark.parametrize(
    ("env", "env_options"),
    [("FrozenLake-v1", {"desc": None, "map_name": None}), ("rlkit/GridMaps-v0", {})],
)
def test_what_has_no_one_model_has_no_optimum(env, env_options):
    make([0.5], env=env, env_options=env_options)
    found = rlkit.compare("runs")
    assert only(found).optimum is None
    assert any("has another model" in note for note in found.notes)


def test_a_negative_score_is_no_share_of_the_optimum(cli):
    make([-200], env="Taxi-v4")
    group = only(rlkit.compare("runs"))
    assert group.optimum.value > 0
    assert group.fraction is None
    assert group.gap == pytest.approx(200 + group.optimum.value)
    assert "207.9 short" in cli("compare", "runs").out


def test_exact_values_are_held_against_the_discounted_optimum():
    for gamma in (0.9, 0.99):
        make([0.1], env="FrozenLake-v1", metric="exact/greedy_value", recipe={"gamma": gamma})
    groups = rlkit.compare("runs", "exact/greedy_value").groups
    for group, gamma in zip(groups, (0.9, 0.99), strict=True):
        mdp = rlkit.MDP.from_gymnasium(gym.make("FrozenLake-v1"), gamma)
        assert group.optimum.value == pytest.approx(rlkit.solve(mdp).start_value, abs=1e-6)
        assert group.optimum.what == f"γ = {gamma:g}"
    make([0.1], env="FrozenLake-v1", metric="exact/greedy_value")
    compared = rlkit.compare("runs", "exact/greedy_value", by=["agent"])
    assert only(compared).optimum is None
    assert "no optimum for FrozenLake-v1: its runs have several discounts" in compared.notes


def test_models_without_a_start_begin_anywhere():
    make([500], env="rlkit/forest-v0", env_options={"max_episode_steps": 7})
    mdp = rlkit.MDP.from_gymnasium(gym.make("rlkit/forest-v0"), 1.0)
    V = np.zeros(mdp.n_states)
    for _ in range(7):
        V = np.maximum.reduceat(mdp.r + mdp.P @ V, mdp.offsets[:-1])
    group = only(rlkit.compare("runs"))
    assert group.optimum.value == pytest.approx(V.mean())


def test_what_has_no_model_has_no_optimum():
    make([1])
    assert only(rlkit.compare("runs")).optimum is None
    make([1], env="FrozenLake-v1", metric="eval/mean_ep_length")
    assert only(rlkit.compare("runs", "eval/mean_ep_length")).optimum is None
    assert only(rlkit.compare("a2c-FrozenLake", "rollout/ep_rew_mean", optimum=False)).fraction is (
        None
    )


def test_why_a_model_has_no_optimum_is_said(monkeypatch):
    make([1], env="FrozenLake-v1", env_options={"map_name": "9x9"})
    compared = rlkit.compare("runs")
    assert only(compared).optimum is None
    assert any(
        note.startswith("no optimum for FrozenLake-v1, map_name=9x9: ") for note in compared.notes
    )
    monkeypatch.setattr("rlkit.comparison.optimum._MOST_WORK", 10)
    make([1], env="FrozenLake-v1")
    compared = rlkit.compare("runs/a2c-FrozenLake-v1-1")
    assert "transitions over 100 steps take too long to solve here" in compared.notes[0]


@pytest.mark.parametrize(("env", "given"), [("trap.py:Trap", "name"), ("Trap-v0", "object")])
def test_a_strangers_run_executes_nothing(env, given):
    Path("trap.py").write_text(
        "open('sprung', 'w')\nimport gymnasium\nclass Trap(gymnasium.Env): 1"
    )
    make([1], env=env, env_given=given)
    compared = rlkit.compare("runs")
    assert only(compared).scores.tolist() == [1]
    assert f"no optimum for {env}: its environment is code outside the run" in compared.notes[0]
    assert not Path("sprung").exists()


# ------------------------------------------------------------------------------ several tasks


def test_normalised_scores_are_pooled_over_tasks():
    rng = np.random.default_rng(1)
    scores = {}
    for agent in ("a2c", "ppo"):
        for env, scale in (("CartPole-v1", 500), ("Acrobot-v1", 100)):
            scores[agent, env] = rng.uniform(0, 1, size=4)
            for seed, score in enumerate(scores[agent, env]):
                make([scale * score], seed, agent=agent, env=env)
    make([1], agent="dqn")  # on one of them alone
    scales = {"CartPole-v1": (0, 500), "Acrobot-v1": (0, 100)}
    compared = rlkit.compare("runs", normalize=scales)
    pooled = {
        agent: np.concatenate([scores[agent, env] for env in scales]) for agent in ("a2c", "ppo")
    }
    assert {one.label: one.iqm.value for one in compared.aggregates} == {
        agent: pytest.approx(stats.trim_mean(found, 0.25)) for agent, found in pooled.items()
    }
    overall = [pair for pair in compared.improvements if pair.task == "all environments"]
    chances = [
        stats.mannwhitneyu(scores["a2c", env], scores["ppo", env]).statistic / 16 for env in scales
    ]
    (pair,) = overall
    expected = np.mean(chances)
    assert pair.probability.value == pytest.approx(max(expected, 1 - expected))
    assert pair.better == ("a2c" if expected >= 0.5 else "ppo")
    assert pair.probability.low < pair.probability.value < pair.probability.high
    assert rlkit.compare("runs").aggregates == []  # scores that can't be compared are not pooled


@pytest.mark.parametrize(
    ("normalize", "words"),
    [
        ("optimum", r"CartPole-v1 can't be normalised by its optimum: it has no exact model; give"),
        ({"Cartpool": (0, 1)}, "names 'Cartpool', and no run is on it; did you mean CartPole-v1"),
        ({}, "does not say what 0 and 1 are on CartPole-v1"),
        ({"CartPole-v1": (5, 5)}, "is 5:5 on CartPole-v1"),
        ({"CartPole-v1": (0, float("nan"))}, "is 0:nan on CartPole-v1"),
    ],
)
def test_a_scale_that_is_none_is_refused(normalize, words):
    make([1])
    with pytest.raises(UsageError, match=words):
        rlkit.compare("runs", normalize=normalize)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"x": "days"}, r"x \(--x\) is 'days'; allowed: steps or seconds"),
        ({"confidence": 1.0}, "confidence .* is 1.0; allowed"),
        ({"resamples": 10}, "resamples .* is 10; allowed"),
        ({"seed": -1}, "seed is -1; allowed"),
        ({"threshold": float("inf")}, "threshold .* is inf; allowed"),
        ({"metric": "train/loss", "normalize": "optimum"}, "better the lower it is"),
    ],
)
def test_terms_that_are_not_allowed_are_refused(terms, words):
    make([1])
    with pytest.raises(UsageError, match=words):
        rlkit.compare("runs", **terms)


def test_seconds_need_logged_speeds():
    make([1], fps=None)
    assert only(rlkit.compare("runs")).seconds is None
    with pytest.raises(UsageError, match="has logged no time/fps"):
        rlkit.compare("runs", x="seconds")


# ------------------------------------------------------------------------- the command and picture


def two_settings():
    for seed in range(3):
        make([1, 2, 3 + seed], seed, threshold=4)
        make([1, 3, 5 + seed], seed, agent="ppo", threshold=4)


def test_the_table_says_it_all(cli):
    two_settings()
    done = cli("compare", "runs")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "CartPole-v1 · solved at 4" in lines
    rows = {line.split()[0]: line.split() for line in lines if line.startswith(("a2c ", "ppo "))}
    assert rows["a2c"][-8:] == ["4", "3", "5", "3", "30", "0.03", "2/3", "30"]
    assert any(line.split()[:4] == ["ppo", ">", "a2c", "0.94"] for line in lines)


def test_json_holds_the_curves(cli):
    two_settings()
    done = cli("compare", "a2c", "ppo", "--json", "--confidence", 0.9)
    found = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert "probability of improvement" in done.err
    first, second = found["groups"]
    assert (first["label"], second["label"], found["confidence"]) == ("a2c", "ppo", 0.9)
    assert first["curve"]["x"] == [10, 20, 30]
    assert first["curve"]["iqm"] == [1, 2, 4]
    assert sorted(first["scores"]) == [3, 4, 5]
    assert [run["seed"] for run in first["runs"]] == [0, 1, 2]
    assert found["improvements"][0]["probability"]["value"] == pytest.approx(17 / 18)


def test_the_picture_shows_groups_seeds_and_the_optimum(cli):
    for seed in range(3):
        make([0.1, 0.2 + 0.1 * seed], seed, env="FrozenLake-v1")
    two_settings()
    done = cli("compare", "runs", "--plot", "curves.png")
    assert done.status == 0
    assert done.out.splitlines()[-1] == "drew curves.png"
    assert Path("curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    figure = comparison_figure(rlkit.compare("runs"))
    cart, lake = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["CartPole-v1", "FrozenLake-v1"]
    assert cart.get_xlabel() == "environment steps"
    lines = {line.get_label(): line for line in cart.lines}
    assert lines["ppo"].get_xdata().tolist() == [10, 20, 30]
    assert len(cart.lines) == 2 * 4 + 1  # thick, three seeds, and what is solved
    assert len(cart.collections) == 2  # shades
    assert [text.get_text() for text in lake.texts] == ["optimum 0.7442"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"a2c", "ppo"}


def test_what_stands_in_a_strangers_config_is_drawn_as_it_is(cli):
    make([1], agent="a$\\frac$", env="x$_{$")
    assert cli("compare", "runs", "--plot", "curves.png").status == 0
    figure = comparison_figure(rlkit.compare("runs"))
    assert figure.axes[0].get_title(loc="left") == r"x\$_{\$"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no runs to compare; name run folders"),
        (["runs", "--plot", "x.jpg"], "plot 'x.jpg': the name must end in .png or .pdf or .svg"),
        (["runs", "--plot", "no/x.png"], "plot (--plot) 'no/x.png' can't be written: No such file"),
        (["runs", "--metric", "eval/men_reward"], "did you mean eval/mean_reward"),
        (["runs", "--normalize", "CartPole"], "--normalize is 'CartPole'; allowed: optimum, or"),
        (["runs", "--normalize", "A=1:x"], "--normalize is 'A=1:x'; allowed: optimum, or"),
        (["runs", "--by", ""], "no run has a field '' to group by"),
    ],
)
def test_bad_usage_is_one_line(cli, arguments, words):
    two_settings()
    done = cli("compare", *arguments)
    assert done.status == 2
    assert words in done.error


def test_normalize_from_the_command_line(cli):
    two_settings()
    done = cli("compare", "runs", "--normalize", "CartPole=0:10", "--json")
    assert json.loads(done.out)["groups"][0]["iqm"]["value"] == pytest.approx(0.4)


def test_a_frame_has_a_row_for_each_group():
    pandas = pytest.importorskip("pandas")
    two_settings()
    frame = rlkit.compare("runs").to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame[["label", "iqm", "seeds", "passed_at"]].values.tolist() == [
        ["a2c", 4.0, 3, 30.0],
        ["ppo", 6.0, 3, 30.0],
    ]


def test_help_lists_the_command(cli):
    assert COMMANDS["compare"] in cli("--help").out
    assert "--metric" in cli("compare", "--help").out


def test_no_torch_is_imported():
    make([0.5], env="FrozenLake-v1")
    code = "from rlkit.cli import cli; cli.main(['compare', 'runs'], standalone_mode=False)"
    loaded = modules_after(code)
    assert "torch" not in loaded
    assert "matplotlib" not in loaded


def test_real_runs(cli):
    small = {"steps": 2000, "envs": 4}
    for seed in range(3):
        rlkit.train("q-learning", "FrozenLake", small, {"seed": seed, "eval_episodes": 5})
    evaluated = only(rlkit.compare("q-learning"))
    assert len(evaluated.runs) == 3
    assert evaluated.steps == (2000, 2000)
    assert evaluated.seconds > 0
    values = only(rlkit.compare("q-learning", "exact/greedy_value"))
    logged = read_curve(values.runs[0].run, "exact/optimum").values[-1]
    assert values.optimum.value == pytest.approx(logged, abs=1e-5)
    regret = only(rlkit.compare("q-learning", "exact/greedy_regret"))
    np.testing.assert_allclose(regret.scores, values.optimum.value - values.scores, atol=1e-5)
    assert cli("compare", "runs", "--x", "seconds", "--plot", "x.png").status == 0
