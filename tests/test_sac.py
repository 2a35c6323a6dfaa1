"""SAC's update, against one written from the paper with autograd and torch's own parts."""

import copy
import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import kstest
from scripted_envs import MODES, TERMINATED, TRUNCATED, Ring, vectorized
from small_runs import leaves
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

import rlkit
from rlkit.agent import Setting
from rlkit.agents.sac import SAC, SACRecipe, squashed
from rlkit.errors import RunError, UsageError
from rlkit.experience.replay import ReplayBatch
from rlkit.training.options import RunOptions

CPU = torch.device("cpu")
OBS, ACTIONS = spaces.Box(-5, 5, (3,)), spaces.Box(-1, 1, (2,))


def agent_for(obs_space=OBS, action_space=ACTIONS, n=2, device=CPU, **changes):
    torch.manual_seed(0)
    small = {"hidden": (12, 8), "batch_size": 16, "buffer_size": 1000}
    setting = Setting(obs_space, action_space, n, device, seed=1)
    agent = SAC(setting, SACRecipe().but(small | changes))
    agent.memory.allocate()
    return agent


def random_batch(generator, g, b, n=2):
    obs, next_obs = torch.randn(2, g, b, 3, generator=generator)
    return ReplayBatch(
        obs=obs,
        action=2 * torch.rand(g, b, n, generator=generator) - 1,
        reward=2 * torch.randn(g, b, generator=generator),
        discount=0.9 * (torch.rand(g, b, generator=generator) > 0.3),
        next_obs=next_obs,
    )


def sequential(layers, activation):
    """torch's own layers in double precision, of (weight (out, in), bias) pairs."""
    built = []
    for W, b in layers:
        linear = nn.Linear(W.shape[1], W.shape[0]).double()
        linear.weight.data.copy_(W)
        linear.bias.data.copy_(b)
        built += [linear, activation()]
    return nn.Sequential(*built[:-1])


def copied_actor(agent, activation):
    linears = [*agent.actor.encoder.mlp.linears, agent.actor.head]
    return sequential([(layer.weight, layer.bias) for layer in linears], activation)


def copied_critics(twins, activation):
    pairs = list(zip(twins.weights, twins.biases, strict=True))
    return nn.ModuleList(
        [sequential([(W[i].T, b[i, 0]) for W, b in pairs], activation) for i in range(2)]
    )


