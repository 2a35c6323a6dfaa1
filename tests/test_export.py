"""Exported policies: the file alone does what the policy does, and no other file is left."""

import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from small_runs import SHIFTED

import rlkit
from rlkit.errors import RunError, UsageError
from rlkit.run.folder import RunFolder
from rlkit.training import export as exporting
from rlkit.training import export_check, greedy
from rlkit.training.api import restored
from rlkit.training.policy import Policy

MIXED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (5, 7, 3), np.uint8),
        "speed": spaces.Box(-1, 1, (), np.float64),
        "mask": spaces.Discrete(4),
        "inner": spaces.Tuple(
            [
                spaces.Discrete(5, start=-2),
                spaces.Dict({"said": spaces.Text(30), "keys": spaces.MultiBinary(3)}),
                spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-3, 0]]),
            ]
        ),
    }
)
WIDE = spaces.Box(np.array([-3, 0]), np.array([1, 1e5]), dtype=np.float64)
WHOLE = spaces.Box(np.array([[-100, 0]]), np.array([[100, 250]]), dtype=np.int16)
HALF = spaces.Box(np.array([0, -np.inf, -np.inf], np.float32), np.inf, (3,), np.float32)


class Random(gym.Env):
    """Any spaces: observations are drawn, the reward follows the action, 7 steps to an episode."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.age = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.age += 1
        reward = float(np.sin(np.sum(action) + self.age))
        return self.observation_space.sample(), reward, self.age == 7, False, {}


def random_env(observation_space, action_space):
    return lambda: Random(observation_space, action_space)


NUMBERS = spaces.Box(-1, 1, (4,), np.float64)
REPLAY = {"learning_starts": 40, "batch_size": 16, "train_every": 8, "gradient_steps": 1}
SEQUENCES = {**REPLAY, "core_width": 8, "burn_in": 2, "unroll": 4}
EPOCHS = {"n_steps": 5, "minibatch_size": 10, "epochs": 2}
CASES = {
    "normalised": ("pqn", "CartPole", {**EPOCHS, "normalize_obs": True}),
    "scaled": ("a2c", "Pendulum", {"normalize_obs": True, "learning_rate": "0.05"}),
    "wide": ("sac", random_env(WIDE, WIDE), REPLAY),
    "whole": ("a2c", random_env(NUMBERS, WHOLE), {"squash": True, "learning_rate": "0.05"}),
    "half": ("ppo", random_env(HALF, HALF), EPOCHS),
    "quantiles": ("dqn", "FrozenLake", {**REPLAY, "values": "quantiles", "dueling": True}),
    "rainbow": ("rainbow", "Taxi", {**REPLAY, "atoms": 7, "head_hidden": (8,)}),
    "mixed": (
        "r2d2",
        random_env(MIXED, spaces.Discrete(3, start=-7)),
        {**SEQUENCES, "core": "gru"},
    ),
    "tuple": ("a2c", "Blackjack", {}),
    "choices": (
        "ppo",
        random_env(spaces.Discrete(9, start=5), spaces.MultiDiscrete([2, 4], start=[3, -1])),
        EPOCHS,
    ),
    "bits": ("a2c", random_env(spaces.MultiBinary(6), spaces.MultiBinary(3)), {}),
    "pixels": ("dqn", "catch", REPLAY),
    "rnn": ("a2c", "CartPole", {"core": "rnn", "core_width": 8}),
    "gru": ("ppo", "CartPole", {**EPOCHS, "core": "gru", "core_width": 8}),
    "lstm": ("ppo", "CartPole", {**EPOCHS, "core": "lstm", "core_width": 8}),
    "gtrxl": ("r2d2", "CartPole", {**SEQUENCES, "core": "gtrxl"}),
}
# An ONNX file takes seconds to make: both kinds are made of the case that holds the most.
ONNX = ("scaled", "rainbow", "bits", "pixels", "lstm", "mixed")
FILES = [
    *((case, "torch-export") for case in CASES if case not in ONNX or case == "mixed"),
    *((case, "onnx") for case in ONNX),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run and the environment of a case."""
    folder, runs = tmp_path_factory.mktemp("runs"), {}

    def run_of(case):
        agent, env, recipe = CASES[case]
        if case not in runs:
            # Next to nothing is learned: so little training may favour one action everywhere.
            recipe = {"steps": 200, "envs": 2, "hidden": (8,), "learning_rate": "1e-6", **recipe}
            options = {"run_dir": str(folder), "vectorization": "sync", "eval_episodes": 1}
            runs[case] = rlkit.train(agent, env, recipe, options).run
        return runs[case], None if isinstance(env, str) else env

    return run_of


