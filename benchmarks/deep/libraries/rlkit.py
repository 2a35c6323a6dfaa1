"""rlkit, through its public API.

It writes metrics, TensorBoard events and checkpoints meanwhile (at the equal settings one, at the
end); the peers write nothing. Its environments are those that it makes by default.
"""

from __future__ import annotations

import tempfile
from typing import Any
from unittest import mock

import numpy as np

import rlkit
from libraries import CASES, ENV, Act, Probe, Trained
from rlkit.run.metrics import METRICS, read_metrics
from rlkit.training.trainer import Trainer

NEVER = 10**12  # steps

_NETS: dict[str, Any] = {"value_cost": 0.5, "entropy_cost": 0, "max_grad_norm": 0.5}
_NETS |= {"hidden": (64, 64), "activation": "tanh", "optimizer_eps": 1e-5}

EQUAL: dict[str, dict[str, Any]] = {  # by agent
    # stable-baselines3's defaults
    "a2c": _NETS
    | {
        "n_steps": 5,
        "gamma": 0.99,
        "gae_lambda": 1.0,
        "learning_rate": "7e-4",
        "optimizer": "rmsprop",
        "normalize_advantage": False,
    },
    # RL Zoo's settings for CartPole
    "ppo": _NETS
    | {
        "n_steps": 32,
        "minibatch_size": 256,
        "epochs": 20,
        "gamma": 0.98,
        "gae_lambda": 0.8,
        "learning_rate": "1e-3:0",
        "clip": "0.2:0",
        "optimizer": "adam",
        "normalize_advantage": True,
    },
    # RL Zoo's settings for CartPole. There the target net is copied every 10 environment steps, so
    # it follows at every burst of 128 updates.
    "dqn": {
        "gamma": 0.99,
        "learning_rate": "2.3e-3",
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1000,
        "train_every": 256,
        "gradient_steps": 128,
        "target_interval": 128,
        "n_step": 1,
        "double": False,
        "values": "mean",
        "normalize_obs": False,
        "exploration": "1:0.04@0.16",
        "max_grad_norm": 10.0,
        "hidden": (256, 256),
        "activation": "relu",
    },
    # sb3-contrib's defaults, with one LSTM for both; here the layers of 64 stand before it
    "recurrent": _NETS
    | {
        "n_steps": 128,
        "minibatch_size": 128,
        "epochs": 10,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "learning_rate": "3e-4",
        "clip": "0.2",
        "core": "lstm",
        "core_width": 256,
    },
    # RL Zoo's settings for Atari, with stable-baselines3's network
    "pong": _NETS
    | {
        "n_steps": 128,
        "minibatch_size": 256,
        "epochs": 4,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "learning_rate": "2.5e-4:0",
        "clip": "0.1:0",
        "entropy_cost": 0.01,
        "hidden": (512,),
        "activation": "relu",
    },
}
AGENTS = {"recurrent": "ppo", "pong": "ppo"}  # the others are called as they are


def train(case: str, steps: int, seed: int, every: int = 0, probe: Probe | None = None) -> Trained:
    """Train at settings equal to the peers'."""
    about = CASES[case]
    changes = EQUAL[about.agent] | {"envs": about.envs, "steps": steps}
    agent = AGENTS.get(about.agent, about.agent)
    how = {"seed": seed, "save_every": steps}
    return _train(agent, about.env, changes, how, every, probe)


def train_tuned(agent: str, steps: int, seed: int, every: int, probe: Probe) -> Trained:
    """Train with the recipe tuned for CartPole; `steps` 0: as many as the recipe has."""
    return _train(agent, ENV, {"steps": steps} if steps else {}, {"seed": seed}, every, probe)


def _train(
    agent: str,
    env: str,
    changes: dict[str, Any],
    options: dict[str, int],
    every: int,
    probe: Probe | None,
) -> Trained:
    def evaluate_now(trainer: Trainer) -> None:
        assert trainer.envs.autoreset == "next_step"  # as the count of dead steps takes it
        if probe is not None:
            probe(trainer.steps, _greedy(trainer))

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(Trainer, "evaluate_now", evaluate_now),  # the probe in its place
    ):
        how = options | {"run_dir": folder, "device": "cpu", "eval_every": every or NEVER}
        done = rlkit.train(agent, env, changes, how)
        resets = sum("episode/return" in line for line in read_metrics(done.run / METRICS))
    # The step after an episode's last one only resets its environment.
    return Trained(done.steps - resets, done.seconds)


def _greedy(trainer: Trainer) -> Act:
    def act(obs: np.ndarray) -> np.ndarray:
        return np.asarray(trainer.agent.act(obs, None, explore=False)[0])

    return act
