"""tianshou 2.0.

A2C at stable-baselines3's defaults, for throughput. What it does besides: it evaluates the critic
over observations and next observations before each update, and takes the networks' default
initialisation.

PPO and DQN as tianshou's own examples train CartPole (test/discrete/test_ppo_discrete.py, where one
network carries both heads; examples/discrete/discrete_dqn.py), for the time until solved; the
examples' own tests of the policy are replaced by the probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch._dynamo  # which constructing an optimiser imports: it counts as import
from tianshou.algorithm.modelfree.a2c import A2C
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.ppo import PPO
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory, RMSpropOptimizerFactory
from tianshou.data import Collector, CollectStats, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams, OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from torch.distributions import Categorical

from libraries import CASES, ENV, Probe, Probes, Trained, timed

torch.set_num_threads(1)

OBS_SHAPE, ACTIONS = (4,), 2


@dataclass(frozen=True)
class Setup:
    """What run_training needs, built for one agent."""

    algorithm: Any
    greedy: torch.nn.Module  # its first output's largest entry is the greedy action
    params: type[OnPolicyTrainerParams] | type[OffPolicyTrainerParams]
    options: dict[str, Any]
    buffer_size: int
    envs: int
    explores: bool  # whether the collector adds exploration noise


def _net(hidden: Sequence[int], activation: Any, outputs: int = 0) -> Net:
    return Net(
        state_shape=OBS_SHAPE, action_shape=outputs, hidden_sizes=hidden, activation=activation
    )


def _a2c(envs: int) -> Setup:
    actor = DiscreteActor(
        preprocess_net=_net((64, 64), torch.nn.Tanh), action_shape=ACTIONS, softmax_output=False
    )
    algorithm = A2C(
        policy=DiscreteActorPolicy(
            actor=actor,
            dist_fn=lambda logits: Categorical(logits=logits),
            action_space=gym.spaces.Discrete(ACTIONS),
        ),
        critic=DiscreteCritic(preprocess_net=_net((64, 64), torch.nn.Tanh)),
        optim=RMSpropOptimizerFactory(lr=7e-4, alpha=0.99, eps=1e-5),
        vf_coef=0.5,
        ent_coef=0.0,
        max_grad_norm=0.5,
        gae_lambda=1.0,
        gamma=0.99,
    )
    options = {
        "collection_step_num_env_steps": 5 * envs,
        "batch_size": None,  # the whole rollout
        "update_step_num_repetitions": 1,
    }
    return Setup(algorithm, actor, OnPolicyTrainerParams, options, 50 * envs, envs, False)


def _ppo() -> Setup:
    net = _net((64, 64), torch.nn.ReLU)
    actor = DiscreteActor(preprocess_net=net, action_shape=ACTIONS)
    critic = DiscreteCritic(preprocess_net=net)
    for layer in (*actor.modules(), *critic.last.modules()):
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.orthogonal_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    algorithm = PPO(
        policy=DiscreteActorPolicy(
            actor=actor,
            dist_fn=Categorical,
            action_space=gym.spaces.Discrete(ACTIONS),
            deterministic_eval=True,
        ),
        critic=critic,
        optim=AdamOptimizerFactory(lr=3e-4),
        gamma=0.99,
        max_grad_norm=0.5,
        eps_clip=0.2,
        vf_coef=0.5,
        ent_coef=0.0,
        gae_lambda=0.95,
        advantage_normalization=False,
    )
    options = {
        "collection_step_num_env_steps": 2000,
        "batch_size": 64,
        "update_step_num_repetitions": 10,
    }
    return Setup(algorithm, actor, OnPolicyTrainerParams, options, 20_000, 20, False)


def _dqn() -> Setup:
    net = _net((128, 128, 128), torch.nn.ReLU, ACTIONS)
    algorithm = DQN(
        policy=DiscreteQLearningPolicy(
            model=net,
            action_space=gym.spaces.Discrete(ACTIONS),
            eps_training=0.1,
            eps_inference=0.05,
        ),
        optim=AdamOptimizerFactory(lr=1e-3),
        gamma=0.9,
        n_step_return_horizon=3,
        target_update_freq=320,
    )
    options = {
        "collection_step_num_env_steps": 10,
        "batch_size": 64,
        "update_step_num_gradient_steps_per_sample": 0.1,
    }
    return Setup(algorithm, net, OffPolicyTrainerParams, options, 20_000, 10, True)


EXAMPLE_STEPS = {"ppo": 500_000, "dqn": 100_000}


def train(case: str, steps: int, seed: int, every: int = 0, probe: Probe | None = None) -> Trained:
    assert CASES[case].agent == "a2c"
    torch.manual_seed(seed)
    return _train(_a2c(CASES[case].envs), steps, seed, every, probe)


def train_tuned(agent: str, steps: int, seed: int, every: int, probe: Probe) -> Trained:
    """Train with an example's settings, for its number of steps or `steps` where it isn't 0."""
    torch.manual_seed(seed)
    setup = {"ppo": _ppo, "dqn": _dqn}[agent]()
    return _train(setup, steps or EXAMPLE_STEPS[agent], seed, every, probe)


def _train(setup: Setup, steps: int, seed: int, every: int, probe: Probe | None) -> Trained:
    np.random.seed(seed)  # noqa: NPY002 (tianshou draws from it)
    envs = DummyVectorEnv([lambda: gym.make(ENV) for _ in range(setup.envs)])
    envs.seed(seed)
    collector = Collector[CollectStats](
        setup.algorithm,
        envs,
        VectorReplayBuffer(setup.buffer_size, setup.envs),
        exploration_noise=setup.explores,
    )

    @torch.no_grad()
    def act(obs: np.ndarray) -> np.ndarray:
        return np.asarray(setup.greedy(obs)[0].argmax(-1))

    probes = Probes(every, probe, act)
    params = setup.params(
        training_collector=collector,
        max_epochs=1,
        epoch_num_steps=steps,
        training_fn=lambda epoch, env_step: probes.at(env_step),
        show_progress=False,
        verbose=False,
        **setup.options,
    )
    seconds = timed(lambda: setup.algorithm.run_training(params))
    return Trained(collector.collect_step, seconds)
