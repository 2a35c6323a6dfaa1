"""`rlkit sweep`: a grid of runs, each a process, that goes on where it was stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import weights

import rlkit
from rlkit.errors import UsageError
from rlkit.many.batch import Ledger, Record
from rlkit.many.child import Training, is_of
from rlkit.many.jobs import make_slots, visible_gpus
from rlkit.many.plans import keep_plan, plan_training
from rlkit.many.sweep import Plan
from rlkit.many.watch import Curve, run_of
from rlkit.run.folder import RunFolder
from rlkit.run.lock import locked

LAKE = ("q-learning", "FrozenLake", "--steps", 640, "--eval-episodes", 5, "--device", "cpu")
LAKE_HOME = Path("runs/sweep-q-learning-FrozenLake-v1")
LONG = ("a2c", "CartPole", "--seeds", "3", "--steps", 100_000, "--device", "cpu", "--jobs", 1)
LONG_HOME = Path("runs/sweep-a2c-CartPole-v1")


@pytest.mark.timeout(300)
def test_runs_equal_those_of_train_and_are_done_once(cli):
    swept = cli("sweep", *LAKE, "--seeds", "4", "--set", "gamma=0.9,0.95", "--json")
    assert swept.status == 0, swept.err
    found = json.loads(swept.out)
    assert found["folder"] == str(LAKE_HOME)
    assert list(found["runs"]) == ["gamma=0.9,seed=4", "gamma=0.95,seed=4"]
    assert "gamma=0.9,seed=4: return " in swept.err

    alone = rlkit.train(
        *("q-learning", "FrozenLake", {"steps": 640, "gamma": 0.95}),
        {"seed": 4, "eval_episodes": 5, "device": "cpu"},
    )
    run = LAKE_HOME / "gamma=0.95,seed=4-0"
    assert weights(run).equal(weights(alone.run))
    by_gamma = {setting["changes"]["gamma"]: setting for setting in found["settings"]}
    assert by_gamma[0.95]["returns"] == [alone.evaluation.mean]
    assert by_gamma[0.95]["worst_return"] == alone.evaluation.mean

    again = cli("sweep", *LAKE, "--seeds", "4", "--set", "gamma=0.9,0.95", "--json")
    assert json.loads(again.out) == found
    assert "(2 are over, 0 to do)" in again.err

    shutil.rmtree(LAKE_HOME / "gamma=0.9,seed=4-0")  # what is no longer there is done again
    anew = cli("sweep", *LAKE, "--seeds", "4", "--set", "gamma=0.9,0.95", "--json")
    assert "(1 are over, 1 to do)" in anew.err
    assert (LAKE_HOME / "gamma=0.9,seed=4-0").is_dir()
    for before, after in zip(found["settings"], json.loads(anew.out)["settings"], strict=True):
        assert after["returns"] == before["returns"]

    other = cli("sweep", *LAKE, "--seeds", "4,5", "--set", "gamma=0.9,0.95")
    assert other.status == 2
    assert "has another plan: its seeds is [4], not [4, 5]" in other.error


@pytest.mark.timeout(300)
def test_a_run_that_fails_stops_no_other_and_is_retried_when_told_to(cli):
    asked = (
        *("sweep", "a2c", "CartPole", "--seeds", "0", "--steps", 80, "--eval-episodes", 2),
        *("--set", "squash=true,false", "--set", "envs=2", "--device", "cpu"),
    )
    first = cli(*asked)
    assert first.status == 1
    assert (
        "squash=True,seed=0 failed: no squashed policy for the action space Discrete(2)"
        in first.out
    )
    assert "squash=False,seed=0: return " in first.out
    assert "1 runs failed; the same command with --retry-failed tries them again" in first.out
    log = (LONG_HOME / "logs/squash=True,seed=0.log").read_text()
    assert log.count("Error: no squashed policy") == 1
    assert cli(*asked).status == 1
    assert (LONG_HOME / "logs/squash=True,seed=0.log").read_text() == log
    assert cli(*asked, "--retry-failed").status == 1
    assert (LONG_HOME / "logs/squash=True,seed=0.log").read_text() == 2 * log


def start(*args):
    command = [sys.executable, "-m", "rlkit", "sweep", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def step_of(run):
    return Curve(run).look().step


@pytest.mark.timeout(300)
def test_a_sweep_that_is_interrupted_and_killed_goes_on_to_the_same_end(cli, tmp_path):
    run = LONG_HOME / "seed=3-0"
    first = start(*LONG)
    wait_for(lambda: run.exists() and step_of(run) > 0)
    refused = cli("sweep", *LONG)
    assert refused.status == 2
    assert "by another process" in refused.error
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "seed=3: stopped at step " in output
    assert "1 runs are still to be done; the same command goes on with them" in output
    reached = step_of(run)
    assert reached < 100_000

    second = start(*LONG)
    wait_for(lambda: step_of(run) > reached)
    second.kill()
    second.communicate()
    wait_for(lambda: is_free(run), 30)
    saved = int(max(path.name for path in (run / "checkpoints").glob("[0-9]*"))[:12])
    assert step_of(run) <= saved < 100_000  # it saved, and ended, when its parent died

    last = cli("sweep", *LONG, "--json")
    assert last.status == 0
    assert list(LONG_HOME.glob("seed=3-*")) == [run]
    alone = rlkit.train(
        "a2c", "CartPole", {"steps": 100_000}, {"seed": 3, "device": "cpu", "run_dir": "alone"}
    )
    assert weights(run).equal(weights(alone.run))
    (setting,) = json.loads(last.out)["settings"]
    assert setting["returns"] == [alone.evaluation.mean]


def is_free(run):
    """Whether nobody trains the run."""
    try:
        with locked(run):
            return True
    except UsageError:
        return False


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("--set", "gama=0.9"), "unknown option 'gama'; did you mean gamma?"),
        (("--set", "gamma=0.9,1.5"), r"gamma \(--gamma\) is 1.5; allowed: .* <= 1"),
        (("--set", "gamma=0.9,.90"), r"gamma \(--set\) has 0.9 twice"),
        (("--set", "gamma"), "give FIELD=VALUES"),
        (("--set", "normalize_obs=perhaps"), "normalize_obs .* allowed: true or false"),
        (("--set", "steps=100", "--steps", 200), "steps is given by --set and by --steps"),
        (("--seeds", "5:5"), r"seeds \(--seeds\) is empty"),
        (("--seeds", "1,1"), r"has 1 more than once"),
        (("--seeds", "0:99999,99998"), r"has 99998 more than once"),
        (("--seeds", "one"), "give FIRST:END"),
        (("--seeds", "-1:1"), r"seed \(--seed\) is -1"),
        (("--jobs", 0), r"jobs \(--jobs\) is 0; allowed: a whole number >= 1"),
        (("--device", "gpu"), r"device \(--device\) is 'gpu'"),
        (("--sweep-dir", "taken"), "the folder taken is not writable"),
    ],
)
def test_what_is_not_allowed_is_refused_before_anything_starts(cli, tmp_path, given, error):
    (tmp_path / "taken").write_text("a file")
    refused = cli("sweep", "a2c", "CartPole", *given)
    assert refused.status == 2
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(refused.error)
    assert not (tmp_path / "runs").exists()


def test_agents_and_environments_that_are_none_are_refused(cli):
    assert "did you mean a2c?" in cli("sweep", "a2", "CartPole").error
    assert "did you mean CartPole" in cli("sweep", "a2c", "CartPol").error
    assert (
        "runs; allowed: up to 100,000"
        in cli("sweep", "a2c", "CartPole", "--seeds", "0:60000", "--set", "gamma=.8,.9").error
    )


def test_damaged_files_are_named(cli, tmp_path):
    LAKE_HOME.mkdir(parents=True)
    (LAKE_HOME / "sweep.json").write_text("{")
    assert "sweep.json: not JSON" in cli("sweep", *LAKE).error
    (LAKE_HOME / "sweep.json").unlink()
    (LAKE_HOME / "results.json").write_text("{}")
    assert "results.json is of a sweep whose sweep.json is gone" in cli("sweep", *LAKE).error
    for damage in ("{", "{}", '{"runs": []}', '{"runs": {"a": {"state": "eaten"}}}'):
        (tmp_path / "results.json").write_text(damage)
        with pytest.raises(UsageError, match=r"results.json: not (JSON|as the results)"):
            Ledger(tmp_path / "results.json")


def plan(settings, seeds=(0, 1)):
    return Plan(Training("a2c", "CartPole-v1", {}, {}), settings, seeds)


def test_runs_are_named_after_what_differs():
    named = plan({"gamma": [0.9, 0.99], "envs": [4], "hidden": [[64, 64], [8]]}).names()
    assert list(named.values())[:3] == [
        "gamma=0.9,hidden=64x64,seed=0",
        "gamma=0.9,hidden=64x64,seed=1",
        "gamma=0.9,hidden=8,seed=0",
    ]
    assert list(plan({}).names().values()) == ["seed=0", "seed=1"]
    schedules = plan({"learning_rate": ["1e-3:0", "1e-3-0"]}).names()  # the same in a file name
    assert list(schedules.values())[1:3] == ["setting=0,seed=1", "setting=1,seed=0"]
    long = plan({"hidden": [[64] * 60, [32] * 60]}).names()
    assert next(iter(long.values())) == "setting=0,seed=0"


def test_a_ledger_keeps_its_records(tmp_path):
    record = Record("done", "runs/x", 100, 1.5, 2.0)
    Ledger(tmp_path / "results.json").put("x", record)
    assert Ledger(tmp_path / "results.json").records == {"x": record}


def test_a_run_of_another_plan_in_the_same_place_is_not_taken_for_ones_own(tmp_path):
    training = Training("a2c", "CartPole-v1", {"threads": 1, "device": "cpu"}, {"size": 3})
    told = training.job(tmp_path, "seed=1", {"gamma": 0.9}, 1).document
    config = {"agent": "a2c", "seed": 1, "threads": 1, "env_options": {"size": 3}}
    config |= {"recipe": {"gamma": 0.9, "envs": 4}, "device": "cuda", "run_dir": "elsewhere"}
    assert is_of(RunFolder(tmp_path, config), told)
    for change in (
        *({"agent": "dqn"}, {"seed": 2}, {"threads": 2}, {"env_options": {}}),
        *({"recipe": {"gamma": 0.8, "envs": 4}}, {"recipe": {}}, {"recipe": None}),
    ):
        assert not is_of(RunFolder(tmp_path, config | change), told)


def test_a_plan_of_a_time_with_fewer_options_is_the_same_plan(tmp_path):
    made = plan_training("a2c", "CartPole", {}, None)
    older = {k: v for k, v in made.options.items() if k != "strict"}
    keep_plan(tmp_path / "sweep.json", {"options": older}, "--sweep-dir")
    keep_plan(tmp_path / "sweep.json", {"options": made.options}, "--sweep-dir")
    with pytest.raises(UsageError, match="another plan"):
        keep_plan(tmp_path / "sweep.json", {"options": {**older, "strict": True}}, "--sweep-dir")
    config = {**made.options, "agent": "a2c", "seed": 1, "env_options": {}, "recipe": {}}
    del config["strict"]
    told = made.job(tmp_path, "seed=1", {}, 1).document
    assert is_of(RunFolder(tmp_path, config), told)
    assert not is_of(RunFolder(tmp_path, config | {"strict": True}), told)


def test_gpus_are_taken_in_turn(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    named = [slot["CUDA_VISIBLE_DEVICES"] for slot in make_slots(3, "cuda")]
    assert named == ["2", "5", "2"]
    assert len(make_slots(None, "cuda")) == 2
    assert make_slots(2, "cpu") == [{}, {}]
    assert make_slots(2, "cuda:1") == [{}, {}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert len(make_slots(None, "auto")) == len(os.sched_getaffinity(0))


def test_a_curve_is_followed_as_it_grows_and_begins_anew_with_its_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    curve = Curve(tmp_path)
    assert (curve.look().step, curve.evaluations) == (0, [])
    path.write_text('{"step": 5, "eval/mean_reward": 1.5}\n{"step": 9, "rollout/ep_rew_mean": 2')
    assert (curve.look().step, curve.evaluations, curve.mean_return) == (5, [(5, 1.5)], None)
    with path.open("a") as file:
        file.write(".5}\nbroken\n")
    assert (curve.look().step, curve.mean_return) == (9, 2.5)
    (tmp_path / "new").write_text('{"step": 3}\n')
    (tmp_path / "new").replace(path)
    assert (curve.look().step, curve.evaluations) == (3, [])


def test_the_newest_run_of_a_name_is_found(tmp_path):
    for name in ("seed=1-2", "seed=1-10", "seed=1-11", "seed=10-12", "seed=1-x"):
        (tmp_path / name).mkdir()
        if name != "seed=1-11":  # no run
            (tmp_path / name / "config.json").write_text("{}")
    assert run_of(tmp_path, "seed=1") == tmp_path / "seed=1-10"
    assert run_of(tmp_path, "seed=2") is None


def test_the_parent_imports_no_torch():
    code = "import sys, rlkit.cli.sweep, rlkit.many.sweep; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