class Reference:
    """Haarnoja et al. 2018b, algorithm 1, in double precision; log π by torch.distributions."""

    def __init__(self, agent, activation):
        self.recipe, self.n = agent.recipe, agent.n
        self.actor = copied_actor(agent, activation)
        self.critics, self.targets = (
            copied_critics(twins, activation) for twins in (agent.critic, agent.target)
        )
        self.log_alpha = agent.temperature.log_alpha.detach().double().clone().requires_grad_()
        self.groups = [
            (parameters, torch.optim.Adam(parameters, lr=1, eps=agent.recipe.optimizer_eps))
            for parameters in (
                list(self.critics.parameters()),
                list(self.actor.parameters()),
                [self.log_alpha],
            )
        ]

    def step(self, group, loss, lr):
        parameters, optimizer = self.groups[group]
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = g
        if self.recipe.max_grad_norm and group < 2:
            nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()

    def drawn(self, obs, eps):
        """The action of the noise ε, and its log-probability."""
        mean, log_std = self.actor(obs).chunk(2, -1)
        policy = Independent(Normal(mean, log_std.clamp(-20, 2).exp()), 1)
        u = mean + log_std.clamp(-20, 2).exp() * eps
        slopes = torch.log(1 - torch.tanh(u) ** 2)
        return torch.tanh(u), policy.log_prob(u) - slopes.sum(-1)

    def q(self, critics, obs, action):
        inputs = torch.cat([obs, action], -1)
        return [critic(inputs).squeeze(-1) for critic in critics]

    def update(self, batch, noise, lr):
        """Of the last minibatch: the losses and what else an update reports."""
        for g in range(len(batch.obs)):
            obs, action, r, discount, next_obs = (
                getattr(batch, name)[g].double()
                for name in ("obs", "action", "reward", "discount", "next_obs")
            )
            alpha = self.log_alpha.exp().item()
            with torch.no_grad():
                a_next, log_pi_next = self.drawn(next_obs, noise[1, g].double())
                q_next = torch.minimum(*self.q(self.targets, next_obs, a_next))
                y = r + discount * (q_next - alpha * log_pi_next)
            q = self.q(self.critics, obs, action)
            critic_loss = sum((0.5 * (q_i - y) ** 2).mean() for q_i in q)
            self.step(0, critic_loss, lr)

            a, log_pi = self.drawn(obs, noise[0, g].double())
            actor_loss = (alpha * log_pi - torch.minimum(*self.q(self.critics, obs, a))).mean()
            self.step(1, actor_loss, lr)

            target_entropy = self.recipe.target_entropy * self.n
            if self.recipe.learn_temperature:
                alpha_loss = (-self.log_alpha.exp() * (log_pi.detach() + target_entropy)).mean()
                self.step(2, alpha_loss, lr)

            tau = self.recipe.target_rate
            with torch.no_grad():
                for p, p_target in zip(
                    self.critics.parameters(), self.targets.parameters(), strict=True
                ):
                    p_target.copy_(tau * p + (1 - tau) * p_target)
        return {
            "critic_loss": critic_loss.item(),
            "actor_loss": actor_loss.item(),
            "q_mean": torch.stack(q).mean().item(),
            "entropy": -log_pi.mean().item(),
            "temperature": alpha,
            "learning_rate": lr,
        }


def vector(tensors):
    return torch.cat([p.detach().double().flatten() for p in tensors])


def flat_twins(twins):
    """A TwinQ's parameters in the order of two networks of torch's own."""
    return vector(copied_critics(twins, nn.ReLU).parameters())


def compare(agent, reference, tolerance):
    close = {"rtol": 0, "atol": tolerance}
    ours, theirs = vector(agent.actor.parameters()), vector(reference.actor.parameters())
    torch.testing.assert_close(ours, theirs, **close)
    for twins, critics in ((agent.critic, reference.critics), (agent.target, reference.targets)):
        torch.testing.assert_close(flat_twins(twins), vector(critics.parameters()), **close)
    log_alpha = agent.temperature.log_alpha.detach().double()
    torch.testing.assert_close(log_alpha, reference.log_alpha.detach(), **close)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"learning_rate": "5e-3:1e-4"},
        {"max_grad_norm": 0.05},
        {"learn_temperature": False, "temperature": 0.2},
        {"target_entropy": 0.4, "temperature": 0.05, "target_rate": 0.3},
        {"activation": "tanh"},
        {"activation": "gelu", "hidden": (12,)},
    ],
    ids=str,
)
def test_updates_equal_the_papers(changes):
    agent = agent_for(**{"learning_rate": "5e-3", "optimizer_eps": 1e-4} | changes)
    activation = {"tanh": nn.Tanh, "gelu": nn.GELU}.get(changes.get("activation"), nn.ReLU)
    reference = Reference(agent, activation)
    generator = torch.Generator().manual_seed(3)
    start, start_alpha = vector(agent.parameters()), agent.temperature.log_alpha.item()
    for burst in range(5):
        batch = random_batch(generator, 4, 16)
        agent.clock.progress = burst / 10
        falling = 5e-3 + burst / 10 * (1e-4 - 5e-3)
        lr = falling if changes.get("learning_rate") else 5e-3
        state = agent.generator.get_state()
        noise = torch.empty(2, 4, 16, 2).normal_(generator=agent.generator)
        agent.generator.set_state(state)
        found = agent.update(batch)
        expected = reference.update(batch, noise, lr)
        assert {name: float(x) for name, x in found.items()} == pytest.approx(expected, rel=1e-4)
        compare(agent, reference, 2e-5)
    moved = (vector(agent.parameters()) - start).abs()
    assert moved.max() > 2e-2  # a thousand times the tolerance
    learned = agent.temperature.log_alpha.item() != start_alpha
    assert learned == agent.recipe.learn_temperature


