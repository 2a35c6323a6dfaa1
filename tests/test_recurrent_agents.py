"""Actor-critics with a memory: what is acted on is what is learned from, episode by episode."""

import copy
import json

import numpy as np
import pytest
import torch
from scripted_envs import MODES, Scripted, random_ends

import rlkit
from rlkit.agent import Setting
from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.agents.ppo import PPO, PPORecipe
from rlkit.carry import renewed
from rlkit.envs.make import make_envs
from rlkit.errors import CheckpointError, UsageError

T, N = 7, 5
CPU = torch.device("cpu")
CORES = ["rnn", "gru", "lstm", "gtrxl"]
ON_POLICY = [(A2C, A2CRecipe), (PPO, PPORecipe)]


def agent_for(agent_type, recipe_type, envs, **changes):
    torch.manual_seed(0)
    setting = Setting(envs.obs_space, envs.action_space, envs.n, CPU, seed=1)
    recipe = recipe_type(envs=envs.n, n_steps=T, hidden=(8,), core="gru", core_width=8)
    agent = agent_type(setting, recipe.but(changes))
    if agent.ac.nets.has_core:
        agent.ac.nets.policy.weight.data.mul_(50)  # so that the heads differ from step to step
    agent.memory.allocate()
    return agent


def rollouts(agent, envs, count):
    """Collect `count` rollouts as the trainer does; (batch, heads and carries acted on) of each."""
    obs, carry, heads, carries = envs.reset(), agent.initial_carry(envs.n), [], []
    for _ in range(count * T):
        carries.append(carry)
        heads.append(torch.from_numpy(agent.ac.nets.act(obs, carry)[0].copy()))
        action, after = agent.act(obs, carry, mask=envs.mask)
        step = envs.step(action)
        step.carry = carry
        carry = renewed(after, torch.from_numpy(step.begins))
        agent.memory.add(step)
        obs = step.next_obs
        for batch in agent.memory.batches():
            yield batch, torch.stack(heads[-T:])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("core", CORES)
def test_the_rollout_gives_what_was_acted_on(core, mode):
    script = Scripted(random_ends(N, 30, seed=4), mode)
    with make_envs(script, N, 0) as envs:
        agent = agent_for(A2C, A2CRecipe, envs, core=core)
        for batch, acted in rollouts(agent, envs, 4):
            head, _, _ = agent.ac.nets.evaluate(batch.obs, batch.carry, batch.reset, heads=T)
            valid = torch.from_numpy(batch.valid)
            torch.testing.assert_close(torch.from_numpy(head)[valid], acted[valid])
            assert acted.std(0).max() > 1e-2
            resets = batch.reset[1:]
            ended = batch.terminated | batch.truncated
            assert np.array_equal(resets, ended if mode == "same_step" else ~batch.valid)
            agent.ac.flat.values.add_(0.01)  # the next rollout begins in the middle of episodes


def history(script, env, episode):
    """The observations of an episode, and the last one, as the script knows them."""
    steps = [x for x in script.log[env] if x.episode == episode]
    return [x.obs for x in steps] + [steps[-1].next_obs]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("core", ["gru", "lstm", "gtrxl"])
def test_values_of_whole_episodes_one_by_one(core, mode):
    """Each step's and each final observation's value, with nothing but its own episode before."""
    script = Scripted(random_ends(N, 30, seed=4), mode)
    with make_envs(script, N, 0) as envs:
        agent = agent_for(A2C, A2CRecipe, envs, core=core)
        nets = agent.ac.nets

        def values(env, episode):
            obs = np.array(history(script, env, episode), np.float32)[:, None]
            reset = np.zeros((len(obs), 1), np.bool_)
            return nets.infer(obs, nets.initial_carry(1), reset)[1][:, 0]

        checked, row = 0, 0
        for batch, _ in rollouts(agent, envs, 4):
            _, v = nets.infer(batch.obs, batch.carry, batch.reset)
            v_next = batch.next_values(v, lambda o, batch=batch: agent.ac._final_values(batch, o))
            for env in range(N):
                for x in script.log[env]:
                    if row <= x.row < row + T:
                        whole = values(env, x.episode)
                        age = [y.row for y in script.log[env] if y.episode == x.episode]
                        at = age.index(x.row)
                        assert v[x.row - row, env] == pytest.approx(whole[at], abs=1e-5)
                        assert v_next[x.row - row, env] == pytest.approx(whole[at + 1], abs=1e-5)
                        checked += 1
            row += T
        assert checked > 90


