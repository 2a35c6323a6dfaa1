"""Deep Q-network, DQN (Mnih et al. 2015), with double Q-learning and n-step returns.

Q(s, a; θ) is fitted to targets from a copy θ⁻ of itself that is held still for a while:

    y = Σ_{k<n} γ^k·r_k + γ^n·Q(s_n, argmax_a Q(s_n, a; θ); θ⁻)

(van Hasselt et al. 2016 for the argmax by θ; with `double` off it is by θ⁻, as in 2015), by
gradient descent on the Huber loss of y − Q(s, a; θ), over minibatches from a replay memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.agent import Agent, Carry, Metric, Setting
from rlkit.arrays import Array, namespace
from rlkit.errors import RunError
from rlkit.experience.noise import Noise
from rlkit.experience.replay import Replay, ReplayBatch, Sampling
from rlkit.losses import double_q_target, q_target
from rlkit.networks.heads import Network
from rlkit.optim import Adam, FlatParameters
from rlkit.recipe import Recipe, Result, Tuned, option
from rlkit.schedule import Schedule


@dataclass(frozen=True)
class DQNRecipe(Recipe):
    """DQN's hyperparameters."""

    steps: int = option(500_000, "environment steps to train for", low=1)
    envs: int = option(8, "environments that step together", low=1, high=65536)
    gamma: float = option(0.99, "discount γ", low=0, high=1)
    learning_rate: Schedule = option("1e-3:1e-4", "learning rate", above=0)
    batch_size: int = option(128, "transitions in a minibatch", low=1)
    buffer_size: int = option(100_000, "steps that the replay memory holds", low=1)
    learning_starts: int = option(1_000, "steps before the first update", low=0)
    train_every: int = option(64, "steps between two bursts of updates", low=1)
    gradient_steps: int = option(16, "updates in a burst", low=1)
    target_interval: int = option(256, "updates between two copies into the target net", low=1)
    n_step: int = option(3, "steps n of the return", low=1)
    double: bool = option(True, "double Q-learning")
    exploration: Schedule = option(
        "1:0.04@0.16", "ε of the ε-greedy policy, falling over a share of the run", low=0, high=1
    )
    adam_eps: float = option(1e-8, "added to Adam's denominator", above=0)
    max_grad_norm: float = option(10.0, "the gradient's norm is clipped to this", above=0)
    hidden: tuple[int, ...] = option((120, 84), "widths of the hidden layers", low=1)
    activation: str = option(
        "relu", "activation", choices=("elu", "gelu", "mish", "relu", "silu", "tanh")
    )


RECIPES = {
    "CartPole-v1": Tuned(
        DQNRecipe(
            steps=60_000,
            learning_rate=Schedule(3e-3, 0),
            batch_size=64,
            buffer_size=60_000,
            target_interval=64,
            n_step=6,
            hidden=(256, 256),
        ),
        Result(mean_return=499.3, worst_return=487.5, seeds=20, episodes=100, seconds=12.1),
    ),
}


# Rows that go through the target net together: more calls cost time, and so do hidden layers that
# outgrow the processor's cache.
CACHED_ROWS = 256


class DQN(Agent):
    """One Q-network, its target copy, and a replay memory."""

    name = "dqn"
    recipe_type = DQNRecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: DQNRecipe) -> None:
        super().__init__(setting)
        assert isinstance(setting.action_space, spaces.Discrete)
        self.recipe = recipe
        self.n_actions = int(setting.action_space.n)

        def network() -> Network:
            return Network(
                setting.obs_space, recipe.hidden, recipe.activation, self.n_actions, head_gain=1.0
            ).to(setting.device)

        self.online, self.target = network(), network()
        self.target.load_state_dict(self.online.state_dict())
        self.flat = FlatParameters(self.online)
        self.flat_target = FlatParameters(self.target)
        self.optimizer = Adam(self.flat, recipe.adam_eps)
        self.memory = Replay(
            recipe.buffer_size,
            setting.n_envs,
            setting.obs_space,
            setting.action_space,
            Sampling(
                start=recipe.learning_starts,
                every=recipe.train_every,
                minibatches=recipe.gradient_steps,
                batch_size=recipe.batch_size,
                n_step=recipe.n_step,
                gamma=recipe.gamma,
            ),
            setting.device,
            self.generator,
        )
        self.noise = Noise(self._draw_noise, setting.n_envs, self.generator)
        self.parts = {"memory": self.memory, "optimizer": self.optimizer, "noise": self.noise}

    def _draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Uniform in [0, 1), (*shape, 2): whether to explore, and with which action."""
        return torch.rand((*shape, 2), generator=generator)

    @property
    def epsilon(self) -> float:
        return self.recipe.exploration(self.clock.progress)

    def act(self, obs: Array, carry: Carry, explore: bool = True) -> tuple[Array, Carry]:
        action = self.online.infer(obs).argmax(-1)  # (N,)
        if explore:
            u = self.noise.next(action)  # (N, 2)
            explores = u[:, 0] < self.epsilon
            xp = namespace(action)
            random_action = xp.asarray(u[:, 1] * self.n_actions, dtype=xp.int64)
            action = xp.where(explores, random_action, action)
        return action, carry

    @torch.no_grad()
    def update(self, batch: ReplayBatch) -> dict[str, Metric]:
        recipe = self.recipe
        if not torch.isfinite(batch.reward).all():  # clipping the error would hide it
            raise RunError(
                "a return over n steps overflowed; the weights are as they were before this "
                "update; scale the rewards down"
            )
        lr = recipe.learning_rate(self.clock.progress)
        for obs, action, r, discount, next_obs, q_next in self._minibatches(batch):
            q_all, pull = self.online.vjp(obs)  # (B, A)
            if recipe.double:
                y = double_q_target(r, discount, q_next, self.online(next_obs))  # (B,)
            else:
                y = q_target(r, discount, q_next)
            taken = action.unsqueeze(-1)  # (B, 1)
            q = q_all.gather(-1, taken).squeeze(-1)
            # L = mean of Huber(q − y): ∂L/∂q is the error clipped to [−1, 1]
            # (Mnih et al. 2015, "Training algorithm"), and 0 for the actions not taken.
            td = q - y
            g_q = td.clamp(-1, 1).div_(recipe.batch_size).unsqueeze(-1)
            self.flat.grad.zero_()
            pull(torch.zeros_like(q_all).scatter_(-1, taken, g_q))
            self.flat.clip_grad(recipe.max_grad_norm)
            self.optimizer.step(lr)
        return {
            "td_error": td.abs().mean(),
            "q_mean": q.mean(),
            "learning_rate": lr,
            "exploration_rate": self.epsilon,
        }

    def _minibatches(self, batch: ReplayBatch) -> Iterator[tuple[Tensor, ...]]:
        """Obs, action, reward, discount, next obs and Q(s_n, ·; θ⁻) of each minibatch.

        The target net stands still between two copies, so one forward serves several minibatches;
        after every `target_interval` updates it becomes a copy of the online net.
        """
        interval, end = self.recipe.target_interval, batch.obs.shape[0]
        at_once = max(1, CACHED_ROWS // self.recipe.batch_size)
        columns = (batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs)
        start = 0
        while start < end:
            until_copy = interval - self.optimizer.t % interval
            stop = min(end, start + until_copy, start + at_once)
            q_next = self.target(batch.next_obs[start:stop])  # (stop − start, B, A)
            yield from zip(*(c[start:stop].unbind() for c in columns), q_next.unbind(), strict=True)
            if self.optimizer.t % interval == 0:
                self.flat_target.values.copy_(self.flat.values)
            start = stop
