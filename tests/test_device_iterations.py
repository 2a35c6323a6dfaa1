"""Whole iterations on a device: rollout and update as one piece of work, the same as step by step.

On the CPU a tape stands for a CUDA graph: it does a call's operations again on the same memory,
without any of the Python around them, and a look at a value while it records raises.
"""

import json
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from device_runs import CPU, Synchronisations, weights
from small_runs import leaves, metrics, steps_saved
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import rlkit
from rlkit.agent import Setting
from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.agents.dqn import DQN, DQNRecipe
from rlkit.agents.ppo import PPO, PPORecipe
from rlkit.agents.pqn import PQN, PQNRecipe
from rlkit.carry import tensors
from rlkit.device import graphs
from rlkit.device.engine import Engine
from rlkit.device.graphs import Graphed, static_shapes
from rlkit.envs.make import make_envs
from rlkit.errors import RlkitWarning, RunError
from rlkit.experience.noise import Noise
from rlkit.run.checkpoint import load_checkpoint
from rlkit.schedule import Schedule
from rlkit.training import build, iteration, trainer
from rlkit.training.episodes import DeviceEpisodes
from rlkit.training.iteration import Acting, iteration_of

N, T, ROUNDS = 4, 8, 7
TOTAL = ROUNDS * N * T
AHEAD = Engine(ahead=True)
CORE = {"core_width": 8, "hidden": (8,)}
SCALED = {"normalize_obs": True, "normalize_reward": True}
FALLING = {"learning_rate": Schedule(0.02, 0.001)}
BASE = {
    "a2c": (A2C, A2CRecipe(n_steps=T, entropy_cost=0.01).but(FALLING)),
    "ppo": (PPO, PPORecipe(n_steps=T, minibatch_size=12, entropy_cost=0.01).but(FALLING)),
    "pqn": (PQN, PQNRecipe(n_steps=T, minibatch_size=12, hidden=(16,)).but(FALLING)),
}
CASES = {
    "a2c": ("a2c", "CartPole", {}),
    "a2c, scaled": ("a2c", "Pendulum", SCALED),
    "a2c, gru": ("a2c", "cartpole-hidden", {"core": "gru", **CORE}),
    "a2c, lstm": ("a2c", "memory-corridor", {"core": "lstm", **CORE}),
    "ppo": ("ppo", "CartPole", {}),
    "ppo, scaled": ("ppo", "Acrobot", {**SCALED, "value_clip": 0.1}),
    "ppo, target": ("ppo", "CartPole", {"target_kl": 1e-3}),
    "ppo, masks": ("ppo", "model", {"hidden": (8,)}),
    "ppo, images": ("ppo", "catch", {"hidden": (8,)}),
    "ppo, gru": ("ppo", "cartpole-hidden", {"core": "gru", **CORE, **SCALED}),
    "ppo, gtrxl": ("ppo", "repeat-first", {"core": "gtrxl", **CORE}),
    "pqn": ("pqn", "CartPole", {"exploration": Schedule(1, 0.1, share=0.7)}),
    "pqn, scaled": ("pqn", "CartPole", SCALED),
    "pqn, masks": ("pqn", "model", {}),
}
OPTIONS = {"model": {"source": "gambler"}, "CartPole": {"max_episode_steps": 11}}
LOOKS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")


class Tape(TorchDispatchMode):
    """The operations of a call, to be done again."""

    def __init__(self):
        super().__init__()
        self.done = []
        self.is_new = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.name().removeprefix("aten::").split(".")[0]
        comes_from_host = name == "lift_fresh" and args[0].ndim > 0  # `torch.tensor` of several
        if name in LOOKS or comes_from_host:
            raise RuntimeError("operation not permitted when stream is capturing")
        found = func(*args, **kwargs)
        self.done.append((func, args, kwargs, found))
        return found

    @torch.no_grad()
    def replay(self):
        if self.is_new:  # the recording did it, where a capture would not have
            self.is_new = False
            return
        for func, args, kwargs, found in self.done:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and not is_alias(old, new):
                    old.copy_(new)


def is_alias(x, y):
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


@pytest.fixture
def taped(monkeypatch):
    """Have the CPU capture too; the tapes that it made."""
    tapes, init = [], Graphed.__init__

    def made(self, f, device, graphs, generators=()):
        init(self, f, device, graphs, generators)
        self._captures = graphs

    def capture(self, recording, bound, held, fresh):
        if bound.held is None:
            bound.held = graphs._copied(held)
        inputs = graphs._copied(fresh)
        with Tape() as tape:
            recording.outputs = self._plainly(bound.held, inputs)
        recording.graph, recording.fresh = tape, inputs
        self.captured += 1
        tapes.append(tape)
        return True

    monkeypatch.setattr(Graphed, "__init__", made)
    monkeypatch.setattr(Graphed, "_capture", capture)
    monkeypatch.setattr(Graphed, "_aside", lambda self, *call: self._plainly(*call))
    return tapes


