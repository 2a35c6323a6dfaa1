"""PQN's returns and updates, against ones written from the paper with autograd."""

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

from rlkit.agent import Setting
from rlkit.agents.pqn import PQN, PQNRecipe
from rlkit.envs.make import make_envs
from rlkit.errors import RunError

CPU = torch.device("cpu")
T, N, ROLLOUTS = 8, 4, 4
SMALL = {"n_steps": T, "hidden": (8, 6), "minibatch_size": 9, "epochs": 3, "learning_rate": "0.01"}


def agent_for(envs, **changes):
    torch.manual_seed(0)
    setting = Setting(envs.obs_space, envs.action_space, envs.n, CPU, seed=1)
    agent = PQN(setting, PQNRecipe(envs=envs.n).but(SMALL | changes))
    agent.memory.allocate()
    return agent


def copied(network, norm):
    """The network in torch's own layers, in double precision."""
    layers = []
    for linear in [*network.encoder.mlp.linears, network.head]:
        layer = nn.Linear(linear.in_features, linear.out_features).double()
        layer.load_state_dict(linear.state_dict())
        layers.append(layer)
        if linear is not network.head:
            layers += [nn.LayerNorm(layer.out_features).double()] if norm == "layer" else []
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Reference:
    """Gallici et al. 2024: λ-returns over the environments' own log, squared error, Adam."""

    def __init__(self, agent, masked):
        self.recipe = recipe = agent.recipe
        self.masked = masked
        self.q = copied(agent.q, recipe.norm)
        self.optimizer = torch.optim.Adam(self.q.parameters(), lr=1e-2, eps=recipe.optimizer_eps)
        self.clipped = 0

    def value(self, obs):
        with torch.no_grad():
            q = self.q(torch.tensor(obs, dtype=torch.float64))
        return max(x for x, ok in zip(q.tolist(), self.choice(obs), strict=True) if ok)

    def choice(self, obs):
        return allowed(obs) if self.masked else [True] * 3

    def update(self, logs, first, actions, generator):
        recipe = self.recipe
        steps = sorted(
            (
                (start.row, i, start.obs, start, rest)
                for i, log in enumerate(logs)
                for start, rest in segments(log, first, first + recipe.n_steps)
            ),
            key=lambda step: step[:2],
        )
        obs = torch.tensor([x[2] for x in steps], dtype=torch.float64)
        action = torch.tensor([int(actions[x[0]][x[1]]) for x in steps])
        G = torch.tensor(
            [
                advantage(rest, self.value, recipe.gamma, recipe.q_lambda) + self.value(start.obs)
                for _, _, _, start, rest in steps
            ],
            dtype=torch.float64,
        )
        parts = max(1, round(len(steps) / recipe.minibatch_size))
        for _ in range(recipe.epochs):
            order = torch.randperm(len(steps), generator=generator)
            for k in range(parts):
                i = order[round(len(steps) * k / parts) : round(len(steps) * (k + 1) / parts)]
                q = self.q(obs[i])[torch.arange(len(i)), action[i]]
                self.optimizer.zero_grad()
                (0.5 * (q - G[i]) ** 2).mean().backward()
                norm = nn.utils.clip_grad_norm_(self.q.parameters(), recipe.max_grad_norm)
                self.clipped += norm.item() > recipe.max_grad_norm
                self.optimizer.step()


CASES = {
    "the defaults": {},
    "one step": {"q_lambda": 0.0, "gamma": 0.8},
    "without a norm, clipped": {"norm": "none", "max_grad_norm": 0.3},
    "masked": {"masked": True},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_updates_equal_the_papers(case, mode):
    changes = dict(CASES[case])
    masked = changes.pop("masked", False)
    script = Scripted(random_ends(N, 30, seed=4), mode, masked=masked)
    with make_envs(script, N, 0) as envs:
        agent = agent_for(envs, **changes)
        reference, start = Reference(agent, masked), agent.flat.values.clone()
        obs, actions = envs.reset(), []
        for row in range(ROLLOUTS * T):
            action, _ = agent.act(obs, None, mask=envs.mask)
            actions.append(action)
            step = envs.step(action)
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                generator = torch.Generator()
                generator.set_state(agent.generator.get_state())
                agent.update(batch)
                reference.update(script.log, row + 1 - T, actions, generator)
                found = agent.flat.values.double()
                # rlkit keeps a layer's norm behind all linear layers
                named = dict(reference.q.named_parameters())
                expected = _in_order(agent, named)
                torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)
    assert (agent.flat.values - start).abs().max() > 3e-2  # a thousand times the tolerance
    assert (reference.clipped > 0) == ("clipped" in case)


