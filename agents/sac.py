"""Soft actor-critic, SAC (Haarnoja et al. 2018b), with twin critics and a learned temperature.

The policy earns rewards and entropy, α·H(π(·|s)) at each step. Off-policy, from a replay memory:

    J_Q(θ) = Σ_i E[½·(Q_i(s, a; θ) − y)²]                                  (eq. 5)
    y = r + γ·(min_i Q_i(s', a'; θ⁻) − α·log π(a'|s'; φ)),  a' ~ π(·|s')   (eq. 3)
    J_π(φ) = E[α·log π(ã|s; φ) − min_i Q_i(s, ã; θ)],  ã = tanh(μ + σ·ε)   (eq. 7 to 9)
    J(α) = E[−α·log π(ã|s) − α·H̄]                                          (eq. 18)

θ⁻ follows θ as an exponential moving average, and α rises where the policy's entropy is below H̄.
With returns over n steps the entropy of the steps between is left out of y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.agent import Agent, Metric, Setting
from rlkit.arrays import Array, like, namespace
from rlkit.carry import Carry
from rlkit.device.health import Health
from rlkit.errors import UsageError
from rlkit.experience.noise import Noise
from rlkit.experience.replay import Replay, ReplayBatch, Sampling
from rlkit.networks.network import Network
from rlkit.networks.twin import TwinQ
from rlkit.optim import FlatParameters, Rate, optimizer_for
from rlkit.peers import Peers
from rlkit.recipe import Recipe, Result, Tuned, option
from rlkit.schedule import Schedule


@dataclass(frozen=True)
class SACRecipe(Recipe):
    """SAC's hyperparameters."""

    steps: int = option(200_000, "environment steps to train for", low=1)
    envs: int = option(1, "environments that step together", low=1, high=65536)
    gamma: float = option(0.99, "discount γ", low=0, high=1)
    learning_rate: Schedule = option("3e-4", "learning rate of critics, actor and α", above=0)
    batch_size: int = option(256, "transitions in a minibatch", low=1)
    buffer_size: int = option(1_000_000, "steps that the replay memory holds", low=1)
    learning_starts: int = option(
        1_000, "steps before the first update, with uniformly random actions", low=0
    )
    train_every: int = option(1, "steps between two bursts of updates", low=1)
    gradient_steps: int = option(1, "updates in a burst", low=1)
    target_rate: float = option(
        0.005, "τ, the target nets' step towards the critics after each update", above=0, high=1
    )
    n_step: int = option(1, "steps n of the return", low=1)
    temperature: float = option(1.0, "α, the weight of the entropy, at the start", above=0)
    learn_temperature: bool = option(True, "adapt α to the target entropy")
    target_entropy: float = option(
        -1.0, "H̄, the entropy to keep, per dimension of the action", low=-20, high=0.5
    )
    optimizer: str = option(
        "adam", "optimiser", choices=("sgd", "momentum", "rmsprop", "adam", "adamw")
    )
    optimizer_eps: float = option(1e-8, "added to the optimiser's denominator", above=0)
    max_grad_norm: float = option(
        0.0, "the norms of the critics' and the actor's gradient are clipped to this; 0: not", low=0
    )
    encoder: str = option(
        "auto",
        "what sees images, windows and clips; auto: by the observation space",
        choices=("auto", "mlp", "nature", "impala", "cnn", "vin", "conv1d", "conv3d"),
    )
    hidden: tuple[int, ...] = option((256, 256), "widths of the hidden layers", low=1, high=16384)
    activation: str = option(
        "relu",
        "activation",
        choices=("elu", "gelu", "glu", "leaky-relu", "mish", "relu", "sigmoid", "silu", "tanh"),
    )
    init: str = option(
        "orthogonal",
        "how the weights of convolutions and hidden layers start",
        choices=("kaiming", "orthogonal", "xavier"),
    )


RECIPES = {
    "Pendulum-v1": Tuned(
        SACRecipe(
            steps=20_000,
            envs=4,
            learning_rate=Schedule(1e-3, 1e-4),
            buffer_size=20_000,
            learning_starts=500,
            train_every=4,
            gradient_steps=4,
            hidden=(64, 64),
        ),
        Result(mean_return=-146.9, worst_return=-167.4, seeds=10, episodes=100, seconds=38.3),
    ),
}

# log σ is clamped to the range of the paper's own code. A tanh rescaled to the range would never
# stop its gradient, but bend σ everywhere; the clamp leaves it as the network says, and only a
# policy that has gone astray gets to the ends.
LOG_STD = (-20.0, 2.0)