@pytest.fixture(autouse=True)
def as_much_noise_at_once(monkeypatch):
    monkeypatch.setattr(Noise, "BLOCK", T)


class Run:
    """An agent on environments on a device, and what its updates measured."""

    def __init__(self, case, engine=AHEAD, device=CPU):
        name, env, changes = CASES[case]
        agent_type, recipe = BASE[name]
        device = torch.device(device)
        self.envs = make_envs(env, N, 0, "device", options=OPTIONS.get(env), device=device)
        torch.manual_seed(0)
        space, actions = self.envs.obs_space, self.envs.action_space
        setting = Setting(space, actions, N, device, 0, engine=engine)
        with device if device.type == "meta" else nullcontext():
            self.agent = agent_type(setting, recipe.but(changes))
        self.agent.memory.allocate()
        self.acting = Acting(self.agent, self.envs)
        self.episodes = DeviceEpisodes(N, device)
        self.iteration = iteration_of(self.acting, self.episodes)
        self.steps, self.found = 0, []

    def iterate(self, rounds=ROUNDS):
        for _ in range(rounds):
            self.iteration.run(self.steps, TOTAL)
            self.steps += self.iteration.quantum
            self.note(self.iteration.told())

    def go_along(self, rounds=ROUNDS):
        for _ in range(rounds * T):
            self.agent.clock.progress = self.steps / TOTAL
            self.episodes.add(self.acting.step())
            self.steps += N
            for batch in self.agent.memory.batches():
                self.note(self.agent.update(batch))

    def note(self, found):
        if self.envs.device.type != "meta":
            self.found.append({name: float(x) for name, x in found.items()})

    def go_on_from(self, other):
        self.agent.set_state(copied(other.agent.get_state()))
        self.acting.obs = self.envs.set_state(copied(other.envs.get_state()))
        self.episodes.set_state(copied(other.episodes.get_state()))
        self.acting.carry = copied(other.acting.carry)
        self.steps, self.found = other.steps, [*other.found]

    def state(self):
        """All that the next step depends on."""
        there = {"agent": self.agent.get_state(), "envs": self.envs.get_state()}
        episodes, carry = self.episodes.get_state(), self.acting.carry
        rest = {"obs": self.acting.obs, "carry": carry, "steps": self.steps}
        return leaves(there | rest | {"episodes": episodes, "now": self.agent.clock.progress})


def copied(tree):
    return tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, tree)


def assert_same(run, other):
    ours, theirs = run.state(), other.state()
    assert ours.keys() == theirs.keys()
    assert [path for path in ours if ours[path] != theirs[path]] == []
    assert run.found == other.found
    assert len(run.found) == ROUNDS


@pytest.mark.parametrize("case", CASES)
def test_an_iteration_equals_its_steps_bit_for_bit(case):
    whole, by_steps = Run(case), Run(case)
    whole.iterate()
    by_steps.go_along()
    assert_same(whole, by_steps)
    first, last = whole.found[0], whole.found[-1]
    assert first["learning_rate"] > last["learning_rate"]


