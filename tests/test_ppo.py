"""PPO's update, against one written from the papers with autograd and torch's own parts."""

import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers.utils import RunningMeanStd
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
from small_runs import leaves
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from rlkit.agent import Setting
from rlkit.agents.ppo import PPO, PPORecipe
from rlkit.envs.make import make_envs
from rlkit.errors import RunError
from rlkit.experience import rollout
from rlkit.experience.minibatches import minibatches, parts_of
from rlkit.schedule import schedule

CPU = torch.device("cpu")
T, N, ROLLOUTS = 8, 4, 4
DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1, 1, (2,))
SMALL = {"n_steps": T, "hidden": (8, 6), "minibatch_size": 9, "epochs": 3, "learning_rate": "0.02"}


def agent_for(envs, **changes):
    torch.manual_seed(0)
    setting = Setting(envs.obs_space, envs.action_space, envs.n, CPU, seed=1)
    agent = PPO(setting, PPORecipe(envs=envs.n).but(SMALL | changes))
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


def double(rows):
    return torch.tensor(np.array(rows), dtype=torch.float64)


class Reference:
    """Schulman et al. 2017, eq. 7 and 9, over the environments' own log."""

    def __init__(self, agent, activation):
        self.recipe = recipe = agent.recipe
        self.actor, self.critic = (
            copied(net, activation) for net in (agent.ac.nets.actor, agent.ac.nets.critic)
        )
        self.parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.log_std = None
        if isinstance(agent.setting.action_space, spaces.Box):
            self.log_std = nn.Parameter(agent.ac.policy.log_std.detach().double().clone())
            self.parameters.insert(0, self.log_std)
        self.optimizer = torch.optim.Adam(self.parameters, lr=1, eps=recipe.optimizer_eps)
        self.obs_moments = RunningMeanStd(shape=(3,))
        self.return_moments = RunningMeanStd(shape=())
        self.seen = {"clipped": 0, "value clipped": 0, "stopped": 0, "gradient clipped": 0}

    def normal(self, obs):
        if not self.recipe.normalize_obs or self.obs_moments.count < 1:
            return double(obs)
        m = self.obs_moments
        return double((np.array(obs, dtype=np.float64) - m.mean) / np.sqrt(m.var + 1e-8))

    def policy(self, obs):
        head = self.actor(obs)
        if self.log_std is None:
            return Categorical(logits=head)
        return Independent(Normal(head, self.log_std.exp()), 1)

    def value(self, obs):
        with torch.no_grad():
            return self.critic(self.normal(obs)).item()

    def scaled(self, logs, first):
        """The logs with rewards over the deviation of all returns so far, this rollout's too."""
        if not self.recipe.normalize_reward:
            return logs

        def discounted(log, k):
            return sum(
                self.recipe.gamma ** (log[k].row - x.row) * x.reward
                for x in log[: k + 1]
                if x.episode == log[k].episode
            )

        returns = [discounted(log, k) for log in logs for k, x in enumerate(log) if x.row >= first]
        self.return_moments.update(np.array(returns))
        deviation = np.sqrt(self.return_moments.var + 1e-8)
        return [[replace(x, reward=x.reward / deviation) for x in log] for log in logs]

    def rollout(self, logs, first, actions):
        """obs, action, log π_old, A, G, V_old of each step, in the order of the rollout's rows."""
        recipe = self.recipe
        steps = [
            (start.row, i, start.obs, advantage(rest, self.value, recipe.gamma, recipe.gae_lambda))
            for i, log in enumerate(self.scaled(logs, first))
            for start, rest in segments(log, first, first + recipe.n_steps)
        ]
        steps.sort()
        obs = self.normal([obs for _, _, obs, _ in steps])
        action = double([actions[row][i] for row, i, _, _ in steps])
        A = double([A for _, _, _, A in steps])
        with torch.no_grad():
            v_old = self.critic(obs).squeeze(-1)
            log_pi_old = self.policy(obs).log_prob(action)
        self.obs_moments.update(np.array([obs for _, _, obs, _ in steps]))
        return obs, action, log_pi_old, A, A + v_old, v_old

    def update(self, columns, generator, progress):
        recipe, count = self.recipe, len(columns[0])
        lr, clip, beta = (
            schedule(str(x))(progress)
            for x in (recipe.learning_rate, recipe.clip, recipe.entropy_cost)
        )
        parts = max(1, round(count / recipe.minibatch_size))
        for _ in range(recipe.epochs):
            order = torch.randperm(count, generator=generator)
            for part in range(parts):
                chosen = order[round(count * part / parts) : round(count * (part + 1) / parts)]
                if not self.minibatch(*(x[chosen] for x in columns), lr, clip, beta):
                    self.seen["stopped"] += 1
                    return

    def minibatch(self, obs, action, log_pi_old, A, G, v_old, lr, clip, beta):
        recipe = self.recipe
        if recipe.normalize_advantage:
            A = (A - A.mean()) / (A.std(correction=0) + 1e-8)
        policy, v = self.policy(obs), self.critic(obs).squeeze(-1)
        log_ratio = policy.log_prob(action) - log_pi_old
        ratio = log_ratio.exp()
        kl = (ratio - 1 - log_ratio).mean()
        if recipe.target_kl and kl > recipe.target_kl:
            return False
        surrogate = torch.minimum(ratio * A, ratio.clamp(1 - clip, 1 + clip) * A)
        error = (v - G) ** 2
        if recipe.value_clip:
            change = (v - v_old).clamp(-recipe.value_clip, recipe.value_clip)
            self.seen["value clipped"] += int(((v_old + change - G) ** 2 > error + 1e-9).sum())
            error = torch.maximum(error, (v_old + change - G) ** 2)
        loss = -surrogate.mean() - beta * policy.entropy().mean() + recipe.value_cost * error.mean()
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, recipe.max_grad_norm).item()
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.seen["gradient clipped"] += norm > recipe.max_grad_norm
        is_clipped = surrogate < ratio * A
        self.seen["clipped"] += int(is_clipped.sum())
        self.metrics = {
            "policy_loss": -surrogate.mean().item(),
            "value_loss": ((v - G) ** 2).mean().item(),
            "entropy": policy.entropy().mean().item(),
            "kl": kl.item(),
            "clip_fraction": is_clipped.double().mean().item(),
            "grad_norm": norm,
            "learning_rate": lr,
        }
        return True


