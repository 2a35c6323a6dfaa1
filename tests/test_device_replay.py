"""Replay on a device, and what learns from it: as on the host, with nothing read back."""

import numpy as np
import pytest
import torch
from device_runs import (
    AHEAD,
    BOX,
    CPU,
    DISCRETE,
    FRAMES,
    VECTOR,
    N,
    Script,
    Synchronisations,
    agent_of,
    learn,
    on_device,
    weights,
)
from gymnasium import spaces

import rlkit.experience.replay
from rlkit.agents.dqn import DQN, DQNRecipe
from rlkit.agents.rainbow import Rainbow, RainbowRecipe
from rlkit.agents.sac import SAC, SACRecipe
from rlkit.device.engine import Place
from rlkit.errors import RlkitWarning, RunError, UsageError
from rlkit.experience.device_draws import PrioritizedThere, TensorTree, UniformThere
from rlkit.experience.draws import Prioritized
from rlkit.experience.replay import Replay, Sampling
from rlkit.experience.sum_tree import SumTree

SMALL = {"learning_starts": 40, "train_every": 20, "gradient_steps": 4, "batch_size": 16}
DEEP_Q = DQNRecipe(buffer_size=200, hidden=(16,)).but(SMALL)
OFF_POLICY = {
    "dqn": (DQN, DEEP_Q),
    "dqn, one step, by θ⁻": (DQN, DEEP_Q.but({"double": False, "n_step": 1, "target_rate": 0.5})),
    "dueling c51": (DQN, DEEP_Q.but({"dueling": True, "values": "c51", "normalize_obs": True})),
    "quantiles": (DQN, DEEP_Q.but({"values": "quantiles", "atoms": 7, "optimizer": "rmsprop"})),
    "prioritised": (DQN, DEEP_Q.but({"priority_exponent": 0.6, "optimizer": "momentum"})),
    "rainbow": (
        Rainbow,
        RainbowRecipe(buffer_size=200, hidden=(16,), head_hidden=(8,)).but(
            SMALL | {"batch_size": 256}
        ),
    ),
    "sac": (SAC, SACRecipe(buffer_size=200, hidden=(16,)).but(SMALL)),
    "sac, all switches": (
        SAC,
        SACRecipe(buffer_size=200, hidden=(16,), n_step=3, max_grad_norm=1.0).but(
            SMALL | {"learn_temperature": False}
        ),
    ),
}


