"""Advantage actor-critic, A2C (Mnih et al. 2016, the synchronous form of A3C).

N environments step together; every `n_steps` steps the actor climbs

    ∇θ log π(a_t|s_t; θ)·A_t + β·∇θ H(π(·|s_t; θ))          (Mnih et al. 2016, §4)

and the critic is fitted to the returns A_t + V(s_t). With λ = 1 the advantages are the n-step ones
of the paper; λ < 1 gives generalised advantage estimation (Schulman et al. 2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.actor_critic import ActorCritic
from rlkit.agent import Agent, Estimates, Metric, Setting
from rlkit.arrays import Array, as_float
from rlkit.carry import Carry
from rlkit.experience.rollout import RolloutBatch
from rlkit.networks.distributions import masked
from rlkit.peers import joint_moments
from rlkit.recipe import Recipe, Result, Tuned, option
from rlkit.schedule import Schedule


@dataclass(frozen=True)
class A2CRecipe(Recipe):
    """A2C's hyperparameters."""

    steps: int = option(500_000, "environment steps to train for", low=1)
    envs: int = option(16, "environments that step together", low=1, high=65536)
    n_steps: int = option(5, "steps of each environment per update", low=1)
    gamma: float = option(0.99, "discount γ", low=0, high=1)
    gae_lambda: float = option(1.0, "λ of the advantages; 1: n-step", low=0, high=1)
    learning_rate: Schedule = option("1e-3:0", "learning rate", above=0)
    optimizer: str = option(
        "rmsprop", "optimiser", choices=("sgd", "momentum", "rmsprop", "adam", "adamw")
    )
    optimizer_eps: float = option(1e-5, "added to the optimiser's denominator", above=0)
    value_cost: float = option(0.5, "weight of the critic's loss", low=0)
    entropy_cost: Schedule = option("0", "weight β of the entropy bonus", low=0)
    max_grad_norm: float = option(0.5, "the gradient's norm is clipped to this", above=0)
    normalize_advantage: bool = option(False, "scale advantages to mean 0 and deviation 1")
    squash: bool = option(False, "tanh of a Gaussian, for Box actions with bounds")
    normalize_obs: bool = option(False, "scale observations by their running moments")
    normalize_reward: bool = option(False, "scale rewards by the deviation of the running return")
    encoder: str = option(
        "auto",
        "what sees images, windows and clips; auto: by the observation space",
        choices=("auto", "mlp", "nature", "impala", "cnn", "vin", "conv1d", "conv3d"),
    )
    core: str = option(
        "none",
        "memory between encoder and heads",
        choices=("none", "rnn", "gru", "lstm", "gtrxl"),
        never=("bidirectional", "sees the future: as an agent acts, it isn't there yet"),
    )
    core_width: int = option(128, "width of the memory", low=1, high=16384)
    shared: str = option(
        "auto",
        "one encoder for actor and critic; auto: with images, parts or a memory",
        choices=("auto", "yes", "no"),
    )
    hidden: tuple[int, ...] = option((64, 64), "widths of the hidden layers", low=1, high=16384)
    activation: str = option(
        "tanh",
        "activation",
        choices=("elu", "gelu", "glu", "leaky-relu", "mish", "relu", "sigmoid", "silu", "tanh"),
    )
    init: str = option(
        "orthogonal",
        "how the weights of convolutions and hidden layers start",
        choices=("kaiming", "orthogonal", "xavier"),
    )


RECIPES = {
    "CartPole-v1": Tuned(
        A2CRecipe(steps=100_000, envs=8, n_steps=5, gamma=0.98, learning_rate=Schedule(1.5e-3, 0)),
        Result(mean_return=500.0, worst_return=499.8, seeds=10, episodes=100, seconds=2.0),
    ),
    "Acrobot-v1": Tuned(
        A2CRecipe(steps=200_000, normalize_obs=True, normalize_reward=True),
        Result(mean_return=-83.1, worst_return=-87.2, seeds=10, episodes=100, seconds=4.0),
    ),
    "rlkit/CartPoleHidden-v0": Tuned(
        A2CRecipe(
            steps=500_000,
            n_steps=32,
            gamma=0.98,
            gae_lambda=0.9,
            learning_rate=Schedule(2e-3, 0),
            normalize_obs=True,
            normalize_reward=True,
            core="lstm",
            core_width=64,
            hidden=(64,),
        ),
        Result(mean_return=500.0, worst_return=500.0, seeds=5, episodes=100, seconds=10.2),
    ),
}


