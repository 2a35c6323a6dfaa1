"""R2D2's update, against one written from the paper: a sequence and a step at a time."""

from contextlib import nullcontext

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.optimize import brentq
from scipy.stats import chisquare
from scripted_envs import TERMINATED, TRUNCATED, Ring, Scripted, random_ends, vectorized
from torch import nn

from rlkit.agent import Setting
from rlkit.agents.r2d2 import R2D2, R2D2Recipe
from rlkit.carry import mapped, renewed
from rlkit.device.engine import DEFAULT, Engine
from rlkit.envs.make import make_envs
from rlkit.errors import RunError, UsageError
from rlkit.experience.sequences import SequenceBatch
from rlkit.training.evaluation import play

CPU = torch.device("cpu")
OBS, ACTIONS = spaces.Box(-5, 5, (3,)), spaces.Discrete(4)
B, WIDTH = 6, 5


def agent_for(obs_space=OBS, action_space=ACTIONS, n=2, device=CPU, engine=DEFAULT, **changes):
    torch.manual_seed(0)
    recipe = R2D2Recipe(hidden=(7,), core_width=WIDTH, batch_size=B, envs=n).but(changes)
    # what moves to the meta device later leaves the networks' own references behind
    with device if device.type == "meta" else nullcontext():
        agent = R2D2(Setting(obs_space, action_space, n, device, seed=1, engine=engine), recipe)
    agent.memory.allocate()
    return agent


def random_batch(generator, recipe, masked=False):
    """Sequences in which episodes end in every way, each with a dead step after it."""
    L = recipe.burn_in + recipe.unroll + recipe.n_step - 1
    terminated, truncated = torch.rand(2, L, B, generator=generator) < 0.12
    valid, reset = torch.ones(L, B, dtype=torch.bool), torch.zeros(L + 1, B, dtype=torch.bool)
    ended = terminated | truncated
    for t in range(L - 1):
        dead = ended[t] & valid[t]
        valid[t + 1], reset[t + 2] = ~dead, dead
        terminated[t + 1] &= ~dead
        ended[t + 1] &= ~dead
    actions = torch.rand(L + 1, B, 4, generator=generator).argsort(-1)
    states = 2 if recipe.core == "lstm" else 1
    return SequenceBatch(
        obs=torch.randn(L + 1, B, 3, generator=generator),
        action=actions[:-1, :, 3],
        reward=3 * torch.randn(L, B, generator=generator),
        terminated=terminated,
        ended=ended,
        valid=valid,
        reset=reset,
        carry=tuple(torch.rand(states, B, 1, WIDTH, generator=generator) - 0.5),
        cell=torch.randint(50, (B,), generator=generator),
        weight=torch.rand(B, generator=generator) + 0.1 if recipe.priority_exponent else None,
        mask=actions < 2 if masked else None,
    )


def copied(linear):
    layer = nn.Linear(linear.in_features, linear.out_features).double()
    layer.load_state_dict(linear.state_dict())
    return layer


class Net(nn.Module):
    """The network in torch's own layers and in double precision, for one step of one sequence."""

    def __init__(self, net, core, dueling):
        super().__init__()
        (linear,) = net.features.encoder.mlp.linears
        self.encoder = nn.Sequential(copied(linear), nn.ReLU())
        cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[core](7, WIDTH)
        cell.load_state_dict(net.features.core.cells[0].state_dict())
        self.cell, self.core, self.dueling = cell.double(), core, dueling
        streams = (net.head.value, net.head.advantage) if dueling else ()
        self.heads = nn.ModuleList(copied(s.linears[0]) for s in streams)
        if not dueling:
            self.heads.append(copied(net.head))

    def forward(self, obs, state):
        x = self.encoder(obs)
        state = self.cell(x, state)
        h = state[0] if self.core == "lstm" else state
        if not self.dueling:
            return self.heads[0](h), state
        V, A = (head(h) for head in self.heads)
        return V + A - A.mean(), state

    def unroll(self, batch, b, burn_in):
        """Q at each observation of the b-th sequence after the first `burn_in`."""
        state = tuple(x[b, 0].double() for x in batch.carry)
        state, values = state if self.core == "lstm" else state[0], []
        for t, obs in enumerate(batch.obs[:, b].double()):
            if batch.reset[t, b]:
                state = mapped(torch.zeros_like, state)
            with torch.set_grad_enabled(t >= burn_in and torch.is_grad_enabled()):
                q, state = self(obs, state)
            if t >= burn_in:
                values.append(q)
        return values