BOTH = {"normalize_obs": True, "normalize_reward": True}
CASES = {
    "the defaults": (DISCRETE, {}),
    "raw advantages": (DISCRETE, {"normalize_advantage": False, "gae_lambda": 0.6, "gamma": 0.9}),
    "value clip": (DISCRETE, {"value_clip": 0.1, "value_cost": 2.0}),
    "stop": (DISCRETE, {"target_kl": 0.02, "normalize_advantage": False}),
    "schedules": (
        DISCRETE,
        {"clip": "0.3:0.01", "entropy_cost": "0.5:0", "learning_rate": "0.03:0.01:cosine"},
    ),
    "autograd's way back": (DISCRETE, {"activation": "gelu", "learning_rate": "0.04"}),
    "normalised observations": (DISCRETE, {"normalize_obs": True}),
    "normalised rewards": (DISCRETE, {"normalize_reward": True, "normalize_advantage": False}),
    "unclipped gradients": (DISCRETE, {"max_grad_norm": 1e9}),
    "box": (BOX, {"entropy_cost": 0.1}),
    "box, all of it": (BOX, {"value_clip": 0.1, "target_kl": 0.02, "activation": "gelu", **BOTH}),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_updates_equal_the_papers(case, mode):
    space, changes = CASES[case]
    script = Scripted(random_ends(N, 3 * T, seed=4), mode, space)
    with make_envs(script, N, 0) as envs:
        agent = agent_for(envs, **changes)
        reference = Reference(agent, nn.GELU if "activation" in changes else nn.Tanh)
        obs, actions = envs.reset(), []
        for row in range(ROLLOUTS * T):
            action, _ = agent.act(obs, None)
            actions.append(action)
            step = envs.step(action)
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.clock.progress = row / 40
                columns = reference.rollout(script.log, row + 1 - T, actions)
                assert (len(columns[0]) < T * N) == (mode == "next_step")  # there are dead steps
                order = torch.Generator()
                order.set_state(agent.generator.get_state())
                metrics = agent.update(batch)
                reference.update(columns, order, row / 40)
                assert torch.equal(order.get_state(), agent.generator.get_state())
                found = agent.ac.flat.values.double()
                expected = torch.cat([p.detach().flatten() for p in reference.parameters])
                torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
                assert metrics.keys() == reference.metrics.keys()
                if "target_kl" not in changes:
                    found = {name: float(x) for name, x in metrics.items()}
                    assert found == pytest.approx(reference.metrics, rel=1e-3, abs=1e-5)
        before = agent_for(envs, **changes).ac.flat.values
        assert (agent.ac.flat.values - before).abs().max() > 0.1
    seen = reference.seen  # each case has met what it is about
    assert seen["clipped"] > 2
    assert (seen["value clipped"] > 20) == ("value_clip" in changes)
    assert (seen["gradient clipped"] > 0) == ("max_grad_norm" not in changes)
    assert seen["stopped"] > 0 or "target_kl" not in changes


def a_rollout(agent, envs, obs):
    """Steps of the agent's own until its memory is full: the batch, and what it sees next."""
    while True:
        step = envs.step(agent.act(obs, None)[0])
        agent.memory.add(step)
        obs = step.next_obs
        for batch in agent.memory.batches():
            return batch, obs


def quiet():
    """As the trainer has it: an update finds for itself what is not finite."""
    return np.errstate(over="ignore", invalid="ignore")


def state_of(agent):
    return leaves(copy.deepcopy(agent.get_state()))


@pytest.mark.parametrize(("count", "size"), [(24, 8), (25, 8), (27, 8), (5, 8), (7, 1), (12, 8)])
def test_an_epoch_has_every_step_once_in_parts_of_about_that_size(count, size):
    columns = (np.arange(count), None, torch.arange(count) * 10)
    generator = torch.Generator().manual_seed(0)
    parts = list(minibatches(columns, parts_of(count, size), 3, generator))
    n = len(parts) // 3
    assert n == max(1, round(count / size))
    epochs = [parts[k * n : (k + 1) * n] for k in range(3)]
    orders = [np.concatenate([part[0] for part in epoch]) for epoch in epochs]
    for order in orders:
        assert sorted(order) == list(range(count))
    assert not any(np.array_equal(one, other) for one, other in pairwise(orders))
    for first, none, tens in parts:
        assert none is None
        assert tens.tolist() == [10 * x for x in first]
        assert abs(len(first) - count / n) < 1


@pytest.mark.parametrize("more", [{}, BOTH], ids=["plain", "normalised"])
def test_dead_steps_change_nothing(more):
    script = Scripted([[0, TERMINATED], [TRUNCATED], [0]], "next_step")
    with make_envs(script, 3, 0) as envs:
        updated = []
        for poison in (0, 1):
            envs.reset()
            agent = agent_for(envs, n_steps=6, entropy_cost=0.1, value_clip=0.1, **more)
            for _ in range(6):
                agent.memory.add(envs.step(np.array([1, 2, 0])))
            (batch,) = agent.memory.batches()
            assert not batch.valid.all()
            batch.action[~batch.valid] = poison
            batch.reward[~batch.valid] = 100.0 * poison
            agent.update(batch)
            updated.append(state_of(agent))
        memory = "/parts/memory/"
        one, other = ({k: v for k, v in x.items() if memory not in k} for x in updated)
        assert one == other


def test_a_rollout_of_dead_steps_alone_changes_nothing():
    """With one step per rollout the environments are reset in a rollout of their own."""
    script = Scripted([[0, TRUNCATED]] * 2, "next_step")
    with make_envs(script, 2, 0) as envs:
        agent = agent_for(envs, n_steps=1, **BOTH)
        obs = envs.reset()
        for row in range(7):
            batch, obs = a_rollout(agent, envs, obs)
            before, steps = agent.ac.flat.values.clone(), agent.ac.optimizer.t
            agent.update(batch)
            dead = row % 3 == 2
            assert torch.equal(agent.ac.flat.values, before) == dead
            assert agent.ac.optimizer.t == steps + 3 * (not dead)
        assert agent.ac.flat.values.isfinite().all()


@pytest.mark.parametrize(("size", "per_epoch"), [(1, T * N), (T * N - 1, 1), (10**6, 1), (10, 3)])
def test_the_number_of_minibatches(size, per_epoch):
    with make_envs(Scripted([[0]] * N, "next_step"), N, 0) as envs:
        agent = agent_for(envs, minibatch_size=size, epochs=2, value_clip=0.1)
        agent.update(a_rollout(agent, envs, envs.reset())[0])
        assert agent.ac.optimizer.t == 2 * per_epoch
        assert agent.ac.flat.values.isfinite().all()


def test_a_minibatch_of_one_step_moves_the_critic_alone():
    """Scaled to mean 0, a single advantage is 0."""
    with make_envs(Scripted([[0]], "next_step"), 1, 0) as envs:
        agent = agent_for(envs, n_steps=1)
        actor, critic = (
            copy.deepcopy(net.state_dict()) for net in (agent.ac.nets.actor, agent.ac.nets.critic)
        )
        agent.update(a_rollout(agent, envs, envs.reset())[0])
        for before, net, same in (
            (actor, agent.ac.nets.actor, True),
            (critic, agent.ac.nets.critic, False),
        ):
            assert torch.equal(before["head.weight"], net.state_dict()["head.weight"]) == same


@pytest.mark.parametrize(
    ("target", "least", "most"), [(1e-12, 1, 1), (0.003, 1, 17), (1e3, 18, 18), (0.0, 18, 18)]
)
def test_no_more_minibatches_once_the_kl_is_above(target, least, most):
    """However low the target, the first minibatch, where θ is θ_old, is learned from."""
    with make_envs(Scripted([[0]] * N, "next_step"), N, 0) as envs:
        how = {"hidden": (64, 64), "minibatch_size": T * N, "epochs": 18, "learning_rate": "1e-3"}
        agent = agent_for(envs, target_kl=target, **how)
        obs, counts = envs.reset(), []
        for _ in range(6):
            batch, obs = a_rollout(agent, envs, obs)
            before = agent.ac.optimizer.t
            metrics = agent.update(batch)
            counts.append(agent.ac.optimizer.t - before)
            assert (0 < target < metrics["kl"]) == (counts[-1] < 18)
            assert np.isfinite([float(x) for x in metrics.values()]).all()
    assert least <= min(counts) <= max(counts) <= most
    assert max(counts) > 1 or target == 1e-12


def test_a_value_clip_that_is_out_of_reach_changes_nothing():
    """Not by rounding either: V_old + (V − V_old) is not always V."""
    learned = []
    for value_clip in (0.0, 1e6):
        script = Scripted(random_ends(N, 30, seed=4), "same_step")
        with make_envs(script, N, 0) as envs:
            agent, obs = agent_for(envs, value_clip=value_clip), envs.reset()
            for _ in range(10):
                batch, obs = a_rollout(agent, envs, obs)
                agent.update(batch)
            learned.append(agent.ac.flat.values)
    assert torch.equal(*learned)


def test_an_update_leaves_its_batch_as_it_was():
    script = Scripted(random_ends(N, 30, seed=4), "same_step")
    with make_envs(script, N, 0) as envs:
        agent = agent_for(envs, value_clip=0.1, **BOTH)
        obs = envs.reset()
        for _ in range(2):  # the second is seen on another scale
            batch, obs = a_rollout(agent, envs, obs)
            before = copy.deepcopy(batch)
            agent.update(batch)
            for name in batch.__slots__:
                assert np.array_equal(getattr(batch, name), getattr(before, name)), name


@pytest.mark.parametrize("space", [DISCRETE, BOX])
@pytest.mark.parametrize("mode", MODES)
def test_acting_and_learning_see_one_scale(mode, space, monkeypatch):
    """log π_old, which the update computes anew, is what it was when each action was drawn."""
    script = Scripted(random_ends(N, 30, seed=4), mode, space)
    with make_envs(script, N, 0) as envs:
        agent = agent_for(envs, **BOTH)
        obs, drawn, told = envs.reset(), [], []
        sample, vjp = agent.ac.policy.sample, agent.ac.policy.vjp

        def spied_sample(head, noise):
            action = sample(head, noise)
            drawn.append(vjp(head, action)[0])
            return action

        def spied_vjp(head, action):
            found = vjp(head, action)
            told.append(found[0])
            return found

        monkeypatch.setattr(agent.ac.policy, "sample", spied_sample)
        monkeypatch.setattr(agent.ac.policy, "vjp", spied_vjp)
        for _ in range(3):
            drawn.clear()
            told.clear()
            batch, obs = a_rollout(agent, envs, obs)
            agent.update(batch)
            assert np.asarray(told[0]) == pytest.approx(np.stack(drawn), abs=1e-5)
            assert np.asarray(told[-1]).std() > 1e-3


@pytest.mark.parametrize("space", [DISCRETE, BOX])
def test_an_update_on_tensors_is_the_one_on_arrays(space):
    """What an agent on another device does, with everything left in place."""
    updated = []
    for kind in ("arrays", "tensors"):
        script = Scripted(random_ends(N, 30, seed=4), "same_step", space)
        with make_envs(script, N, 0) as envs:
            agent = agent_for(envs, value_clip=0.1, target_kl=10.0, entropy_cost=0.1, **BOTH)
            obs = envs.reset()
            for _ in range(2):
                batch, obs = a_rollout(agent, envs, obs)
                agent.update(batch if kind == "arrays" else rollout._moved(batch, CPU))
            moments = agent.ac.normalizer.moments
            updated.append(torch.cat([agent.ac.flat.values, moments.mean, moments.var]))
    torch.testing.assert_close(*updated, rtol=0, atol=1e-5)


def test_an_update_that_overflows_leaves_the_weights():
    with make_envs(Scripted([[0]] * N, "next_step"), N, 0) as envs:
        agent = agent_for(envs, minibatch_size=T * N)
        batch, _ = a_rollout(agent, envs, envs.reset())
        batch.reward[2] = 3e38
        before = agent.ac.flat.values.clone()
        with pytest.raises(RunError, match="gradient's norm is"), quiet():
            agent.update(batch)
        assert torch.equal(agent.ac.flat.values, before)


def test_an_overflow_in_a_later_minibatch_makes_no_nan():
    with make_envs(Scripted([[0]] * N, "next_step"), N, 0) as envs:
        agent = agent_for(envs, minibatch_size=1, gae_lambda=0.0, gamma=0.0)
        batch, _ = a_rollout(agent, envs, envs.reset())
        batch.reward[2, 1] = 3e38
        with pytest.raises(RunError, match="gradient's norm is"), quiet():
            agent.update(batch)
        assert agent.ac.optimizer.t > 0
        assert agent.ac.flat.values.isfinite().all()


@pytest.mark.parametrize("space", [DISCRETE, BOX])
def test_acting_greedily_changes_nothing(space):
    with make_envs(Scripted([[0]] * N, "next_step", space), N, 0) as envs:
        agent = agent_for(envs, **BOTH)
        batch, obs = a_rollout(agent, envs, envs.reset())
        agent.update(batch)
    agent.act(obs, None)
    before = state_of(agent)
    greedy, _ = agent.act(obs, None, explore=False)
    assert state_of(agent) == before
    moments = agent.ac.normalizer.moments
    normal = (torch.from_numpy(obs) - moments.mean) / (moments.var + 1e-8).sqrt()
    head = agent.ac.nets.actor(normal.float()).detach().numpy()
    if space is DISCRETE:
        assert np.array_equal(greedy, head.argmax(-1))
    else:
        assert greedy == pytest.approx(head, abs=1e-6)


def test_a_restored_agent_goes_on_as_the_saved_one():
    """From the middle of a rollout, with all that it keeps besides its weights."""

    def go_on(agent, envs, obs, steps):
        for _ in range(steps):
            step = envs.step(agent.act(obs, None)[0])
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.update(batch)
        return obs

    script = Scripted(random_ends(N, 30, seed=4), "next_step", BOX)
    with make_envs(script, N, 0) as envs:
        agent = agent_for(envs, value_clip=0.1, **BOTH)
        obs = go_on(agent, envs, envs.reset(), 3 * T + 3)
        restored = agent_for(envs, value_clip=0.1, **BOTH)
        restored.set_state(copy.deepcopy(agent.get_state()))
        assert state_of(restored) == state_of(agent)
        script_then, envs_then = copy.deepcopy((script, envs))
        go_on(agent, envs, obs, 2 * T)
        assert script_then.log != script.log
        go_on(restored, envs_then, obs, 2 * T)
        assert state_of(restored) == state_of(agent)


def learn(agent, envs, vector_steps):
    obs = envs.reset()
    for k in range(vector_steps):
        agent.clock.progress = k / vector_steps
        step = envs.step(agent.act(obs, None)[0])
        agent.memory.add(step)
        obs = step.next_obs
        for batch in agent.memory.batches():
            agent.update(batch)


def learned_values(make, mode, gamma, states, **more):
    with vectorized(make, 8, mode) as envs:
        how = {"hidden": (16,), "learning_rate": "2e-2:1e-3", "max_grad_norm": 10.0}
        agent = agent_for(envs, gamma=gamma, minibatch_size=32, **how, **more)
        learn(agent, envs, 1200)
        with torch.no_grad():
            return agent.ac.nets.critic(torch.arange(states)).squeeze(-1).tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gae_lambda", [0.95, 1.0])
def test_a_time_limit_does_not_lower_values(mode, gae_lambda):
    """Reward 1 for ever, cut off every 7 steps: V = 1 / (1 − γ) all the same."""
    ring = lambda: Ring(3, 7, TRUNCATED, True)  # noqa: E731
    found = learned_values(ring, mode, 0.9, 3, gae_lambda=gae_lambda)
    assert found == pytest.approx([10.0] * 3, abs=0.3)


@pytest.mark.parametrize("mode", MODES)
def test_a_terminal_state_has_no_value(mode):
    """Reward 1 at the end of 4 steps: V(s_t) = γ^(3 − t), whatever begins next."""
    found = learned_values(lambda: Ring(5, 4, TERMINATED, False), mode, 0.5, 4)
    assert found == pytest.approx([0.125, 0.25, 0.5, 1.0], abs=0.03)


def test_a_bandits_better_arm_is_found():
    class Bandit(Ring):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, float(action == 1), *rest

    with vectorized(lambda: Bandit(2, 1, TERMINATED, True), 8, "same_step") as envs:
        agent = agent_for(envs)
        learn(agent, envs, 100)
        assert agent.ac.nets.actor(torch.tensor([0])).softmax(-1)[0, 1] > 0.95


def test_the_same_seed_is_equal_and_another_is_not():
    learned = []
    for seed in (1, 1, 2):
        with make_envs(Scripted([[0, TRUNCATED]] * N, "next_step"), N, 0) as envs:
            agent = agent_for(envs)
            agent.generator.manual_seed(seed)
            learn(agent, envs, 2 * T)
            learned.append(state_of(agent))
    assert learned[0] == learned[1]
    assert (
        learned[0]["/weights/ac.nets.actor.head.weight"]
        != learned[2]["/weights/ac.nets.actor.head.weight"]
    )


@pytest.mark.parametrize("mode", MODES)
def test_masked_actions_have_no_part_in_the_loss(mode):
    """The first step of a rollout, where the ratio is 1, against autograd on what is allowed."""
    changes = {
        "epochs": 1,
        "minibatch_size": T * N,
        "normalize_advantage": False,
        "entropy_cost": 0.1,
        "max_grad_norm": 1e9,
    }
    script = Scripted(random_ends(N, 30, seed=4), mode, masked=True)
    with make_envs(script, N, 0) as envs:
        agent, like = agent_for(envs, **changes), agent_for(envs, **changes)
        obs = envs.reset()
        for _ in range(T):
            action, _ = agent.act(obs, None, mask=envs.mask)
            step = envs.step(action)
            agent.memory.add(step)
            obs = step.next_obs
    (batch,) = agent.memory.batches()
    steps = next(copy.deepcopy(agent)._minibatches(batch))
    mask = torch.tensor([allowed(tuple(row)) for row in steps.obs.tolist()])
    assert not mask.all()
    logits = like.ac.nets.actor(torch.from_numpy(steps.obs)).masked_fill(~mask, -torch.inf)
    policy = Categorical(logits=logits)
    log_pi = policy.log_prob(torch.from_numpy(steps.action))
    torch.testing.assert_close(torch.from_numpy(steps.log_pi_old), log_pi, rtol=0, atol=1e-5)
    entropy = torch.stack(
        [Categorical(logits=row[ok]).entropy() for row, ok in zip(logits, mask, strict=True)]
    )
    like.ac.flat.grad.zero_()
    (-(torch.from_numpy(steps.A) * log_pi).mean() - 0.1 * entropy.mean()).backward()
    agent.update(batch)
    for p, q in zip(agent.ac.nets.actor.parameters(), like.ac.nets.actor.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)