@pytest.mark.cuda
def test_updates_on_a_gpu_agree_with_the_cpu():
    agents = [agent_for(device=torch.device(device)) for device in ("cpu", "cuda")]
    batch = random_batch(torch.Generator().manual_seed(3), 4, 16)
    for agent in agents:
        device = agent.setting.device
        columns = ("obs", "action", "reward", "discount", "next_obs")
        agent.update(ReplayBatch(*(getattr(batch, name).to(device) for name in columns)))
        agent.act(torch.zeros(2, 3, device=device), None)
    ours, theirs = (vector(agent.parameters()).cpu() for agent in agents)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_log_probabilities_are_those_of_the_transformed_distribution():
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(500, 6, generator=generator).clamp_(-2, 2)
    eps = torch.randn(500, 3, generator=generator)
    a, log_pi = squashed(head, eps)
    mean, log_std = head.double().chunk(2, -1)
    base = Independent(Normal(mean, log_std.exp()), 1)
    policy = TransformedDistribution(base, TanhTransform())
    u = mean + log_std.exp() * eps
    expected = torch.tanh(u)
    torch.testing.assert_close(a.double(), expected, rtol=0, atol=1e-6)
    reference = base.log_prob(u) - TanhTransform().log_abs_det_jacobian(u, expected).sum(-1)
    torch.testing.assert_close(log_pi.double(), reference, rtol=1e-5, atol=1e-5)
    inside = (expected.abs() < 0.999).all(-1)  # where atanh, in doubles, loses nothing
    assert inside.sum() > 250
    by_inverse = policy.log_prob(expected)[inside]
    torch.testing.assert_close(log_pi[inside].double(), by_inverse, rtol=1e-5, atol=1e-4)


def test_the_policy_is_a_density_over_the_cube():
    """∫ π(a) da = 1, by quadrature over the action that each ε gives."""
    head = torch.tensor([0.7, -0.4]).expand(20_001, 2)
    eps = torch.linspace(-8, 8, 20_001)
    a, log_pi = squashed(head, eps.unsqueeze(-1))
    total = torch.trapezoid(log_pi.double().exp(), a.double().squeeze(-1))
    assert float(total) == pytest.approx(1, abs=1e-4)


def test_far_from_zero_log_probabilities_stay_finite():
    head = torch.tensor([[60.0, 5.0], [-60.0, -40.0]], requires_grad=True)
    a, log_pi = squashed(head, torch.tensor([[3.0], [-3.0]]))
    log_pi.sum().backward()
    assert torch.equal(a.detach(), torch.tensor([[1.0], [-1.0]]))
    assert torch.isfinite(log_pi).all()
    assert torch.isfinite(head.grad).all()
    assert (head.grad[:, 1] == 0).all()  # σ is at the ends of its range


@pytest.mark.parametrize(
    ("column", "value"), [("obs", 3e38), ("reward", float("inf")), ("next_obs", 3e38)]
)
def test_an_update_that_overflows_leaves_the_weights(column, value):
    agent = agent_for()
    before = vector(agent.state_dict().values())
    batch = random_batch(torch.Generator().manual_seed(0), 2, 16)
    getattr(batch, column)[0, 3] = value
    with pytest.raises(RunError, match="gradient's norm is"):
        agent.update(batch)
    assert torch.equal(vector(agent.state_dict().values()), before)


SEEN = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)


def head_of(agent):
    with torch.no_grad():
        mean, log_std = agent.actor(torch.from_numpy(SEEN)).double().chunk(2, -1)
    return mean.numpy(), log_std.exp().numpy()


