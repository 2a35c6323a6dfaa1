"""Recurrent replay distributed DQN, R2D2 (Kapturowski et al. 2019), on one machine.

DQN with a memory between encoder and head, learned from sequences. Each begins with what the memory
held when it was played; of its first `burn_in` steps only the memory is unrolled, so that what it
holds is nearly what the present weights would have made of the past (§3). On the `unroll` steps
after them

    y_t = h(Σ_{k<n} γ^k·r_{t+k} + γ^n·h⁻¹(Q(s_{t+n}, argmax_a Q(s_{t+n}, a; θ); θ⁻)))     (§2.3)

is what Q(s_t, a_t; θ) is fitted to, with h a rescaling that spares the scale of the rewards.
Sequences are drawn by their priority η·max_t |δ_t| + (1 − η)·mean_t |δ_t|.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.agent import Agent, Metric, Setting
from rlkit.arrays import Array, as_tensor, like
from rlkit.carry import Carry
from rlkit.experience.sequences import SequenceBatch, Sequences, SequenceSampling
from rlkit.exploration import EpsilonGreedy
from rlkit.losses import greedy, squared
from rlkit.networks.heads import Head
from rlkit.networks.normalize import obs_normalizer
from rlkit.networks.recurrent_q import RecurrentQ
from rlkit.networks.target import TargetParameters
from rlkit.networks.values import put, take
from rlkit.optim import FlatParameters, optimizer_for
from rlkit.recipe import Recipe, Result, Tuned, option
from rlkit.returns import n_step, rescaled, unrescaled
from rlkit.schedule import Schedule

# η, what the largest error of a sequence counts against the mean (§2.3).
ETA = 0.9


@dataclass(frozen=True)
class R2D2Recipe(Recipe):
    """R2D2's hyperparameters."""

    steps: int = option(500_000, "environment steps to train for", low=1)
    envs: int = option(16, "environments that step together", low=1, high=65536)
    gamma: float = option(0.99, "discount γ", low=0, high=1)
    learning_rate: Schedule = option("2e-3:1e-4", "learning rate", above=0)
    batch_size: int = option(32, "sequences in a minibatch", low=1)
    buffer_size: int = option(100_000, "steps that the replay memory holds", low=1)
    learning_starts: int = option(2_000, "steps before the first update", low=0)
    train_every: int = option(64, "steps between two bursts of updates", low=1)
    gradient_steps: int = option(4, "updates in a burst", low=1)
    target_interval: int = option(64, "updates between two moves of the target net", low=1)
    target_rate: float = option(
        1.0, "how far the target net moves: 1: a copy, less: soft updates", above=0, high=1
    )
    burn_in: int = option(10, "steps of a sequence that only unroll the memory", low=0)
    unroll: int = option(20, "steps of a sequence that are learned from", low=1)
    n_step: int = option(5, "steps n of the return", low=1)
    double: bool = option(True, "double Q-learning")
    dueling: bool = option(True, "separate streams for the state's value and the advantages")
    rescale: bool = option(True, "learn values rescaled by h, which spares the rewards' scale")
    priority_exponent: float = option(
        0.9, "exponent α of prioritised replay; 0: uniform", low=0, high=1
    )
    importance_exponent: Schedule = option(
        "0.6", "exponent β of prioritised replay's importance weights", low=0, high=1
    )
    exploration: Schedule = option(
        "1:0.04@0.16", "ε of the ε-greedy policy, falling over a share of the run", low=0, high=1
    )
    exploration_spread: float = option(
        0.0,
        "α: environment i of N explores with ε^(1 + α·i/(N − 1)); 0: all with ε",
        low=0,
        high=100,
    )
    optimizer: str = option(
        "adam", "optimiser", choices=("sgd", "momentum", "rmsprop", "adam", "adamw")
    )
    optimizer_eps: float = option(1e-5, "added to the optimiser's denominator", above=0)
    max_grad_norm: float = option(10.0, "the gradient's norm is clipped to this", above=0)
    normalize_obs: bool = option(False, "scale observations by their running moments")
    encoder: str = option(
        "auto",
        "what sees images, windows and clips; auto: by the observation space",
        choices=("auto", "mlp", "nature", "impala", "cnn", "vin", "conv1d", "conv3d"),
    )
    core: str = option(
        "lstm",
        "memory between encoder and head",
        choices=("rnn", "gru", "lstm", "gtrxl"),
        never=("bidirectional", "sees the future: as an agent acts, it isn't there yet"),
    )
    core_width: int = option(128, "width of the memory", low=1, high=16384)
    hidden: tuple[int, ...] = option((64,), "widths of the hidden layers", low=1, high=16384)
    head_hidden: tuple[int, ...] = option(
        (), "widths of the head's own hidden layers, in each of its streams", low=1, high=16384
    )
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
    "rlkit/CartPoleHidden-v0": Tuned(
        R2D2Recipe(
            steps=100_000,
            gamma=0.98,
            learning_rate=Schedule(1e-3, 0),
            buffer_size=33_000,
            gradient_steps=8,
            priority_exponent=0.0,
            exploration=Schedule(1, 0.04, share=0.2),
            normalize_obs=True,
            core="gru",
            core_width=64,
        ),
        Result(mean_return=483.2, worst_return=459.7, seeds=5, episodes=100, seconds=561.3),
    ),
}


