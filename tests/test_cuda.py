"""On a GPU: the same arithmetic, and whole runs. Skipped where there is none."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rlkit
from rlkit.agent import Setting
from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.agents.dqn import DQN, DQNRecipe
from rlkit.agents.ppo import PPO, PPORecipe
from rlkit.experience.step import Step

pytestmark = pytest.mark.cuda

OBS, ACTIONS = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)
RECIPES = {
    A2C: A2CRecipe(envs=4, n_steps=5, entropy_cost=0.01),
    PPO: PPORecipe(envs=4, n_steps=5, minibatch_size=8, value_clip=0.2, target_kl=1.0).but(
        {"normalize_obs": True, "normalize_reward": True}
    ),
    DQN: DQNRecipe(envs=4, learning_starts=40, train_every=20, gradient_steps=4, batch_size=16),
}


def learned(agent_type, device):
    """The weights after the same steps, with weights that started the same."""
    torch.manual_seed(0)
    setting = Setting(OBS, ACTIONS, 4, torch.device(device), seed=0)
    agent = agent_type(setting, RECIPES[agent_type])
    agent.memory.allocate()
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (4, 3)).astype(np.float32)
    for _ in range(40):
        next_obs = rng.uniform(-1, 1, (4, 3)).astype(np.float32)
        terminated = rng.random(4) < 0.1
        reward = rng.normal(size=4).astype(np.float32)
        action = rng.integers(2, size=4)
        never = np.zeros(4, dtype=bool)
        agent.memory.add(Step(obs, action, reward, terminated, never, ~never, next_obs))
        for batch in agent.memory.batches():
            agent.update(batch)
        obs = next_obs
    return torch.cat([p.detach().cpu().flatten() for p in agent.parameters()])


@pytest.mark.parametrize("agent_type", RECIPES)
def test_updates_agree_with_the_cpu(agent_type):
    torch.testing.assert_close(
        learned(agent_type, "cuda"), learned(agent_type, "cpu"), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("agent", ["a2c", "ppo", "dqn"])
def test_a_run_trains_resumes_and_plays(agent, tmp_path):
    options = {"device": "cuda", "run_dir": str(tmp_path), "eval_episodes": 2}
    done = rlkit.train(agent, "CartPole", {"steps": 2400}, options)
    assert done.agent.setting.device.type == "cuda"
    assert rlkit.resume(done.run, 4800).steps >= 4800
    assert rlkit.load(done.run, device="cuda").act(np.zeros(4)) in (0, 1)
    assert rlkit.load(done.run).act(np.zeros(4)) in (0, 1)
