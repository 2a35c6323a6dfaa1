"""A2C's update, against one written from the paper with autograd and torch's own parts."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scripted_envs import (
    MODES,
    TERMINATED,
    TRUNCATED,
    Ring,
    Scripted,
    advantage,
    allowed,
    random_ends,
    segments,
    vectorized,
)
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from rlkit.agent import Setting
from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.envs.make import make_envs
from rlkit.errors import RunError, UsageError
from rlkit.experience import rollout

CPU = torch.device("cpu")
T, N = 5, 4
DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1, 1, (2,))
BITS, CHOICES = spaces.MultiBinary(3), spaces.MultiDiscrete([4, 4])


def agent_for(envs, **changes):
    torch.manual_seed(0)
    setting = Setting(envs.obs_space, envs.action_space, envs.n, CPU, seed=1)
    agent = A2C(setting, A2CRecipe(envs=envs.n).but(changes))
    agent.memory.allocate()
    return agent


def copied(network, activation):
    """The network in torch's own layers, in double precision."""
    linears = [*network.encoder.mlp.linears, network.head]
    layers = []
    for linear in linears:
        layer = nn.Linear(linear.in_features, linear.out_features).double()
        layer.load_state_dict(linear.state_dict())
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


class Reference:
    """Mnih et al. 2016, §4, over the environments' own log."""

    def __init__(self, agent, activation=nn.Tanh):
        self.recipe = recipe = agent.recipe
        self.actor, self.critic = (
            copied(net, activation) for net in (agent.ac.nets.actor, agent.ac.nets.critic)
        )
        self.parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.log_std = None
        self.space = agent.setting.action_space
        if isinstance(self.space, spaces.Box):
            self.log_std = nn.Parameter(agent.ac.policy.log_std.detach().double().clone())
            self.parameters.insert(0, self.log_std)
        kind = torch.optim.RMSprop if recipe.optimizer == "rmsprop" else torch.optim.Adam
        self.optimizer = kind(self.parameters, lr=1, eps=recipe.optimizer_eps)

    def value(self, obs):
        with torch.no_grad():
            return self.critic(torch.tensor(obs, dtype=torch.float64)).item()

    def policy(self, obs, masked):
        head = self.actor(obs)
        if masked:
            return Categorical(
                head.softmax(-1) * torch.tensor([allowed(row) for row in obs.tolist()])
            )
        if self.space == CHOICES:
            return Independent(Categorical(logits=head.unflatten(-1, (2, 4))), 1)
        if self.space == BITS:
            return Independent(Bernoulli(logits=head), 1)
        if self.log_std is None:
            return Categorical(logits=head)
        return Independent(Normal(head, self.log_std.exp()), 1)

    def update(self, logs, first, actions, lr, masked):
        """`actions[row][environment]`: as the agent drew them, before they were clipped."""
        recipe = self.recipe
        data = [
            (
                start.obs,
                actions[start.row][i],
                advantage(rest, self.value, recipe.gamma, recipe.gae_lambda),
            )
            for i, log in enumerate(logs)
            for start, rest in segments(log, first, first + recipe.n_steps)
        ]
        obs = torch.tensor([x[0] for x in data], dtype=torch.float64)
        action = torch.stack([x[1] for x in data])
        A = torch.tensor([x[2] for x in data], dtype=torch.float64)
        v = self.critic(obs).squeeze(-1)
        target = A + v.detach()
        if recipe.normalize_advantage:
            A = (A - A.mean()) / (A.std(correction=0) + 1e-8)
        policy = self.policy(obs, masked)
        loss = (
            -(policy.log_prob(action) * A).mean()
            - recipe.entropy_cost(0.0) * policy.entropy().mean()
            + recipe.value_cost * nn.functional.mse_loss(v, target)
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.norm = nn.utils.clip_grad_norm_(self.parameters, recipe.max_grad_norm).item()
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        return len(data)


CASES = {
    "the defaults": (DISCRETE, {}),
    "lambda and entropy": (DISCRETE, {"gae_lambda": 0.8, "entropy_cost": 0.3, "gamma": 0.9}),
    "normalised advantages": (DISCRETE, {"normalize_advantage": True, "gae_lambda": 0.5}),
    "unclipped": (DISCRETE, {"max_grad_norm": 1e9, "value_cost": 2.0}),
    "adam": (DISCRETE, {"optimizer": "adam", "optimizer_eps": 1e-3}),
    "box actions": (BOX, {"entropy_cost": 0.1}),
    "box actions, normalised": (BOX, {"normalize_advantage": True, "optimizer": "adam"}),
    "several choices": (CHOICES, {"entropy_cost": 0.1}),
    "bits": (BITS, {"entropy_cost": 0.1}),
    "masks": (DISCRETE, {"entropy_cost": 0.1}),
    "autograd's way back": (DISCRETE, {"activation": "silu", "entropy_cost": 0.1}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_updates_equal_the_papers(case, mode):
    space, changes = CASES[case]
    masked = case == "masks"
    script = Scripted(random_ends(N, 30, seed=4), mode, space, masked)
    with make_envs(script, N, 0) as envs:
        agent = agent_for(envs, n_steps=T, hidden=(8, 6), **changes)
        reference = Reference(agent, nn.SiLU if "activation" in changes else nn.Tanh)
        obs, actions, counted, clipped = envs.reset(), [], [], []
        for row in range(4 * T):
            action, _ = agent.act(obs, None, mask=envs.mask)
            actions.append(torch.from_numpy(action).double())
            step = envs.step(action)
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.clock.progress = row / 40
                agent.update(batch)
                lr = 1e-3 * (1 - row / 40)  # to the default end, 0
                counted.append(reference.update(script.log, row + 1 - T, actions, lr, masked))
                clipped.append(reference.norm > agent.recipe.max_grad_norm)
                found = agent.ac.flat.values.double()
                expected = torch.cat([p.detach().flatten() for p in reference.parameters])
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        before = agent_for(envs, n_steps=T, hidden=(8, 6), **changes).ac.flat.values
        assert (agent.ac.flat.values - before).abs().max() > 1e-3  # a hundred times the tolerance
    assert len(counted) == 4
    assert (min(counted) < T * N) == (mode == "next_step")  # there were dead steps
    if case in ("the defaults", "unclipped"):
        assert any(clipped) == (case == "the defaults")


def test_dead_steps_change_nothing():
    script = Scripted([[0, TERMINATED], [TRUNCATED]], "next_step")
    with make_envs(script, 2, 0) as envs:
        updated = []
        for poison in (0, 1):
            envs.reset()
            agent = agent_for(envs, n_steps=6, entropy_cost=0.1)
            for _ in range(6):
                agent.memory.add(envs.step(np.array([1, 2])))
            (batch,) = agent.memory.batches()
            assert not batch.valid.all()
            batch.action[~batch.valid] = poison
            batch.reward[~batch.valid] = 100.0 * poison
            agent.update(batch)
            updated.append(agent.ac.flat.values)
        assert torch.equal(*updated)


@pytest.mark.parametrize("space", [DISCRETE, BOX, CHOICES, BITS])
def test_an_update_on_tensors_is_the_one_on_arrays(space):
    """What an agent on another device does, with everything left in place."""
    updated = []
    for kind in ("arrays", "tensors"):
        script = Scripted(random_ends(N, 30, seed=4), "same_step", space, space is DISCRETE)
        with make_envs(script, N, 0) as envs:
            agent = agent_for(envs, n_steps=T, normalize_advantage=True, entropy_cost=0.1)
            obs = envs.reset()
            for _ in range(T):
                step = envs.step(agent.act(obs, None, mask=envs.mask)[0])
                agent.memory.add(step)
                obs = step.next_obs
            (batch,) = agent.memory.batches()
            agent.update(batch if kind == "arrays" else rollout._moved(batch, CPU))
            updated.append(agent.ac.flat.values)
    torch.testing.assert_close(*updated, rtol=0, atol=1e-6)


def test_an_update_that_overflows_leaves_the_weights():
    script = Scripted([[0]] * N, "next_step")
    with make_envs(script, N, 0) as envs:
        envs.reset()
        agent = agent_for(envs)
        for _ in range(5):
            agent.memory.add(envs.step(np.zeros(N, dtype=np.int64)))
        (batch,) = agent.memory.batches()
        batch.reward[2] = 3e38
        before = agent.ac.flat.values.clone()
        with pytest.raises(RunError, match="gradient's norm is"):
            agent.update(batch)
        assert torch.equal(agent.ac.flat.values, before)


@pytest.mark.parametrize("space", [DISCRETE, BOX])
def test_acting_greedily_draws_nothing(space):
    script = Scripted([[0]] * N, "next_step", space)
    with make_envs(script, N, 0) as envs:
        agent = agent_for(envs)
        obs = envs.reset()
    agent.act(obs, None)
    generator, noise = agent.generator.get_state(), agent.ac.noise.get_state()["rest"]
    greedy, _ = agent.act(obs, None, explore=False)
    assert torch.equal(agent.generator.get_state(), generator)
    assert np.array_equal(agent.ac.noise.get_state()["rest"], noise)
    head = agent.ac.nets.actor(torch.from_numpy(obs)).detach().numpy()
    expected = head.argmax(-1) if space is DISCRETE else head
    assert np.allclose(greedy, expected, rtol=0, atol=1e-6)


def test_exploring_draws_from_the_policy():
    """Noise is drawn for 64 steps at once: every step of every environment gets its own."""
    script = Scripted([[0]] * N, "next_step")
    with make_envs(script, N, 0) as envs:
        agent = agent_for(envs)
        obs = envs.reset()
    with torch.no_grad():
        agent.ac.nets.actor.head.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
        p = agent.ac.nets.actor(torch.from_numpy(obs)).softmax(-1)  # (N, 3)
    drawn = np.stack([agent.act(obs, None)[0] for _ in range(2000)])  # (2000, N)
    for i in range(N):
        share = np.bincount(drawn[:, i], minlength=3) / 2000
        assert share.tolist() == pytest.approx(p[i].tolist(), abs=0.04)
    assert len({tuple(column) for column in drawn.T.tolist()}) == N


def test_a_restored_agent_draws_what_the_saved_one_would_have_drawn():
    script = Scripted([[0]] * N, "next_step", BOX)
    with make_envs(script, N, 0) as envs:
        agent, restored = agent_for(envs), agent_for(envs)
        obs = envs.reset()
    for _ in range(50):  # of the 64 steps' noise that is drawn at once
        agent.act(obs, None)
    restored.set_state(copy.deepcopy(agent.get_state()))
    for _ in range(30):
        assert np.array_equal(restored.act(obs, None)[0], agent.act(obs, None)[0])


@pytest.mark.parametrize("space", [DISCRETE, BOX])
def test_tensors_in_are_tensors_out(space):
    script = Scripted([[0]] * N, "next_step", space)
    with make_envs(script, N, 0) as envs:
        on_arrays, on_tensors = agent_for(envs), agent_for(envs)
        obs = envs.reset()
    for explore in (True, False):
        action, _ = on_tensors.act(torch.from_numpy(obs), None, explore)
        assert isinstance(action, torch.Tensor)
        expected = on_arrays.act(obs, None, explore)[0]
        assert np.allclose(action.numpy(), expected, rtol=0, atol=1e-6)


def learned_values(make, mode, gamma, states, vector_steps):
    with vectorized(make, 8, mode) as envs:
        agent = agent_for(
            envs,
            gamma=gamma,
            hidden=(16,),
            learning_rate="2e-2:1e-3",
            max_grad_norm=10.0,
        )
        obs = envs.reset()
        for k in range(vector_steps):
            agent.clock.progress = k / vector_steps
            action, _ = agent.act(obs, None)
            step = envs.step(action)
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.update(batch)
        with torch.no_grad():
            return agent.ac.nets.critic(torch.arange(states)).squeeze(-1).tolist()


@pytest.mark.parametrize("mode", MODES)
def test_a_time_limit_does_not_lower_values(mode):
    """Reward 1 for ever, cut off every 7 steps: V = 1 / (1 − γ) all the same."""
    found = learned_values(lambda: Ring(3, 7, TRUNCATED, True), mode, 0.9, 3, 2500)
    assert found == pytest.approx([10.0] * 3, abs=0.3)


@pytest.mark.parametrize("mode", MODES)
def test_a_terminal_state_has_no_value(mode):
    """Reward 1 at the end of 4 steps: V(s_t) = γ^(3 − t), whatever begins next."""
    found = learned_values(lambda: Ring(5, 4, TERMINATED, False), mode, 0.5, 4, 2000)
    assert found == pytest.approx([0.125, 0.25, 0.5, 1.0], abs=0.03)


def test_a_bandits_better_arm_is_found():
    class Bandit(Ring):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, float(action == 1), *rest

    with vectorized(lambda: Bandit(2, 1, TERMINATED, True), 8, "same_step") as envs:
        agent = agent_for(envs)
        obs = envs.reset()
        for _ in range(500):
            step = envs.step(agent.act(obs, None)[0])
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.update(batch)
        assert agent.ac.nets.actor(torch.tensor([0])).softmax(-1)[0, 1] > 0.95


def test_actions_it_has_no_policy_for_are_refused():
    setting = Setting(spaces.Discrete(2), spaces.Text(3), 1, CPU, 0)
    with pytest.raises(UsageError, match=r"a2c takes Discrete or .* Box actions.*Text is taken by"):
        A2C(setting, A2CRecipe())