def test_actions_are_drawn_from_the_policy_and_greedy_ones_are_its_mode():
    agent = agent_for(learning_starts=0)
    mean, std = head_of(agent)
    drawn = np.stack([agent.act(SEEN, None)[0] for _ in range(2000)]).astype(np.float64)
    z = (np.arctanh(drawn) - mean) / std
    for i in range(2):
        for j in range(2):
            assert kstest(z[:, i, j], "norm").pvalue > 1e-3
    greedy, _ = agent.act(SEEN, None, explore=False)
    assert greedy == pytest.approx(np.tanh(mean), abs=1e-6)


def test_actions_are_uniform_until_learning_starts():
    agent = agent_for(learning_starts=10)
    drawn = np.stack([agent.act(SEEN, None)[0] for _ in range(2000)])
    assert kstest(drawn.ravel(), "uniform", args=(-1, 2)).pvalue > 1e-3
    agent.memory.added = 10
    drawn = np.stack([agent.act(SEEN, None)[0] for _ in range(2000)])
    assert kstest(drawn.ravel(), "uniform", args=(-1, 2)).pvalue < 1e-6


def test_acting_greedily_draws_nothing():
    agent = agent_for(learning_starts=4)
    for added in (0, 4):
        agent.memory.added = added
        agent.act(SEEN, None)
        before = leaves(agent.get_state())
        agent.act(SEEN, None, explore=False)
        assert leaves(agent.get_state()) == before


def test_tensors_in_are_tensors_out():
    on_arrays, on_tensors = (agent_for(learning_starts=50) for _ in range(2))
    for added in (0, 50):
        for agent in (on_arrays, on_tensors):
            agent.memory.added = added
        for explore in (True, False):
            for _ in range(70):  # more than the noise that is drawn at once
                action, _ = on_tensors.act(torch.from_numpy(SEEN), None, explore)
                assert isinstance(action, torch.Tensor)
                other = on_arrays.act(SEEN, None, explore)[0]
                assert action.numpy() == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_actions_of_any_shape(shape):
    space = spaces.Box(-1, 1, shape)
    agent = agent_for(action_space=space)
    for added in (0, agent.recipe.learning_starts):
        agent.memory.added = added
        for explore in (True, False):
            action, _ = agent.act(SEEN, None, explore)
            assert action.shape == (2, *shape)
            assert all(space.contains(np.asarray(a)) for a in action)
    batch = random_batch(torch.Generator().manual_seed(0), 2, 16, math.prod(shape))
    batch.action = batch.action.view(2, 16, *shape)
    agent.update(batch)


def test_one_hot_observations():
    agent = agent_for(obs_space=spaces.Discrete(5))
    batch = random_batch(torch.Generator().manual_seed(0), 2, 16)
    batch.obs, batch.next_obs = torch.arange(64).view(2, 2, 16) % 5
    agent.update(batch)
    assert agent.act(np.array([0, 4]), None, explore=False)[0].shape == (2, 2)


class BoxRing(Ring):
    """The actions don't matter."""

    action_space = spaces.Box(-3, 3, (1,))