def numbers_of(text, length):
    """As the file's `usage` tells it."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())[:length]
    numbers = [zlib.crc32(word.encode()) % 4095 + 1 for word in words]
    return numbers + [0] * (length - len(numbers))


def fed(port, obs, mask, carry):
    """What an input is given, by what the file says of it."""
    if port["what"] == "carry":
        return carry[port["name"]]
    if port["what"] == "allowed actions":
        return mask
    path, _, told = port["what"].removeprefix("observation").partition(", ")
    value = eval("obs" + path)
    if told == "numbers of its words":
        value = [numbers_of(text, port["shape"][1]) for text in value]
    value = np.asarray(value, port["dtype"])
    assert value.shape == (len(value), *port["shape"][1:])
    return value


def opened(path, format):
    """What the file says of itself, and a function from inputs to outputs by their names."""
    if format == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        told = session.get_modelmeta().custom_metadata_map
        names = [x.name for x in session.get_outputs()]
        return told, lambda given: dict(zip(names, session.run(None, given), strict=True))
    files = {"rlkit.json": ""}
    module = torch.export.load(path, extra_files=files).module()
    told = json.loads(files["rlkit.json"])
    names = [x["name"] for x in json.loads(told["outputs"])]

    def run(given):
        found = module(*(torch.from_numpy(given[x["name"]]) for x in json.loads(told["inputs"])))
        return {name: x.numpy() for name, x in zip(names, found, strict=True)}

    return told, run


def sequences(path, format, policy, space, action_space):
    """(inputs, the file's outputs, the policy's actions) of batches one after the other."""
    told, run = opened(path, format)
    ports = json.loads(told["inputs"])
    rng = np.random.default_rng(3)
    space.seed(3)
    for n in (7, 1):
        policy.reset()
        carry = {
            x["name"]: np.zeros((n, *x["shape"][1:]), x["dtype"])
            for x in ports
            if x["what"] == "carry"
        }
        for t in range(6):
            samples = [space.sample() for _ in range(n)]
            obs = concatenate(space, samples, create_empty_array(space, n))
            mask = None
            if any(x["name"] == "mask" for x in ports):
                mask = rng.random((n, action_space.n)) < 0.5
                mask[:, rng.integers(action_space.n)] = True
            given = {x["name"]: fed(x, obs, mask, carry) for x in ports}
            found = run(given)
            yield given, found, policy.act(obs, mask)
            carry = {name: found[f"next_{name}"].copy() for name in carry}
            if t == 3 and carry:  # the first environment begins an episode
                policy.reset(np.arange(n) == 0)
                for x in carry.values():
                    x[0] = 0


def check(path, format, run, env):
    """Hold a file to the policy; the inputs and actions of all batches."""
    policy = rlkit.load(run, env=env)
    with restored(RunFolder.open(run), 1, False, "cpu", env) as (_, envs):
        space, action_space = envs.obs_port.declared_space, envs.action_port.declared_space
    batches, distinct = [], set()
    for given, found, expected in sequences(path, format, policy, space, action_space):
        action = found["action"]
        assert action.shape == expected.shape
        assert action.dtype == expected.dtype
        if action.dtype.kind == "f":
            span = np.where(action_space.is_bounded(), action_space.high - action_space.low, 1)
            assert (np.abs(action - expected) <= 1e-5 * (span + np.abs(expected))).all()
        else:
            np.testing.assert_array_equal(action, expected)
        assert all(action_space.contains(a) for a in action)
        batches.append((given, expected))
        distinct |= {a.tobytes() for a in expected}
    assert len(distinct) > 1
    return batches


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The file of a case."""
    folder, files = tmp_path_factory.mktemp("files"), {}

    def file_of(case, format):
        if format == "onnx":
            pytest.importorskip("onnxruntime")
            pytest.importorskip("onnxscript")
        if (case, format) not in files:
            run, env = trained(case)
            files[case, format] = rlkit.export(run, folder / f"{case}-{format}", format, env=env)
        return files[case, format]

    return file_of


@pytest.mark.parametrize(("case", "format"), FILES)
def test_a_file_does_what_the_policy_does(case, format, trained, exported):
    path = exported(case, format)
    check(path, format, *trained(case))
    assert str(Path(__file__).parent.parent).encode() not in path.read_bytes()


