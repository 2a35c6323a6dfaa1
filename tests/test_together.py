"""`rlkit sweep --together`: many seeds in one process, each a run like any other."""

import json
import signal

import numpy as np
import pytest

import rlkit
from rlkit.errors import UsageError
from rlkit.many import together
from rlkit.many.sweep import sweep
from rlkit.run.folder import RunFolder
from rlkit.run.metrics import EVALUATED, read_metrics

RECIPE = {"envs": [2], "n_steps": [32], "minibatch_size": [32], "epochs": [1]}
OPTIONS = {"device": "cpu", "eval_episodes": 4}


def swept(home, steps=256, seeds=(0, 3), settings=RECIPE, **more):
    settings = settings | {"steps": [steps]}
    options = OPTIONS | more.pop("options", {})
    return sweep("ppo", "CartPole", settings, seeds, options, folder=home, together=True, **more)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("together")
    done = swept(home)
    assert done.exit_status == 0
    assert {record.state for record in done.runs.values()} == {"done"}
    return home


def weights(run):
    return [p.detach().numpy().copy() for p in rlkit.load(run).agent.parameters()]


def test_each_seed_is_a_run_of_its_own(home):
    runs = [RunFolder.open(home / f"seed={seed}-0") for seed in (0, 3)]
    assert [run.config["seed"] for run in runs] == [0, 3]
    assert all(run.config["vectorization"] == "device" for run in runs)
    first, second = (weights(run) for run in runs)
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True) if a.any())
    for run in runs:
        lines = list(read_metrics(run.path / "metrics.jsonl"))
        assert [line["step"] for line in lines if EVALUATED in line] == [256]
        steps = [line["step"] for line in lines if "train/kl" in line]
        assert steps == sorted(set(steps))
        assert steps[-1] == 256
        assert rlkit.evaluate(run.path, 4).mean >= 8


def test_the_same_command_does_nothing_twice(home):
    before = {path: path.stat().st_mtime_ns for path in home.glob("seed*/metrics.jsonl")}
    assert swept(home).missing == 0
    assert {path: path.stat().st_mtime_ns for path in home.glob("seed*/metrics.jsonl")} == before


def test_a_seed_goes_on_by_itself(tmp_path):
    swept(tmp_path, seeds=[5])
    done = rlkit.resume(tmp_path / "seed=5-0", 512)
    assert (done.steps, done.complete) == (512, True)


def test_what_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    iterate = together.Population.iterate

    def once(population, progress):
        signal.raise_signal(signal.SIGTERM)
        return iterate(population, progress)

    monkeypatch.setattr(together.Population, "iterate", once)
    stopped = swept(tmp_path)
    assert stopped.exit_status == 128 + signal.SIGTERM
    assert [record.steps for record in stopped.runs.values()] == [64, 64]
    seen = []
    monkeypatch.setattr(
        together.Population,
        "iterate",
        lambda population, progress: seen.append(progress) or iterate(population, progress),
    )
    done = swept(tmp_path)
    assert seen == [0.25, 0.5, 0.75]
    assert {record.state for record in done.runs.values()} == {"done"}
    assert len(list(tmp_path.glob("seed*"))) == 2


def test_at_most_so_many_at_once(tmp_path, monkeypatch):
    sizes, make = [], together.Population.__init__

    def counted(self, agents, envs, graphs):
        sizes.append(len(agents))
        make(self, agents, envs, graphs)

    monkeypatch.setattr(together.Population, "__init__", counted)
    swept(tmp_path, 64, (0, 1, 2), RECIPE | {"gamma": [0.9, 0.99]}, jobs=2)
    assert sizes == [2, 1, 2, 1]


def test_who_fails_is_said_to_have_failed(tmp_path, monkeypatch):
    store = together.Population.store

    def failed(population):
        population.alive[1] = False
        store(population)

    monkeypatch.setattr(together.Population, "store", failed)
    done = swept(tmp_path, 64)
    assert [record.state for record in done.runs.values()] == ["done", "failed"]
    assert "the loss overflowed" in done.runs["seed=3"].error
    assert done.exit_status == 1


@pytest.mark.parametrize(
    ("agent", "env", "settings", "words"),
    [
        ("a2c", "CartPole", {}, "a2c can't be trained with --together; allowed: ppo"),
        ("ppo", "CartPole", {"core": ["gru"]}, "core (--set core) is gru, which --together can't"),
        ("ppo", "CartPole", {"target_kl": [0.0, 0.1]}, "target_kl (--set target_kl) is 0.1"),
        ("ppo", "Pendulum", {}, "--together can't do the actions Box"),
        ("ppo", "Taxi-v4x", {}, "Taxi"),
        ("ppo", "Blackjack", {}, "device"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_starts(tmp_path, agent, env, settings, words):
    home = tmp_path / "home"
    with pytest.raises(UsageError) as refused:
        sweep(agent, env, settings, [0], {"device": "cpu"}, folder=home, together=True)
    assert words in str(refused.value)
    assert not home.exists()


def test_what_has_no_room_is_refused_before_anything_starts(tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setattr("rlkit.system.available_memory", lambda: 2**20)
    with pytest.raises(UsageError) as refused:
        swept(home, seeds=range(64), settings=RECIPE | {"gamma": [0.9, 0.99]})
    words = str(refused.value)
    assert words.startswith("64 seeds learn at a time (--jobs): their weights, rollouts and")
    assert not home.exists()
    most = int(words.rpartition("allowed: up to ")[2])
    assert 1 <= most < 64
    steps, seeds = 64, range(most + 1)
    with pytest.raises(UsageError, match=f"^{most + 1} seeds"):
        swept(home, steps, seeds)
    assert swept(home, steps, seeds[:2], jobs=1).exit_status == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("compile", True),
        ("bf16", True),
        ("encoder_from", "runs/other"),
        ("eval_every", 100),
        ("save_every", "100"),
        ("vectorization", "sync"),
    ],
)
def test_options_that_it_would_not_heed_are_refused(tmp_path, option, value):
    flag = option.replace("_", "-")
    with pytest.raises(UsageError, match=rf"{option} \(--{flag}\) is {value}.*--together"):
        swept(tmp_path / "home", options={option: value})
    assert not (tmp_path / "home").exists()


def test_from_the_command_line(cli, tmp_path):
    told = ["--seeds", "0:2", "--steps", 64, "--device", "cpu", "--eval-episodes", 2]
    for name, (value,) in RECIPE.items():
        told += ["--set", f"{name}={value}"]
    done = cli("sweep", "ppo", "CartPole", *told, "--together", "--sweep-dir", tmp_path, "--json")
    assert done.status == 0
    assert set(json.loads(done.out)["runs"]) == {"seed=0", "seed=1"}
