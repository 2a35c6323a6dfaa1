"""What a stranger's run folder can't do: write outside itself, or keep its reader waiting.

(Nor execute: test_refusals.)
"""

import hashlib
import json
import os

import gymnasium as gym
import numpy as np
import pytest
from small_runs import SMALL

import rlkit
from rlkit.errors import CheckpointError, RunError
from rlkit.run.checkpoint import load_checkpoint, mark_best, save_checkpoint
from rlkit.run.files import write_atomically
from rlkit.run.metrics import Metrics, cut_metrics, read_metrics
from rlkit.training import build


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


def test_a_link_in_place_of_the_metrics_aside_is_not_followed(tmp_path, victim):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "a": 2}\n{"step": 9, "a": 3}\n')
    (tmp_path / ".tmp-metrics.jsonl").symlink_to(victim)
    cut_metrics(metrics, 5)
    assert [record["step"] for record in read_metrics(metrics)] == [1]


def test_a_link_in_place_of_a_file_that_is_written_aside_is_not_followed(tmp_path, victim):
    (tmp_path / ".tmp-latest").symlink_to(victim)
    write_atomically(tmp_path / "latest", b"x")
    assert (tmp_path / "latest").read_bytes() == b"x"


def test_nothing_is_saved_through_a_link(tmp_path, victim):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match="is a link"):
        save_checkpoint(run, 1, {"x": 1}, {})
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_place_of_a_checkpoint_loses_no_other_one(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    home = tmp_path / "checkpoints"
    home.mkdir()
    for name in (".tmp-new", ".tmp-x", "000000000001"):
        (home / name).symlink_to(elsewhere)
    (home / "000000000002").write_text("a file")
    for step in range(3, 8):
        save_checkpoint(tmp_path, step, {"x": step}, {})
    names = sorted(path.name for path in home.iterdir())
    assert names == ["000000000005", "000000000006", "000000000007", "latest"]
    assert (elsewhere / "mine").read_text() == "mine"


@pytest.mark.parametrize("there", [True, False])
def test_measurements_go_through_no_link(tmp_path, victim, there):
    led_to = victim if there else tmp_path / "new"
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").symlink_to(led_to)
    with pytest.raises(RunError, match=r"metrics\.jsonl: a link"):
        Metrics(run, resume_step=5)
    assert led_to.exists() == there


def test_videos_go_through_no_link(cli, victim, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    assert cli("train", "a2c", "CartPole", *SMALL["a2c"]).status == 0
    run = tmp_path / "runs/a2c-CartPole-v1-0"
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"video": True}))
    (run / "videos").mkdir()
    (run / "videos/.tmp-step-000000000400.mp4").symlink_to(victim)
    assert cli("resume", run, "--steps", 400).status == 0
    assert (run / "videos/step-000000000400.mp4").stat().st_size > 0
    elsewhere = tmp_path / "elsewhere"
    (run / "videos").rename(elsewhere)
    (run / "videos").symlink_to(elsewhere)
    before = sorted(elsewhere.iterdir())
    done = cli("resume", run, "--steps", 600)
    assert done.status == 0
    assert any("is a link" in said for said in done.warnings)
    assert sorted(elsewhere.iterdir()) == before


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "raw-0000"])
@pytest.mark.parametrize("endless", ["pipe", "/dev/zero"])
def test_what_never_ends_is_not_read(tmp_path, name, endless):
    save_checkpoint(tmp_path, 1, {"x": 1}, {})
    newest = save_checkpoint(tmp_path, 2, {"x": np.ones((1 << 23) + 1, np.uint8)}, {})
    mark_best(newest)
    told = json.loads((newest / "manifest.json").read_text())
    del told["sha256"]
    told["files"]["raw-0000"]["bytes"] = 0  # which is the size of either
    told["sha256"] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    (newest / "manifest.json").write_text(json.dumps(told))
    (newest / name).unlink()
    for path in (newest / name, newest.parent / "best"):
        path.unlink(missing_ok=True)
        if endless == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(endless)
    with pytest.warns(match=r"\w+: is no file"):
        assert load_checkpoint(tmp_path).step == 1
    with pytest.warns():
        assert load_checkpoint(tmp_path, best=True).step == 1


NONSENSE = {
    "total": ("x", None),
    "steps": ("x", 10**30, None),
    "best": ("x", []),
    "episodes": ({}, 5),
    "envs": ({"own": 5}, "x"),
    "update_metrics": ({"a": "b"}, [1]),
    "agent": (5, {}, {"weights": [1]}),
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, many in NONSENSE.items() for v in many])
def test_a_checkpoint_that_holds_nonsense_is_named(cli, key, value):
    assert cli("train", "a2c", "CartPole", *SMALL["a2c"]).status == 0
    run = "runs/a2c-CartPole-v1-0"
    found = load_checkpoint(run)
    path = save_checkpoint(run, found.step, {**found.tree, key: value}, found.about)
    done = cli("resume", run, *(("--steps", 400) if key != "total" else ()))
    assert done.status == 1
    assert done.error.startswith(f"{path}: ")


def test_a_run_whose_name_is_a_number_is_a_run(tmp_path):
    run = tmp_path / "202511211200"
    run.mkdir()
    path = save_checkpoint(run, 7, {"x": 1}, {})
    assert load_checkpoint(run).step == load_checkpoint(path).step == 7


class Forgetful(gym.Env):
    """Can't save its state; its observations show what its generator was seeded with."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float64)
    action_space = gym.spaces.Discrete(2)
    firsts: list[float] = []  # noqa: RUF012 - shared on purpose

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        first = self.np_random.random(1)
        self.firsts.append(float(first[0]))
        return first, {}

    def step(self, action):
        return self.np_random.random(1), 0.0, False, False, {}


def test_a_resumed_run_does_not_play_its_first_episodes_again(tmp_path):
    options = {"run_dir": str(tmp_path), "eval_every": 10**6, "eval_episodes": 1}
    limited = lambda: gym.wrappers.TimeLimit(Forgetful(), 1000)  # noqa: E731
    recipe = {"steps": 80, "envs": 2, "hidden": (8,)}
    run = rlkit.train("a2c", limited, recipe, options).run
    begun = set(Forgetful.firsts)
    Forgetful.firsts.clear()
    rlkit.resume(run, 160, env=limited)
    assert Forgetful.firsts
    assert not begun & set(Forgetful.firsts)
    assert build.env_seed(3, 0) == build.seeds(3)["envs"]
