"""Many seeds that learn at once: each as it would alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlkit.agents.ppo import PPORecipe, Steps
from rlkit.envs.make import make_envs
from rlkit.experience.rollout import RolloutBatch
from rlkit.footprint import member_bytes
from rlkit.population import Population
from rlkit.training import build
from rlkit.training.options import RunOptions

CPU = torch.device("cpu")
RECIPES = {
    "CartPole-v1": PPORecipe(envs=2, n_steps=6, minibatch_size=4, epochs=2, entropy_cost=0.01),
    "MountainCar-v0": PPORecipe(
        envs=2, n_steps=6, minibatch_size=4, epochs=2, value_clip=0.2, optimizer="rmsprop"
    ).but({"normalize_obs": True, "normalize_reward": True}),
    "catch": PPORecipe(envs=2, n_steps=4, minibatch_size=4, epochs=1, hidden=(8,)),
    "FrozenLake-v1": PPORecipe(envs=2, n_steps=6, minibatch_size=4, epochs=2, hidden=(8,)),
}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def population(env="CartPole-v1", seeds=3, recipe=None):
    recipe = RECIPES[env] if recipe is None else recipe
    agent_type, agents = build.agent_class("ppo"), []
    for seed in range(seeds):
        with make_envs(env, recipe.envs, seed) as envs:
            agents.append(build.make_agent(agent_type, recipe, envs, RunOptions(seed=seed)))
            agents[-1].memory.allocate()
    envs = make_envs(env, recipe.envs * seeds, 0, "device", device=CPU)
    envs.reset()
    return Population(agents, envs)


def record(found):
    """Have the population's rollouts and minibatches be noted down in two lists."""
    rollouts, minibatches = [], []
    roll, draw = found._rollout, found._minibatches

    def rollout():
        rollouts.append(roll())
        return rollouts[-1]

    def drawn():
        minibatches.append(draw())
        return minibatches[-1]

    found._rollout, found._minibatches = rollout, drawn
    return rollouts, minibatches


def batch_of(rollout, i):
    """The i-th member's rollout, as its own memory would hand it out."""

    def own(name):
        return rollout[name][:, i].numpy()

    names = "action", "reward", "terminated", "truncated", "valid"
    return RolloutBatch(obs=own("obs"), **{name: own(name) for name in names})


@pytest.mark.parametrize("env", RECIPES)
def test_each_member_learns_what_it_would_alone(env):
    """Its own PPO, given the same rollouts and the same minibatches, gets the same weights."""
    found, alone = population(env), population(env).agents
    rollouts, minibatches = record(found)
    for progress in (0.0, 0.5, 0.75):
        found.iterate(progress)
    found.store()
    epochs = found.recipe.epochs
    for i, agent in enumerate(alone):
        for k, progress in enumerate((0.0, 0.5, 0.75)):
            agent.clock.progress = progress
            batch, index = batch_of(rollouts[k][0], i), []
            for parts in minibatches[k * epochs : (k + 1) * epochs]:
                index += [part[i] for part in parts]
            agent._minibatches = lambda batch, agent=agent, index=index: own_steps(
                agent, batch, index
            )
            agent.update(batch)
        mine = found.agents[i]
        torch.testing.assert_close(mine.ac.flat.values, agent.ac.flat.values, rtol=2e-4, atol=2e-6)
        for name, value in agent.ac.optimizer.get_state().items():
            torch.testing.assert_close(
                torch.as_tensor(mine.ac.optimizer.get_state()[name]),
                torch.as_tensor(value),
                rtol=2e-3,
                atol=1e-6,
            )
        for ours, theirs in zip(mine.buffers(), agent.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs)
        assert mine.ac.reward_scaler.scale == pytest.approx(agent.ac.reward_scaler.scale)


def own_steps(agent, batch, index):
    """Minibatches of the rows (t, env) that the population took, without the dead ones."""
    ac = agent.ac
    obs = ac.normalizer.forward(batch.obs)
    head, v = ac.nets.infer(obs)
    A = ac.advantages(batch, v)
    log_pi, _, _ = ac.policy.vjp(head[:-1], batch.action)
    columns = obs[:-1], batch.action, log_pi, A, A + v[:-1], v[:-1]
    rows = [column.reshape(-1, *column.shape[2:]) for column in columns]
    valid = batch.valid.reshape(-1)
    for part in index:
        part = part.numpy()
        part = part[valid[part]]
        o, a, log_pi, advantage, G, value = (row[part] for row in rows)
        yield Steps(o, a, None, log_pi, advantage, G, value)


