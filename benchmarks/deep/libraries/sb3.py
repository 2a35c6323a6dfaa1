"""stable-baselines3 2.9, with RL Zoo's settings: those of A2C on CartPole are SB3's defaults.

Recurrent PPO is sb3-contrib's, at its defaults but for one LSTM that actor and critic share, as
rlkit has it (there the critic's loss stops before it). Pong is made by SB3's `make_atari_env`, with
sticky actions as rlkit's, and without episodic life and clipped rewards, as Pong needs neither.
"""

from __future__ import annotations

from typing import Any

import ale_py
import gymnasium
import numpy as np
import stable_baselines3
import torch
import torch._dynamo  # which constructing an optimiser imports: it counts as import
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

from libraries import CASES, Probe, Probes, Trained, timed

torch.set_num_threads(1)
gymnasium.register_envs(ale_py)

CLASSES: dict[str, Any] = {
    "a2c": stable_baselines3.A2C,
    "ppo": stable_baselines3.PPO,
    "dqn": stable_baselines3.DQN,
    "recurrent": RecurrentPPO,
    "pong": stable_baselines3.PPO,
}
POLICIES = {"recurrent": "MlpLstmPolicy", "pong": "CnnPolicy"}  # the others: MlpPolicy
SETTINGS: dict[str, dict[str, Any]] = {
    "a2c": {},
    "ppo": {
        "n_steps": 32,
        "batch_size": 256,
        "n_epochs": 20,
        "gamma": 0.98,
        "gae_lambda": 0.8,
        "learning_rate": lambda left: 1e-3 * left,  # the share of the training that is left
        "clip_range": lambda left: 0.2 * left,
    },
    "dqn": {
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
        "policy_kwargs": {"net_arch": [256, 256]},
    },
    "recurrent": {"policy_kwargs": {"shared_lstm": True, "enable_critic_lstm": False}},
    "pong": {
        "n_steps": 128,
        "batch_size": 256,
        "n_epochs": 4,
        "learning_rate": lambda left: 2.5e-4 * left,
        "clip_range": lambda left: 0.1 * left,
        "ent_coef": 0.01,
    },
}
ZOO_STEPS = {"a2c": 500_000, "ppo": 100_000, "dqn": 50_000}


def build(case: str, seed: int) -> BaseAlgorithm:
    """The agent with its environments, which step one after the other (DummyVecEnv)."""
    agent, envs, name = CASES[case].agent, CASES[case].envs, CASES[case].env
    if agent == "pong":
        how = {"terminal_on_life_loss": False, "clip_reward": False}
        env: Any = VecFrameStack(make_atari_env(name, envs, seed, wrapper_kwargs=how), 4)
    else:
        env = make_vec_env(name, envs, seed=seed)
    model: BaseAlgorithm = CLASSES[agent](
        POLICIES.get(agent, "MlpPolicy"), env, seed=seed, device="cpu", **SETTINGS[agent]
    )
    return model


def train(case: str, steps: int, seed: int, every: int = 0, probe: Probe | None = None) -> Trained:
    model = build(case, seed)
    callback = _Callback(every, probe) if probe else None
    seconds = timed(lambda: model.learn(steps, callback))
    return Trained(model.num_timesteps, seconds)


def train_tuned(agent: str, steps: int, seed: int, every: int, probe: Probe) -> Trained:
    """Train for RL Zoo's number of steps, or `steps` where it isn't 0."""
    return train(agent, steps or ZOO_STEPS[agent], seed, every, probe)


class _Callback(BaseCallback):
    def __init__(self, every: int, probe: Probe) -> None:
        super().__init__()
        self.probes = Probes(every, probe, self._act)

    def _act(self, obs: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.predict(obs, deterministic=True)[0])

    def _on_step(self) -> bool:
        self.probes.at(self.num_timesteps)
        return True