# Without rlkit and torch, and from elsewhere: runs of inputs and the actions that are expected.
ALONE = """
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
batches = np.load(sys.argv[2])
for i in range(int(batches["count"])):
    given = {x.name: batches[f"{i}/{x.name}"] for x in session.get_inputs()}
    action = session.run(["action"], given)[0]
    np.testing.assert_allclose(action, batches[f"{i}/action"], rtol=1e-5, atol=1e-5)
assert not {"rlkit", "torch", "gymnasium"} & set(sys.modules)
print(i + 1)
"""


def test_an_onnx_file_needs_neither_rlkit_nor_torch(trained, exported, tmp_path):
    path = exported("mixed", "onnx")
    batches = check(path, "onnx", *trained("mixed"))
    arrays = {f"{i}/{k}": x for i, (given, _) in enumerate(batches) for k, x in given.items()}
    arrays |= {f"{i}/action": action for i, (_, action) in enumerate(batches)}
    np.savez(tmp_path / "batches.npz", count=len(batches), **arrays)
    alone = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, path, tmp_path / "batches.npz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.split() == [str(len(batches))]


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_the_file_tells_what_it_is(format, exported):
    told, _ = opened(exported("mixed", format), format)
    assert told["agent"] == "r2d2"
    assert told["rlkit"] == rlkit.__version__
    assert told["checkpoint"] == "newest"
    assert told["action_space"] == "Discrete(3, start=-7)"
    inputs = {x["name"]: x for x in json.loads(told["inputs"])}
    names = {"camera", "speed", "mask_", "inner.0", "inner.1.said", "inner.1.keys", "inner.2"}
    assert set(inputs) == {*names, "carry.0"}
    assert inputs["camera"]["shape"] == ["N", 5, 7, 3]
    assert inputs["camera"]["dtype"] == "uint8"
    assert inputs["speed"]["dtype"] == "float64"
    assert inputs["carry.0"]["shape"] == ["N", 1, 8]
    for word in ("zlib.crc32", "zeros", "next_carry.*"):
        assert word in told["usage"]


def test_the_best_checkpoint_is_another_policy(tmp_path):
    options = {"run_dir": str(tmp_path), "eval_every": 100, "eval_episodes": 2}
    recipe = {"steps": 600, "envs": 2, "hidden": (8,), "learning_rate": "0.3"}
    run = rlkit.train("a2c", "Pendulum", recipe, {**options, "seed": 1}).run
    obs = np.random.default_rng(0).uniform(-1, 1, (9, 3)).astype(np.float32)
    actions = []
    for best in (False, True):
        path = rlkit.export(run, tmp_path / f"{best}.pt2", "torch-export", best=best)
        told, run_file = opened(path, "torch-export")
        assert told["checkpoint"] == ("best" if best else "newest")
        actions.append(run_file({"obs": obs})["action"])
        expected = rlkit.load(run, best=best).act(obs)
        np.testing.assert_allclose(actions[-1], expected, atol=1e-5)
    assert np.abs(actions[0] - actions[1]).max() > 1e-3


def forgetting(in_form):
    return lambda self, held: in_form(self, [torch.zeros_like(x) for x in held])


