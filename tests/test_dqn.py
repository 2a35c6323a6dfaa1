"""DQN's update, against one written from the papers with autograd and torch's own parts."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import chisquare
from scripted_envs import MODES, TERMINATED, TRUNCATED, Ring, vectorized
from torch import nn

from rlkit.agent import Setting
from rlkit.agents.dqn import DQN, DQNRecipe
from rlkit.errors import RunError, UsageError
from rlkit.experience.replay import ReplayBatch

CPU = torch.device("cpu")
OBS, ACTIONS = spaces.Box(-5, 5, (3,)), spaces.Discrete(4)


def agent_for(obs_space=OBS, action_space=ACTIONS, n=2, **changes):
    torch.manual_seed(0)
    agent = DQN(Setting(obs_space, action_space, n, CPU, seed=1), DQNRecipe().but(changes))
    agent.memory.allocate()
    return agent


def copied(network, activation):
    """The network in torch's own layers, in double precision."""
    layers = []
    for linear in [*network.encoder.mlp.linears, network.head]:
        layer = nn.Linear(linear.in_features, linear.out_features).double()
        layer.load_state_dict(linear.state_dict())
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


def random_batch(generator, g, b, masked=False):
    """Rewards large enough for both branches of the Huber loss; masks that allow two actions."""
    obs, next_obs = torch.randn(2, g, b, 3, generator=generator)
    return ReplayBatch(
        obs=obs,
        action=torch.randint(4, (g, b), generator=generator),
        reward=2 * torch.randn(g, b, generator=generator),
        discount=0.9 * (torch.rand(g, b, generator=generator) > 0.3),
        next_obs=next_obs,
        next_mask=torch.rand(g, b, 4, generator=generator).argsort(-1) < 2 if masked else None,
    )


class Reference:
    """Mnih et al. 2015, algorithm 1, and van Hasselt et al. 2016, eq. 4."""

    def __init__(self, agent, activation):
        self.recipe = agent.recipe
        self.online, self.target = (copied(agent.online, activation) for _ in range(2))
        self.optimizer = torch.optim.Adam(
            self.online.parameters(), lr=1, eps=agent.recipe.optimizer_eps
        )
        self.updates = 0

    def update(self, batch, lr):
        for g in range(len(batch.obs)):
            obs, next_obs, reward, discount = (
                x[g].double() for x in (batch.obs, batch.next_obs, batch.reward, batch.discount)
            )
            with torch.no_grad():
                q_next = self.target(next_obs)
                chosen = self.online(next_obs) if self.recipe.double else q_next
                if batch.next_mask is not None:  # by brute force: out of reach of any maximum
                    chosen = chosen - 1e6 * ~batch.next_mask[g]
                b = torch.arange(len(reward))
                y = reward + discount * q_next[b, chosen.argmax(-1)]
            loss = nn.functional.smooth_l1_loss(self.online(obs)[b, batch.action[g]], y)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.online.parameters(), self.recipe.max_grad_norm)
            self.optimizer.param_groups[0]["lr"] = lr
            self.optimizer.step()
            self.updates += 1
            if self.updates % self.recipe.target_interval == 0:
                self.target.load_state_dict(self.online.state_dict())


def flat(module):
    return torch.cat([p.detach().double().flatten() for p in module.parameters()])


@pytest.mark.parametrize("interval", [1, 3, 5, 7, 13, 1000])  # in bursts of 5
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_updates_and_target_copies_equal_the_papers(masked, double, interval):
    agent = agent_for(
        double=double,
        target_interval=interval,
        batch_size=16,
        hidden=(12, 8),
        optimizer_eps=1e-4,
        learning_rate="5e-3:1e-4",
    )
    reference = Reference(agent, nn.ReLU)
    generator = torch.Generator().manual_seed(3)
    start = flat(agent.online)
    for burst in range(6):
        batch = random_batch(generator, 5, 16, masked)
        agent.clock.progress = burst / 10
        agent.update(batch)
        reference.update(batch, 5e-3 + burst / 10 * (1e-4 - 5e-3))
        for ours, theirs in ((agent.online, reference.online), (agent.target, reference.target)):
            torch.testing.assert_close(flat(ours), flat(theirs), rtol=0, atol=2e-5)
        copied_by_now = 5 * (burst + 1) >= interval
        assert torch.equal(flat(agent.target), start) == (not copied_by_now)
    assert (flat(agent.online) - start).abs().max() > 2e-2  # a thousand times the tolerance


@pytest.mark.parametrize(
    "changes", [{"max_grad_norm": 0.05}, {"activation": "tanh"}, {"activation": "gelu"}]
)
def test_updates_with_other_recipes(changes):
    agent = agent_for(batch_size=16, hidden=(12,), optimizer_eps=1e-4, target_interval=4, **changes)
    activation = {"tanh": nn.Tanh, "gelu": nn.GELU}.get(changes.get("activation"), nn.ReLU)
    reference = Reference(agent, activation)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        batch = random_batch(generator, 3, 16)
        agent.update(batch)
        reference.update(batch, 1e-3)
        torch.testing.assert_close(flat(agent.online), flat(reference.online), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("obs", 3e38, "gradient's norm is"), ("reward", float("inf"), "return over n steps")],
)
def test_an_update_that_overflows_leaves_the_weights(column, value, message):
    agent = agent_for()
    before = agent.flat.values.clone()
    batch = random_batch(torch.Generator().manual_seed(0), 2, agent.recipe.batch_size)
    getattr(batch, column)[0, 3] = value
    with pytest.raises(RunError, match=message):
        agent.update(batch)
    assert torch.equal(agent.flat.values, before)