def h(x):
    return np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + 1e-3 * x


def h_inverse(y):
    """By search."""
    return brentq(lambda x: h(x) - y, -1e6, 1e6, xtol=1e-12, rtol=1e-14)


class Reference:
    """Kapturowski et al. 2019, §2.3: its loss, targets and priorities."""

    def __init__(self, agent):
        recipe = self.recipe = agent.recipe
        nets = agent.online, agent.target
        self.online, self.target = (Net(net, recipe.core, recipe.dueling) for net in nets)
        self.optimizer = torch.optim.Adam(self.online.parameters(), lr=1, eps=recipe.optimizer_eps)
        self.updates = 0

    def y(self, batch, b, t, q, q_target):
        """The target of step t of the b-th sequence; q's begin after the burn-in."""
        recipe, gain = self.recipe, 0.0
        for k in range(recipe.n_step):
            gain += recipe.gamma**k * batch.reward[t + k, b].item()
            if batch.ended[t + k, b]:
                break
        if not batch.terminated[t + k, b]:
            at = t + k + 1
            chooser = (q if recipe.double else q_target)[at - recipe.burn_in].tolist()
            allowed = [True] * 4 if batch.mask is None else batch.mask[at, b].tolist()
            best = max((a for a in range(4) if allowed[a]), key=lambda a: chooser[a])
            value = q_target[at - recipe.burn_in][best].item()
            gain += recipe.gamma ** (k + 1) * (h_inverse(value) if recipe.rescale else value)
        return h(gain) if recipe.rescale else gain

    def update(self, batch, lr):
        """Returns the sequences' priorities, and the loss."""
        recipe, loss, priorities = self.recipe, 0.0, []
        for b in range(B):
            q = self.online.unroll(batch, b, recipe.burn_in)
            with torch.no_grad():
                q_target = self.target.unroll(batch, b, recipe.burn_in)
            deltas = []
            for t in range(recipe.burn_in, recipe.burn_in + recipe.unroll):
                if batch.valid[t, b]:
                    taken = q[t - recipe.burn_in][batch.action[t, b]]
                    deltas.append(self.y(batch, b, t, q, q_target) - taken)
            weight = 1.0 if batch.weight is None else batch.weight[b].item()
            loss = loss + weight * sum(0.5 * delta**2 for delta in deltas)
            found = [abs(delta.item()) for delta in deltas] or [0.0]
            priorities.append(0.9 * max(found) + 0.1 * np.mean(found))
        live = batch.valid[recipe.burn_in : recipe.burn_in + recipe.unroll].sum().clip(1)
        loss = torch.as_tensor(loss) / live
        self.optimizer.zero_grad(set_to_none=False)
        if loss.requires_grad:
            loss.backward()
        nn.utils.clip_grad_norm_(self.online.parameters(), recipe.max_grad_norm)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.updates += 1
        if self.updates % recipe.target_interval == 0:
            pairs = zip(self.target.parameters(), self.online.parameters(), strict=True)
            for theta_target, theta in pairs:
                theta_target.data.lerp_(theta.data, recipe.target_rate)
        return priorities, loss.item()


def flat(net):
    return torch.cat([p.detach().double().flatten() for p in net.parameters()])


def assert_nets_equal(agent, reference):
    for ours, theirs in ((agent.online, reference.online), (agent.target, reference.target)):
        mine = Net(ours, agent.recipe.core, agent.recipe.dueling)
        torch.testing.assert_close(flat(mine), flat(theirs), rtol=0, atol=2e-5)


