"""Parallelised Q-network, PQN (Gallici et al. 2024): Q-learning without replay or target network.

Many environments step together ε-greedily; each rollout is learned from for a few epochs and then
forgotten. Q(s, a; θ), kept from diverging by layer normalisation, is fitted to λ-returns

    G_t = r_t + γ·(λ·G_{t+1} + (1 − λ)·max_a Q(s_{t+1}, a; θ))              (§4, Q(λ) as Peng's)

cut at terminations and bootstrapped at truncations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit.agent import Agent, Estimates, Metric, Setting
from rlkit.arrays import Array, as_float, like, namespace
from rlkit.carry import Carry
from rlkit.experience.minibatches import Mean, minibatch_indices, minibatches, parts_of
from rlkit.experience.rollout import Rollout, RolloutBatch
from rlkit.exploration import EpsilonGreedy, q_estimates
from rlkit.losses import greedy, squared
from rlkit.networks.distributions import masked
from rlkit.networks.network import Network
from rlkit.networks.normalize import RewardScaler, obs_normalizer
from rlkit.optim import FlatParameters, optimizer_for
from rlkit.peers import mean_count
from rlkit.recipe import Recipe, Result, Tuned, option
from rlkit.returns import discounts, gae, traces
from rlkit.schedule import Schedule


@dataclass(frozen=True)
class PQNRecipe(Recipe):
    """PQN's hyperparameters."""

    steps: int = option(500_000, "environment steps to train for", low=1)
    envs: int = option(32, "environments that step together", low=1, high=65536)
    n_steps: int = option(64, "steps of each environment per rollout", low=1)
    epochs: int = option(4, "times that a rollout is learned from", low=1)
    minibatch_size: int = option(128, "steps in a minibatch", low=1)
    gamma: float = option(0.99, "discount γ", low=0, high=1)
    q_lambda: float = option(0.95, "λ of the returns; 0: one step", low=0, high=1)
    learning_rate: Schedule = option("2.5e-4:0", "learning rate", above=0)
    optimizer: str = option(
        "adam", "optimiser", choices=("sgd", "momentum", "rmsprop", "adam", "adamw")
    )
    optimizer_eps: float = option(1e-5, "added to the optimiser's denominator", above=0)
    exploration: Schedule = option(
        "1:0.05@0.2", "ε of the ε-greedy policy, falling over a share of the run", low=0, high=1
    )
    max_grad_norm: float = option(10.0, "the gradient's norm is clipped to this", above=0)
    normalize_obs: bool = option(False, "scale observations by their running moments")
    normalize_reward: bool = option(False, "scale rewards by the deviation of the running return")
    encoder: str = option(
        "auto",
        "what sees images, windows and clips; auto: by the observation space",
        choices=("auto", "mlp", "nature", "impala", "cnn", "vin", "conv1d", "conv3d"),
    )
    hidden: tuple[int, ...] = option((128, 128), "widths of the hidden layers", low=1, high=16384)
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
    norm: str = option("layer", "normalisation of the hidden layers", choices=("none", "layer"))


RECIPES = {
    "CartPole-v1": Tuned(
        PQNRecipe(steps=200_000, n_steps=32, minibatch_size=256, learning_rate=Schedule(1e-3, 0)),
        Result(mean_return=500.0, worst_return=500.0, seeds=10, episodes=100, seconds=5.7),
    ),
}


class Found(NamedTuple):
    """What a minibatch came to."""

    mean: Mean
    error: Array  # Q(s, a) − G, (B,)
    loss: Array  # (B,)
    q_all: Array  # (B, A)
    grad_norm: Metric


