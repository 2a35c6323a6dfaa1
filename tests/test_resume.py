"""Stopping and going on: a resumed run is the run that was never stopped, bit for bit."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
import torch
from small_runs import (
    AGENTS,
    EVERY,
    OWN,
    PATIENT,
    SMALL,
    env_of,
    leaves,
    metrics,
    patient_of,
    steps_saved,
    weights,
)

import rlkit
from rlkit.envs.vector import Envs
from rlkit.run.checkpoint import load_checkpoint
from rlkit.training import build
from rlkit.training.evaluation import Evaluation
from rlkit.training.trainer import Trainer

SWITCHES = (
    *("--dueling", "--noisy", "--values", "quantiles", "--atoms", 5, "--head-hidden", 8),
    *("--priority-exponent", "0.6", "--target-rate", "0.1", "--target-interval", 3),
    *("--normalize-obs", "--optimizer", "rmsprop", "--exploration", "0.5:0.1"),
)
BARE = ("--core", "gru", "--priority-exponent", 0, "--n-step", 1, "--burn-in", 0)
STATEFUL = [
    ("a2c", "CartPole"),
    ("a2c", "CartPole", "--vectorization", "sync", "--optimizer", "adam"),
    ("a2c", "Pendulum"),
    ("a2c", "FrozenLake"),
    ("a2c", "Pendulum", "--normalize-obs", "--normalize-reward"),
    ("ppo", "CartPole", "--value-clip", "0.2", "--target-kl", "0.01"),
    ("ppo", "Pendulum", "--normalize-obs", "--normalize-reward"),
    ("a2c", "CartPole", "--core", "gru", "--core-width", 8),
    ("ppo", "CartPole", "--core", "lstm", "--core-width", 8),
    ("ppo", "Acrobot", "--core", "gtrxl", "--core-width", 8),
    ("dqn", "CartPole"),
    ("dqn", "CartPole", "--vectorization", "sync", "--n-step", "1"),
    ("dqn", "Acrobot"),
    ("dqn", "CartPole", *SWITCHES),
    ("pqn", "CartPole", "--normalize-obs", "--normalize-reward"),
    ("pqn", "FrozenLake", "--norm", "none", "--optimizer", "momentum"),
    ("rainbow", "CartPole"),
    ("r2d2", "CartPole"),
    ("r2d2", "FrozenLake", *BARE),
    ("r2d2", "Acrobot", "--core", "gtrxl", "--target-rate", "0.1", "--target-interval", 2),
    ("r2d2", "CartPole", "--frame-stack", 3, "--optimizer", "rmsprop"),
    ("sac", "Pendulum"),
    ("sac", "Pendulum", "--n-step", 3, "--optimizer", "rmsprop"),
]


def settings(agent, *more):
    every = ("--eval-every", 300, "--eval-episodes", 3, "--save-every", 500)
    envs = 4 if agent in ("dqn", "rainbow", "r2d2", "sac") else 8
    told = ("--steps", 1000, "--seed", 3, "--hidden", 8, "--envs", envs, *every)
    return (*told, *OWN[agent], *more)


def assert_same_run(one, other):
    checkpoints = [load_checkpoint(run) for run in (one, other)]
    first, second = (leaves(checkpoint.tree) for checkpoint in checkpoints)
    assert checkpoints[0].step == checkpoints[1].step
    assert first.keys() == second.keys()
    assert [path for path in first if first[path] != second[path]] == []
    assert metrics(one) == metrics(other)


@pytest.mark.parametrize("told", STATEFUL, ids=lambda told: " ".join(map(str, told)))
def test_resuming_from_the_middle_equals_one_go(cli, tmp_path, told):  # fault 44
    agent, env, *more = told
    one_go = cli("train", agent, env, *settings(agent, *more), "--json")
    assert one_go.status == 0, one_go.err
    whole = Path(json.loads(one_go.out)["run"])
    middle = next(name for name in steps_saved(whole) if 500 <= int(name) < 700)
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    for name in steps_saved(broken):
        if name > middle:
            shutil.rmtree(broken / "checkpoints" / name)
    resumed = cli("resume", broken)
    assert resumed.status == 0, resumed.err
    assert f"going on with {broken} from step {int(middle)} to " in resumed.out
    assert "afresh" not in resumed.out
    assert_same_run(whole, broken)


def interrupted(monkeypatch, at, number):
    """Have the signal come in the middle of the training step after `at` environment steps.

    Returns a list that is empty until then.
    """
    step = Trainer._step

    def interrupted_step(self):
        if self.steps >= at and not raised:
            raised.append(number)
            signal.raise_signal(number)
        step(self)

    raised = []
    monkeypatch.setattr(Trainer, "_step", interrupted_step)
    return raised


INT, TERM = (signal.SIGINT, 130), (signal.SIGTERM, 143)
STOPS = [(agent, *how) for agent in AGENTS for how in (INT, TERM)]
STOPS += [("pqn", *INT), ("rainbow", *TERM), ("r2d2", *INT), ("sac", *INT)]


@pytest.mark.parametrize(("agent", "number", "status"), STOPS)  # faults 46 and 47
def test_stopping_anywhere_and_resuming_equals_one_go(cli, monkeypatch, agent, number, status):
    env = env_of(agent)
    cli("train", agent, env, *settings(agent))
    interrupted(monkeypatch, 440, number)  # not where a rollout or an evaluation ends
    stopped = cli("train", agent, env, *settings(agent), "--json")
    assert stopped.status == status
    assert json.loads(stopped.out)["final_return"] is None
    run = json.loads(stopped.out)["run"]
    assert f"saved; go on with: rlkit resume {run}" in stopped.err
    assert cli("resume", Path(run).name).status == 0
    assert_same_run(f"{run[:-1]}0", run)


@pytest.mark.parametrize("agent", EVERY)
def test_where_the_state_cannot_be_saved_it_says_so(cli, agent):
    env = patient_of(agent)
    told = json.loads(cli("train", agent, env, *SMALL[agent], "--json").out)
    resumed = cli("resume", told["run"], "--steps", 400, "--env", env, "--json")
    assert resumed.status == 0, resumed.err
    assert f"{env} can't save its state: its episodes start afresh" in resumed.err
    assert json.loads(resumed.out)["steps"] == 400
    lengths = [line["episode/length"] for line in metrics(told["run"]) if "episode/length" in line]
    assert set(lengths) == {10}  # no episode is glued together from two


@pytest.mark.parametrize("agent", [agent for agent in EVERY if agent != "sac"])  # see test_sac
def test_the_same_seed_twice_is_equal_and_another_is_not(cli, agent):  # fault 45
    runs = []
    for seed in (5, 5, 6):
        told = cli("train", agent, env_of(agent), *settings(agent), "--seed", seed, "--json")
        runs.append(json.loads(told.out)["run"])
    assert_same_run(*runs[:2])
    assert not torch.equal(weights(runs[0]), weights(runs[2]))
    assert metrics(runs[0]) != metrics(runs[2])


def test_a_run_that_is_complete_and_a_new_end(cli):
    run = json.loads(cli("train", "a2c", "CartPole", *SMALL["a2c"], "--json").out)["run"]
    again = cli("resume", run)
    assert again.status == 2
    assert (
        again.error == f"{run} is complete at 200 steps; to go on, give --steps a number above that"
    )
    for steps in (-5, 0):
        refused = cli("resume", run, "--steps", steps)
        assert refused.status == 2
        assert refused.error == f"steps (--steps) is {steps}; allowed: a whole number >= 1"
    assert cli("resume", run, "--steps", 100).status == 2
    on = cli("resume", run, "--steps", 391)
    assert "from step 200 to 400" in on.out
    assert steps_saved(run)[-1] == "000000000400"
    assert rlkit.resume(run, 450).steps == 450


OFTEN = ("--save-every", 10)


def test_a_run_that_was_killed_in_its_last_evaluation(cli, tmp_path):
    told = ("--seed", 3, "--eval-every", 1000, "--eval-episodes", 3, "--hidden", 8)
    whole = Path(
        json.loads(cli("train", "a2c", "CartPole", *told, "--steps", 1000, "--json").out)["run"]
    )
    killed = tmp_path / "killed"
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "checkpoints" / steps_saved(killed)[-1])  # the one marked as best
    shutil.copytree(
        whole / "checkpoints" / steps_saved(whole)[-1], killed / "checkpoints" / "000000001000"
    )
    lines = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert "eval/mean_reward" in lines[-1]
    (killed / "metrics.jsonl").write_text("".join(lines[:-1]))
    again = cli("resume", killed)
    assert again.status == 0, again.err
    assert f"going on with {killed} with its last evaluation, which is missing" in again.out
    assert metrics(killed) == metrics(whole)
    assert torch.equal(weights(killed), weights(whole))
    assert cli("resume", killed).error.startswith(f"{killed} is complete at 1000 steps")


@pytest.fixture
def start(tmp_path):
    """Start `rlkit train a2c` on a slow environment; the process, once it has saved.

    Or `rlkit` with other arguments, once there is a checkpoint `after` the one named so.
    """
    started = []

    def start(pause, *args, command=("train", "a2c", PATIENT, *SMALL["a2c"]), after=None):
        process = subprocess.Popen(
            [sys.executable, "-m", "rlkit", *map(str, (*command, *args))],
            cwd=tmp_path,
            env={**os.environ, "PAUSE": str(pause)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        saved = tmp_path / "runs" / "a2c-Patient-0" / "checkpoints" / "latest"
        deadline = time.monotonic() + 60
        while not saved.exists() or saved.read_text() == after:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_process_that_is_stopped_can_be_resumed(cli, start, number, status):  # 46, 47
    process = start(0.02, *OFTEN)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status
    run = "runs/a2c-Patient-0"
    assert err == ""
    if number != signal.SIGKILL:
        again = f"rlkit resume {run} --env {PATIENT}"
        assert out.splitlines()[-1].endswith(f"and saved; go on with: {again}")
    saved = load_checkpoint(run).step
    assert 0 < saved < 200
    resumed = cli("resume", run, "--env", PATIENT)
    assert resumed.status == 0, resumed.err
    assert f"from step {saved} to 200" in resumed.out
    assert load_checkpoint(run).step == 200


def test_a_second_sigint_aborts(start):  # fault 46
    ill = ("--env-option", "symptom=sleep", "--env-option", "onset=9")
    process = start(0, *ill, *OFTEN)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # it waits for the step to end
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    (line,) = err.strip().splitlines()
    assert re.fullmatch(
        r"Error: stopped: step (\d+) of runs/a2c-Patient-0; step \d+ is saved, go on with: rlkit "
        rf"resume runs/a2c-Patient-0 --env {re.escape(PATIENT)}",
        line,
    )
    assert "saved" not in out


def signalled_evaluation(monkeypatch, at, number):
    """Have the signal come in the middle of the evaluation at step `at`; the steps it took."""
    taken = []
    step = Envs.step
    evaluate_now = Trainer.evaluate_now

    def watched(self):
        evaluating.append(self.steps)
        try:
            return evaluate_now(self)
        finally:
            evaluating.clear()

    def signalling(envs, action):
        if evaluating == [at]:
            taken.append(len(taken))
            if len(taken) == 4:
                signal.raise_signal(number)
        return step(envs, action)

    evaluating = []
    monkeypatch.setattr(Trainer, "evaluate_now", watched)
    monkeypatch.setattr(Envs, "step", signalling)
    return taken


@pytest.mark.parametrize(("number", "status"), [INT, TERM])
@pytest.mark.parametrize("agent", ["a2c", "dqn"])
def test_a_signal_in_an_evaluation_ends_it(cli, monkeypatch, tmp_path, agent, number, status):
    cli("train", agent, "CartPole", *settings(agent))
    at = {"a2c": 304, "dqn": 300}[agent]  # of 8 and of 4 environments
    taken = signalled_evaluation(monkeypatch, at, number)
    stopped = cli("train", agent, "CartPole", *settings(agent))
    assert stopped.status == status
    run = f"runs/{agent}-CartPole-v1-1"
    assert f"stopped at step {at} and saved; go on with: rlkit resume {run}" in stopped.out
    assert len(taken) == 4
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert cli("resume", run).status == 0
    assert_same_run(f"{run[:-1]}0", run)  # what was broken off was made up for


def test_a_signal_in_the_last_evaluation_leaves_a_complete_run(cli, monkeypatch):
    taken = signalled_evaluation(monkeypatch, 200, signal.SIGTERM)
    stopped = cli("train", "a2c", "CartPole", *SMALL["a2c"], "--json")
    assert stopped.status == 143
    assert len(taken) == 4
    run = json.loads(stopped.out)["run"]
    assert stopped.err.splitlines()[-1] == (
        f"stopped in the evaluation of a complete run: rlkit evaluate {run}"
    )
    assert cli("evaluate", run, "--episodes", 1).status == 0


@pytest.mark.parametrize(("number", "status"), [INT, TERM])
@pytest.mark.parametrize("where", ["make_envs", "make_agent", "make_trainer", "open_envs"])
def test_a_signal_before_the_first_step_ends_in_one_line(cli, monkeypatch, where, number, status):
    function = getattr(build, where)

    def signalling(*args):
        signal.raise_signal(number)
        return function(*args)

    monkeypatch.setattr(build, where, signalling)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    done = cli("train", "a2c", "CartPole", *SMALL["a2c"])
    assert done.status == status
    assert done.err.strip() == "Error: stopped"
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("boundary", range(8))
def test_a_second_sigint_in_a_save_leaves_the_checkpoint_before_it(
    cli, monkeypatch, tmp_path, boundary
):
    whole = json.loads(cli("train", "a2c", "CartPole", *settings("a2c"), "--json").out)["run"]
    asked = interrupted(monkeypatch, 440, signal.SIGINT)
    calls = []

    def counted(call):
        def signalling(*args, **more):
            if asked:
                calls.append(call)
                if len(calls) == boundary + 1:
                    signal.raise_signal(signal.SIGINT)
            return call(*args, **more)

        return signalling

    for name in ("fsync", "rename", "replace"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    stopped = cli("train", "a2c", "CartPole", *settings("a2c"), "--save-every", 80)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    run = Path("runs/a2c-CartPole-v1-1")
    assert stopped.status == 130
    assert stopped.err.strip().startswith("Error: stopped: step 448 of ")
    assert load_checkpoint(run).step in (400, 448)
    assert cli("resume", run).status == 0
    assert torch.equal(weights(run), weights(whole))


@pytest.mark.parametrize(("number", "status"), [INT, TERM])
def test_workers_leave_signals_to_the_run(start, number, status):
    """Ctrl-C and a cluster's SIGTERM come to all processes of a run."""
    process = start(0.02, "--vectorization", "async", "--steps", 2000, *OFTEN)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, "")
    assert "and saved; go on with: rlkit resume " in out.splitlines()[-1]


def test_a_resumed_run_stops_as_any_other(start, tmp_path):
    process = start(0.02, *OFTEN, "--steps", 2000)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    saved = (tmp_path / "runs" / "a2c-Patient-0" / "checkpoints" / "latest").read_text()
    command = ("resume", "runs/a2c-Patient-0", "--env", PATIENT)
    again = start(0.02, command=command, after=saved)
    again.send_signal(signal.SIGINT)
    out, err = again.communicate(timeout=30)
    assert (again.returncode, err) == (130, "")
    assert "going on with runs/a2c-Patient-0 from step" in out
    assert "and saved; go on with: rlkit resume runs/a2c-Patient-0 --env " in out.splitlines()[-1]


def test_the_checkpoint_at_the_end_knows_the_best_evaluation(tmp_path, monkeypatch):
    rising = count(1)
    monkeypatch.setattr(build, "play", lambda *_: Evaluation([float(next(rising))], [1], 0))
    options = {"run_dir": str(tmp_path), "eval_every": 400}
    run = rlkit.train("a2c", "CartPole", {"steps": 1200, "hidden": (8,)}, options).run
    assert load_checkpoint(run).tree["best"] == load_checkpoint(run, best=True).tree["best"] == 3
