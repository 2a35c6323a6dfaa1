"""Runs that several ranks train together: what they leave, how they go on, and how they end."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from several_ranks import SECONDS, Job, cli, free_port
from small_runs import SMALL, metrics, weights

from rlkit.run.checkpoint import load_checkpoint
from rlkit.training.build import env_seed, seeds

# What changes with the length of a run would tell one that is resumed from one that is not.
STEADY = ("--learning-rate", "1e-3", "--run-dir", "runs")
TRAIN = {
    "a2c": ("train", "a2c", "CartPole", *SMALL["a2c"], *STEADY, "--normalize-obs"),
    "dqn": ("train", "dqn", "CartPole", *SMALL["dqn"], *STEADY, "--exploration", "0.2"),
}
RANKED = f"{Path(__file__).with_name('ranked.py')}:Ranked"
LONG = ("train", "a2c", "CartPole", *SMALL["a2c"], "--steps", 10_000_000, "--save-every", 400)


def together(*arguments):
    return (cli, *arguments, "--distributed")


def finished(job):
    with job:
        statuses, said = job.finish()
    assert not any(statuses), said
    return job


def parts(run):
    """The run's folder and, of the other ranks, what they keep in it."""
    return [run, *sorted((run / "ranks").iterdir())]


@pytest.fixture(scope="module", params=TRAIN)
def runs(request, tmp_path_factory):
    """Two runs of two ranks: of 400 steps, and of 200."""
    agent = request.param
    folders = [tmp_path_factory.mktemp(f"{agent}-{steps}") for steps in (400, 200)]
    jobs = [
        Job(folder, 2, *together(*TRAIN[agent], "--steps", steps))
        for folder, steps in zip(folders, (400, 200), strict=True)
    ]
    for job in jobs:
        finished(job)
    return [folder / "runs" / f"{agent}-CartPole-v1-0" for folder in folders]


def test_rank_0_writes_the_run_and_the_others_what_is_theirs(runs):
    for run in runs:
        first, second = (load_checkpoint(part).tree for part in parts(run))
        np.testing.assert_array_equal(*map(weights, parts(run)))
        assert first["steps"] == second["steps"] == int(run.parents[1].name.split("-")[-1][:3])
        assert first["ranks"] == second["ranks"]
        assert not np.array_equal(
            first["agent"]["generator"].numpy(), second["agent"]["generator"].numpy()
        )
        assert sorted(path.name for path in (run / "ranks" / "1").iterdir()) == [
            ".lock",
            "checkpoints",
        ]
        assert [path.name for path in run.parent.iterdir()] == [run.name]
        returns = [line for line in metrics(run) if "eval/mean_reward" in line]
        assert returns
        assert len({line["step"] for line in returns}) == len(returns)


def test_as_many_ranks_go_on_as_if_nothing_had_been(runs, tmp_path):
    whole, half = runs
    again = shutil.copytree(half, tmp_path / "run")
    job = finished(Job(tmp_path, 2, *together("resume", again, "--steps", 400)))
    assert "from step 200 to 400 on 2 ranks" in job.said(0)
    assert "afresh" not in job.said(0)
    assert job.said(1) == ""
    for one, other in zip(parts(again), parts(whole), strict=True):
        np.testing.assert_array_equal(weights(one), weights(other))


def test_more_ranks_go_on_with_the_weights_and_memories(runs, tmp_path):
    again = shutil.copytree(runs[1], tmp_path / "run")
    job = finished(Job(tmp_path, 3, *together("resume", again, "--steps", 500)))
    assert "from step 200 to 500 on 3 ranks" in job.said(0)
    assert "episodes start afresh" in job.said(0)
    trees = [load_checkpoint(part).tree for part in parts(again)]
    assert len(trees) == 3
    for part in parts(again)[1:]:
        np.testing.assert_array_equal(weights(part), weights(again))
    states = {tree["agent"]["generator"].numpy().tobytes() for tree in trees}
    assert len(states) == 3
    memories = [tree["agent"]["parts"]["memory"] for tree in trees]
    if "head" in memories[0]:  # a replay memory: rank 2 has taken over that of rank 0
        assert len({memory["added"] for memory in memories}) == 1
        first, _, third = (np.concatenate([*m["rows"]["reward"]]) for m in memories)
        assert len(first) == len(third) > 60
        np.testing.assert_array_equal(first[:50], third[:50])


