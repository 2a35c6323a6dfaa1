"""What actor-critics on rollouts have in common: everything but the update."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rlkit.agent import Estimates, Setting, Stateful
from rlkit.arrays import Array, as_tensor, like
from rlkit.carry import Carry, rows
from rlkit.device.engine import Place
from rlkit.experience.noise import Noise
from rlkit.experience.rollout import Rollout, RolloutBatch
from rlkit.networks.distributions import masked, policy_for
from rlkit.networks.normalize import RewardScaler, obs_normalizer
from rlkit.networks.policy_value import SharedBody, policy_value
from rlkit.optim import FlatParameters, optimizer_for
from rlkit.returns import discounts, gae, traces


class ActorCriticRecipe(SharedBody, Protocol):
    """The hyperparameters that the parts are made from."""

    @property
    def n_steps(self) -> int: ...
    @property
    def gamma(self) -> float: ...
    @property
    def gae_lambda(self) -> float: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def optimizer_eps(self) -> float: ...
    @property
    def squash(self) -> bool: ...
    @property
    def normalize_obs(self) -> bool: ...
    @property
    def normalize_reward(self) -> bool: ...


class ActorCritic(nn.Module):
    """A policy and a value, the rollout that they learn from, and their optimiser."""

    def __init__(
        self, setting: Setting, recipe: ActorCriticRecipe, generator: torch.Generator, place: Place
    ) -> None:
        super().__init__()
        self.recipe, self.place = recipe, place
        self.policy = policy_for(setting.action_space, recipe.squash)
        self.peers = peers = setting.peers
        self.normalizer = obs_normalizer(setting.obs_space, recipe.normalize_obs, peers)
        self.nets = policy_value(self.normalizer.space, self.policy.outputs, recipe)
        self.to(setting.device)
        self.flat = FlatParameters(self, place.health, peers)
        self.optimizer = optimizer_for(recipe.optimizer, self.flat, recipe.optimizer_eps)
        self.reward_scaler = RewardScaler(setting.n_envs, recipe.gamma, setting.device, peers)
        self.memory = Rollout(
            recipe.n_steps,
            setting.n_envs,
            setting.obs_space,
            setting.action_space,
            setting.device,
            place.ahead,
        )
        self.noise = Noise(self.policy.draw_noise, setting.n_envs, generator)
        self.parts: dict[str, Stateful] = {
            "memory": self.memory,
            "optimizer": self.optimizer,
            "noise": self.noise,
            "reward_scaler": self.reward_scaler,
        }

    def act(
        self, obs: Array, carry: Carry, explore: bool, mask: Array | None
    ) -> tuple[Array, Carry]:
        x = self.place.moved(obs)
        with self.place.precision():
            head, carry = self.nets.act(self.normalizer.forward(x), carry)  # (N, outputs)
        head = masked(head, self.place.moved(mask))
        if explore:
            return like(obs, self.policy.sample(head, self.noise.next(head))), carry
        return like(obs, self.policy.mode(head)), carry

    def estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        """See `rlkit.agent.Agent.estimates`; without a memory, over Discrete actions."""
        head, v = self.nets.infer(self.normalizer.forward(obs))  # (N, A), (N,)
        logits = masked(head, mask)
        greedy = self.policy.mode(logits)[:, None] == np.arange(logits.shape[1])
        scale = self.reward_scaler.scale if self.recipe.normalize_reward else 1.0
        return Estimates(
            greedy.astype(np.float64),
            torch.from_numpy(logits).double().softmax(-1).numpy(),
            v=scale * v.astype(np.float64),
        )

    def advantages(self, batch: RolloutBatch, v: Array) -> Array:
        """Generalised advantage estimates (T, N); `v` (T + 1, N) are the values of `batch.obs`."""
        recipe, reward = self.recipe, batch.reward
        if recipe.normalize_reward:
            reward = self.reward_scaler(reward, batch.terminated | batch.truncated, batch.valid)
        v_next = batch.next_values(v, lambda obs: self._final_values(batch, obs))
        discount = discounts(recipe.gamma, batch.terminated)
        trace = traces(recipe.gae_lambda, batch.terminated, batch.truncated)
        return gae(reward, v[:-1], v_next, discount, trace)

    def _final_values(self, batch: RolloutBatch, final_obs: Array) -> Array:
        """The values (K,) of the last observations of episodes that SAME_STEP autoreset set apart.

        A memory reads each after all that came before it, one by one: only vector environments
        that a user brings have them.
        """
        obs = self.normalizer.forward(final_obs)
        if not self.nets.has_core:
            return self.nets.value(obs)
        assert batch.final_at is not None
        assert batch.reset is not None
        history = self.normalizer.forward(batch.obs)
        values = []
        for k in range(len(obs)):
            t, env = (int(index[k]) for index in batch.final_at)
            one, until = slice(env, env + 1), t + 1
            carry = rows(batch.carry, one)
            carry = self.nets.follow(history[:until, one], carry, batch.reset[:until, one])
            values.append(as_tensor(self.nets.value(obs[k : k + 1], carry), self.flat.grad.device))
        return like(final_obs, torch.cat(values))
