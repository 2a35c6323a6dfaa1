"""What a stranger's run folder can't do: write outside itself. (Nor execute: test_refusals.)"""

import gymnasium as gym
import numpy as np
import pytest

import rlkit
from rlkit.errors import CheckpointError
from rlkit.run.checkpoint import save_checkpoint
from rlkit.run.files import write_atomically
from rlkit.run.metrics import cut_metrics, read_metrics
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
