"""Observations of several parts, and texts: packed into one array, and read again."""

import json
import os
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import rlkit
from rlkit.envs.make import make_envs
from rlkit.envs.observations import obs_port
from rlkit.errors import EnvError, UsageError
from rlkit.networks.encoder import encoder_for
from rlkit.packing import leaves, space_array, stored, word_numbers

MIXED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (5, 7, 3), np.uint8),
        "speed": spaces.Box(-1, 1, (), np.float64),
        "inner": spaces.Tuple(
            [
                spaces.Discrete(5, start=-2),
                spaces.Dict({"said": spaces.Text(30), "keys": spaces.MultiBinary(3)}),
                spaces.MultiDiscrete([[2, 3], [4, 5]]),
            ]
        ),
    }
)


def drawn(count):
    MIXED.seed(0)
    return [MIXED.sample() for _ in range(count)]


def stacked(values):
    """A batch of MIXED as Gymnasium's vector environments give it."""

    def part(pick):
        each = [pick(value) for value in values]
        return tuple(each) if isinstance(each[0], str) else np.stack(each)

    return {
        "camera": part(lambda v: v["camera"]),
        "speed": part(lambda v: v["speed"]),
        "inner": (
            part(lambda v: v["inner"][0]),
            {
                "said": part(lambda v: v["inner"][1]["said"]),
                "keys": part(lambda v: v["inner"][1]["keys"]),
            },
            part(lambda v: v["inner"][2]),
        ),
    }


def read(rows, leaf):
    """The values of a leaf in rows of bytes, by the buffer protocol."""
    each = [np.frombuffer(row[leaf.start : leaf.stop].tobytes(), leaf.dtype) for row in rows]
    return np.stack(each).reshape(len(rows), *leaf.shape)


def test_every_part_of_a_row_is_what_the_environment_gave():
    port, values = obs_port(MIXED, 3, strict=True), drawn(3)
    rows = port.take(stacked(values), "the reset")
    assert rows.dtype == np.uint8
    assert rows.shape == (3, *stored(port.space)[0])
    found = {leaf.key: read(rows, leaf) for leaf in leaves(port.space)}
    for i, value in enumerate(values):
        assert np.array_equal(found["['camera']"][i], value["camera"])
        assert found["['speed']"][i] == np.float32(value["speed"])
        assert found["['inner'][0]"][i] == value["inner"][0] + 2
        assert np.array_equal(found["['inner'][1]['keys']"][i], value["inner"][1]["keys"])
        assert np.array_equal(found["['inner'][2]"][i], value["inner"][2].ravel())
        said = value["inner"][1]["said"]
        assert np.array_equal(found["['inner'][1]['said']"][i], word_numbers(said, 30))
    assert {leaf.start % 8 for leaf in leaves(port.space)} == {0}


def test_an_encoder_reads_rows_and_trees_alike():
    port = obs_port(MIXED, 4, strict=True)
    rows = torch.from_numpy(port.take(stacked(drawn(4)), "the reset"))
    torch.manual_seed(0)
    encoder = encoder_for(port.space, hidden=(16,))
    tree = {}
    for leaf in leaves(port.space):
        *path, last = leaf.path
        inner = tree
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = torch.from_numpy(read(rows.numpy(), leaf))
    features = encoder(rows)
    torch.testing.assert_close(encoder(tree), features)
    torch.testing.assert_close(encoder(rows.view(2, 2, -1)), features.view(2, 2, 16))
    assert (features[0] - features[1]).abs().max() > 1e-3


def test_every_part_reaches_the_features():
    port = obs_port(MIXED, 1, strict=True)
    row = torch.from_numpy(port.take(stacked(drawn(1)), "the reset"))
    torch.manual_seed(0)
    encoder = encoder_for(port.space, hidden=(32,), activation="tanh")
    before = encoder(row)
    for leaf in leaves(port.space):
        changed = row.clone()
        part = changed[:, leaf.start : leaf.stop].view(getattr(torch, leaf.dtype.name))
        part[:] = 1 - part.clip(0, 1)
        assert (encoder(changed) - before).abs().max() > 1e-4, leaf.key