class Temperature(nn.Module):
    """α > 0, as the exponential of a parameter."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)))

    def forward(self) -> Tensor:
        return self.log_alpha.exp()


class Descent:
    """Gradient descent on the parameters of one module, whatever else a loss depends on."""

    def __init__(
        self,
        module: nn.Module,
        recipe: SACRecipe,
        max_norm: float,
        health: Health | None,
        peers: Peers | None,
    ) -> None:
        self.flat = FlatParameters(module, health, peers)
        self.optimizer = optimizer_for(recipe.optimizer, self.flat, recipe.optimizer_eps)
        self._max_norm = max_norm or math.inf

    def step(self, loss: Tensor, lr: Rate, beside: Array | float = 0.0) -> Array | float:
        """Returns the mean over all ranks' rows of what has the mean `beside` over this one's.

        Raises RunError, before a weight changes, where the gradient is not finite.
        """
        self.flat.grad.zero_()
        loss.backward(inputs=self.flat.parameters)  # type: ignore[no-untyped-call]
        joint = self.flat.average(1.0, beside)
        self.flat.clip_grad(self._max_norm, None)
        self.optimizer.step(lr)
        return joint


class Found(NamedTuple):
    """What a minibatch came to."""

    critic_loss: Tensor
    actor_loss: Tensor
    q: Tensor  # (2, B)
    log_pi: Tensor  # (B,)
    alpha: Tensor


class SAC(Agent):
    """A squashed Gaussian actor, twin critics with their targets, and a replay memory."""

    name = "sac"
    recipe_type = SACRecipe
    recipes = RECIPES
    is_compiled = True
    memory: Replay

    def __init__(self, setting: Setting, recipe: SACRecipe) -> None:
        super().__init__(setting)
        space = setting.action_space
        assert isinstance(space, spaces.Box)
        if not space.is_bounded():
            raise UsageError(
                f"sac takes Box actions with finite bounds; the environment's are {space}; give "
                "the environment bounds, or train with a2c, which needs none"
            )
        self.recipe = recipe
        self.action_shape = space.shape
        self.n = math.prod(space.shape)
        nets = setting.obs_space, recipe.hidden, recipe.activation
        encoder, init = recipe.encoder, recipe.init
        # A small head starts every policy at μ ≈ 0, σ ≈ 1.
        self.actor = Network(*nets, 2 * self.n, head_gain=0.01, encoder=encoder, init=init)
        twins = setting.obs_space, self.n, *nets[1:], encoder, init
        self.critic, self.target = TwinQ(*twins), TwinQ(*twins)
        self.target.load_state_dict(self.critic.state_dict())
        self.temperature = Temperature(recipe.temperature)
        self.to(setting.device)
        max_norm, shared = recipe.max_grad_norm, (self.place.health, setting.peers)
        self.actor_descent = Descent(self.actor, recipe, max_norm, *shared)
        self.critic_descent = Descent(self.critic, recipe, max_norm, *shared)
        # without peers: its gradient is of a mean that is all ranks' already
        self.temperature_descent = Descent(
            self.temperature, recipe, math.inf, self.place.health, None
        )
        self.flat_target = FlatParameters(self.target)
        sampling = Sampling(
            start=recipe.learning_starts,
            every=recipe.train_every,
            minibatches=recipe.gradient_steps,
            batch_size=recipe.batch_size,
            n_step=recipe.n_step,
            gamma=recipe.gamma,
        )
        self.memory = Replay(
            recipe.buffer_size,
            setting.n_envs,
            setting.obs_space,
            space,
            sampling,
            setting.device,
            self.generator,
            setting.frame_stack,
            self.place,
        )
        self._descend_there = self.place.graphed(self._descend_on)
        numbers = torch.arange(recipe.gradient_steps, device=setting.device)
        self._numbers = torch.split(numbers, 1)
        self.noise = Noise(self._draw_normal, setting.n_envs, self.generator)
        self.uniform_noise = Noise(self._draw_uniform, setting.n_envs, self.generator)
        self.parts = {
            "memory": self.memory,
            "actor_optimizer": self.actor_descent.optimizer,
            "critic_optimizer": self.critic_descent.optimizer,
            "temperature_optimizer": self.temperature_descent.optimizer,
            "noise": self.noise,
            "uniform_noise": self.uniform_noise,
        }

    def _draw_normal(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """ε, standard normal: (*shape, n)."""
        noise = torch.empty((*shape, self.n), device=generator.device)
        return noise.normal_(generator=generator)

    def _draw_uniform(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Actions, uniform in [−1, 1): (*shape, n)."""
        noise = torch.empty((*shape, self.n), device=generator.device)
        return noise.uniform_(-1, 1, generator=generator)

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        x = self.place.moved(obs)
        if explore and self.memory.added < self.recipe.learning_starts:
            action = self.uniform_noise.next(x)  # (N, n)
        else:
            with self.place.precision():
                mean, log_std = normal(self.actor.infer(x))
            xp = namespace(mean)
            u = mean + xp.exp(log_std) * self.noise.next(mean) if explore else mean
            action = xp.tanh(u)
        return like(obs, action.reshape(-1, *self.action_shape)), carry

    def update(self, batch: ReplayBatch) -> dict[str, Metric]:
        place, lr = self.place, self.recipe.learning_rate(self.clock.progress)
        self._rates = place.scalars(lr)
        place.random.reseed()
        noise = place.random.normal((2, *batch.reward.shape, self.n))
        action = batch.action.reshape(*batch.reward.shape, self.n)
        columns = (batch.obs, action, batch.reward, batch.discount, batch.next_obs, *noise)
        if place.ahead:
            learn = self._descend_there.bind(*columns)
            for number in self._numbers:
                found = learn(number)
        else:
            for mini in zip(*columns, strict=True):
                found = self._descend(*mini)
        self.actor_descent.flat.look(lr)
        self.critic_descent.flat.look(lr)
        metrics = {  # of the last minibatch
            "critic_loss": found.critic_loss,
            "actor_loss": found.actor_loss,
            "q_mean": found.q.mean(),
            "entropy": -found.log_pi.mean(),
            "temperature": found.alpha,
        }
        return place.kept(metrics) | {"learning_rate": lr}

    def _descend_on(self, *columns: Tensor) -> Found:
        """The updates from the minibatch of a number (1,), which comes last."""
        *of_batch, number = columns
        return self._descend(*(column.index_select(0, number)[0] for column in of_batch))

    def _descend(self, *columns: Tensor) -> Found:
        obs, action, r, discount, next_obs, eps, eps_next = columns  # (B, ...) each
        (lr,), precision = self._rates, self.place.precision
        alpha = self.temperature().detach()
        with torch.no_grad(), precision():
            a_next, log_pi_next = squashed(self.actor(next_obs).float(), eps_next)  # (B, n), (B,)
            v_next = self.target(next_obs, a_next).float().amin(0) - alpha * log_pi_next
            y = r + discount * v_next  # (B,)
        with precision():
            q = self.critic(obs, action).float()  # (2, B)
        critic_loss = 0.5 * (q - y).square().mean(-1).sum()
        self.critic_descent.step(critic_loss, lr)

        with precision():
            a, log_pi = squashed(self.actor(obs).float(), eps)
            q_of_policy = self.critic(obs, a).float().amin(0)
        actor_loss = (alpha * log_pi - q_of_policy).mean()
        H = self.actor_descent.step(actor_loss, lr, -log_pi.detach().mean())

        if self.recipe.learn_temperature:
            excess = H - self.recipe.target_entropy * self.n  # H − H̄
            self.temperature_descent.step(self.temperature() * excess, lr)

        # θ⁻ ← τ·θ + (1 − τ)·θ⁻
        self.flat_target.values.lerp_(self.critic_descent.flat.values, self.recipe.target_rate)
        losses = critic_loss.detach(), actor_loss.detach()
        return Found(*losses, q.detach(), log_pi.detach(), alpha)


def normal(head: Array) -> tuple[Array, Array]:
    """μ and log σ, (..., n) each, of the actor's output (..., 2n)."""
    n = head.shape[-1] // 2
    return head[..., :n], namespace(head).clip(head[..., n:], *LOG_STD)


def squashed(head: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """ã = tanh(u) with u = μ + σ·ε, (..., n), and log π(ã|s), (...,): appendix C.

    The change of variables' log(1 − tanh² u) is 2·(log 2 − u − softplus(−2u)), which does not
    cancel where tanh u nears ±1.
    """
    mean, log_std = normal(head)
    u = mean + log_std.exp() * eps
    log_normal = -0.5 * eps * eps - log_std - 0.5 * math.log(2 * math.pi)
    log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))
    return torch.tanh(u), (log_normal - log_slope).sum(-1)