class PQN(Agent):
    """One Q-network with layer normalisation, learned from each rollout for a few epochs."""

    name = "pqn"
    recipe_type = PQNRecipe
    recipes = RECIPES
    is_compiled = True
    memory: Rollout

    def __init__(self, setting: Setting, recipe: PQNRecipe) -> None:
        super().__init__(setting)
        assert isinstance(setting.action_space, spaces.Discrete)
        self.recipe = recipe
        n_actions = int(setting.action_space.n)
        self.peers = peers = setting.peers
        self.normalizer = obs_normalizer(setting.obs_space, recipe.normalize_obs, peers)
        self.q = Network(
            self.normalizer.space,
            recipe.hidden,
            recipe.activation,
            n_actions,
            head_gain=1.0,
            norm=recipe.norm,
            encoder=recipe.encoder,
            init=recipe.init,
        )
        self.to(setting.device)
        self.flat = FlatParameters(self, self.place.health, peers)
        self.optimizer = optimizer_for(recipe.optimizer, self.flat, recipe.optimizer_eps)
        self.reward_scaler = RewardScaler(setting.n_envs, recipe.gamma, setting.device, peers)
        self.memory = Rollout(
            recipe.n_steps,
            setting.n_envs,
            setting.obs_space,
            setting.action_space,
            setting.device,
            self.place.ahead,
        )
        self.explore = EpsilonGreedy(n_actions, setting.n_envs, self.generator)
        self.noise = self.explore.noise
        self._count = setting.n_envs * recipe.n_steps  # of the steps that are learned from at once
        self._parts = parts_of(self._count, recipe.minibatch_size)
        self.gradient_steps = recipe.epochs * self._parts
        self._epsilons: list[Array] = []  # of the steps that a device takes without the host
        self._columns_there = self.place.graphed(self._columns)
        self._descend_there = self.place.graphed(self._descend_on)
        self.parts = {
            "memory": self.memory,
            "optimizer": self.optimizer,
            "explore": self.explore,
            "reward_scaler": self.reward_scaler,
        }

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        with self.place.precision():
            q = self.q.infer(self.normalizer.forward(self.place.moved(obs)))  # (N, A)
        mask = self.place.moved(mask)
        if explore:
            if self.clock.ahead:
                epsilon = self._epsilons[self.memory.t]
            else:
                epsilon = self.recipe.exploration(self.clock.progress)
            return like(obs, self.explore(q, epsilon, mask)), carry
        return like(obs, greedy(q, mask)), carry

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        q = self.q.infer(self.normalizer.forward(obs))  # (N, A)
        if self.recipe.normalize_reward:
            q = q * self.reward_scaler.scale
        return q_estimates(q, self.recipe.exploration(self.clock.progress), mask)

    def update(self, batch: RolloutBatch) -> dict[str, Metric]:
        self.prepare()
        return self.told(self.learn(batch))

    def prepare(self) -> None:
        recipe, place = self.recipe, self.place
        lr = recipe.learning_rate(self.clock.progress)
        epsilons = map(recipe.exploration, self.clock.ahead)
        rate, *self._epsilons = place.scalars(lr, *epsilons)
        self._rates = (rate,)
        if place.ahead:
            place.random.reseed()

    @torch.no_grad()
    def learn(self, batch: RolloutBatch) -> dict[str, Metric]:
        found = None
        for found in self._learned_there(batch) if self.place.ahead else self._learned(batch):
            mean, g, loss, q_all, grad_norm = found
        if found is None:  # dead steps alone
            return {}
        self.normalizer.include(batch.obs[:-1], batch.valid)
        return {  # of the rollout's last minibatch
            "td_error": mean(abs(g)),
            "value_loss": mean(loss),
            "q_mean": mean(q_all.mean(-1)),
            "grad_norm": grad_norm,
        }

    def told(self, found: dict[str, Metric]) -> dict[str, Metric]:
        if not found:
            return {}
        recipe, progress = self.recipe, self.clock.progress
        lr, epsilon = recipe.learning_rate(progress), recipe.exploration(progress)
        self.flat.look(lr)
        return self.place.kept(found) | {"learning_rate": lr, "exploration_rate": epsilon}

    def _learned(self, batch: RolloutBatch) -> Iterator[Found]:
        """What each minibatch of the valid steps came to."""
        recipe = self.recipe
        *columns, valid = self._columns(*batch.columns())
        steps = [column[valid] for column in columns]
        count = mean_count(len(steps[0]), self.peers)
        if count:
            parts = parts_of(count, recipe.minibatch_size)
            for s, a, y in minibatches(steps, parts, recipe.epochs, self.generator):
                yield self._descend(s, a, y, None)

    def _learned_there(self, batch: RolloutBatch) -> Iterator[Found]:
        """The same on a device, of all steps, the dead ones with weight 0."""
        prepare = self._columns if batch.final_at is not None else self._columns_there
        learn = self._descend_there.bind(*prepare(*batch.columns()))
        epochs, random = self.recipe.epochs, self.place.random
        for index in minibatch_indices(self._count, self._parts, epochs, random):
            yield learn(index)

    def _columns(self, *columns: Any) -> tuple[Array, ...]:
        """Observations, actions, returns and which are valid: of T steps of N."""
        batch = RolloutBatch(*columns)
        obs = self.normalizer.forward(batch.obs)
        return obs[:-1], batch.action, self._returns(batch, obs), batch.valid

    @torch.no_grad()
    def _descend_on(self, *columns: Tensor) -> Found:
        """A step on the rows of `_columns` of an index, which comes last."""
        *of_steps, index = columns
        s, a, y, valid = (c.flatten(0, 1).index_select(0, index) for c in of_steps)
        return self._descend(s, a, y, as_float(valid))

    def _descend(self, s: Array, a: Array, y: Array, live: Array | None) -> Found:
        """A step on a minibatch, in which steps count where they are `live`."""
        xp, mean = namespace(y), Mean(y, live)
        with self.place.precision():
            q_all, pull = self.q.vjp(s)  # (B, A)
        taken = xp.arange(len(y), device=y.device), a
        # L = E[½·(Q(s_t, a_t) − G_t)²]: ∂L/∂Q, and 0 for the actions not taken
        loss, g = squared(q_all[taken], y)
        g_all = 0 * q_all
        g_all[taken] = mean.share(g)
        self.flat.grad.zero_()
        pull(g_all)
        grad_norm = self.flat.clip_grad(self.recipe.max_grad_norm, mean.count)
        self.optimizer.step(*self._rates)
        return Found(mean, g, loss, q_all, grad_norm)

    def _returns(self, batch: RolloutBatch, obs: Array) -> Array:
        """The λ-returns G, (T, N), from the normalised observations, (T + 1, N, *obs)."""
        recipe = self.recipe
        reward = batch.reward
        if recipe.normalize_reward:
            reward = self.reward_scaler(reward, batch.terminated | batch.truncated, batch.valid)
        xp = namespace(reward)

        def best(obs: Array, mask: Array | None) -> Array:
            with self.place.precision():
                q = self.q.infer(obs)
            return xp.amax(masked(q, mask), -1)  # max_a Q(s, a)

        v = best(obs, batch.obs_mask)  # (T + 1, N)
        v_next = batch.next_values(v, lambda o: best(self.normalizer.forward(o), batch.final_mask))
        discount = discounts(recipe.gamma, batch.terminated)
        trace = traces(recipe.q_lambda, batch.terminated, batch.truncated)
        # With V(s) = max_a Q(s, a), G_t is the advantage estimate completed by V(s_t).
        return gae(reward, v[:-1], v_next, discount, trace) + v[:-1]