def test_fewer_ranks_go_on_where_they_were(runs, tmp_path, cli):
    again = shutil.copytree(runs[1], tmp_path / "run")
    called = cli("resume", again, "--steps", 300)
    assert called.status == 0, called
    assert "from step 200 to 300" in called.out
    assert "afresh" not in called.out
    assert load_checkpoint(again).tree["steps"] == 300


def test_a_part_that_is_damaged_costs_the_episodes_alone(runs, tmp_path):
    again = shutil.copytree(runs[1], tmp_path / "run")
    for path in (again / "ranks" / "1").rglob("tensors.safetensors"):
        path.write_bytes(b"")
    job = finished(Job(tmp_path, 2, *together("resume", again, "--steps", 260)))
    assert "episodes start afresh" in job.said(0)
    np.testing.assert_array_equal(*map(weights, parts(again)))


def saves(folder):
    return sorted(folder.glob("runs/*/checkpoints/0000*"))


def test_a_signal_to_one_rank_ends_all_after_the_same_step_and_saves(tmp_path):
    with Job(tmp_path, 2, *together(*LONG)) as job:
        job.wait_for(lambda: len(saves(tmp_path)) > 1)
        job.send(1, signal.SIGTERM)
        statuses, said = job.finish()
    assert statuses == [143, 143], said
    assert said == ["", ""]
    (run,) = tmp_path.glob("runs/*")
    step = int(re.search(r"stopped at step ([\d,]+) and saved", job.said(0))[1].replace(",", ""))
    assert [load_checkpoint(part).step for part in parts(run)] == [step, step]
    assert "go on with: torchrun --nproc-per-node 2 -m rlkit resume runs/" in job.said(0)


@pytest.mark.parametrize(("size", "lost", "speaker"), [(3, 1, 0), (2, 0, 1)])
def test_a_rank_that_is_killed_is_named_with_the_checkpoint_to_go_on_from(
    tmp_path, size, lost, speaker
):
    with Job(tmp_path, size, *together(*LONG)) as job:
        job.wait_for(lambda: len(saves(tmp_path)) > 1)
        job.send(lost, signal.SIGKILL)
        statuses, said = job.finish()
    assert statuses == [-9 if rank == lost else 1 for rank in range(size)], said
    (line,) = said[speaker].splitlines()
    assert line.startswith(f"Error: rank {speaker} of {size}: the connection to another rank broke")
    if lost:  # rank 0 holds the meeting point, without torchrun
        assert f"; no sign of rank {lost} (" in line
    found = re.search(r"step (\d+) of (\S+); step (\d+) is saved, go on with: (.*)\)$", line)
    assert int(found[1]) >= int(found[3]) > 0
    assert found[4] == f"torchrun --nproc-per-node {size} -m rlkit resume {found[2]}"
    assert all(other == "" for rank, other in enumerate(said) if rank != speaker)


def small(*more):
    return ("train", "a2c", *more, *SMALL["a2c"], "--eval-episodes", 1)


def test_what_ends_one_rank_is_said_by_rank_0(tmp_path):
    told = (*small(RANKED), "--steps", 1000)
    job = Job(tmp_path, 2, *together(*told), environment={"RANKED": "1 break"})
    with job:
        statuses, said = job.finish()
    assert statuses == [1, 1]
    (line,) = said[0].splitlines()
    assert line.startswith("Error: rank 1: ")
    assert "a wheel came off" in line
    assert "go on with: torchrun" in line
    assert said[1] == ""


def test_an_evaluation_may_take_longer_than_a_rank_waits(tmp_path):
    told = (*small(RANKED), "--steps", 80, "--rank-timeout", 3, "--eval-every", 80)
    job = finished(Job(tmp_path, 2, *together(*told), environment={"RANKED": "0 dawdle"}))
    assert "greedy return 20.00" in job.said(0)


