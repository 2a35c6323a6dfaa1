"""Proximal policy optimisation, PPO (Schulman et al. 2017), with the clipped objective.

Each rollout is learned from for several epochs of minibatches. The actor climbs

    L(θ) = E[min(ρ_t·A_t, clip(ρ_t, 1 − ε, 1 + ε)·A_t)] + β·E[H(π(·|s_t; θ))]     (eq. 7 and 9)

with ρ_t = π(a_t|s_t; θ)/π(a_t|s_t; θ_old), so that nothing is gained by moving the probability of
an action beyond the clip; the critic is fitted to the returns A_t + V(s_t; θ_old). Advantages are
generalised advantage estimates (Schulman et al. 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rlkit.actor_critic import ActorCritic
from rlkit.agent import Agent, Estimates, Metric, Setting
from rlkit.arrays import Array, as_float, like, namespace
from rlkit.carry import Carry, rows
from rlkit.experience.minibatches import minibatches
from rlkit.experience.rollout import RolloutBatch
from rlkit.networks.distributions import masked
from rlkit.recipe import Recipe, Result, Tuned, option
from rlkit.schedule import Schedule


@dataclass(frozen=True)
class PPORecipe(Recipe):
    """PPO's hyperparameters."""

    steps: int = option(1_000_000, "environment steps to train for", low=1)
    envs: int = option(8, "environments that step together", low=1, high=65536)
    n_steps: int = option(128, "steps of each environment per rollout", low=1)
    epochs: int = option(4, "times that a rollout is learned from", low=1)
    minibatch_size: int = option(256, "steps in a minibatch", low=1)
    gamma: float = option(0.99, "discount γ", low=0, high=1)
    gae_lambda: float = option(0.95, "λ of the advantages", low=0, high=1)
    learning_rate: Schedule = option("3e-4:0", "learning rate", above=0)
    optimizer: str = option(
        "adam", "optimiser", choices=("sgd", "momentum", "rmsprop", "adam", "adamw")
    )
    optimizer_eps: float = option(1e-5, "added to the optimiser's denominator", above=0)
    clip: Schedule = option("0.2", "ε, the clip of the probability ratio", above=0)
    value_clip: float = option(
        0.0, "clip of the change of a value since the rollout; 0: none", low=0
    )
    target_kl: float = option(
        0.0, "no more minibatches of a rollout once KL(θ_old, θ) is above; 0: none", low=0
    )
    value_cost: float = option(0.5, "weight of the critic's loss", low=0)
    entropy_cost: Schedule = option("0", "weight β of the entropy bonus", low=0)
    max_grad_norm: float = option(0.5, "the gradient's norm is clipped to this", above=0)
    normalize_advantage: bool = option(
        True, "scale a minibatch's advantages to mean 0 and deviation 1"
    )
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


