"""A run outlives who reads its output, and what strangers wrote steers no terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import SMALL

from rlkit.run.checkpoint import load_checkpoint

TRAIN = [sys.executable, "-m", "rlkit", "train", "a2c", "CartPole", *map(str, SMALL["a2c"])]


def test_a_reader_that_leaves_stops_no_training(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(TRAIN, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("Warning: standard output can't be written any more: Broken pipe")
    assert load_checkpoint(tmp_path / "runs/a2c-CartPole-v1-0").step == 200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [("--json",), ()])
def test_a_full_disk_under_the_output_stops_no_training(tmp_path, words):
    with open("/dev/full", "w") as full:
        streams = {"stderr": full, "stdout": None if words else full}
        done = subprocess.run([*TRAIN, *words], cwd=tmp_path, **streams)
    assert done.returncode == 0
    assert load_checkpoint(tmp_path / "runs/a2c-CartPole-v1-0").step == 200


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_error_that_can_not_be_shown_keeps_its_status(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*TRAIN, "--steps", "x"], cwd=tmp_path, stderr=full)
    assert done.returncode == 2


def test_runs_of_strangers_are_listed(cli):
    def run(name, config, metrics=""):
        path = Path("runs", name)
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps({"format": 1, "agent": "a2c", **config}))
        (path / "metrics.jsonl").write_text(metrics)

    run("a", {"env": "\ud800"})
    run("b", {"env": "[/red]\x1b[31m\x9b2J"})
    run("c", {}, f'{{"step": {"9" * 400}, "episode/return": {"9" * 400}}}\n')
    run("d", {}, '{"step": true, "episode/return": "x"}\n{"step": 7, "episode/return": 2}\n')
    run("e\nf\x1b[2J", {})
    done = cli("list", "runs")
    assert done.status == 0
    assert len(done.out.splitlines()) == 6
    assert all(c.isprintable() for c in done.out.replace("\n", ""))
    assert "[/red]\\x1b[31m" in done.out
    listed = json.loads(cli("list", "runs", "--json").out.splitlines()[-1])["runs"]
    told = {found["run"]: (found["steps"], found["return"]) for found in listed}
    assert told["runs/c"] == (None, None)
    assert told["runs/d"] == (7, 2.0)


def test_an_error_steers_no_terminal(cli):
    Path("run").mkdir()
    Path("run/config.json").write_text('{"format": 1, "env": "\\u001b[2J\\ud800"}')
    done = cli("resume", "run", "--env", "\x1b[31m")
    assert done.status == 2
    assert done.error.isprintable()