def test_members_see_their_own_environments_and_their_own_minibatches():
    found = population()
    rollouts, minibatches = record(found)
    found.iterate(0.0)
    obs = rollouts[0][0]["obs"]  # (T + 1, P, N, 4)
    starts = {tuple(row) for row in obs[0].reshape(-1, 4).tolist()}
    assert len(starts) == found.P * found.N
    for epoch in minibatches:
        joined = torch.cat(epoch, 1)
        assert joined.sort(1).values.tolist() == [[*range(found.K)]] * found.P
        assert len({tuple(row) for row in joined.tolist()}) == found.P


def test_returns_and_lengths_are_those_of_whole_episodes():
    found = population(recipe=PPORecipe(envs=2, n_steps=400, minibatch_size=400, epochs=1))
    rollouts, _ = record(found)
    found.iterate(0.0)
    rows = rollouts[0][0]
    ended = (rows["terminated"] | rows["truncated"]).numpy()
    for i in range(found.P):
        lengths = []
        for n in range(found.N):
            ends = np.flatnonzero(ended[:, i, n])
            lengths += np.diff(ends, prepend=-2)[: len(ends)].tolist()  # a dead step between them
        lengths = [length - 1 for length in lengths]
        count, returns, total = found.stats[:, i].tolist()
        assert (count, total) == (len(lengths), sum(lengths))
        assert returns == total  # CartPole pays 1 a step


def test_who_fails_does_not_take_the_others_along():
    found, without = population(), population()
    found._stacked[0].data[1] = float("nan")
    for each in (found, without):
        each.iterate(0.0)
    assert found.alive.tolist() == [True, False, True]
    assert without.alive.all()
    for ours, theirs in zip(found._stacked, without._stacked, strict=True):
        assert torch.isfinite(ours[[0, 2]]).all()
        assert torch.isfinite(theirs).all()


def test_it_goes_on_from_what_the_agents_hold():
    first = population("MountainCar-v0")
    first.iterate(0.0)
    first.store()
    again = Population(first.agents, first.envs)
    assert torch.equal(again.flat.values, first.flat.values)
    for name, value in first.optimizer.get_state().items():
        assert torch.equal(
            torch.as_tensor(value), torch.as_tensor(again.optimizer.get_state()[name])
        )
    for name in ("mean", "var", "count"):
        for ours, theirs in (
            (again.obs_moments, first.obs_moments),
            (again.return_moments, first.return_moments),
        ):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


LARGE = {  # most of it rollouts, minibatches' activations, weights
    "rollouts": {"envs": 2048, "n_steps": 64, "minibatch_size": 2048, "epochs": 1},
    "normalised": {
        "envs": 2048,
        "n_steps": 64,
        "minibatch_size": 2048,
        "epochs": 1,
        "normalize_obs": True,
        "normalize_reward": True,
    },
    "minibatches": {"envs": 64, "n_steps": 128, "minibatch_size": 8192, "epochs": 1},
    "weights": {"envs": 2, "n_steps": 4, "minibatch_size": 8, "epochs": 1, "hidden": (768, 768)},
}


def print_memory():
    """For each, the estimate for 4 members, and what a process grows by as it trains them."""
    import resource

    torch.set_num_threads(1)
    for changes in LARGE.values():
        if os.fork():
            os.wait()
            continue
        population().iterate(0.0)  # has the libraries' pages, too
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        found = population(seeds=4, recipe=PPORecipe().but(changes))
        found.iterate(0.0)
        told = member_bytes(found.agents[0], found.envs.obs, found.envs.mask)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(4 * (told + found.N * found.envs.bytes_each), most - before, flush=True)
        os._exit(0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the size is told in other units")
def test_memory_is_estimated_as_what_it_takes():
    # what is freed goes back at once, so that the process is no larger than what it holds
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", "import test_population; test_population.print_memory()"],
        cwd=Path(__file__).parent,
        env={**os.environ, **at_once},
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    found = [[*map(int, line.split())] for line in done.stdout.splitlines()]
    assert len(found) == len(LARGE)
    for told, grown in found:
        assert grown > 40e6
        assert 0.85 * grown < told < 1.6 * grown