def learned_values(make, mode, states, vector_steps, **changes):
    """Both critics' values after learning from random actions: (2, 5 actions, states)."""
    rng = np.random.default_rng(0)
    with vectorized(make, 8, mode) as envs:
        agent = agent_for(
            envs.obs_space,
            envs.action_space,
            8,
            hidden=(16,),
            learning_rate="1e-2:1e-3",
            learn_temperature=False,
            temperature=1e-6,
            target_rate=0.2,
            learning_starts=64,
            train_every=32,
            gradient_steps=4,
            batch_size=64,
            buffer_size=400,
            **changes,
        )
        envs.reset()
        for k in range(vector_steps):
            agent.clock.progress = k / vector_steps
            agent.memory.add(envs.step(rng.uniform(-1, 1, (8, 1)).astype(np.float32)))
            for batch in agent.memory.batches():
                agent.update(batch)
        with torch.no_grad():
            action, state = torch.meshgrid(
                torch.linspace(-1, 1, 5), torch.arange(float(states)), indexing="ij"
            )
            q = agent.critic(state.flatten().long(), action.reshape(-1, 1))
        return q.view(2, 5, states)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_time_limit_does_not_lower_values(mode, n_step):
    """Reward 1 for ever, cut off every 7 steps: Q = 1 / (1 − γ) all the same."""
    q = learned_values(
        lambda: BoxRing(3, 7, TRUNCATED, True), mode, 3, 500, gamma=0.8, n_step=n_step
    )
    torch.testing.assert_close(q, torch.full((2, 5, 3), 5.0), rtol=0, atol=0.25)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_terminal_state_has_no_value(mode, n_step):
    """Reward 1 at the end of 4 steps: Q(s_t, ·) = γ^(3 − t), whatever begins next."""
    q = learned_values(
        lambda: BoxRing(5, 4, TERMINATED, False), mode, 4, 400, gamma=0.5, n_step=n_step
    )
    expected = torch.tensor([0.125, 0.25, 0.5, 1.0]).expand(2, 5, 4)
    torch.testing.assert_close(q, expected, rtol=0, atol=0.03)


def test_actions_without_bounds_are_refused():
    for space in (spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(0, np.inf, (1,))):
        with pytest.raises(UsageError, match="with finite bounds; the environment's are Box"):
            agent_for(action_space=space)


def test_discrete_actions_are_refused_with_who_takes_them():
    with pytest.raises(UsageError, match=r"sac takes Box actions; .*Discrete is taken by: a2c"):
        agent_for(action_space=spaces.Discrete(3))


SMALL = {
    "steps": 300,
    "envs": 4,
    "hidden": (8,),
    "learning_starts": 40,
    "train_every": 8,
    "gradient_steps": 2,
    "batch_size": 16,
    "buffer_size": 200,
}


def test_a_seed_repeats_its_run_and_another_does_not(tmp_path):
    def state(seed):
        options = RunOptions(seed=seed, run_dir=str(tmp_path), eval_episodes=1)
        return leaves(rlkit.train("sac", "Pendulum", SMALL, options).agent.get_state())

    first, again, other = state(3), state(3), state(4)
    assert first == again
    assert first["/weights/temperature.log_alpha"] != other["/weights/temperature.log_alpha"]


@pytest.mark.parametrize("added", [0, 4])
def test_a_checkpoint_restores_all_that_learning_needs(added):
    """From one state on, two agents stay equal to the bit: weights, optimisers, noise."""
    agent, other = agent_for(learning_starts=4), agent_for(learning_starts=4, temperature=0.3)
    generator = torch.Generator().manual_seed(0)

    def learn(*agents):
        batch = random_batch(generator, 3, 16)
        for each in agents:
            each.update(batch)
        return [each.act(SEEN, None)[0] for each in agents]

    agent.memory.added = added
    learn(agent)
    other.set_state(copy.deepcopy(agent.get_state()))
    one, same = learn(agent, other)
    assert np.array_equal(one, same)
    assert leaves(agent.get_state()) == leaves(other.get_state())
    assert other.flat_target.values.equal(agent.flat_target.values)


def test_the_critics_start_apart_orthogonal_and_with_targets_that_are_copies():
    agent = agent_for(hidden=(12, 8))
    assert torch.equal(flat_twins(agent.critic), flat_twins(agent.target))
    W = agent.critic.weights[1].detach()  # (2, 12, 8)
    assert (W[0] - W[1]).abs().max() > 0.1
    identity = torch.eye(8).expand(2, 8, 8)
    torch.testing.assert_close(W.mT @ W, 2 * identity, rtol=0, atol=1e-5)