def test_words():
    numbers = word_numbers("Go to the red ball, the RED one", 10)
    assert numbers[:8].min() > 0
    assert numbers[8:].tolist() == [numbers[8], 0]  # eight words and a comma
    assert numbers[3] == numbers[7]
    assert numbers[2] == numbers[6]
    assert len(set(numbers[:7].tolist())) == 6
    assert word_numbers("Go to the red ball, the RED one", 3).tolist() == numbers[:3].tolist()
    assert not word_numbers("", 4).any()


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_texts_differ_by_their_words_and_their_order(pooling):
    from rlkit.networks.numbers import Words

    torch.manual_seed(0)
    words = Words(6, pooling=pooling)
    texts = ["go to red", "go to blue", "red go to", "go to red  ", ""]
    ids = torch.from_numpy(np.stack([word_numbers(text, 6) for text in texts]))
    y = words(ids)
    assert y.shape == (5, words.width)
    assert torch.equal(y[0], y[3])
    assert (y[4] == 0).all()
    assert (y[0] - y[1]).abs().max() > 0.01
    if pooling == "attention":
        assert (y[0] - y[2]).abs().max() > 0.01
    else:
        by_hand = (words.table(ids[1, :3].long()) + words.position[:3]).mean(0)
        torch.testing.assert_close(y[1], by_hand)


class Camera(gym.Env):
    """Shows a number as a picture and as itself, and counts it up; ends at 6."""

    observation_space = spaces.Dict(
        {
            "seen": spaces.Box(0, 255, (2, 2, 1), np.uint8),
            "count": spaces.Box(0, 100, (1,), np.float32),
            "said": spaces.Text(20, charset="abcdefghijklmnopqrstuvwxyz "),
        }
    )
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.count = 0

    def observation(self):
        seen = np.full((2, 2, 1), self.count, np.uint8)
        count = np.array([self.count], np.float32)
        return {"said": "count " + "i" * self.count, "seen": seen, "count": count}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = int(self.np_random.integers(3))
        return self.observation(), {}

    def step(self, action):
        self.count += 1
        return self.observation(), float(action), self.count >= 6, False, {}


def counts(rows):
    seen, count, said = (read(rows, LEAVES[name]) for name in ("seen", "count", "said"))
    assert np.array_equal(seen[:, 0, 0, 0], count[:, 0])
    texts = ["count " + "i" * int(c) for c in count[:, 0]]
    assert np.array_equal(said, np.stack([word_numbers(text, 20) for text in texts]))
    return count[:, 0].astype(int).tolist()


LEAVES = {leaf.path[0]: leaf for leaf in leaves(Camera.observation_space)}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_environments_of_parts_step_as_others_do(vectorization):
    with make_envs(Camera, 2, 0, vectorization) as envs:
        now = counts(envs.reset())
        for _ in range(20):
            step = envs.step(np.ones(2, np.int64))
            expected = [c + 1 if c < 6 else None for c in now]
            then = counts(step.next_obs)
            for e, c, valid in zip(expected, then, step.valid, strict=True):
                assert valid == (e is not None)
                assert c == e if valid else c < 3
            now = then


def test_final_observations_of_parts_travel_beside():
    venv = SyncVectorEnv([Camera] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    with make_envs(venv, 3, 0) as envs:
        envs.reset()
        finals = 0
        for _ in range(20):
            step = envs.step(np.ones(3, np.int64))
            if step.final_obs is not None:
                assert counts(step.final_obs.obs) == [6] * len(step.final_obs.index)
                finals += len(step.final_obs.index)
    assert finals >= 9


def play(envs):
    envs.reset()
    for _ in range(6):
        envs.step(np.zeros(2, np.int64))


class Wrong(Camera):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def observation(self):
        obs = super().observation()
        if self.count >= 3:
            obs.update(self.change)
        return {key: value for key, value in obs.items() if value is not None}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": np.array([np.nan], np.float32)}, r"observation\['count'\]\[0\] = nan"),
        ({"count": np.zeros(2, np.float32)}, r"observation\['count'\] of shape \(2,\)"),
        ({"count": "five"}, r"observation\['count'\] that is the str 'five'"),
        ({"seen": None}, r"keys \['count', 'said', 'seen'\]"),
        ({"more": 1}, r"observation = \['count', 'more', 'said', 'seen'\]"),
        ({"said": 5}, r"env 0 returned .*observation\['said'\]"),
    ],
)
def test_a_broken_part_is_named(change, said):
    with make_envs(lambda: Wrong(change), 2, 0) as envs, pytest.raises(EnvError) as caught:
        play(envs)
    assert re.search(said, str(caught.value))
    assert "\n" not in str(caught.value)
    assert re.search("step [123]|the first reset|its first reset", str(caught.value))