CASES = [
    {},
    {"double": False},
    {"dueling": False, "core": "gru"},
    {"rescale": False},
    {"rescale": False, "double": False, "dueling": False},
    {"priority_exponent": 0.0},
    {"n_step": 1},
    {"n_step": 9},
    {"burn_in": 0},
    {"burn_in": 0, "unroll": 1, "n_step": 1},
    {"burn_in": 1, "unroll": 1, "n_step": 4, "core": "gru"},
    {"max_grad_norm": 0.05},
    {"target_interval": 1, "target_rate": 0.2},
    {"gamma": 1.0, "learning_rate": "1e-2"},
]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("changes", CASES, ids=str)
def test_updates_equal_the_papers(monkeypatch, changes, masked):
    defaults = {"burn_in": 3, "unroll": 6, "n_step": 3, "target_interval": 3}
    others = {"optimizer_eps": 1e-4, "learning_rate": "5e-3:1e-4"}
    agent = agent_for(**(defaults | others | changes))
    agent.target.load_state_dict({k: 1.3 * x for k, x in agent.target.state_dict().items()})
    reference, generator, given = Reference(agent), torch.Generator().manual_seed(3), []
    monkeypatch.setattr(agent.memory, "update_priorities", lambda *told: given.append(told))
    start, most = flat(agent.online), 0
    for update in range(7):
        batch = random_batch(generator, agent.recipe, masked)
        agent.clock.progress = update / 10
        lr = agent.recipe.learning_rate(update / 10)
        metrics = agent.update(batch)
        priorities, loss = reference.update(batch, lr)
        assert_nets_equal(agent, reference)
        cell, priority = given.pop()
        assert torch.equal(cell, batch.cell)
        np.testing.assert_allclose(priority, priorities, rtol=1e-4, atol=1e-5)
        assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-4, abs=1e-6)
        assert metrics["learning_rate"] == lr
        most = max(most, max(priorities))
    assert (flat(agent.online) - start).abs().max() > 5e-3  # hundreds of times the tolerance
    assert most > 1


def test_a_batch_of_dead_steps_teaches_nothing():
    agent = agent_for(burn_in=0, unroll=1, n_step=1)
    batch = random_batch(torch.Generator().manual_seed(0), agent.recipe)
    batch.valid[:] = False
    before = agent.flat.values.clone()
    assert float(agent.update(batch)["loss"]) == 0
    assert torch.equal(agent.flat.values, before)


@pytest.mark.parametrize(("column", "value"), [("obs", 3e38), ("reward", float("inf"))])
@pytest.mark.parametrize("rescale", [True, False])
def test_an_update_that_overflows_leaves_the_weights(column, value, rescale):
    agent = agent_for(rescale=rescale)
    before = agent.flat.values.clone()
    batch = random_batch(torch.Generator().manual_seed(0), agent.recipe)
    batch.valid[:] = True
    getattr(batch, column)[12] = value
    with pytest.raises(RunError, match="gradient's norm is"):
        agent.update(batch)
    assert torch.equal(agent.flat.values, before)


def played(agent, envs, vector_steps):
    """Play and collect as the trainer does; yields each step and what was carried before it."""
    obs, carry = envs.reset(), agent.initial_carry(envs.n)
    for k in range(vector_steps):
        agent.clock.progress = k / vector_steps
        action, after = agent.act(obs, carry, mask=envs.mask)
        step = envs.step(action)
        step.carry = carry
        agent.memory.add(step)
        yield step
        carry, obs = renewed(after, torch.from_numpy(step.begins)), step.next_obs