def test_the_exploration_rate_falls_linearly_and_stays():
    agent = agent_for(exploration="0.9:0.1@0.2")
    found = []
    for progress in (0.0, 0.05, 0.1, 0.2, 0.6, 1.0):
        agent.clock.progress = progress
        found.append(agent.epsilon)
    assert found == pytest.approx([0.9, 0.7, 0.5, 0.1, 0.1, 0.1])


SEEN = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)


def actions(agent, times):
    return np.stack([agent.act(SEEN, None)[0] for _ in range(times)])  # (times, N)


def greedy_actions(agent):
    return agent.online(torch.from_numpy(SEEN)).argmax(-1).numpy()


def test_epsilon_of_one_is_uniform_and_of_zero_is_greedy():
    drawn = actions(agent_for(exploration=1), 4000)
    for i in range(2):
        assert chisquare(np.bincount(drawn[:, i], minlength=4)).pvalue > 1e-3
    both = np.bincount(4 * drawn[:, 0] + drawn[:, 1], minlength=16)  # one independent of the other
    assert chisquare(both).pvalue > 1e-3
    agent = agent_for(exploration=0)
    assert (actions(agent, 200) == greedy_actions(agent)).all()


def test_epsilon_between_explores_as_often_as_it_says():
    agent = agent_for(exploration=0.4)
    drawn, greedy = actions(agent, 5000), greedy_actions(agent)
    for i in range(2):
        expected = np.full(4, 5000 * 0.1)
        expected[greedy[i]] = 5000 * 0.7
        assert chisquare(np.bincount(drawn[:, i], minlength=4), expected).pvalue > 1e-3


def test_acting_greedily_draws_nothing():
    agent = agent_for()
    agent.act(SEEN, None)
    generator, noise = agent.generator.get_state(), agent.explore.get_state()["rest"]
    greedy, _ = agent.act(SEEN, None, explore=False)
    assert np.array_equal(greedy, greedy_actions(agent))
    assert torch.equal(agent.generator.get_state(), generator)
    assert np.array_equal(agent.explore.get_state()["rest"], noise)


def test_tensors_in_are_tensors_out():
    on_arrays, on_tensors = (agent_for(exploration=0.5) for _ in range(2))
    for explore in (True, False):
        for _ in range(70):  # more than the noise that is drawn at once
            action, _ = on_tensors.act(torch.from_numpy(SEEN), None, explore)
            assert isinstance(action, torch.Tensor)
            assert np.array_equal(action.numpy(), on_arrays.act(SEEN, None, explore)[0])


def learned_values(make, mode, states, vector_steps, **changes):
    """Q after training with random actions: (states, 2)."""
    with vectorized(make, 8, mode) as envs:
        agent = agent_for(
            envs.obs_space,
            envs.action_space,
            8,
            hidden=(16,),
            learning_rate="1e-2:1e-3",
            exploration=1,
            learning_starts=64,
            train_every=32,
            gradient_steps=4,
            batch_size=64,
            buffer_size=400,
            target_interval=10,
            **changes,
        )
        obs = envs.reset()
        for k in range(vector_steps):
            agent.clock.progress = k / vector_steps
            step = envs.step(agent.act(obs, None)[0])
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.update(batch)
        with torch.no_grad():
            return agent.online(torch.arange(states))


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_time_limit_does_not_lower_values(mode, n_step):
    """Reward 1 for ever, cut off every 7 steps: Q = 1 / (1 − γ) all the same."""
    q = learned_values(lambda: Ring(3, 7, TRUNCATED, True), mode, 3, 1500, gamma=0.8, n_step=n_step)
    torch.testing.assert_close(q, torch.full((3, 2), 5.0), rtol=0, atol=0.15)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_terminal_state_has_no_value(mode, n_step):
    """Reward 1 at the end of 4 steps: Q(s_t, ·) = γ^(3 − t), whatever begins next."""
    q = learned_values(
        lambda: Ring(5, 4, TERMINATED, False), mode, 4, 800, gamma=0.5, n_step=n_step
    )
    expected = torch.tensor([0.125, 0.25, 0.5, 1.0]).unsqueeze(-1).expand(4, 2)
    torch.testing.assert_close(q, expected, rtol=0, atol=0.03)


def test_box_actions_are_refused_with_who_takes_them():
    with pytest.raises(UsageError, match=r"dqn takes Discrete actions; .*Box.*: a2c"):
        agent_for(action_space=spaces.Box(-1, 1, (2,)))