class Loop(torch.nn.Module):
    """The same network in float64, one episode's step after the other."""

    def __init__(self, nets):
        super().__init__()
        nets = copy.deepcopy(nets).double()
        self.features, self.policy, self.values = nets.features, nets.policy, nets.values
        self.cell = torch.nn.GRUCell(8, 8).double()
        self.cell.load_state_dict(nets.features.core.cells[0].state_dict())

    def forward(self, obs, h, reset):
        heads, values = [], []
        for t in range(len(obs)):
            h = self.cell(self.features.encoder.mlp(obs[t]), h * ~reset[t][:, None])
            heads.append(self.policy(h))
            values.append(self.values(h)[:, 0])
        return torch.stack(heads), torch.stack(values)


def quicken(agent):
    """Have what is seen change the memory much at once, so that gradients pass through it."""
    (cell,) = agent.ac.nets.features.core.cells
    with torch.no_grad():
        cell.weight_ih.mul_(4)
        cell.bias_ih.zero_()


def tensors(batch):
    names = ("obs", "action", "reward", "terminated", "truncated", "valid", "reset")
    return [torch.from_numpy(getattr(batch, name).copy()) for name in names]


def gae(r, v, terminated, truncated, gamma, lam):
    """By the definition, for NEXT_STEP: v (T + 1, N)."""
    A, last = torch.zeros_like(v[:-1]), 0
    for t in reversed(range(len(A))):
        delta = r[t] + gamma * v[t + 1] * ~terminated[t] - v[t]
        last = delta + gamma * lam * last * ~(terminated[t] | truncated[t])
        A[t] = last
    return A


def test_a2cs_gradient_through_time():
    script = Scripted(random_ends(N, 30, seed=4), "next_step")
    with make_envs(script, N, 0) as envs:
        recipe = {"entropy_cost": "0.05", "max_grad_norm": 1e9, "gae_lambda": 0.9}
        agent = agent_for(A2C, A2CRecipe, envs, **recipe)
        quicken(agent)
        for batch, _ in rollouts(agent, envs, 3):
            loop = Loop(agent.ac.nets)
            obs, action, reward, terminated, truncated, valid, reset = tensors(batch)
            (h,) = batch.carry
            head, v = loop(obs.double(), h[:, 0].double(), reset)
            A = gae(reward.double(), v.detach(), terminated, truncated, 0.99, 0.9)
            G, A = (A + v[:-1].detach())[valid], A[valid]
            pi = torch.distributions.Categorical(logits=head[:-1][valid])
            loss = -(pi.log_prob(action[valid]) * A).mean() - 0.05 * pi.entropy().mean()
            (loss + 0.5 * ((v[:-1][valid] - G) ** 2).mean()).backward()
            agent.update(batch)
            assert_gradients(agent, loop)


def test_ppos_gradient_through_time():
    script = Scripted(random_ends(N, 30, seed=4), "next_step")
    with make_envs(script, N, 0) as envs:
        recipe = {"epochs": 1, "minibatch_size": 10**6, "max_grad_norm": 1e9, "entropy_cost": "0.1"}
        agent = agent_for(PPO, PPORecipe, envs, **recipe)
        quicken(agent)
        for batch, _ in rollouts(agent, envs, 3):
            loop = Loop(agent.ac.nets)
            obs, action, reward, terminated, truncated, valid, reset = tensors(batch)
            (h,) = batch.carry
            head, v = loop(obs.double(), h[:, 0].double(), reset)
            A = gae(reward.double(), v.detach(), terminated, truncated, 0.99, 0.95)
            G, A = (A + v[:-1].detach())[valid], A[valid]
            A = (A - A.mean()) / (A.std(correction=0) + 1e-8)
            pi = torch.distributions.Categorical(logits=head[:-1][valid])
            # in the first minibatch ρ = 1, and its gradient is that of log π
            loss = -(pi.log_prob(action[valid]) * A).mean() - 0.1 * pi.entropy().mean()
            (loss + 0.5 * ((v[:-1][valid] - G) ** 2).mean()).backward()
            agent.update(batch)
            assert_gradients(agent, loop)