class A2C(Agent):
    """An actor and a critic over the same rollout."""

    name = "a2c"
    recipe_type = A2CRecipe
    recipes = RECIPES
    is_compiled = True

    def __init__(self, setting: Setting, recipe: A2CRecipe) -> None:
        super().__init__(setting)
        self.recipe = recipe
        self.ac = ActorCritic(setting, recipe, self.generator, self.place)
        self.memory, self.parts, self.noise = self.ac.memory, self.ac.parts, self.ac.noise
        self.gradient_steps = 1
        self._learn_there = self.place.graphed(self._learn_columns)

    def initial_carry(self, n: int) -> Carry:
        return self.ac.nets.initial_carry(n)

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        return self.ac.act(obs, carry, explore, mask)

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        return self.ac.estimates(obs, mask)

    def update(self, batch: RolloutBatch) -> dict[str, Metric]:
        self.prepare()
        return self.told(self.learn(batch))

    def prepare(self) -> None:
        recipe, progress = self.recipe, self.clock.progress
        rates = recipe.learning_rate(progress), recipe.entropy_cost(progress)
        self._rates = self.place.scalars(*rates)

    def learn(self, batch: RolloutBatch) -> dict[str, Metric]:
        if self.place.ahead and batch.final_at is None:
            metrics: dict[str, Metric] = self._learn_there(*batch.columns())
            return metrics
        return self._learn(batch)

    def told(self, found: dict[str, Metric]) -> dict[str, Metric]:
        lr = self.recipe.learning_rate(self.clock.progress)
        self.ac.flat.look(lr)
        return self.place.kept(found) | {"learning_rate": lr}

    def _learn_columns(self, *columns: Any) -> dict[str, Metric]:
        return self._learn(RolloutBatch(*columns))

    def _learn(self, batch: RolloutBatch) -> dict[str, Metric]:
        recipe, ac, (lr, beta) = self.recipe, self.ac, self._rates
        obs = ac.normalizer.forward(batch.obs)  # (T + 1, N, *obs)
        # (T, N, outputs), (T + 1, N): the last row only bootstraps
        with self.place.precision():
            head, v, pull = ac.nets.evaluate(obs, batch.carry, batch.reset, heads=recipe.n_steps)
        A = ac.advantages(batch, v)  # (T, N)
        td = -A  # V(s_t) − G_t, for the critic's target G_t = A_t + V(s_t)

        weight = as_float(batch.valid)
        count = weight.sum()
        weight = weight / count.clip(1)  # a mean over the steps that count
        if recipe.normalize_advantage:
            mean = (weight * A).sum()
            centred = A - mean
            var = (weight * centred * centred).sum()
            mean, var = joint_moments(mean, var, count, ac.peers)
            A = (A - mean) / (var**0.5 + 1e-8)

        # (T, N) each; no gradient leads back to the logits of actions that were not allowed
        log_pi, H, pull_policy = ac.policy.vjp(masked(head, batch.mask), batch.action)

        # L = E[−log π(a_t|s_t)·A_t − β·H(π(·|s_t))] + c·E[(V(s_t) − G_t)²]
        ac.flat.grad.zero_()
        # ∂L/∂log π = −A,  ∂L/∂H = −β
        g_head = pull_policy(-weight * A, -beta * weight)
        # ∂L/∂V = 2c·(V − G), and 0 for the last row
        g_v = 0 * v  # (T + 1, N)
        g_v[:-1] = (2 * recipe.value_cost) * weight * td
        pull(g_head, g_v)

        grad_norm = ac.flat.clip_grad(recipe.max_grad_norm, count)
        ac.optimizer.step(lr)
        ac.normalizer.include(batch.obs[:-1], batch.valid)
        return {
            "policy_loss": -(weight * log_pi * A).sum(),
            "value_loss": (weight * td * td).sum(),
            "entropy": (weight * H).sum(),
            "grad_norm": grad_norm,
        }
