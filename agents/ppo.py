"""Proximal policy optimisation, PPO (Schulman et al. 2017), with the clipped objective.

Each rollout is learned from for several epochs of minibatches. The actor climbs

    L(θ) = E[min(ρ_t·A_t, clip(ρ_t, 1 − ε, 1 + ε)·A_t)] + β·E[H(π(·|s_t; θ))]     (eq. 7 and 9)

with ρ_t = π(a_t|s_t; θ)/π(a_t|s_t; θ_old), so that nothing is gained by moving the probability of
an action beyond the clip; the critic is fitted to the returns A_t + V(s_t; θ_old). Advantages are
generalised advantage estimates (Schulman et al. 2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from rlkit.agent import Agent, Carry, Metric, Setting
from rlkit.arrays import Array, as_float, namespace
from rlkit.experience.minibatches import minibatches
from rlkit.experience.noise import Noise
from rlkit.experience.rollout import Rollout, RolloutBatch
from rlkit.networks.distributions import masked, policy_for
from rlkit.networks.network import Network
from rlkit.networks.normalize import RewardScaler, obs_normalizer
from rlkit.optim import FlatParameters, optimizer_for
from rlkit.recipe import Recipe, Result, Tuned, option
from rlkit.returns import discounts, gae, traces
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
    hidden: tuple[int, ...] = option((64, 64), "widths of the hidden layers", low=1)
    activation: str = option(
        "tanh", "activation", choices=("elu", "gelu", "mish", "relu", "silu", "tanh")
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
    """Steps of a rollout, K of them."""

    obs: Array  # (K, *obs), normalised
    action: Array  # (K, *action)
    mask: Array | None  # (K, outputs) bool: the actions that were allowed; None: all
    log_pi_old: Array  # (K,): log π(a_t|s_t; θ_old)
    A: Array  # (K,)
    G: Array  # (K,): A_t + V(s_t; θ_old)
    v_old: Array  # (K,)


class PPO(Agent):
    """Separate actor and critic networks, learned from each rollout for several epochs."""

    name = "ppo"
    recipe_type = PPORecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: PPORecipe) -> None:
        super().__init__(setting)
        self.recipe = recipe
        self.policy = policy_for(setting.action_space, recipe.squash)
        nets = partial(Network, setting.obs_space, recipe.hidden, recipe.activation)
        # A small head starts the policy near uniform (Andrychowicz et al. 2021, §3.2).
        self.actor = nets(self.policy.outputs, head_gain=0.01)
        self.critic = nets(1, head_gain=1.0)
        self.normalizer = obs_normalizer(setting.obs_space, recipe.normalize_obs)
        self.to(setting.device)
        self.flat = FlatParameters(self)
        self.optimizer = optimizer_for(recipe.optimizer, self.flat, recipe.optimizer_eps)
        self.reward_scaler = RewardScaler(setting.n_envs, recipe.gamma, setting.device)
        self.memory = Rollout(
            recipe.n_steps, setting.n_envs, setting.obs_space, setting.action_space, setting.device
        )
        self.noise = Noise(self.policy.draw_noise, setting.n_envs, self.generator)
        self.parts = {
            "memory": self.memory,
            "optimizer": self.optimizer,
            "noise": self.noise,
            "reward_scaler": self.reward_scaler,
        }

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        head = masked(self.actor.infer(self.normalizer.forward(obs)), mask)  # (N, outputs)
        if explore:
            return self.policy.sample(head, self.noise.next(head)), carry
        return self.policy.mode(head), carry

    def update(self, batch: RolloutBatch) -> dict[str, Metric]:
        recipe, progress = self.recipe, self.clock.progress
        lr, clip = recipe.learning_rate(progress), recipe.clip(progress)
        beta = recipe.entropy_cost(progress)
        rollout = self._valid_steps(batch)
        if len(rollout.A) == 0:  # dead steps alone
            return {}
        xp = namespace(rollout.A)
        parts = minibatches(rollout, recipe.minibatch_size, recipe.epochs, self.generator)
        for k, (obs, action, mask, log_pi_old, A, G, v_old) in enumerate(parts):
            B = len(A)
            if recipe.normalize_advantage:
                centred = A - A.mean()
                A = centred / ((centred * centred).mean() ** 0.5 + 1e-8)
            head, pull_actor = self.actor.vjp(obs)  # (B, outputs)
            log_pi, H, pull_policy = self.policy.vjp(masked(head, mask), action)  # (B,) each
            log_ratio = log_pi - log_pi_old
            ratio = xp.exp(log_ratio)
            kl = (ratio - 1 - log_ratio).mean()  # an estimate of KL(θ_old, θ): Schulman 2020
            v, pull_critic = self.critic.vjp(obs)
            v = v[:, 0]
            error = v - G  # (B,)
            unclipped = ratio * A <= xp.clip(ratio, 1 - clip, 1 + clip) * A
            if k > 0 and 0 < recipe.target_kl < kl:
                break

            # L = −E[min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A) + β·H] + c·E[(V − G)²]
            self.flat.grad.zero_()
            # ∂L/∂log π = −ρ·A where ρ·A is the lesser, and 0 where the clip is;  ∂L/∂H = −β
            pull_actor(
                pull_policy(-xp.where(unclipped, ratio * A, 0 * A) / B, xp.full_like(A, -beta / B))
            )
            # ∂L/∂V = 2c·(V − G)
            g_v = 2 * recipe.value_cost / B * error
            if recipe.value_clip:  # then L takes the greater of (V − G)² and (V_clipped − G)²
                change = v - v_old
                v_clipped = v_old + xp.clip(change, -recipe.value_clip, recipe.value_clip)
                nearer = error * error < (v_clipped - G) ** 2
                g_v = g_v * ~(nearer & (abs(change) > recipe.value_clip))
            pull_critic(g_v[:, None])

            grad_norm = self.flat.clip_grad(recipe.max_grad_norm)
            self.optimizer.step(lr)
        self.normalizer.include(batch.obs[:-1][batch.valid])
        return {  # of the rollout's last minibatch
            "policy_loss": -xp.minimum(ratio * A, xp.clip(ratio, 1 - clip, 1 + clip) * A).mean(),
            "value_loss": (error * error).mean(),
            "entropy": H.mean(),
            "kl": kl,
            "clip_fraction": 1 - as_float(unclipped).mean(),
            "grad_norm": grad_norm,
            "learning_rate": lr,
        }

    def _valid_steps(self, batch: RolloutBatch) -> Steps:
        """What the epochs learn from: every step of the rollout but the dead ones, flattened."""
        recipe = self.recipe
        obs = self.normalizer.forward(batch.obs)  # (T + 1, N, *obs)
        reward = batch.reward  # (T, N)
        if recipe.normalize_reward:
            reward = self.reward_scaler(reward, batch.terminated | batch.truncated, batch.valid)
        v = self.critic.infer(obs)[..., 0]  # (T + 1, N)
        v_next = batch.next_values(
            v, lambda o: self.critic.infer(self.normalizer.forward(o))[..., 0]
        )
        discount = discounts(recipe.gamma, batch.terminated)
        trace = traces(recipe.gae_lambda, batch.terminated, batch.truncated)
        A = gae(reward, v[:-1], v_next, discount, trace)  # (T, N)
        head = masked(self.actor.infer(obs[:-1]), batch.mask)
        log_pi, _, _ = self.policy.vjp(head, batch.action)
        columns = (obs[:-1], batch.action, batch.mask, log_pi, A, A + v[:-1], v[:-1])
        return Steps(*(None if column is None else column[batch.valid] for column in columns))
