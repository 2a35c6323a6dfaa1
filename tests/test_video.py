"""Videos of greedy episodes: `--video` in a training and in an evaluation."""

import os
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from small_runs import PATIENT, SMALL, metrics

import rlkit
from rlkit.errors import UsageError

pytest.importorskip("imageio_ffmpeg")
cv2 = pytest.importorskip("cv2")

SHORT = "--env-option", "max_episode_steps=12"
QUICK = {"steps": 40, "envs": 2, "hidden": (8,)}


def read(path):
    """Frames (T, height, width, 3) and frames per second, as OpenCV reads them."""
    video = cv2.VideoCapture(str(path))
    images = []
    while (found := video.read())[0]:
        images.append(found[1][..., ::-1])
    return np.array(images), round(video.get(cv2.CAP_PROP_FPS))


@pytest.fixture
def run(cli):
    told = ("--eval-every", 100, "--video", *SHORT)
    assert cli("train", "a2c", "CartPole", *SMALL["a2c"], *told).status == 0
    return Path("runs/a2c-CartPole-v1-0")


def test_each_evaluation_leaves_a_video(run):
    videos = sorted((run / "videos").iterdir())
    assert [path.name for path in videos] == ["step-000000000100.mp4", "step-000000000200.mp4"]
    for path in videos:
        frames, fps = read(path)
        assert 8 < len(frames) <= 13  # the reset's, and one for each step of a short episode
        assert fps == 50  # CartPole's own
        assert frames.shape[1:] == (400, 600, 3)


def test_the_video_shows_what_the_environment_draws(cli, run):
    assert cli("evaluate", run, "--video", "seen/episode.mp4", "--episodes", 2).status == 0
    frames, _ = read("seen/episode.mp4")
    env = gym.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=0)
    expected = env.render()
    # lossy, and another start: the floor, the sky and the cart's row are where they should be
    assert np.abs(frames[0].astype(int) - expected).mean() < 8
    assert len({frame.tobytes() for frame in frames}) > 5  # it moves


def test_odd_sides_are_made_even(cli):
    assert cli("train", "a2c", "gridworld", *SMALL["a2c"]).status == 0
    run = "runs/a2c-GridWorld-v0-0"
    told = cli("evaluate", run, "--episodes", 1, "--video", "maze.mp4")
    assert told.status == 0, told.err
    assert told.out.splitlines()[-1] == "video: maze.mp4"
    frames, fps = read("maze.mp4")
    assert fps == 4
    assert all(side % 2 == 0 for side in frames.shape[1:3])


def test_what_draws_nothing_is_said_before_training(cli):
    refused = cli("train", "a2c", PATIENT, *SMALL["a2c"], "--video")
    assert refused.status == 2
    assert (
        "renders nothing, as its constructor takes no render_mode; leave --video" in refused.error
    )
    with pytest.raises(UsageError, match="CartPole-v1 draws nothing to record; make it with"):
        rlkit.train("a2c", lambda: gym.make("CartPole-v1"), QUICK, {"video": True})
    venv = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    with pytest.raises(UsageError, match="of your own can't be filmed"):
        rlkit.train("a2c", venv, QUICK, {"video": True})
    assert not Path("runs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere SDL always finds a screen")
@pytest.mark.parametrize(("screen", "driver"), [("", "dummy"), (":0", None)])
def test_without_a_screen_none_is_looked_for(cli, monkeypatch, screen, driver):
    monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("SDL_VIDEODRIVER", "")
    monkeypatch.delenv("SDL_VIDEODRIVER")
    cli("--version")
    assert os.environ.get("SDL_VIDEODRIVER") == driver


def test_a_function_that_makes_what_draws(tmp_path):
    def make():
        return gym.make("CartPole-v1", render_mode="rgb_array")

    run = rlkit.train(
        "a2c", make, QUICK, {"video": True, "eval_every": 40, "run_dir": str(tmp_path)}
    ).run
    assert len(list((run / "videos").iterdir())) == 1


@pytest.mark.parametrize("name", ["", "x.txt", "mp4"])
def test_a_name_that_is_no_mp4_is_said_before_playing(cli, run, name):
    done = cli("evaluate", run, f"--video={name}")
    assert done.status == 2
    assert done.error.startswith("video (--video) is ")


def test_a_missing_encoder_is_said_before_training(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    refused = cli("train", "a2c", "CartPole", *SMALL["a2c"], "--video")
    assert refused.status == 2
    assert refused.error == (
        "--video needs a package that is not installed: "
        "pip install -c constraints.txt -e '.[video]'"
    )


def test_a_video_that_can_not_be_written_stops_no_training(cli, run):
    shutil.rmtree(run / "videos")
    (run / "videos").write_text("in the way")
    told = cli("resume", run, "--steps", 300)
    assert told.status == 0
    (warning,) = told.warnings
    assert "step-000000000300.mp4: the video could not be written: " in warning


def test_training_is_the_same_with_and_without(cli, run):
    assert cli("train", "a2c", "CartPole", *SMALL["a2c"], "--eval-every", 100, *SHORT).status == 0
    other = Path("runs/a2c-CartPole-v1-1")
    assert metrics(run) == metrics(other)
    assert not (other / "videos").exists()
