"""Training on environments on a device: it learns, resumes and says what failed as elsewhere."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import OWN, leaves, metrics, steps_saved

import rlkit
from rlkit.envs.make import make_envs
from rlkit.envs.vector import Envs
from rlkit.errors import RunError
from rlkit.experience.step import Step
from rlkit.run.checkpoint import load_checkpoint
from rlkit.run.metrics import read_metrics
from rlkit.training.episodes import DeviceEpisodes, Episodes

DEVICE = ("--vectorization", "device", "--device", "cpu")


def test_ppo_learns_cart_pole_and_shows_it_on_gymnasiums(tmp_path, monkeypatch):
    played = []
    step = Envs.step

    def watched(self, action):
        played.append(self.id)
        return step(self, action)

    monkeypatch.setattr(Envs, "step", watched)
    recipe = {"steps": 16_000, "envs": 32, "n_steps": 32, "minibatch_size": 128}
    options = {"vectorization": "device", "device": "cpu", "run_dir": str(tmp_path)}
    done = rlkit.train("ppo", "CartPole", recipe, {**options, "eval_every": 10**6})
    assert done.evaluation.mean > 400
    assert set(played) == {"CartPole-v1"}  # the evaluation alone: device environments are no Envs
    assert len(played) <= 501
    lines = read_metrics(done.run / "metrics.jsonl")
    means = [line["rollout/ep_rew_mean"] for line in lines if "rollout/ep_rew_mean" in line]
    assert means[0] < 60
    assert means[-1] > 150
    assert rlkit.evaluate(done.run, episodes=10).mean > 400


@pytest.mark.parametrize(
    "told",
    [
        ("a2c", "CartPole"),
        ("a2c", "Pendulum", "--normalize-obs", "--normalize-reward"),
        ("ppo", "cartpole-hidden", "--core", "lstm", "--core-width", 8),
        ("ppo", "model", "--env-option", "source=gambler"),  # with masks
        ("ppo", "catch"),
        ("dqn", "FrozenLake"),
    ],
    ids=lambda told: " ".join(map(str, told)),
)
def test_resuming_from_the_middle_equals_one_go(cli, tmp_path, told):
    agent, env, *more = told
    few = ("--steps", 1000, "--seed", 3, "--hidden", 8, "--envs", 4, "--eval-episodes", 3)
    few += ("--eval-every", 300, "--save-every", 500, *OWN[agent])
    one_go = cli("train", agent, env, *few, *more, *DEVICE, "--json")
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
    assert "afresh" not in resumed.out
    first, second = (leaves(load_checkpoint(run).tree) for run in (whole, broken))
    assert first.keys() == second.keys()
    assert [path for path in first if first[path] != second[path]] == []
    assert metrics(whole) == metrics(broken)


@pytest.mark.cuda
@pytest.mark.parametrize("agent", ["a2c", "ppo", "dqn"])
def test_on_a_gpu_runs_train_resume_and_play(agent, tmp_path):
    options = {"vectorization": "device", "device": "cuda", "run_dir": str(tmp_path)}
    recipe = {"steps": 16_000, "envs": 32}
    if agent == "ppo":
        recipe |= {"n_steps": 32, "minibatch_size": 128}
    done = rlkit.train(agent, "CartPole", recipe, {**options, "eval_every": 10**6})
    assert done.agent.setting.device.type == "cuda"
    assert agent != "ppo" or done.evaluation.mean > 300
    assert rlkit.resume(done.run, 20_000).steps >= 20_000
    assert rlkit.load(done.run).act(np.zeros(4)) in (0, 1)


def random_steps(n, count, device="cpu"):
    rng = np.random.default_rng(0)
    obs = torch.zeros((n, 1), device=device)
    ended = np.zeros(n, dtype=bool)
    for _ in range(count):
        valid = ~ended
        terminated, truncated = (rng.random((2, n)) < 0.1) & valid
        ended = terminated | truncated
        reward = (rng.normal(size=n) * valid).astype(np.float32)
        flags = [torch.from_numpy(x).to(device) for x in (reward, terminated, truncated, valid)]
        yield Step(obs, obs, *flags, obs)


def as_arrays(step):
    flags = step.reward, step.terminated, step.truncated, step.valid
    return Step(None, None, *(x.numpy() for x in flags), None)


def test_episodes_are_counted_as_on_the_host():
    here, there = Episodes(5), DeviceEpisodes(5, torch.device("cpu"))
    assert there.means() == (None, None)
    again, ended = DeviceEpisodes(5, torch.device("cpu")), []
    for k, step in enumerate(random_steps(5, 200)):
        here.add(as_arrays(step))
        there.add(step)
        ended += here.told()
        assert there.told() == []
        if k % 20 == 19:
            assert there.means() == pytest.approx(tuple(np.mean(ended, axis=0)), rel=1e-6)
            ended = []
        if k == 113:
            again.set_state(there.get_state())
            there, again = again, there
    before = there.means()
    assert there.means() == before  # nothing ended since
    there.forget_running()
    assert not there.get_state()["running"].any()


def test_nothing_is_read_by_the_host_while_episodes_are_counted():
    there = DeviceEpisodes(5, torch.device("meta"))
    for step in random_steps(5, 3, "meta"):
        there.add(step)
    with pytest.raises((RuntimeError, NotImplementedError)):
        there.means()


def test_what_led_to_an_error_is_left_for_inspection(tmp_path, monkeypatch):
    from rlkit.envs.device.rules import Episodes as Rolled

    taken, step = [], Rolled.step

    def ill(self, state, age, action, u):
        moved = step(self, state, age, action, u)
        if len(taken) == 30:
            moved = moved._replace(reward=moved.reward * torch.nan)
        taken.append(moved)
        return moved

    monkeypatch.setattr(Rolled, "step", ill)
    options = {"vectorization": "device", "device": "cpu", "run_dir": str(tmp_path)}
    with pytest.raises(RunError, match="the last steps are in"):
        rlkit.train("a2c", "CartPole", {"steps": 1000, "envs": 4, "n_steps": 5}, options)
    (file,) = tmp_path.glob("*/faults/*.npz")
    with np.load(file) as left:
        assert left["obs"].shape == left["next_obs"].shape == (16, 4, 4)
        assert (left["obs"][1:] == left["next_obs"][:-1]).all()
        last = taken[len(taken) - 16 :]
        assert (left["reward"] == torch.stack([m.reward for m in last]).numpy()).sum() > 55
        shown = torch.stack([m.state.T for m in last]).float().numpy()
        assert (left["next_obs"] == shown).all()
        assert np.isnan(left["reward"]).any()


def test_tables_are_refused(cli):
    told = cli("train", "q-learning", "FrozenLake", *DEVICE)
    assert told.status == 2
    assert "is device, and q-learning keeps its table on the host; use model" in told.error


@pytest.mark.parametrize("agent", ["q-learning", "r2d2"])
@pytest.mark.parametrize("option", ["--bf16", "--compile"])
def test_what_an_agent_does_not_go_by_is_refused(cli, agent, option):
    told = cli("train", agent, "FrozenLake", option, "--device", "cpu")
    assert told.status == 2
    assert f"({option}) is on, and {agent} does not go by it; leave it out" in told.error


def test_training_elsewhere_imports_none_of_it(tmp_path):
    code = (
        "import sys, rlkit\n"
        "few = {'steps': 100, 'envs': 2}\n"
        f"rlkit.train('a2c', 'CartPole', few, {{'device': 'cpu', 'run_dir': {str(tmp_path)!r},"
        " 'eval_episodes': 1})\n"
        "print([name for name in sys.modules if name.startswith('rlkit.envs.device')])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_the_steps_before_an_error_are_not_written_over():
    """What black boxes keep of a step is its own: the next one leaves it as it is."""
    envs = make_envs("CartPole", 3, 0, "device")
    envs.reset()
    kept, copies = [], []
    for _ in range(12):
        step = envs.step(torch.ones(3, dtype=torch.int64))
        fields = [step.obs, step.reward, step.terminated, step.truncated, step.valid]
        kept += fields
        copies += [x.clone() for x in fields]
    for one, other in zip(kept, copies, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("agent", ["rainbow", "ppo"])
def test_a_run_in_bfloat16_plays_on_arrays(agent, tmp_path):
    small = {"envs": 2, "hidden": (8,), "steps": 128}
    if agent == "rainbow":
        small |= {"learning_starts": 64, "train_every": 32, "batch_size": 8, "head_hidden": (8,)}
    else:
        small |= {"n_steps": 32, "minibatch_size": 32}
    options = {"bf16": True, "device": "cpu", "run_dir": str(tmp_path), "eval_episodes": 1}
    done = rlkit.train(agent, "catch", small, options)
    assert done.complete
    assert all(p.dtype == torch.float32 for p in done.agent.parameters())