@pytest.mark.parametrize("longest", [iteration.LONGEST, 0], ids=["one graph", "several"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_replayed_equals_its_steps_bit_for_bit(case, longest, taped, monkeypatch):
    monkeypatch.setattr(iteration, "LONGEST", longest)
    whole, by_steps = Run(case), Run(case, Engine(ahead=True, graphs=False))
    whole.iterate()
    with static_shapes():  # in which memories are unrolled step by step
        by_steps.go_along()
    assert_same(whole, by_steps)
    assert sum(not tape.is_new for tape in taped) == len(taped)
    if longest:
        assert len(taped) == 1
    else:
        assert len(taped) > 1


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_read_by_the_host_within_an_iteration(case):
    run = Run(case)
    run.iterate(1)  # which finds room for what it keeps
    run.agent.place.health.look = lambda lr: None  # once, when an update is over
    with Synchronisations() as synchronisations:
        run.iteration.run(run.steps, TOTAL)
        run.iteration.told()
    assert not synchronisations.found


@pytest.mark.parametrize("case", CASES)
def test_an_iteration_runs_on_the_meta_device(case):
    run = Run(case, device="meta")
    noise, host = run.agent.noise, torch.Generator()
    noise.block = lambda steps, x: noise._draw((steps, N), host).to("meta")
    run.iterate(2)
    assert all(x.is_meta for x in [run.acting.obs, *tensors(run.acting.carry)])


@pytest.mark.parametrize("case", ["a2c, gru", "ppo", "pqn"])
def test_what_a_broken_capture_leaves_on_the_host_is_made_good(case, taped, monkeypatch):
    whole, by_steps = Run(case), Run(case, Engine(ahead=True, graphs=False))
    step = whole.acting.step

    def breaks_off():
        if whole.agent.memory.t == 3:
            raise RuntimeError
        return step()

    def tried(self, recording, bound, held, fresh):
        there = copied((whole.envs.get_state(), whole.episodes.get_state()))
        with monkeypatch.context() as patched:
            patched.setattr(whole.acting, "step", breaks_off)
            with pytest.raises(RuntimeError):
                self._plainly(held, fresh)
        steps, self._captures = whole.envs.steps, False
        whole.envs.set_state(there[0])  # a capture moves nothing on the device
        whole.episodes.set_state(there[1])
        whole.envs.steps = steps
        return False

    monkeypatch.setattr(Graphed, "_capture", tried)
    whole.iterate()
    with static_shapes():
        by_steps.go_along()
    assert_same(whole, by_steps)


def test_a_rollout_in_its_midst_is_not_due():
    run = Run("ppo")
    assert run.iteration.is_due
    run.acting.step()
    assert not run.iteration.is_due


def test_where_the_host_is_needed_there_are_no_iterations():
    def found(vectorization, agent_type, recipe, engine):
        envs = make_envs("CartPole", N, 0, vectorization)
        setting = Setting(envs.obs_space, envs.action_space, N, CPU, 0, engine=engine)
        return iteration_of(Acting(agent_type(setting, recipe), envs), DeviceEpisodes(N, CPU))

    assert found("device", A2C, A2CRecipe(), AHEAD) is not None
    assert found("device", A2C, A2CRecipe(), Engine()) is None  # on the CPU it reads as it goes
    assert found("compiled", A2C, A2CRecipe(), AHEAD) is None
    assert found("device", DQN, DQNRecipe(), AHEAD) is None


# ------------------------------------------------------------------------------------ whole runs


@pytest.fixture
def ahead(monkeypatch):
    """Have runs on the CPU be as on a device."""
    monkeypatch.setattr(build, "Engine", partial(Engine, ahead=True))


SIZES = ("--minibatch-size", 12)
TOLD = {
    "a2c": ("a2c", "CartPole", "--normalize-obs", "--normalize-reward"),
    "ppo, gru": ("ppo", "cartpole-hidden", "--core", "gru", "--core-width", 8, *SIZES),
    "pqn": ("pqn", "CartPole", *SIZES),
}
FEW = ("--steps", 960, "--seed", 3, "--hidden", 8, "--envs", N, "--n-steps", T)
FEW += ("--eval-every", 10**6, "--eval-episodes", 1)
FEW += ("--vectorization", "device", "--device", "cpu")


def trained(cli, case, save_every):
    told = cli("train", *TOLD[case], *FEW, "--save-every", save_every, "--json")
    assert told.status == 0, told.err
    return Path(json.loads(told.out)["run"])


def broken_off(run, home):
    """The run as it was after its first checkpoint."""
    broken = home / "broken"
    shutil.copytree(run, broken)
    for name in steps_saved(broken)[1:]:
        shutil.rmtree(broken / "checkpoints" / name)
    return broken


@pytest.mark.usefixtures("ahead", "taped")
@pytest.mark.parametrize("case", TOLD)
def test_resuming_equals_one_go(cli, tmp_path, case):
    whole = trained(cli, case, 500)
    broken = broken_off(whole, tmp_path)
    assert steps_saved(broken) == ["000000000512"]
    resumed = cli("resume", broken)
    assert resumed.status == 0, resumed.err
    first, second = (leaves(load_checkpoint(run).tree) for run in (whole, broken))
    assert [path for path in first if first[path] != second[path]] == []
    assert metrics(whole) == metrics(broken)


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("case", TOLD)
def test_a_run_saved_within_a_rollout_goes_on_from_there(cli, tmp_path, case, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "iteration_of", lambda acting, episodes: None)
        whole = trained(cli, case, 500)
    broken = broken_off(whole, tmp_path)
    assert steps_saved(broken) == ["000000000500"]
    assert cli("resume", broken).status == 0
    first, second = (leaves(load_checkpoint(run).tree["agent"]) for run in (whole, broken))
    assert load_checkpoint(broken).step == load_checkpoint(whole).step == 960
    assert [path for path in first if first[path] != second[path]] == []


@pytest.mark.usefixtures("ahead")
def test_what_led_to_an_error_is_left_for_inspection(tmp_path, monkeypatch):
    from rlkit.envs.device.rules import Episodes as Rolled

    taken, step = [], Rolled.step

    def ill(self, state, age, action, u):
        moved = step(self, state, age, action, u)
        if len(taken) == 28:
            moved = moved._replace(reward=moved.reward * torch.nan)
        taken.append(moved)
        return moved

    monkeypatch.setattr(Rolled, "step", ill)
    options = {"vectorization": "device", "device": "cpu", "run_dir": str(tmp_path)}
    with pytest.raises(RunError, match=r"step 120 of .* the last steps are in"):
        rlkit.train("a2c", "CartPole", {"steps": 1000, "envs": 4, "n_steps": 5}, options)
    (file,) = tmp_path.glob("*/faults/*.npz")
    with np.load(file) as left:
        assert left["step"].tolist() == [100, 104, 108, 112, 116]
        shown = torch.stack([moved.state.T for moved in taken[25:]]).float().numpy()
        assert (left["next_obs"] == shown).all()
        assert (left["obs"][1:] == left["next_obs"][:-1]).all()
        assert np.isnan(left["reward"][3]).all()
        assert not np.isnan(left["reward"][4]).any()


# ------------------------------------------------------------------------------------- on a GPU

ON_A_GPU = [case for case in CASES if "images" not in case]  # convolutions are not reproducible


@pytest.mark.cuda
@pytest.mark.parametrize("longest", [iteration.LONGEST, 0], ids=["one graph", "several"])
@pytest.mark.parametrize("case", ON_A_GPU)
def test_a_graph_learns_what_its_eager_twin_learns(case, longest, monkeypatch):
    monkeypatch.setattr(iteration, "LONGEST", longest)
    graphed = Run(case, Engine(), "cuda")
    eager = Run(case, Engine(graphs=False), "cuda")
    graphed.iterate()
    with static_shapes():
        eager.iterate()
    assert graphed.iteration._graph.captured == 1
    assert eager.iteration._graph.captured == 0
    torch.testing.assert_close(weights(graphed.agent), weights(eager.agent), rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(graphed.found, eager.found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-3)
    torch.testing.assert_close(graphed.acting.obs, eager.acting.obs, rtol=1e-3, atol=1e-3)
    assert torch.equal(graphed.envs.age, eager.envs.age)
    assert graphed.envs.steps == eager.envs.steps
    assert graphed.episodes.means() == pytest.approx(eager.episodes.means())


@pytest.mark.cuda
@pytest.mark.parametrize("case", ["a2c, gru", "ppo", "pqn"])
def test_a_replayed_run_resumes_as_in_one_go(case):
    whole, broken, resumed = (Run(case, Engine(), "cuda") for _ in range(3))
    whole.iterate()
    broken.iterate(5)
    resumed.go_on_from(broken)
    resumed.iterate(ROUNDS - 5)
    torch.testing.assert_close(weights(resumed.agent), weights(whole.agent), rtol=1e-3, atol=1e-4)
    assert torch.equal(resumed.envs.age, whole.envs.age)
    assert torch.equal(resumed.envs.generator.get_state(), whole.envs.generator.get_state())
    assert torch.equal(resumed.agent.generator.get_state(), whole.agent.generator.get_state())


@pytest.mark.cuda
@pytest.mark.parametrize("graphed", [True, False], ids=["graphs", "as it is"])
@pytest.mark.parametrize("case", CASES)
def test_an_iteration_does_not_synchronise(case, graphed):
    if not graphed and CASES[case][2].get("core"):
        pytest.skip("without graphs a memory's host looks where episodes begin")
    run = Run(case, Engine(graphs=graphed), "cuda")
    run.iterate(5)  # until all is captured
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            run.iteration.run(run.steps, TOTAL)
            run.iteration.told()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.parametrize("case", ["a2c", "ppo", "pqn"])
def test_a_capture_that_breaks_off_costs_no_step(case, monkeypatch):
    broken, eager = Run(case, Engine(), "cuda"), Run(case, Engine(graphs=False), "cuda")
    step = broken.acting.step

    def looked():
        found = step()
        if torch.cuda.is_current_stream_capturing() and broken.agent.memory.t == 3:
            float(found.reward.sum())
        return found

    monkeypatch.setattr(broken.acting, "step", looked)
    with pytest.warns(RlkitWarning, match="can't be captured as a CUDA graph"):
        broken.iterate()
    eager.iterate()
    assert broken.iteration._graph.captured == 0
    torch.testing.assert_close(weights(broken.agent), weights(eager.agent), rtol=1e-3, atol=1e-4)
    assert torch.equal(broken.envs.age, eager.envs.age)
    assert torch.rand(3, device="cuda").isfinite().all()  # the device's own generator still draws