@pytest.mark.parametrize("core", ["rnn", "gru", "lstm", "gtrxl"])
def test_what_is_drawn_has_the_values_that_were_acted_on(core):
    """From the stored memory on, through ends and resets, step by step."""
    script = Scripted(random_ends(3, 30, seed=4), "next_step")
    with make_envs(script, 3, 0) as envs:
        recipe = {"core": core, "core_width": 8, "burn_in": 4, "unroll": 6, "buffer_size": 150}
        agent = agent_for(envs.obs_space, envs.action_space, 3, **recipe)
        values, seen = {}, 0
        for step in played(agent, envs, 70):
            q = agent.online.step(torch.from_numpy(step.obs), step.carry)[0].detach()
            values |= dict(zip(map(tuple, step.obs.tolist()), q, strict=True))
            if len(values) < 100:
                continue
            batch = agent.memory.sample()
            with torch.no_grad():
                q = agent.online(batch.obs, batch.carry, batch.reset)[:-1]
            acted = [[values[tuple(x)] for x in row] for row in batch.obs[:-1].tolist()]
            torch.testing.assert_close(q, torch.stack([torch.stack(x) for x in acted]))
            seen += int(batch.reset.sum())
        assert seen > 100


def learned(make, vector_steps, **changes):
    """An agent that was trained on random actions."""
    with vectorized(make, 8, "next_step") as envs:
        agent = agent_for(
            envs.obs_space,
            envs.action_space,
            8,
            learning_rate="1e-2:1e-3",
            exploration=1,
            learning_starts=64,
            train_every=32,
            gradient_steps=2,
            batch_size=16,
            buffer_size=400,
            target_interval=10,
            core_width=8,
            burn_in=2,
            unroll=5,
            **changes,
        )
        for _ in played(agent, envs, vector_steps):
            for batch in agent.memory.batches():
                agent.update(batch)
    return agent


def values_along(agent, obs):
    """Q of the first episode's observations, one after the other: (T, actions)."""
    obs = torch.tensor(obs)[:, None]
    with torch.no_grad():
        q = agent.online(obs, agent.initial_carry(1), torch.zeros(obs.shape, dtype=torch.bool))
    return q[:, 0]


def test_a_memory_counts_what_no_observation_shows():
    """Reward 1 at the end of 4 steps that look the same: Q(s_t, ·) = γ^(3 − t)."""
    agent = learned(lambda: Ring(1, 4, TERMINATED, False), 500, gamma=0.5, rescale=False)
    expected = torch.tensor([0.125, 0.25, 0.5, 1.0]).unsqueeze(-1).expand(4, 2)
    torch.testing.assert_close(values_along(agent, [0] * 4), expected, rtol=0, atol=0.08)


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_time_limit_does_not_lower_values_and_they_are_rescaled(n_step):
    """Reward 1 for ever, cut off every 7 steps: Q = h(1 / (1 − γ)) all the same."""
    agent = learned(lambda: Ring(3, 7, TRUNCATED, True), 500, gamma=0.8, n_step=n_step)
    q = values_along(agent, [0, 1, 2, 0, 1, 2, 0])
    torch.testing.assert_close(q, torch.full((7, 2), float(h(5.0))), rtol=0, atol=0.3)


class Spelled(gym.Env):
    """Nothing to see; the return spells the actions that were taken, in binary."""

    observation_space, action_space = spaces.Discrete(1), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return 0, {}

    def step(self, action):
        self.age += 1
        return 0, float(action * 2**self.age), self.age == 12, False, {}


def test_every_episode_is_evaluated_with_a_memory_of_its_own():
    agent = agent_for(Spelled.observation_space, Spelled.action_space)
    agent.flat.values.normal_(generator=torch.Generator().manual_seed(8))
    actions = values_along(agent, [0] * 24).argmax(-1)
    wanted = float((actions[:12] * 2 ** torch.arange(1, 13)).sum())
    assert not torch.equal(actions[:12], actions[12:])
    with make_envs(Spelled, 2, 0) as envs:
        assert list(play(agent, envs, 6, seed=0).returns) == [wanted] * 6


SEEN = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)