RECIPES = {
    "CartPole-v1": Tuned(
        PPORecipe(
            steps=50_000,
            envs=4,
            epochs=10,
            minibatch_size=64,
            gamma=0.98,
            learning_rate=Schedule(2e-3, 0),
        ),
        Result(mean_return=500.0, worst_return=500.0, seeds=10, episodes=100, seconds=5.5),
    ),
    "Acrobot-v1": Tuned(
        PPORecipe(
            steps=200_000,
            envs=16,
            n_steps=256,
            minibatch_size=64,
            gae_lambda=0.94,
            learning_rate=Schedule(3e-4),
            normalize_obs=True,
            normalize_reward=True,
        ),
        Result(mean_return=-81.4, worst_return=-83.3, seeds=10, episodes=100, seconds=6.9),
    ),
    "rlkit/CartPoleHidden-v0": Tuned(
        PPORecipe(
            steps=200_000,
            envs=16,
            n_steps=64,
            epochs=8,
            gamma=0.98,
            gae_lambda=0.9,
            learning_rate=Schedule(1e-3, 0),
            normalize_obs=True,
            normalize_reward=True,
            core="lstm",
            core_width=64,
            hidden=(64,),
        ),
        Result(mean_return=497.8, worst_return=491.8, seeds=5, episodes=100, seconds=17.6),
    ),
    "rlkit/Catch-v0": Tuned(
        PPORecipe(
            steps=60_000,
            envs=16,
            n_steps=64,
            gamma=0.95,
            learning_rate=Schedule(2e-3, 0),
            hidden=(128,),
            activation="relu",
        ),
        Result(mean_return=1.0, worst_return=1.0, seeds=5, episodes=100, seconds=30.1),
    ),
    "rlkit/MemoryCorridor-v0": Tuned(
        # Only the last action of an episode earns anything: a short trace spares it the noise of
        # the others. A rollout holds several corridors, so that most are learned from whole.
        PPORecipe(
            steps=200_000,
            envs=16,
            minibatch_size=512,
            gae_lambda=0.5,
            learning_rate=Schedule(3e-3, 0),
            entropy_cost=Schedule(0.01),
            core="lstm",
            core_width=64,
        ),
        Result(mean_return=1.0, worst_return=1.0, seeds=5, episodes=100, seconds=14.0),
    ),
    "MountainCar-v0": Tuned(
        PPORecipe(
            steps=700_000,
            envs=16,
            n_steps=64,
            epochs=8,
            minibatch_size=128,
            gae_lambda=0.98,
            learning_rate=Schedule(1e-3, 0),
            normalize_obs=True,
            normalize_reward=True,
        ),
        Result(mean_return=-100.1, worst_return=-108.8, seeds=10, episodes=100, seconds=55.0),
    ),
    "LunarLander-v3": Tuned(
        PPORecipe(
            steps=600_000,
            envs=16,
            n_steps=256,
            epochs=6,
            gamma=0.999,
            gae_lambda=0.98,
            learning_rate=Schedule(1e-3, 0),
            entropy_cost=Schedule(0.01, 0),
            normalize_obs=True,
            normalize_reward=True,
        ),
        Result(mean_return=275.6, worst_return=262.9, seeds=10, episodes=100, seconds=41.1),
    ),
    "Pendulum-v1": Tuned(
        PPORecipe(
            steps=100_000,
            n_steps=256,
            epochs=10,
            minibatch_size=64,
            gamma=0.9,
            learning_rate=Schedule(1e-3, 1e-4),
        ),
        Result(mean_return=-179.0, worst_return=-201.2, seeds=10, episodes=100, seconds=4.3),
    ),
}


class Steps(NamedTuple):
    """Steps of a rollout, K of them.

    A memory reads them among all others of their environments: then `obs` are those of T steps of B
    environments, and `valid` says which K of them count.
    """

    obs: Array  # (K, *obs), normalised, or (T, B, *obs)
    action: Array  # (K, *action)
    mask: Array | None  # (K, outputs) bool: the actions that were allowed; None: all
    log_pi_old: Array  # (K,): log π(a_t|s_t; θ_old)
    A: Array  # (K,)
    G: Array  # (K,): A_t + V(s_t; θ_old)
    v_old: Array  # (K,)
    carry: Carry = None  # (B, ...), with a memory: what it held before obs[0], by θ_old
    reset: Array | None = None  # (T, B) bool
    valid: Array | None = None  # (T, B) bool