def _in_order(agent, named):
    """The reference's parameters in the order of the agent's."""
    linears = [name for name in named if named[name].ndim == 2]
    bias = {name: name.replace("weight", "bias") for name in linears}
    norms = [n for n in named if named[n].ndim == 1 and n not in bias.values()]
    order = [x for name in linears[:-1] for x in (name, bias[name])]
    order += [*norms, linears[-1], bias[linears[-1]]]
    assert len(order) == len(list(agent.parameters()))
    return torch.cat([named[name].detach().flatten() for name in order])


def learned_values(make, mode, gamma, states):
    with vectorized(make, 8, mode) as envs:
        agent = agent_for(
            envs, gamma=gamma, hidden=(16,), learning_rate="2e-2:1e-3", exploration="1"
        )
        obs = envs.reset()
        for k in range(1200):
            agent.clock.progress = k / 1200
            step = envs.step(agent.act(obs, None)[0])
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.update(batch)
        return agent.q.infer(torch.arange(states))


@pytest.mark.parametrize("mode", MODES)
def test_a_time_limit_does_not_lower_values(mode):
    """Reward 1 for ever, cut off every 7 steps: Q = 1/(1 − γ) all the same."""
    q = learned_values(lambda: Ring(3, 7, TRUNCATED, True), mode, 0.8, 3)
    torch.testing.assert_close(q, torch.full((3, 2), 5.0), rtol=0, atol=0.15)


@pytest.mark.parametrize("mode", MODES)
def test_a_terminal_state_has_no_value(mode):
    """Reward 1 at the end of 4 steps: Q(s_t, ·) = γ^(3 − t), whatever begins next."""
    q = learned_values(lambda: Ring(4, 4, TERMINATED, False), mode, 0.8, 4)
    expected = torch.tensor([0.8**3, 0.8**2, 0.8, 1.0])[:, None].expand(4, 2)
    torch.testing.assert_close(q, expected, rtol=0, atol=0.05)


def test_an_update_that_overflows_leaves_the_weights():
    script = Scripted([[0]] * N, "next_step")
    with make_envs(script, N, 0) as envs:
        agent = agent_for(envs)
        envs.reset()
        for _ in range(T):
            agent.memory.add(envs.step(np.zeros(N, dtype=np.int64)))
        (batch,) = agent.memory.batches()
        batch.reward[2] = 3e38
        before = agent.flat.values.clone()
        with np.errstate(over="ignore", invalid="ignore"), pytest.raises(RunError):
            agent.update(batch)
        assert torch.equal(agent.flat.values, before)


def test_greedy_actions_draw_nothing():
    script = Scripted([[0]] * N, "next_step", spaces.Discrete(3))
    with make_envs(script, N, 0) as envs:
        agent, obs = agent_for(envs), envs.reset()
    agent.act(obs, None)
    before = agent.generator.get_state(), agent.explore.get_state()["rest"].copy()
    action, _ = agent.act(obs, None, explore=False)
    assert np.array_equal(action, agent.q.infer(obs).argmax(-1))
    assert torch.equal(agent.generator.get_state(), before[0])
    assert np.array_equal(agent.explore.get_state()["rest"], before[1])


@pytest.mark.parametrize("exploration", ["0", "1"])
def test_only_allowed_actions_are_taken(exploration):
    script = Scripted([[0]] * N, "next_step")
    with make_envs(script, N, 0) as envs:
        agent = agent_for(envs, exploration=exploration)
    rng = np.random.default_rng(0)
    for _ in range(100):
        obs = rng.normal(size=(N, 3)).astype(np.float32)
        mask = rng.random((N, 3)).argsort(-1) < 2
        for explore in (True, False):
            action, _ = agent.act(obs, None, explore, mask)
            assert mask[np.arange(N), action].all()
        q = agent.q.infer(obs)
        best = [max((q[i, a], a) for a in range(3) if mask[i, a])[1] for i in range(N)]
        assert action.tolist() == best