def test_epsilon_greedy_over_the_allowed_actions():
    agent = agent_for(exploration="1:0")
    carry = agent.initial_carry(2)
    mask = np.array([[True, False, True, True], [True] * 4])
    drawn = np.stack([agent.act(SEEN, carry, mask=mask)[0] for _ in range(3000)])
    assert chisquare(np.bincount(drawn[:, 1], minlength=4)).pvalue > 1e-3
    assert chisquare(np.bincount(drawn[:, 0], minlength=4)[[0, 2, 3]]).pvalue > 1e-3
    agent.clock.progress = 1.0
    q = agent.online.step(torch.from_numpy(SEEN), carry)[0]
    second = np.arange(4) != q.argmax(-1, keepdim=True).numpy()  # not the best
    for some in (mask, second, None):
        allowed = torch.ones(2, 4, dtype=torch.bool) if some is None else torch.from_numpy(some)
        expected = q.masked_fill(~allowed, -1e9).argmax(-1)
        for explore in (True, False):
            assert np.array_equal(agent.act(SEEN, carry, explore, some)[0], expected)


def test_each_environment_explores_with_an_epsilon_of_its_own():
    """ε^(1 + α·i/(N − 1)), as Horgan et al. 2018 give their actors, Kapturowski et al. 2019 too."""
    N, calls = 4, 4000
    agent = agent_for(n=N, exploration="0.4", exploration_spread=7)
    obs, carry = np.repeat(SEEN[:1], N, 0), agent.initial_carry(N)
    best = agent.act(obs, carry, explore=False)[0]
    others = sum((agent.act(obs, carry)[0] != best).astype(int) for _ in range(calls))
    expected = 0.75 * 0.4 ** np.array([1, 1 + 7 / 3, 1 + 14 / 3, 8])  # of 4 actions one is greedy
    deviation = np.sqrt(calls * expected * (1 - expected))
    assert (abs(others - calls * expected) < 4 * deviation + 1).all()
    alone = agent_for(n=1, exploration="0.4", exploration_spread=7)
    assert alone.exponents.tolist() == [1]


def test_observations_are_normalised_by_what_was_seen_so_far():
    """It acts and learns as a plain agent does that is given them on the scale of those before."""
    changes = {"burn_in": 3, "unroll": 6, "n_step": 3}
    agent, plain = agent_for(normalize_obs=True, **changes), agent_for(**changes)
    generator, carry = torch.Generator().manual_seed(3), agent.initial_carry(2)
    mean, deviation, seen = torch.zeros(3), torch.ones(3), []
    for _ in range(4):
        scaled = (torch.from_numpy(SEEN) - mean) / deviation
        _, after = agent.act(SEEN, carry)
        _, wanted = plain.act(scaled.numpy(), carry)
        torch.testing.assert_close(after, wanted, rtol=0, atol=1e-4)
        batch = random_batch(generator, agent.recipe)
        raw = 3 * batch.obs + torch.tensor([5.0, 0.0, -2.0])
        batch.obs = (raw - mean) / deviation
        plain.update(batch)
        batch.obs = raw
        agent.update(batch)
        torch.testing.assert_close(flat(agent.online), flat(plain.online), rtol=0, atol=1e-4)
        seen.append(raw[:-1][batch.valid])
        mean, deviation = torch.cat(seen).mean(0), torch.cat(seen).std(0, correction=0)
    moved = flat(agent.online) - flat(agent_for(**changes).online)
    assert moved.abs().max() > 4e-3


def test_acting_greedily_draws_nothing_and_carries_on():
    agent = agent_for()
    carry = agent.initial_carry(2)
    agent.act(SEEN, carry)
    generator, beta = agent.generator.get_state(), agent.memory.beta
    action, after = agent.act(SEEN, carry, explore=False)
    assert torch.equal(agent.generator.get_state(), generator)
    tensor, after_too = agent.act(torch.from_numpy(SEEN), carry, explore=False)
    assert np.array_equal(tensor.numpy(), action)
    for x, y, z in zip(after, after_too, carry, strict=True):
        assert torch.equal(x, y)
        assert not torch.equal(x, z)
    assert agent.memory.beta == beta


