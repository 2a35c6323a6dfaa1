"""Advantage actor-critic, A2C (Mnih et al. 2016, the synchronous form of A3C).

N environments step together; every `n_steps` steps the actor climbs

    ∇θ log π(a_t|s_t; θ)·A_t + β·∇θ H(π(·|s_t; θ))          (Mnih et al. 2016, §4)

and the critic is fitted to the returns A_t + V(s_t). With λ = 1 the advantages are the n-step ones
of the paper; λ < 1 gives generalised advantage estimation (Schulman et al. 2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rlkit.agent import Agent, Carry, Metric, Setting
from rlkit.arrays import Array, as_float
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
    hidden: tuple[int, ...] = option((64, 64), "widths of the hidden layers", low=1)
    activation: str = option(
        "tanh", "activation", choices=("elu", "gelu", "mish", "relu", "silu", "tanh")
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
}


class A2C(Agent):
    """Separate actor and critic networks over the same rollout."""

    name = "a2c"
    recipe_type = A2CRecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: A2CRecipe) -> None:
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
        recipe = self.recipe
        normalize = self.normalizer.forward
        obs, reward = normalize(batch.obs), batch.reward  # (T + 1, N, *obs), (T, N)
        if recipe.normalize_reward:
            reward = self.reward_scaler(reward, batch.terminated | batch.truncated, batch.valid)
        v, pull_critic = self.critic.vjp(obs)  # (T + 1, N, 1)
        v = v[..., 0]
        v_next = batch.next_values(v, lambda o: self.critic.infer(normalize(o))[..., 0])
        discount = discounts(recipe.gamma, batch.terminated)
        trace = traces(recipe.gae_lambda, batch.terminated, batch.truncated)
        A = gae(reward, v[:-1], v_next, discount, trace)  # (T, N)
        td = -A  # V(s_t) − G_t, for the critic's target G_t = A_t + V(s_t)

        weight = as_float(batch.valid)
        weight = weight / weight.sum().clip(1)  # a mean over the steps that count
        if recipe.normalize_advantage:
            centred = A - (weight * A).sum()
            A = centred / ((weight * centred * centred).sum() ** 0.5 + 1e-8)

        head, pull_actor = self.actor.vjp(obs[:-1])  # (T, N, outputs)
        # (T, N) each; no gradient leads back to the logits of actions that were not allowed
        log_pi, H, pull_policy = self.policy.vjp(masked(head, batch.mask), batch.action)

        # L = E[−log π(a_t|s_t)·A_t − β·H(π(·|s_t))] + c·E[(V(s_t) − G_t)²]
        self.flat.grad.zero_()
        # ∂L/∂log π = −A,  ∂L/∂H = −β
        beta = recipe.entropy_cost(self.clock.progress)
        pull_actor(pull_policy(-weight * A, -beta * weight))
        # ∂L/∂V = 2c·(V − G), and 0 for the last row, which only bootstraps
        g_v = 0 * v  # (T + 1, N)
        g_v[:-1] = (2 * recipe.value_cost) * weight * td
        pull_critic(g_v)

        grad_norm = self.flat.clip_grad(recipe.max_grad_norm)
        lr = recipe.learning_rate(self.clock.progress)
        self.optimizer.step(lr)
        self.normalizer.include(batch.obs[:-1][batch.valid])
        return {
            "policy_loss": -(weight * log_pi * A).sum(),
            "value_loss": (weight * td * td).sum(),
            "entropy": (weight * H).sum(),
            "grad_norm": grad_norm,
            "learning_rate": lr,
        }