class Found(NamedTuple):
    """What a minibatch came to."""

    loss: Tensor
    q_mean: Tensor
    grad_norm: Metric
    priority: Tensor  # (B,)


class R2D2(Agent):
    """One recurrent Q-network, its target copy, and a memory of sequences."""

    name = "r2d2"
    recipe_type = R2D2Recipe
    recipes = RECIPES
    memory: Sequences

    def __init__(self, setting: Setting, recipe: R2D2Recipe) -> None:
        super().__init__(setting)
        assert isinstance(setting.action_space, spaces.Discrete)
        self.recipe = recipe
        n_actions = int(setting.action_space.n)
        self.normalizer = obs_normalizer(setting.obs_space, recipe.normalize_obs, setting.peers)
        self.normalizer.to(setting.device)
        head = Head(dueling=recipe.dueling, hidden=recipe.head_hidden, init=recipe.init)

        def network() -> RecurrentQ:
            net = RecurrentQ(self.normalizer.space, n_actions, recipe, head)
            return net.to(setting.device)

        self.online, self.target = network(), network()
        self.flat = FlatParameters(self.online, self.place.health, setting.peers)
        self.follower = TargetParameters(
            self.flat, FlatParameters(self.target), recipe.target_interval, recipe.target_rate
        )
        self.optimizer = optimizer_for(recipe.optimizer, self.flat, recipe.optimizer_eps)
        self.memory = Sequences(
            recipe.buffer_size,
            setting.n_envs,
            setting.obs_space,
            setting.action_space,
            self.initial_carry(setting.n_envs),
            SequenceSampling(
                start=recipe.learning_starts,
                every=recipe.train_every,
                minibatches=recipe.gradient_steps,
                batch_size=recipe.batch_size,
                length=recipe.burn_in + recipe.unroll + recipe.n_step - 1,
                stride=max(1, recipe.unroll // 2),
                priority_exponent=recipe.priority_exponent,
            ),
            setting.device,
            self.generator,
            setting.frame_stack,
        )
        self.explore = EpsilonGreedy(n_actions, setting.n_envs, self.generator)
        self._descend_there = self.place.graphed(self._descend)
        # of each environment's ε: some explore much, others little (Horgan et al. 2018, §4.1)
        spread = torch.linspace(0, recipe.exploration_spread, setting.n_envs, device=setting.device)
        self.exponents = 1 + spread  # (N,)
        self.parts = {
            "memory": self.memory,
            "optimizer": self.optimizer,
            "follower": self.follower,
            "explore": self.explore,
        }

    def initial_carry(self, n: int) -> Carry:
        return self.online.features.initial_carry(n)

    @torch.no_grad()
    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        seen = as_tensor(self.normalizer.forward(obs), self.setting.device)
        out, carry = self.online.step(seen, carry)
        q = like(obs, out)  # (N, A)
        if not explore:
            return greedy(q, mask), carry
        progress = self.clock.progress
        self.memory.beta = self.recipe.importance_exponent(progress)
        epsilon = self.recipe.exploration(progress) ** like(q, self.exponents)  # (N,)
        return self.explore(q, epsilon, mask), carry

    def update(self, batch: SequenceBatch) -> dict[str, Metric]:
        place, progress = self.place, self.clock.progress
        lr = self.recipe.learning_rate(progress)
        self._rates = place.scalars(lr)
        found = self._descend_there(*batch.columns())
        self.follower.follow()
        seen = batch.obs[:-1]
        if place.ahead:  # to select them asks the device how many they are
            self.normalizer.include(seen, batch.valid)
        else:
            self.normalizer.include(seen[batch.valid])
        self.flat.look(lr)
        assert batch.cell is not None
        self.memory.update_priorities(batch.cell, found.priority)
        metrics = {"loss": found.loss, "q_mean": found.q_mean, "grad_norm": found.grad_norm}
        told = {"learning_rate": lr, "exploration_rate": self.recipe.exploration(progress)}
        return place.kept(metrics) | told

    @torch.no_grad()
    def _descend(self, *columns: Any) -> Found:
        """A step on a minibatch."""
        recipe, burn_in, U = self.recipe, self.recipe.burn_in, self.recipe.unroll
        batch = SequenceBatch(*columns)
        obs, carry = self.normalizer.forward(batch.obs), batch.carry
        if burn_in:
            before = obs[:burn_in], carry, batch.reset[:burn_in]
            _, carry = self.online.features(*before)  # by the present weights
        with torch.enable_grad():
            out = self.online(obs[burn_in:], carry, batch.reset[burn_in:])  # (U + n, B, A)
            learned = out[:U]
        q = out.detach()
        q_target = self.target(obs, batch.carry, batch.reset)[burn_in:]  # its own burn-in
        mask = None if batch.mask is None else batch.mask[burn_in:]
        a_star = greedy(q if recipe.double else q_target, mask)  # (U + n, B)
        y = self._targets(batch, take(q_target, a_star))  # (U, B)

        action = batch.action[burn_in : burn_in + U]
        valid = batch.valid[burn_in : burn_in + U].float()
        # L = E[w·½(Q(s_t, a_t) − y_t)²], over the steps that count
        loss, delta = squared(take(q[:U], action), y)  # (U, B) each
        weight = valid / valid.sum().clip(1)
        if batch.weight is not None:
            weight = weight * batch.weight
        self.flat.grad.zero_()
        torch.autograd.backward(learned, put(weight * delta, action, learned))
        grad_norm = self.flat.clip_grad(recipe.max_grad_norm, valid.sum())
        self.optimizer.step(*self._rates)
        error = delta.abs() * valid
        mean = error.sum(0) / valid.sum(0).clip(1)
        priority = ETA * error.amax(0) + (1 - ETA) * mean
        return Found((weight * loss).sum(), q.mean(), grad_norm, priority)

    def _targets(self, batch: SequenceBatch, v: Tensor) -> Tensor:
        """y (U, B), from the values (U + n, B) of the observations after the burn-in."""
        recipe, U = self.recipe, self.recipe.unroll

        def windows(column: Tensor) -> Tensor:  # (n, U·B)
            starts = range(recipe.burn_in, recipe.burn_in + recipe.n_step)
            return torch.stack([column[k : k + U].flatten() for k in starts])

        reward, terminated, ended = map(windows, (batch.reward, batch.terminated, batch.ended))
        returns = n_step(reward, terminated, ended, recipe.gamma)
        G, discount, m = (x.view(U, -1) for x in returns)
        last = torch.arange(U, device=m.device)[:, None] + m  # where each window's value stands
        if not recipe.rescale:
            return G + discount * v.gather(0, last)
        return rescaled(G + discount * unrescaled(v.gather(0, last)))