def test_the_importance_exponent_follows_its_schedule():
    agent = agent_for(importance_exponent="0.4:1")
    agent.clock.progress = 0.5
    agent.act(SEEN, agent.initial_carry(2))
    assert agent.memory.beta == pytest.approx(0.7)


def test_sequences_overlap_by_half_of_what_is_learned():
    spec = agent_for(burn_in=4, unroll=9, n_step=3).memory.sampling
    assert (spec.length, spec.stride) == (4 + 9 + 3 - 1, 4)
    assert agent_for(unroll=1).memory.sampling.stride == 1


def test_box_actions_are_refused_with_who_takes_them():
    with pytest.raises(UsageError, match=r"r2d2 takes Discrete actions; .*Box.*: a2c"):
        agent_for(action_space=spaces.Box(-1, 1, (2,)))


def placed(batch, device):
    """The batch with what is learned from on a device."""
    return SequenceBatch(*mapped(lambda x: x.to(device), batch.columns()), batch.cell)


SHORT = {"burn_in": 2, "unroll": 5, "n_step": 2}
CHANGES = {
    "lstm": {**SHORT, "core": "lstm", "priority_exponent": 0.0},
    "gru": {**SHORT, "core": "gru", "normalize_obs": True, "rescale": False, "double": False},
    "rnn": {**SHORT, "core": "rnn", "burn_in": 0, "dueling": False, "optimizer": "rmsprop"},
    "gtrxl": {**SHORT, "core": "gtrxl", "core_width": 4},
}


def updated(agent, device=CPU, updates=5, masked=True):
    """What the updates measured, and the priorities that they asked for."""
    generator, told, asked = torch.Generator().manual_seed(3), [], []
    agent.memory.update_priorities = lambda cell, error: asked.append(error.clone())
    for _ in range(updates):
        batch = random_batch(generator, agent.recipe, masked)
        if agent.recipe.core == "gtrxl":
            batch.carry = agent.initial_carry(B)
        told.append(agent.update(placed(batch, device)))
    return told, asked


@pytest.mark.parametrize("name", CHANGES)
def test_updates_as_on_a_device_equal_the_hosts(name):
    changes = {"target_interval": 2, "learning_rate": 0.01} | CHANGES[name]
    host, twin = agent_for(**changes), agent_for(engine=Engine(ahead=True), **changes)
    before = host.flat.values.clone()
    (ours, errors), (theirs, others) = updated(host), updated(twin)
    assert (host.flat.values - before).abs().max() > 0.01
    torch.testing.assert_close(twin.state_dict(), host.state_dict(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(others, errors, rtol=1e-4, atol=1e-4)
    for one, other in zip(ours, theirs, strict=True):
        assert {k: float(x) for k, x in other.items()} == pytest.approx(
            {k: float(x) for k, x in one.items()}, rel=1e-3, abs=1e-4
        )


@pytest.mark.parametrize("name", CHANGES)
def test_an_update_reads_nothing_back(name):
    """On a device that has no values to read."""
    there = torch.device("meta")
    agent = agent_for(device=there, **CHANGES[name])
    told, asked = updated(agent, there, 1)
    assert {x.device for x in asked} == {there}
    assert all(told[0][k].device == there for k in ("loss", "q_mean", "grad_norm"))


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.cuda
def test_captured_updates_equal_those_made_one_kernel_after_the_other(name):
    there, changes = torch.device("cuda"), {"target_interval": 2, **CHANGES[name]}
    agents = [
        agent_for(device=there, engine=Engine(graphs=graphs), **changes) for graphs in (True, False)
    ]
    (_, errors), (_, others) = (updated(agent, there, 12) for agent in agents)
    captured, plain = agents
    assert captured._descend_there.captured == 1
    assert plain._descend_there.captured == 0
    torch.testing.assert_close(captured.state_dict(), plain.state_dict(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(errors, others, rtol=1e-3, atol=1e-3)