class PPO(Agent):
    """An actor and a critic, learned from each rollout for several epochs."""

    name = "ppo"
    recipe_type = PPORecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: PPORecipe) -> None:
        super().__init__(setting)
        self.recipe = recipe
        self.ac = ActorCritic(setting, recipe, self.generator)
        self.memory, self.parts = self.ac.memory, self.ac.parts

    def initial_carry(self, n: int) -> Carry:
        return self.ac.nets.initial_carry(n)

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        return self.ac.act(obs, carry, explore, mask)

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        return self.ac.estimates(obs, mask)

    def update(self, batch: RolloutBatch) -> dict[str, Metric]:
        recipe, ac, progress = self.recipe, self.ac, self.clock.progress
        lr, clip = recipe.learning_rate(progress), recipe.clip(progress)
        beta = recipe.entropy_cost(progress)
        if not batch.valid.any():  # dead steps alone
            return {}
        for k, steps in enumerate(self._minibatches(batch)):
            obs, action, mask, log_pi_old, A, G, v_old, carry, reset, valid = steps
            B, xp = len(A), namespace(A)
            if recipe.normalize_advantage:
                centred = A - A.mean()
                A = centred / ((centred * centred).mean() ** 0.5 + 1e-8)
            # (B, outputs), (B,)
            head, v, pull = ac.nets.evaluate(obs, carry, reset, valid=valid)
            log_pi, H, pull_policy = ac.policy.vjp(masked(head, mask), action)  # (B,) each
            log_ratio = log_pi - log_pi_old
            ratio = xp.exp(log_ratio)
            kl = (ratio - 1 - log_ratio).mean()  # an estimate of KL(θ_old, θ): Schulman 2020
            error = v - G  # (B,)
            unclipped = ratio * A <= xp.clip(ratio, 1 - clip, 1 + clip) * A
            if k > 0 and 0 < recipe.target_kl < kl:
                break

            # L = −E[min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A) + β·H] + c·E[(V − G)²]
            ac.flat.grad.zero_()
            # ∂L/∂log π = −ρ·A where ρ·A is the lesser, and 0 where the clip is;  ∂L/∂H = −β
            g_head = pull_policy(
                -xp.where(unclipped, ratio * A, 0 * A) / B, xp.full_like(A, -beta / B)
            )
            # ∂L/∂V = 2c·(V − G)
            g_v = 2 * recipe.value_cost / B * error
            if recipe.value_clip:  # then L takes the greater of (V − G)² and (V_clipped − G)²
                change = v - v_old
                v_clipped = v_old + xp.clip(change, -recipe.value_clip, recipe.value_clip)
                nearer = error * error < (v_clipped - G) ** 2
                g_v = g_v * ~(nearer & (abs(change) > recipe.value_clip))
            pull(g_head, g_v)

            grad_norm = ac.flat.clip_grad(recipe.max_grad_norm)
            ac.optimizer.step(lr)
        ac.normalizer.include(batch.obs[:-1][batch.valid])
        return {  # of the rollout's last minibatch
            "policy_loss": -xp.minimum(ratio * A, xp.clip(ratio, 1 - clip, 1 + clip) * A).mean(),
            "value_loss": (error * error).mean(),
            "entropy": H.mean(),
            "kl": kl,
            "clip_fraction": 1 - as_float(unclipped).mean(),
            "grad_norm": grad_norm,
            "learning_rate": lr,
        }

    def _minibatches(self, batch: RolloutBatch) -> Iterator[Steps]:
        """The epochs' minibatches of the rollout: of steps, or with a memory of environments."""
        recipe, ac = self.recipe, self.ac
        obs = ac.normalizer.forward(batch.obs)  # (T + 1, N, *obs)
        head, v = ac.nets.infer(obs, batch.carry, batch.reset)  # (T + 1, N, outputs), (T + 1, N)
        A = ac.advantages(batch, v)  # (T, N)
        log_pi, _, _ = ac.policy.vjp(masked(head[:-1], batch.mask), batch.action)
        columns: tuple[Array | None, ...] = (
            batch.action,
            batch.mask,
            log_pi,
            A,
            A + v[:-1],
            v[:-1],
        )
        if not ac.nets.has_core:
            columns = (obs[:-1], *columns)
            rollout = [None if c is None else c[batch.valid] for c in columns]  # (K, ...)
            for part in minibatches(rollout, recipe.minibatch_size, recipe.epochs, self.generator):
                yield Steps(*part)
            return
        assert batch.reset is not None
        size = max(1, recipe.minibatch_size // recipe.n_steps)  # environments
        everyone = like(v, torch.arange(v.shape[1]))
        for (envs,) in minibatches([everyone], size, recipe.epochs, self.generator):
            valid = batch.valid[:, envs]
            if valid.any():
                part = tuple(None if c is None else c[:, envs][valid] for c in columns)
                part += rows(batch.carry, envs), batch.reset[:-1, envs], valid
                yield Steps(obs[:-1, envs], *part)
