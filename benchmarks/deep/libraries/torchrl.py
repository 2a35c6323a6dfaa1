"""torchrl 0.14: A2C at stable-baselines3's defaults, from its parts, as its own A2C example does.

What can't be matched: through torchrl's GymEnv CartPole steps one environment at a time (SerialEnv;
with `num_envs` it would start processes). The critic is evaluated over observations and next
observations before each update.
"""

from __future__ import annotations

import torch
import torch._dynamo  # which constructing an optimiser imports: it counts as import
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.envs import GymEnv, SerialEnv
from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
from torchrl.objectives import A2CLoss
from torchrl.objectives.value import GAE

from libraries import CASES, ENV, Probe, Trained, timed

torch.set_num_threads(1)


def _mlp(outputs: int) -> MLP:
    return MLP(in_features=4, out_features=outputs, num_cells=[64, 64], activation_class=nn.Tanh)


def train(case: str, steps: int, seed: int, every: int = 0, probe: Probe | None = None) -> Trained:
    assert CASES[case].agent == "a2c"
    assert probe is None
    torch.manual_seed(seed)
    n = CASES[case].envs
    envs = SerialEnv(n, lambda: GymEnv(ENV, categorical_action_encoding=True))
    envs.set_seed(seed)
    actor = ProbabilisticActor(
        TensorDictModule(_mlp(2), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=Categorical,
        spec=envs.action_spec,
    )
    critic = ValueOperator(_mlp(1), in_keys=["observation"])
    advantage = GAE(gamma=0.99, lmbda=1.0, value_network=critic)
    loss_of = A2CLoss(actor, critic, entropy_bonus=False, critic_coeff=0.5, loss_critic_type="l2")
    weights = list(loss_of.parameters())
    optimizer = torch.optim.RMSprop(weights, lr=7e-4, alpha=0.99, eps=1e-5)
    rollout_size = 5 * n
    total = -(-steps // rollout_size) * rollout_size
    collector = Collector(
        envs,
        actor,
        frames_per_batch=rollout_size,
        total_frames=total,
        trust_policy=True,
        auto_register_policy_transforms=False,
    )

    def learn() -> None:
        for rollout in collector:  # (N, 5)
            with torch.no_grad():
                advantage(rollout)
            losses = loss_of(rollout.reshape(-1))
            optimizer.zero_grad()
            (losses["loss_objective"] + losses["loss_critic"]).backward()
            nn.utils.clip_grad_norm_(weights, 0.5)
            optimizer.step()

    seconds = timed(learn)
    collector.shutdown()
    return Trained(total, seconds)