def assert_gradients(agent, loop):
    nets = agent.ac.nets
    pairs = [(nets.features.core.cells[0], loop.cell), (nets.policy, loop.policy)]
    pairs.append((nets.features.encoder, loop.features.encoder))
    for module, other in pairs:
        for p, q in zip(module.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-3, atol=1e-6)
    assert pairs[0][1].weight_hh.grad.abs().max() > 1e-3


def test_ppos_minibatches_hold_each_live_step_once_an_epoch():
    script = Scripted(random_ends(N, 30, seed=4), "next_step")
    with make_envs(script, N, 0) as envs:
        agent = agent_for(PPO, PPORecipe, envs, epochs=3, minibatch_size=2 * T)
        for batch, _ in rollouts(agent, envs, 2):
            parts = list(agent._minibatches(batch))
            assert len(parts) == 3 * 2  # of two or three environments
            seen = np.concatenate([part.obs[part.valid] for part in parts])
            live = np.concatenate([batch.obs[:-1][batch.valid]] * 3)
            assert np.array_equal(np.sort(seen, axis=0), np.sort(live, axis=0))
            for part in parts:
                head, _, _ = agent.ac.nets.evaluate(
                    part.obs, part.carry, part.reset, valid=part.valid
                )
                log_pi, _, _ = agent.ac.policy.vjp(head, part.action)
                assert log_pi == pytest.approx(part.log_pi_old, abs=1e-5)


def test_a_memory_and_networks_apart_are_refused():
    with make_envs("CartPole", 1, 0) as envs, pytest.raises(UsageError, match=r"shared .*is no"):
        agent_for(A2C, A2CRecipe, envs, shared="no")


@pytest.mark.parametrize("agent", ["a2c", "ppo", "r2d2"])
def test_a_memory_that_sees_the_future_is_refused_with_the_reason(agent):
    with pytest.raises(UsageError, match=r"bidirectional-gru', which sees the future.*allowed: "):
        rlkit.train(agent, "CartPole", {"core": "bidirectional-gru"})


def test_weights_of_another_core_are_named(tmp_path):
    options = {"run_dir": str(tmp_path), "eval_episodes": 2}
    run = rlkit.train("a2c", "CartPole", OPTIONS | {"steps": 160}, options).run
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["core"] = "lstm"
    (run / "config.json").write_text(json.dumps(config))
    for use in (rlkit.load, rlkit.resume):
        with pytest.raises(CheckpointError, match=r"config.json describes .*core") as said:
            use(run, **({"steps": 320} if use is rlkit.resume else {}))
        assert "\n" not in str(said.value)


@pytest.mark.parametrize("shared", ["yes", "no"])
def test_networks_are_shared_where_it_is_asked(shared):
    with make_envs("CartPole", 2, 0) as envs:
        agent = agent_for(A2C, A2CRecipe, envs, core="none", shared=shared)
        encoders = [n for n, _ in agent.named_modules() if n.endswith("encoder")]
        assert len(encoders) == (1 if shared == "yes" else 2)


OPTIONS = {"core": "gru", "core_width": 8, "hidden": (8,), "envs": 2, "n_steps": 8}


def test_a_policy_remembers_and_forgets(tmp_path):
    options = {"run_dir": str(tmp_path), "eval_episodes": 2}
    trained = rlkit.train("a2c", "CartPole", OPTIONS | {"steps": 160}, options)
    policy = rlkit.load(trained.run)
    obs = np.random.default_rng(0).uniform(-0.4, 0.4, (6, 3, 4)).astype(np.float32)
    nets = policy.agent.ac.nets
    reset = np.zeros((6, 3), np.bool_)
    reset[4] = [True, False, True]
    head, _ = nets.infer(obs, nets.initial_carry(3), reset)
    found = []
    for t in range(6):
        if t == 4:
            policy.reset(reset[4])
        found.append(policy.act(obs[t]))
    assert np.array_equal(np.array(found), head.argmax(-1))
    with pytest.raises(UsageError, match=r"2 observations .* remembers 3 .*reset\(\)"):
        policy.act(obs[0, :2])
    with pytest.raises(UsageError, match="allowed: 3 bools"):
        policy.reset([True])
    policy.reset()
    assert policy.act(obs[0, :2]).shape == (2,)
