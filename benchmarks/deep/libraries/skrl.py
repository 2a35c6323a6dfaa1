"""skrl 2.1: A2C at stable-baselines3's defaults.

What can't be matched: skrl always normalises advantages, weighs the critic's loss by 1 and lets the
critic judge every step while it acts. Its Adam is replaced by RMSprop. Its environments are
Gymnasium's native vector CartPole, whose dead reset steps it learns from like from any other; they
are not counted.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch._dynamo  # which constructing an optimiser imports: it counts as import
from skrl.agents.torch.a2c import A2C, A2C_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer, SequentialTrainerCfg
from torch import nn

from libraries import CASES, ENV, Probe, Trained, timed

torch.set_num_threads(1)


class Actor(CategoricalMixin, Model):  # type: ignore[misc] # skrl has no types
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        CategoricalMixin.__init__(self)
        self.net = _mlp(2)

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


class Critic(DeterministicMixin, Model):  # type: ignore[misc]
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.net = _mlp(1)

    def compute(self, inputs: dict[str, Any], role: str) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.net(inputs["observations"]), {}


def _mlp(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    )


class CountEpisodes(gym.vector.VectorWrapper):
    """Counts the episodes that ended, each of which a dead step follows."""

    ended = 0

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        step = self.env.step(actions)
        self.ended += int(np.count_nonzero(step[2] | step[3]))
        return step


def train(case: str, steps: int, seed: int, every: int = 0, probe: Probe | None = None) -> Trained:
    assert CASES[case].agent == "a2c"
    assert probe is None
    torch.manual_seed(seed)
    n = CASES[case].envs
    episodes = CountEpisodes(gym.make_vec(ENV, n, vectorization_mode="vector_entry_point"))
    env = wrap_env(episodes, verbose=False)
    spaces = {
        "observation_space": env.observation_space,
        "action_space": env.action_space,
        "device": "cpu",
    }
    models: dict[str, Any] = {"policy": Actor(**spaces), "value": Critic(**spaces)}
    config = A2C_CFG(
        rollouts=5,
        mini_batches=1,
        discount_factor=0.99,
        gae_lambda=1.0,
        grad_norm_clip=0.5,
        entropy_loss_scale=0.0,
    )
    config.experiment.write_interval = config.experiment.checkpoint_interval = 0
    memory = RandomMemory(memory_size=5, num_envs=n, device="cpu")
    agent = A2C(models=models, memory=memory, cfg=config, **spaces)
    weights = [*models["policy"].parameters(), *models["value"].parameters()]
    agent.optimizer = torch.optim.RMSprop(weights, lr=7e-4, alpha=0.99, eps=1e-5)
    how_far = SequentialTrainerCfg(
        timesteps=steps // n,
        headless=True,
        disable_progressbar=True,
        close_environment_at_exit=False,
    )
    trainer = SequentialTrainer(env=env, agents=agent, cfg=how_far)
    seconds = timed(trainer.train)
    return Trained(steps // n * n - episodes.ended, seconds)