@pytest.mark.parametrize("agent", ["a2c", "ppo", "dqn", "pqn"])
def test_agents_learn_from_parts_and_their_policy_takes_them(agent, tmp_path):
    recipe = {"steps": 512, "envs": 2, "hidden": (8,)}
    if agent == "dqn":
        recipe |= {"learning_starts": 64, "buffer_size": 500}
    else:
        recipe |= {"n_steps": 16}
    options = {"run_dir": str(tmp_path), "eval_episodes": 2}
    trained = rlkit.train(agent, Camera, recipe, options)
    policy = rlkit.load(trained.run, env=Camera)
    env = Camera()
    one, _ = env.reset(seed=0)
    action = policy.act(one)
    assert env.action_space.contains(action)
    two = {"seen": np.stack([one["seen"]] * 2), "count": np.stack([one["count"]] * 2)}
    assert policy.act(two | {"said": [one["said"]] * 2}).tolist() == [action] * 2
    with pytest.raises(UsageError, match="lacks a part"):
        policy.act({"seen": one["seen"]})
    with pytest.raises(UsageError, match="different numbers"):
        policy.act(two | {"said": one["said"]})
    config = json.loads((trained.run / "config.json").read_text())
    assert config["env_given"] == "object"


def test_parts_are_not_normalised_in_silence(tmp_path):
    with pytest.raises(UsageError, match=r"normalize_obs .* are a Tuple of several parts"):
        rlkit.train("ppo", "Blackjack", {"normalize_obs": True}, {"run_dir": str(tmp_path)})


def test_blackjack_is_learned_from_its_tuple(tmp_path):
    options = {"run_dir": str(tmp_path), "eval_episodes": 400, "seed": 1}
    trained = rlkit.train("dqn", "Blackjack", {"steps": 20_000}, options)
    # Its best policy loses 0.047 a game (Gymnasium's variant, by dynamic programming); drawing or
    # staying at random loses 0.39.
    assert trained.evaluation.mean > -0.2


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict(speed=spaces.Box(-1, 1, (1,)), kind=spaces.Discrete(3)),
        spaces.Dict([("speed", spaces.Box(-1, 1, (1,))), ("kind", spaces.Discrete(3))]),
        spaces.Dict({"speed": spaces.Box(-1, 1, (1,)), "kind": spaces.Discrete(3)}),
    ],
)
def test_the_order_of_a_dicts_keys_is_the_spaces_own(space):
    port = obs_port(space, 1, strict=True)
    row = port.take({"kind": np.array([2]), "speed": np.array([[0.7]], np.float32)}, "the reset")
    found = {leaf.path[0]: read(row, leaf).item() for leaf in leaves(port.space)}
    assert found == {"kind": 2, "speed": pytest.approx(0.7)}


@pytest.mark.parametrize("part", [spaces.Sequence(spaces.Discrete(3)), spaces.Box(0, 1, (0,))])
def test_parts_that_are_not_supported_are_named(part):
    with pytest.raises(UsageError, match=r"the observation space .*(is a Sequence|is empty)"):
        obs_port(spaces.Dict({"a": spaces.Tuple([part])}), 1, strict=True)


def test_every_sign_of_a_text_is_kept():
    assert (word_numbers("+-*/", 4) > 0).all()
    assert obs_port(spaces.Text(4, charset="+-*/"), 1, strict=True).take(["+-*/"], "").all()


def test_spaces_are_described_alike_in_every_process():
    code = (
        "from gymnasium import spaces; from rlkit.packing import described;"
        "parts = {'a': spaces.Text(9), 'b': spaces.Tuple([spaces.Discrete(2)])};"
        "print(described(spaces.Dict(parts)))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert said == {"Dict('a': Text of 9 words, 'b': Tuple(Discrete(2)))\n"}


def test_storage_of_every_space():
    for space in (MIXED, spaces.Text(9), spaces.Discrete(3), spaces.Box(0, 1, (2, 3))):
        seen = obs_port(space, 1, strict=False).space
        array = space_array(seen, (4, 2))
        assert array.shape == (4, 2, *stored(seen)[0])
        assert not array.any()