def test_ranks_do_not_compile(tmp_path):
    with Job(tmp_path, 2, *together(*small("CartPole"), "--compile")) as job:
        statuses, said = job.finish()
    assert statuses == [2, 2]
    assert said[0].startswith("Error: compile (--compile) is on, and 2 ranks train together")
    assert said[0].count("\n") == 1
    assert said[1] == ""


def test_ranks_that_were_told_different_things_are_refused(tmp_path):
    with Job(tmp_path, 2, _told_apart) as job:
        statuses, said = job.finish()
    assert statuses == [2, 2]
    assert said[0].startswith("Error: rank 1: seed is 1 there, and 0 on rank 0; start all ranks")
    assert list(tmp_path.glob("runs/*")) == []


def _told_apart():
    cli(*small("CartPole"), "--seed", os.environ["RANK"], "--distributed")


def test_a_rank_that_never_comes_and_an_agent_that_has_no_gradients(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "1").mkdir()
    alone = together(*small("CartPole"), "--rank-timeout", 1)
    table = together("train", "q-learning", "FrozenLake", "--steps", 100)
    with Job(tmp_path / "0", 3, *alone, ranks=[0]) as one, Job(tmp_path / "1", 2, *table) as two:
        statuses, (line,) = one.finish()
        assert statuses == [1]
        assert line.startswith("Error: rank 1, 2 of 3 did not come to 127.0.0.1:")
        statuses, said = two.finish()
        assert statuses == [2, 2]
        assert said[0].startswith("Error: q-learning trains in one process, and there are 2 ranks")
        assert said[1] == ""


def test_torchrun_starts_a_job_again_which_goes_on(tmp_path):
    told = [*small(RANKED), "--steps", 400, "--save-every", 40]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2]
    launcher += ["--max-restarts", 1, "--master-port", free_port(), "-m", "rlkit", *told]
    done = subprocess.run(
        [str(word) for word in launcher],
        cwd=tmp_path,
        env={**os.environ, "RANKED": "1 die"},
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("runs/*")
    assert re.search(rf"going on with runs/{run.name} from step \d+ to 400 on 2 ranks", done.stdout)
    lost = "Error: rank 0 of 2: the connection to another rank broke; no sign of rank 1 ("
    assert done.stderr.count(lost) == 1, done.stderr
    assert load_checkpoint(run).tree["steps"] == 400
    steps = [line["step"] for line in metrics(run) if "rollout/ep_rew_mean" in line]
    assert steps == sorted(set(steps))


def torchrun_around(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_torchrun_starts_no_copies_of_what_is_for_one_process(cli, monkeypatch):
    torchrun_around(monkeypatch)
    assert cli("list", "agents").error.startswith(
        "torchrun has started 2 processes of 'rlkit list', which is for one; several train"
    )
    for option in (("--compare", "all"), ("--device", "cuda"), ("--average",)):
        refused = cli("solve", "chain", *option).error
        assert refused == (
            f"{option[0]} is for one process, and torchrun has started 2, which solve together on "
            f"their CPUs; start this without torchrun, or leave {option[0]} out"
        )
    both = cli("solve", "chain", "--device", "cuda", "--distributed").error
    assert both.startswith("--device does not go with --distributed")
    for command in (("solve", "chain"), small("CartPole"), ("resume", "run")):
        missing = cli(*command)
        assert (missing.status, "RANK" in missing.error) == (2, True)


def test_ranks_draw_apart_and_one_as_a_process_that_trains_alone():
    drawn = [seeds(3, rank) for rank in range(4)]
    assert drawn[0] == seeds(3)
    assert {each["weights"] for each in drawn} == {seeds(3)["weights"]}
    apart = [each[name] for each in drawn for name in ("agent", "envs")]
    apart += [env_seed(3, 100, rank) for rank in range(4)]
    assert len(set(apart)) == len(apart)
    assert env_seed(3, 0, 2) == drawn[2]["envs"]
