"""On a GPU: graphs against their eager twins, nothing read back, and room that is looked for first.

Skipped where there is none.
"""

import numpy as np
import pytest
import torch
from device_runs import (
    BOX,
    DISCRETE,
    FRAMES,
    VECTOR,
    N,
    Script,
    agent_of,
    learn,
    on_device,
    weights,
)
from test_device_engine import ON_POLICY, WITH_MEMORY
from test_device_replay import OFF_POLICY, Spaces, replay

from rlkit.agents.sac import SAC
from rlkit.device.engine import Engine, Place
from rlkit.device.graphs import Graphed, static_shapes
from rlkit.errors import RlkitWarning, RunError
from rlkit.experience.device_draws import TensorTree
from rlkit.experience.sum_tree import SumTree
from rlkit.networks.rnn import Recurrent

pytestmark = pytest.mark.cuda

EVERY = ON_POLICY | OFF_POLICY
CUDA = torch.device("cuda")


def gpu_agent(name, engine, changes=None, obs=VECTOR):
    agent_type, recipe = EVERY[name]
    action = BOX if agent_type is SAC else DISCRETE
    return agent_of(agent_type, recipe.but(changes or {}), CUDA, engine, obs, action)


@pytest.fixture
def exact():
    """Products in float32 throughout: TF32 has ten bits of mantissa."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("tensors", [False, True], ids=["arrays", "tensors"])
@pytest.mark.parametrize("name", EVERY)
def test_a_graph_learns_what_its_eager_twin_learns(name, tensors):
    graphed, eager = gpu_agent(name, Engine()), gpu_agent(name, Engine(graphs=False))
    found = [learn(agent, 120, Script(agent), tensors) for agent in (graphed, eager)]
    torch.testing.assert_close(weights(graphed), weights(eager), rtol=1e-3, atol=1e-4)
    assert len(found[0]) == len(found[1])
    for ours, theirs in zip(*found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-3)
    functions = [x for x in vars(graphed).values() if isinstance(x, Graphed)]
    assert any(function.captured for function in functions)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("core", ["rnn", "gru", "lstm", "gtrxl"])
@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_graphed_memory_learns_what_its_eager_twin_learns(name, core):
    changes = {"core": core, "core_width": 8, "hidden": (8,)}
    graphed = gpu_agent(name, Engine(), changes)
    eager = gpu_agent(name, Engine(graphs=False), changes)
    for agent in (graphed, eager):
        learn(agent, 80, Script(agent, ends=0.2))
    torch.testing.assert_close(weights(graphed), weights(eager), rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_a_core_over_static_shapes_equals_the_fused_one(kind):
    torch.manual_seed(0)
    core = Recurrent(kind, 5, 16, layers=2).to(CUDA)
    x = torch.randn(20, 6, 5, device=CUDA, requires_grad=True)
    carry = tuple(torch.randn_like(s) for s in core.initial_carry(6))
    reset = torch.rand(20, 6, device=CUDA) < 0.2
    fused, last = core(x, carry, reset)
    g = torch.randn_like(fused)
    expected = torch.autograd.grad(fused, [x, *core.parameters()], g)
    with static_shapes():
        stepped, other = core(x, carry, reset)
    found = torch.autograd.grad(stepped, [x, *core.parameters()], g)
    torch.testing.assert_close(stepped, fused, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other, last, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "as it is"])
@pytest.mark.parametrize("obs", [VECTOR, FRAMES], ids=["vector", "frames"])
@pytest.mark.parametrize("name", EVERY)
def test_learning_does_not_synchronise(name, obs, graphs):
    changes = {"hidden": (8,)}
    agent = gpu_agent(name, Engine(graphs=graphs), changes, obs)
    script = Script(agent)
    learn(agent, 100, script, tensors=True)  # until all is captured
    steps = [on_device(script.step(), CUDA) for _ in range(50)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    updates = 0
    try:
        for step in steps:
            agent.memory.add(step)
            for batch in agent.memory.batches():
                agent.update(batch)
                updates += 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert updates > 0


def test_bfloat16_and_compiled_updates_are_near():
    plain = gpu_agent("ppo", Engine())
    learn(plain, 60, Script(plain))
    for engine, far in ((Engine(bf16=True), 0.03), (Engine(compile=True), 1e-3)):
        agent = gpu_agent("ppo", engine)
        learn(agent, 60, Script(agent))
        torch.testing.assert_close(weights(agent), weights(plain), rtol=0, atol=far)


def test_a_graph_that_can_not_be_is_said_once_and_done_without():
    generator, stream = torch.Generator(CUDA), torch.cuda.current_stream()
    graphed = Graphed(lambda x: x * float(x.sum()), CUDA, True, [generator])
    x = torch.ones(3, device=CUDA)
    for _ in range(3):
        assert graphed(x).tolist() == [3, 3, 3]
    with pytest.warns(RlkitWarning, match="can't be captured as a CUDA graph"):
        assert graphed(x).tolist() == [3, 3, 3]
    assert graphed(2 * x).tolist() == [12, 12, 12]
    assert torch.cuda.current_stream() == stream
    assert torch.rand(3, generator=generator, device=CUDA).isfinite().all()  # can still draw


def test_a_broken_capture_leaves_generators_and_other_graphs_as_they_were():
    generator = torch.Generator(CUDA).manual_seed(0)

    def drawn(x):
        return x + torch.rand(3, generator=generator, device=CUDA)

    def looks(x):
        return x * float(drawn(x).sum())

    sound, broken = (Graphed(f, CUDA, True, [generator]) for f in (drawn, looks))
    x = torch.zeros(3, device=CUDA)
    for _ in range(5):
        sound(x)
    for _ in range(3):
        broken(x)
    with pytest.warns(RlkitWarning, match="can't be captured as a CUDA graph"):
        broken(x)
    found = [sound(x).tolist(), torch.rand(3, generator=generator, device=CUDA).tolist()]
    assert torch.rand(3, device=CUDA).isfinite().all()  # by the device's default generator
    twin = torch.Generator(CUDA).manual_seed(0)
    expected = [torch.rand(3, generator=twin, device=CUDA).tolist() for _ in range(5 + 4 + 2)]
    assert found == expected[-2:]
    assert (sound.captured, broken.captured) == (1, 0)


def test_a_graph_draws_new_numbers_each_time():
    generator = torch.Generator(CUDA).manual_seed(0)
    graphed = Graphed(
        lambda x: x + torch.rand(3, generator=generator, device=CUDA), CUDA, True, [generator]
    )
    x = torch.zeros(3, device=CUDA)
    drawn = [graphed(x).tolist() for _ in range(8)]
    generator.manual_seed(0)
    assert drawn == [torch.rand(3, generator=generator, device=CUDA).tolist() for _ in range(8)]
    assert graphed.captured == 1


def test_shapes_that_come_once_in_a_while_are_not_captured():
    graphed = Graphed(lambda x: 2 * x, CUDA, graphs=True)
    for n in (3, 3, 4, 3, 3, 4, 3):
        assert graphed(torch.ones(n, device=CUDA)).tolist() == [2] * n
    assert graphed.captured == 1


@pytest.mark.parametrize("name", ["ppo", "dqn", "sac"])
def test_what_is_not_finite_is_said_once_the_update_is_over(name):
    agent = gpu_agent(name, Engine())
    script, before = Script(agent), weights(agent)
    script.reward = np.inf
    with pytest.raises(RunError, match=r"overflowed"), np.errstate(all="ignore"):
        learn(agent, 200, script)
    assert torch.equal(weights(agent), before)


def test_the_devices_replay_draws_as_often_as_the_hosts():
    place = Place(CUDA, Engine(), torch.Generator().manual_seed(0))
    host, there = replay(VECTOR, 1), replay(VECTOR, 1, place)
    script = Script(Spaces(VECTOR), ends=0.3)
    for _ in range(47):
        step = script.step()
        host.add(step)
        there.add(step)
    counts = []
    for memory in (host, there):
        drawn = torch.cat([memory.sample().cell.flatten().cpu() for _ in range(300)])
        counts.append(np.bincount(drawn.numpy(), minlength=memory.rows * N))
    assert (abs(counts[0] - counts[1]) <= 6 * (counts[0] + counts[1]) ** 0.5).all()


def test_the_devices_tree_draws_what_the_compiled_one_draws():
    rng = np.random.default_rng(0)
    ours, theirs = TensorTree(1000, CUDA), SumTree(1000)
    p = rng.integers(0, 5, size=1000).astype(np.float64)  # whose sums are exact in any order
    ours.put(torch.arange(1000, device=CUDA), torch.from_numpy(p).to(CUDA))
    theirs.fill(0, p)
    for _ in range(3):
        cells = rng.integers(1000, size=300)
        new = rng.integers(1, 5, size=300).astype(np.float64)
        ours.change(torch.from_numpy(cells).to(CUDA), torch.from_numpy(new).to(CUDA))
        theirs.change(cells, new)
        u = rng.random((7, 64))
        cell, _ = ours.draw(torch.from_numpy(u).to(CUDA))
        np.testing.assert_array_equal(cell.cpu().numpy(), theirs.draw(u)[0])


def test_a_rollout_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1000, 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: 0)
    with pytest.raises(Exception, match=r"n_steps \(--n-steps\) is 8: the rollout .* on cuda"):
        gpu_agent("ppo", Engine())
