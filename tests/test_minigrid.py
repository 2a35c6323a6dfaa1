"""MiniGrid and BabyAI, whose packages are imported when their names are used."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from rlkit.envs.listing import list_envs
from rlkit.envs.make import make_env, make_envs
from rlkit.envs.names import resolve
from rlkit.errors import UsageError
from rlkit.networks.images import Images

pytest.importorskip("minigrid")


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("MiniGrid-DoorKey-5x5-v0", "MiniGrid-DoorKey-5x5-v0"),
        ("minigrid-empty-5x5", "MiniGrid-Empty-5x5-v0"),
        ("BabyAI-BossLevel", "BabyAI-BossLevel-v0"),
    ],
)
def test_names(name, full):
    assert resolve(name).name == full


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean .*MiniGrid-DoorKey-5x5-v0"):
        resolve("MiniGrid-DorKey-5x5-v0")


def test_nothing_is_imported_before_and_nothing_printed_then():
    code = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "from rlkit.envs.make import make_env\n"
        "make_env('CartPole'); assert not {'minigrid', 'ale_py', 'minatar'} & set(sys.modules)\n"
        "make_env('MiniGrid-Empty-5x5-v0').reset(seed=0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_observation_is_an_image_a_direction_and_a_mission():
    obs, _ = make_env("MiniGrid-DoorKey-5x5-v0").reset(seed=0)
    assert obs["image"].shape == (7, 7, 21)
    assert obs["image"].dtype == np.uint8
    assert obs["direction"] in range(4)
    assert type(obs["mission"]) is str


def test_each_code_of_a_cell_has_a_plane_of_its_own():
    """Against MiniGrid's own codes: 11 objects, 6 colours, 4 states or directions (its docs)."""
    env = make_env("MiniGrid-DoorKey-5x5-v0")
    theirs = gym.make("MiniGrid-DoorKey-5x5-v0")
    env.action_space.seed(0)
    (obs, _), (codes, _) = env.reset(seed=0), theirs.reset(seed=0)
    seen = set()
    for _ in range(200):
        assert env.observation_space.contains(obs)
        planes = np.split(obs["image"], [11, 17], axis=-1)
        assert all((part.sum(-1) == 1).all() for part in planes)
        found = np.stack([part.argmax(-1) for part in planes], -1)
        assert (found == codes["image"]).all()
        assert (obs["direction"], obs["mission"]) == (codes["direction"], codes["mission"])
        seen |= set(codes["image"][..., 0].flat)
        action = env.action_space.sample()
        obs, _, terminated, truncated, _ = env.step(action)
        codes = theirs.step(action)[0]
        if terminated or truncated:
            (obs, _), (codes, _) = env.reset(seed=1), theirs.reset(seed=1)
    assert {1, 2, 4, 5} < seen  # nothing, walls, a door and a key


def test_an_encoder_reads_the_planes_as_channels():
    space = make_env("MiniGrid-DoorKey-5x5-v0").observation_space["image"]
    assert Images(space.shape).size == (7, 7)


def test_three_step_side_by_side():
    envs = make_envs("MiniGrid-Empty-5x5-v0", 3, 0)
    first = envs.reset()
    assert len(first) == 3
    for _ in range(110):  # its own time limit is 100 steps
        step = envs.step(np.zeros(3, dtype=int))
    assert step.obs.shape == first.shape


def test_one_line_of_the_list_stands_for_all():
    (line,) = [env for env in list_envs() if "MiniGrid" in env.summary]
    assert (line.id, line.needs) == ("MiniGrid-Empty-5x5-v0", None)
