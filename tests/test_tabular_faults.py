"""Faults that a learner with a table meets like any other."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import steps_saved

from rlkit.run.checkpoint import load_checkpoint

NUMBERED = f"{Path(__file__).parent / 'numbered.py'}:Numbered"
TOLD = ("--envs", 2, "--steps", 400, "--eval-episodes", 2, "--save-every", 20)


def ill(symptom):
    return ("train", "q-learning", NUMBERED, *TOLD, "--env-option", f"symptom={symptom}")


@pytest.mark.parametrize(
    ("symptom", "said"),
    [
        ("nan-reward", "env 0 returned reward = nan at vector step 27; nothing was learned"),
        ("outside", "env 0 returned observation = 5 at vector step 27"),
        ("raise", "env 0 step raised RuntimeError: no way on"),
    ],
)
def test_an_ill_environment_stops_the_run(cli, symptom, said):
    stopped = cli(*ill(symptom))
    assert stopped.status == 1
    assert stopped.error.startswith(said)
    assert "step 40 is saved" in stopped.error
    table = load_checkpoint("runs/q-learning-Numbered-0").tree["agent"]["weights"]
    assert all(np.isfinite(np.asarray(values)).all() for values in table.values())


def test_a_worker_that_is_killed(cli):
    stopped = cli(*ill("die"), "--vectorization", "async")
    assert stopped.status == 1
    assert "died (signal 9, SIGKILL" in stopped.error
    healed = cli(*ill("die"), "--vectorization", "async", "--restart-workers", 50)
    assert healed.status == 0
    assert len(healed.warnings) > 5


def test_a_damaged_checkpoint_is_passed_over(cli):
    assert cli(*ill("")).status == 0
    run = Path("runs/q-learning-Numbered-0")
    newest = run / "checkpoints" / steps_saved(run)[-1]
    (newest / "state.json").write_bytes(b"{}")
    told = cli("evaluate", run, "--env", NUMBERED, "--episodes", 2)
    assert told.status == 0
    assert str(newest / "state.json") in told.warnings[0]


def test_a_run_that_is_stopped_is_resumed(cli, tmp_path):
    command = [sys.executable, "-m", "rlkit", *map(str, ill(""))]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PAUSE": "0.01"}, stdout=subprocess.DEVNULL
    )
    run = tmp_path / "runs" / "q-learning-Numbered-0"
    deadline = time.monotonic() + 60
    while not (run / "checkpoints" / "latest").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert 0 < load_checkpoint(run).step < 400
    assert cli("resume", run, "--env", NUMBERED).status == 0
    assert load_checkpoint(run).step == 400