BREAKS = {
    "start": ("choices", greedy, "start_of", lambda of: lambda space: None),
    "memory": ("lstm", greedy.Greedy, "_in_form", forgetting),
    "units": ("wide", greedy.Greedy, "_given", lambda of: lambda self, x: 0.999 * of(self, x)),
    "observations": ("tuple", greedy, "_seen", lambda of: lambda leaf, x: of(leaf, x * 0)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_no_file_is_left_that_differs(name, trained, tmp_path, monkeypatch):
    case, owner, attribute, broken = BREAKS[name]
    run, env = trained(case)
    monkeypatch.setattr(owner, attribute, broken(getattr(owner, attribute)))
    with pytest.raises(RunError, match=r"does not (run|do what the policy does)"):
        rlkit.export(run, tmp_path / "policy.pt2", "torch-export", env=env)
    assert not list(tmp_path.iterdir())


def compared(run, env, answer, change=lambda agent: None, remember=lambda carry: carry):
    """The policy beside a file that answers `answer(actions)` where it would say `actions`."""
    with restored(RunFolder.open(run), 2, False, "cpu", env) as (agent, envs):
        change(agent)
        envs.reset(0)
        module = greedy.Greedy(agent, envs.obs_port.declared_space, envs.action_port, masked=False)
        policy = Policy(agent, envs.id, envs.obs_port, envs.action_port)

        def file(inputs):
            action, *carry = (x.numpy() for x in module(*map(torch.from_numpy, inputs)))
            return [answer(action), *map(remember, carry)]

        return export_check.compare(file, module, policy, envs)


def test_a_choice_between_even_ones_may_fall_either_way(trained):
    run, env = trained("quantiles")

    def even(agent, gap=0.0):
        agent.flat.values.zero_()
        agent.online.head.advantage.linears[-1].bias.data[-3 * 51 :] = -gap

    other = compared(run, env, lambda action: action + 2, even)
    assert other.passed
    assert other.ties == other.observations == 460
    assert "all actions equal but for 460 choices between even ones" in str(other)
    worse = compared(run, env, lambda action: action + 2, lambda agent: even(agent, 1e-3))
    assert not worse.passed
    assert worse.wrong == 460
    assert not compared(run, env, lambda action: action + 4, even).passed  # there are but four


def test_the_memory_is_compared_too(trained):
    run, env = trained("gru")

    def off_by(error):
        return compared(run, env, lambda action: action, remember=lambda carry: carry + error)

    assert off_by(np.float32(1e-7)).passed
    assert off_by(np.float32(1e-3)).wrong == 460


def test_whole_numbers_may_be_one_apart_once_in_a_while(trained):
    run, env = trained("whole")

    def one_off(share):
        rng = np.random.default_rng(0)
        return lambda a: a + (rng.random((len(a), 1, 1)) < share).astype(np.int16)

    few = compared(run, env, one_off(0.004))
    assert few.passed
    assert few.ties > 0
    assert not compared(run, env, one_off(0.5)).passed
    assert not compared(run, env, lambda action: action + 2 * (action % 50 == 0)).passed


@pytest.mark.parametrize("off", [1e-2, 1e-8])
def test_box_actions_are_equal_to_rounding(off, trained):
    run, env = trained("scaled")
    found = compared(run, env, lambda action: action + np.float32(off))
    assert found.passed == (off < 1e-3)
    assert ("actions differ by" in str(found)) == found.passed


def test_the_command_line(cli, tmp_path):
    few = ("--steps", 40, "--envs", 2, "--hidden", 8, "--eval-episodes", 1)
    assert cli("train", "a2c", "CartPole", "--vectorization", "sync", *few).status == 0
    run = Path("runs/a2c-CartPole-v1-0")
    done = cli("export", run.name, "--format", "torch-export")
    assert done.status == 0, done.err
    assert done.err == ""
    assert done.out.splitlines()[0].startswith(f"wrote {run / 'policy.pt2'} (")
    assert done.out.splitlines()[1:] == [
        "inputs: obs float32 (N, 4)",
        "outputs: action int64 (N,)",
        "checked: 460 observations, all actions equal",
    ]
    again = cli("export", run, "--format", "torch-export")
    assert again.status == 2
    assert again.error == (
        "runs/a2c-CartPole-v1-0/policy.pt2 exists; name another file (--output), or replace it "
        "(--force)"
    )
    forced = cli("export", run, "--format", "torch-export", "--force", "--json")
    told = json.loads(forced.out.splitlines()[-1])
    assert told["observations"] == 460
    assert told["inputs"] == [
        {"name": "obs", "what": "observation", "dtype": "float32", "shape": ["N", 4]}
    ]
    refused = {
        ("--format", "onxx"): "did you mean",
        ("--output", "nowhere/p.onnx"): "no folder that may be written to",
        ("--output", str(tmp_path)): "is a folder",
    }
    for options, words in refused.items():
        called = cli("export", run, *options)
        assert called.status == 2
        assert words in called.error
    assert cli("export", "nothing").status == 2


def test_a_package_that_is_missing_is_named(trained, monkeypatch):
    found = exporting.importlib.util.find_spec
    monkeypatch.setattr(
        exporting.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "onnxruntime" else found(name, *rest),
    )
    with pytest.raises(UsageError) as error:
        rlkit.export(trained("tuple")[0])
    assert "onnxruntime" in str(error.value)
    assert "pip install 'rlkit-toolkit[export]'" in str(error.value)


def test_code_outside_the_run_is_named_again(tmp_path):
    recipe = {"steps": 20, "envs": 2, "hidden": (4,)}
    options = {"run_dir": str(tmp_path), "eval_episodes": 1}
    run = rlkit.train("a2c", SHIFTED, recipe, options).run
    with pytest.raises(UsageError, match="--env"):
        rlkit.export(run, tmp_path / "policy.pt2", "torch-export")
    rlkit.export(run, tmp_path / "policy.pt2", "torch-export", env=SHIFTED)