def place_of(seed=0, device=CPU):
    return Place(device, AHEAD, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masks", [False, True], ids=["all actions", "masks"])
@pytest.mark.parametrize("name", OFF_POLICY)
def test_off_policy_updates_equal_the_hosts_on_the_same_batches(name, masks):
    agent_type, recipe = OFF_POLICY[name]
    action = BOX if agent_type is SAC else DISCRETE
    masks = masks and action is DISCRETE
    host = agent_of(agent_type, recipe, action=action)
    twin = agent_of(agent_type, recipe, engine=AHEAD, action=action)
    script, updates = Script(host, masks=masks), 0
    for k in range(60):
        for agent in (host, twin):
            agent.clock.progress = k / 60
        host.memory.add(script.step())
        for batch in host.memory.batches():
            twin.generator.set_state(host.generator.get_state())
            ours, theirs = host.update(batch), twin.update(batch)
            assert ours.keys() == theirs.keys()
            theirs = {name: float(x) for name, x in theirs.items()}
            assert theirs == pytest.approx({n: float(x) for n, x in ours.items()}, rel=1e-3)
            updates += 1
    assert updates == 11
    torch.testing.assert_close(weights(twin), weights(host), rtol=1e-4, atol=1e-5)


STACK = spaces.Box(0, 255, (4, 6, 6), dtype=np.uint8)
RINGS = {
    "dead steps": (VECTOR, {}, 1),
    "masks": (VECTOR, {"masks": True}, 1),
    "SAME_STEP": (VECTOR, {"mode": "same_step"}, 1),
    "frames": (STACK, {"ends": 0.3}, 4),
    "frames and zeros": (STACK, {"ends": 0.3, "zeros": True}, 4),
}


def replay(obs, stack, place=None, n_step=3, alpha=0.0, capacity=60):
    sampling = Sampling(0, 1, 2, 64, n_step, 0.9, alpha)
    memory = Replay(
        capacity, N, obs, DISCRETE, sampling, CPU, torch.Generator().manual_seed(7), stack, place
    )
    memory.allocate()
    return memory


class Spaces:
    """What `Script` asks of an agent."""

    def __init__(self, obs):
        self.setting = self
        self.obs_space, self.action_space = obs, DISCRETE

    def initial_carry(self, n):
        return None


@pytest.mark.parametrize("tensors", [False, True], ids=["arrays", "tensors"])
@pytest.mark.parametrize("case", RINGS)
def test_what_is_drawn_on_the_device_is_what_the_host_holds(case, tensors):
    obs, told, stack = RINGS[case]
    if tensors and told.get("mode") == "same_step":
        pytest.skip("tensors have no SAME_STEP")
    host, there = replay(obs, stack), replay(obs, stack, place_of())
    script = Script(Spaces(obs), stack=stack, **told)
    for k in range(80):  # five times around
        step = script.step()
        host.add(step)
        there.add(on_device(step, CPU) if tensors else step)
        if k % 30 == 17:
            host.restart()
            there.restart()
            script.restart()
        if k > 4 and k % 3 == 0:
            drawn = host.draws.draw((2, 64), host.head - host.filled, host.filled - 2, 1.0)
            for memory in (host, there):
                memory.draws.draw = lambda *_, drawn=drawn: drawn
            ours, theirs = host.sample(), there.sample()
            del host.draws.draw, there.draws.draw
            for one, other in zip(ours.columns(), theirs.columns(), strict=True):
                assert one is other or torch.equal(one, other)  # both may be None


@pytest.mark.parametrize("alpha", [0.0, 0.5], ids=["uniform", "prioritised"])
@pytest.mark.parametrize("tensors", [False, True], ids=["arrays", "tensors"])
def test_only_windows_that_the_host_may_draw_are_drawn_and_all_alike(alpha, tensors):
    host, there = replay(VECTOR, 1, alpha=1e-9), replay(VECTOR, 1, place_of(), alpha=alpha)
    script = Script(Spaces(VECTOR), ends=0.3)
    for _ in range(47):
        step = script.step()
        host.add(step)
        there.add(on_device(step, CPU) if tensors else step)
    allowed = {int(cell) for _ in range(60) for cell in host.sample().cell.flatten()}
    batches = [there.sample() for _ in range(200)]
    counts = np.bincount(torch.cat([b.cell.flatten() for b in batches]), minlength=1)
    assert set(np.flatnonzero(counts)) == allowed
    expected = counts.sum() / len(allowed)  # ± 5 standard deviations
    assert abs(counts[list(allowed)] - expected).max() < 5 * expected**0.5
    assert all(b.weight is None or bool((b.weight == 1).all()) for b in batches)


def test_the_tree_draws_what_the_compiled_one_draws():
    rng = np.random.default_rng(0)
    ours, theirs = TensorTree(1000, CPU), SumTree(1000)
    p = rng.exponential(size=1000) * (rng.random(1000) < 0.7)
    ours.put(torch.arange(1000), torch.from_numpy(p))
    theirs.fill(0, p)
    for _ in range(5):
        cells, new = rng.integers(1000, size=300), rng.exponential(size=300)
        ours.change(torch.from_numpy(cells), torch.from_numpy(new))
        theirs.change(cells, new)
        np.testing.assert_array_equal(ours.leaves.numpy(), theirs.leaves)
        u = rng.random((7, 64))
        cell, priority = ours.draw(torch.from_numpy(u))
        expected, expected_priority = theirs.draw(u)
        np.testing.assert_array_equal(cell.numpy(), expected)
        np.testing.assert_array_equal(priority.numpy(), expected_priority)


def test_the_tree_never_draws_what_has_no_priority():
    rng = np.random.default_rng(1)
    for _ in range(30):
        p = rng.exponential(size=70) ** 20 * (rng.random(70) < 0.2)  # sums that lose most terms
        p[rng.integers(70)] = 1.0
        tree = TensorTree(70, CPU)
        tree.put(torch.arange(70), torch.from_numpy(p))
        u = rng.choice([0.0, 1 - 2.0**-53, 0.5], size=(4, 50))
        cell, priority = tree.draw(torch.from_numpy(u))
        assert (priority > 0).all()
        np.testing.assert_array_equal(p[cell.numpy()], priority.numpy())


def test_priorities_equal_the_hosts_and_are_saved_alike():
    host, there = (replay(VECTOR, 1, place, alpha=0.7) for place in (None, place_of()))
    assert isinstance(host.draws, Prioritized)
    assert isinstance(there.draws, PrioritizedThere)
    script, rng = Script(Spaces(VECTOR), ends=0.2), np.random.default_rng(3)
    for k in range(70):
        step = script.step()
        host.add(step)
        there.add(step)
        if k > 4:
            batch = host.sample()
            there.sample()
            error = torch.from_numpy(rng.normal(size=batch.cell.shape))
            for memory in (host, there):
                memory.update_priorities(batch.cell, error)
        ours, theirs = (memory.get_state()["draws"] for memory in (host, there))
        np.testing.assert_allclose(theirs["priority"], ours["priority"], rtol=1e-6)
        assert theirs["largest"] == pytest.approx(ours["largest"], rel=1e-6)
    resumed = replay(VECTOR, 1, place_of(), alpha=0.7)
    resumed.set_state(host.get_state())
    for a, b in zip(resumed._columns().items(), host._columns().items(), strict=True):
        assert a[0] == b[0]
        assert torch.equal(a[1], b[1])
    for name, column in resumed._there.items():
        assert torch.equal(column[: host.filled + 1], dict(host._all())[name][: host.filled + 1])
    u = torch.from_numpy(rng.random((2, 64)))
    assert torch.equal(resumed.draws._tree.draw(u)[0], there.draws._tree.draw(u)[0])


@pytest.mark.parametrize("tensors", [False, True], ids=["arrays", "tensors"])
@pytest.mark.parametrize("obs", [VECTOR, STACK], ids=["vector", "frames"])
@pytest.mark.parametrize("name", OFF_POLICY)
def test_off_policy_learning_reads_nothing_back(name, obs, tensors):
    agent_type, recipe = OFF_POLICY[name]
    action = BOX if agent_type is SAC else DISCRETE
    agent = agent_of(agent_type, recipe, CPU, AHEAD, obs, action, 4 if obs is STACK else 1)
    script = Script(agent, ends=0.2, stack=4 if obs is STACK else 1)
    agent.place.health.look = lambda lr: None  # once, when an update is over
    updates = 0
    for _ in range(30):
        step = script.step()
        step = on_device(step, CPU) if tensors else step
        with Synchronisations() as synchronisations:
            agent.memory.add(step)
            for batch in agent.memory.batches():
                agent.update(batch)
                updates += 1
        assert not synchronisations.found
    assert updates == 5


@pytest.mark.parametrize("tensors", [False, True], ids=["arrays", "tensors"])
@pytest.mark.parametrize("obs", [VECTOR, FRAMES], ids=["vector", "frames"])
@pytest.mark.parametrize("name", OFF_POLICY)
def test_off_policy_learning_runs_on_the_meta_device(name, obs, tensors):
    agent_type, recipe = OFF_POLICY[name]
    action = BOX if agent_type is SAC else DISCRETE
    agent = agent_of(agent_type, recipe, "meta", None, obs, action)
    assert len(learn(agent, 20, Script(agent), tensors)) == 3


def test_what_has_no_room_on_the_device_stays_in_host_memory(monkeypatch):
    monkeypatch.setattr(rlkit.experience.replay, "free_on", lambda device: 10_000)
    with pytest.warns(RlkitWarning) as told:
        memory = replay(VECTOR, 1, place_of(), capacity=1000)
    (words,) = [str(one.message) for one in told]
    assert words.startswith("buffer_size (--buffer-size) is 1000: the replay memory would take ")
    assert "GiB are free on cpu; allowed: up to 2" in words
    assert words.endswith("it stays in host memory")
    script = Script(Spaces(VECTOR))
    for _ in range(10):
        memory.add(script.step())
    assert memory.sample().obs.shape == (2, 64, 3)
    with pytest.raises(UsageError, match=r"buffer_size \(--buffer-size\) is 1000: .* tensors"):
        memory.add(on_device(script.step(), "meta"))  # as tensors of any device but the CPU


@pytest.mark.parametrize(
    ("name", "reward"), [("dqn", float("inf")), ("sac", float("inf")), ("sac", 1e30)]
)
def test_what_is_not_finite_is_said_in_the_hosts_words(name, reward):
    agent_type, recipe = OFF_POLICY[name]
    action = BOX if agent_type is SAC else DISCRETE
    words, kept = [], []
    for engine in (None, AHEAD):
        agent = agent_of(agent_type, recipe, engine=engine, action=action)
        script = Script(agent)
        before = weights(agent)
        for _ in range(10):
            step = script.step()
            agent.memory.add(step)
        (batch,) = agent.memory.batches()
        batch.reward.fill_(reward)
        with np.errstate(all="ignore"), pytest.raises(RunError) as error:
            agent.update(batch)
        words.append(str(error.value))
        kept.append(torch.equal(weights(agent), before))
    assert words[0] == words[1]
    assert all(kept)


def test_uniform_draws_are_the_default():
    assert isinstance(replay(VECTOR, 1, place_of()).draws, UniformThere)
