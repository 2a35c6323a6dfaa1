"""Deep Q-network, DQN (Mnih et al. 2015), and what has been added to it since.

Q(s, a; θ) is fitted to targets from a copy θ⁻ of itself that follows more slowly:

    y = Σ_{k<n} γ^k·r_k + γ^n·Q(s_n, argmax_a Q(s_n, a; θ); θ⁻)

(van Hasselt et al. 2016 for the argmax by θ; with `double` off it is by θ⁻, as in 2015), by
gradient descent on the Huber loss of y − Q(s, a; θ), over minibatches from a replay memory. The
recipe switches on dueling streams, noisy layers, prioritised replay, and distributions of the
return in place of their means, C51 or quantiles: see rlkit/networks/{heads,noisy,values}.py and
rlkit/experience/. All of them together are Rainbow (agents/rainbow.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit.agent import Agent, Estimates, Metric, Setting
from rlkit.arrays import Array, as_tensor, like
from rlkit.carry import Carry
from rlkit.device.health import LOSS, RETURN, overflow_error
from rlkit.experience.replay import Replay, ReplayBatch, Sampling
from rlkit.exploration import EpsilonGreedy, q_estimates
from rlkit.losses import greedy
from rlkit.networks.heads import Head
from rlkit.networks.network import Network
from rlkit.networks.normalize import obs_normalizer
from rlkit.networks.target import TargetParameters
from rlkit.networks.values import put, take, values_for
from rlkit.optim import FlatParameters, optimizer_for
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
    target_interval: int = option(256, "updates between two moves of the target net", low=1)
    target_rate: float = option(
        1.0, "how far the target net moves: 1: a copy, less: soft updates", above=0, high=1
    )
    n_step: int = option(3, "steps n of the return", low=1)
    double: bool = option(True, "double Q-learning")
    dueling: bool = option(False, "separate streams for the state's value and the advantages")
    noisy: bool = option(False, "noisy layers in the head, which explore; then ε may be 0")
    values: str = option(
        "mean",
        "what is learnt of the return: its mean, a categorical distribution or its quantiles",
        choices=("mean", "c51", "quantiles"),
    )
    atoms: int = option(51, "atoms of c51, or number of quantiles", low=2)
    v_min: float = option(-10.0, "least return on c51's support", low=-1e9, high=1e9)
    v_max: float = option(10.0, "greatest return on c51's support", low=-1e9, high=1e9)
    priority_exponent: float = option(
        0.0, "exponent α of prioritised replay; 0: uniform", low=0, high=1
    )
    importance_exponent: Schedule = option(
        "0.4:1", "exponent β of prioritised replay's importance weights", low=0, high=1
    )
    exploration: Schedule = option(
        "1:0.04@0.16", "ε of the ε-greedy policy, falling over a share of the run", low=0, high=1
    )
    optimizer: str = option(
        "adam", "optimiser", choices=("sgd", "momentum", "rmsprop", "adam", "adamw")
    )
    optimizer_eps: float = option(1e-8, "added to the optimiser's denominator", above=0)
    max_grad_norm: float = option(10.0, "the gradient's norm is clipped to this", above=0)
    normalize_obs: bool = option(False, "scale observations by their running moments")
    encoder: str = option(
        "auto",
        "what sees images, windows and clips; auto: by the observation space",
        choices=("auto", "mlp", "nature", "impala", "cnn", "vin", "conv1d", "conv3d"),
    )
    hidden: tuple[int, ...] = option((120, 84), "widths of the hidden layers", low=1, high=16384)
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
    "CartPole-v1": Tuned(
        # Pushes at random over a third of the run, a known scale of observations and a bounded
        # support keep the policy from following one side of the track (docs/recipes.md).
        DQNRecipe(
            steps=40_000,
            gamma=0.995,
            learning_rate=Schedule(3e-3, 0),
            batch_size=64,
            buffer_size=40_000,
            train_every=48,
            target_interval=64,
            n_step=5,
            values="c51",
            v_min=0.0,
            v_max=200.0,
            exploration=Schedule(1, 0.04, share=0.3),
            normalize_obs=True,
            hidden=(128, 128),
        ),
        Result(mean_return=500.0, worst_return=500.0, seeds=10, episodes=100, seconds=27.8),
    ),
    "Acrobot-v1": Tuned(
        DQNRecipe(
            steps=100_000,
            learning_rate=Schedule(1e-3, 0),
            buffer_size=50_000,
            train_every=32,
            gradient_steps=8,
            target_interval=100,
            exploration=Schedule(1, 0.05, share=0.2),
            hidden=(256, 256),
        ),
        Result(mean_return=-79.5, worst_return=-85.9, seeds=10, episodes=100, seconds=38.3),
    ),
    "MountainCar-v0": Tuned(
        # A policy must last for some steps of each environment to swing the car up: with 8 of them,
        # an update every 16 steps changes it after 2 and never gets there (docs/recipes.md).
        DQNRecipe(
            steps=120_000,
            learning_rate=Schedule(4e-3, 0),
            buffer_size=120_000,
            train_every=128,
            gradient_steps=48,
            target_interval=300,
            n_step=10,
            exploration=Schedule(1, 0.05, share=0.1),
            normalize_obs=True,
            hidden=(128, 128),
        ),
        Result(mean_return=-99.5, worst_return=-101.0, seeds=10, episodes=100, seconds=28.5),
    ),
    "LunarLander-v3": Tuned(
        DQNRecipe(
            steps=700_000,
            gamma=0.995,
            learning_rate=Schedule(1e-3, 0),
            buffer_size=700_000,
            target_interval=250,
            n_step=5,
            exploration=Schedule(1, 0.02, share=0.15),
            normalize_obs=True,
            hidden=(128, 128),
        ),
        Result(mean_return=251.7, worst_return=224.4, seeds=10, episodes=100, seconds=281.9),
    ),
    "ALE/Pong-v5": Tuned(
        # RL Zoo's settings for Atari (after Mnih et al. 2015): an update every 4 steps, and a copy
        # of the net every 1,000, which is every 250 updates
        DQNRecipe(
            steps=10_000_000,
            learning_rate=Schedule(1e-4),
            batch_size=32,
            learning_starts=100_000,
            train_every=32,
            gradient_steps=8,
            target_interval=250,
            n_step=1,
            double=False,
            exploration=Schedule(1, 0.01, share=0.1),
            hidden=(512,),
        ),
    ),
    "rlkit/Catch-v0": Tuned(
        DQNRecipe(
            steps=30_000,
            gamma=0.95,
            learning_rate=Schedule(1e-3, 0),
            buffer_size=30_000,
            train_every=32,
            gradient_steps=4,
            target_interval=100,
            exploration=Schedule(1, 0.05, share=0.3),
            hidden=(128,),
        ),
        Result(mean_return=1.0, worst_return=1.0, seeds=5, episodes=100, seconds=33.0),
    ),
    "Taxi-v4": Tuned(
        DQNRecipe(
            steps=120_000,
            learning_rate=Schedule(3e-3, 0),
            buffer_size=120_000,
            gradient_steps=8,
            exploration=Schedule(1, 0.1, share=0.5),
            hidden=(128,),
        ),
        Result(mean_return=8.0, worst_return=7.4, seeds=10, episodes=100, seconds=55.5),
    ),
    "FrozenLake8x8-v1": Tuned(
        # One layer over the one-hot states is a table with a step size of its own for each.
        DQNRecipe(
            steps=300_000,
            learning_rate=Schedule(3e-3, 0),
            batch_size=512,
            buffer_size=300_000,
            gradient_steps=8,
            target_interval=80,
            n_step=1,
            exploration=Schedule(1, 0.3, share=0.4),
            hidden=(128,),
        ),
        Result(mean_return=0.87, worst_return=0.84, seeds=10, episodes=100, seconds=74.4),
    ),
}


# Rows that go through the target net together: more calls cost time, and so do hidden layers that
# outgrow the processor's cache.
CACHED_ROWS = 256


class Found(NamedTuple):
    """What a minibatch came to."""

    loss: Tensor  # (B,)
    out: Tensor  # (B, A) or (B, A, K)
    surprise: Tensor  # (B,): what priorities are made of


class DQN(Agent):
    """One Q-network, its target copy, and a replay memory."""

    name = "dqn"
    recipe_type = DQNRecipe
    recipes = RECIPES
    is_compiled = True
    memory: Replay

    def __init__(self, setting: Setting, recipe: DQNRecipe) -> None:
        super().__init__(setting)
        assert isinstance(setting.action_space, spaces.Discrete)
        self.recipe = recipe
        n_actions = int(setting.action_space.n)
        self.values = values_for(
            recipe.values, recipe.atoms, recipe.v_min, recipe.v_max, setting.device
        )

        self.normalizer = obs_normalizer(setting.obs_space, recipe.normalize_obs, setting.peers)
        self.normalizer.to(setting.device)

        def network() -> Network:
            return Network(
                self.normalizer.space,
                recipe.hidden,
                recipe.activation,
                n_actions,
                head_gain=1.0,
                atoms=self.values.atoms,
                head=Head(recipe.dueling, recipe.noisy, recipe.head_hidden, recipe.init),
                encoder=recipe.encoder,
                init=recipe.init,
            ).to(setting.device)

        self.online, self.target = network(), network()
        self.flat = FlatParameters(self.online, self.place.health, setting.peers)
        self.follower = TargetParameters(
            self.flat, FlatParameters(self.target), recipe.target_interval, recipe.target_rate
        )
        self.optimizer = optimizer_for(recipe.optimizer, self.flat, recipe.optimizer_eps)
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
                priority_exponent=recipe.priority_exponent,
            ),
            setting.device,
            self.generator,
            setting.frame_stack,
            self.place,
        )
        self.explore = EpsilonGreedy(n_actions, setting.n_envs, self.generator)
        self._descend_there = self.place.graphed(self._descend_on)
        numbers = torch.arange(recipe.gradient_steps, device=setting.device)
        self._numbers = torch.split(numbers, 1)
        self.parts = {
            "memory": self.memory,
            "optimizer": self.optimizer,
            "follower": self.follower,
            "explore": self.explore,
        }

    @property
    def epsilon(self) -> float:
        return self.recipe.exploration(self.clock.progress)

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        if explore:
            # of the batches that are drawn after this step
            self.memory.beta = self.recipe.importance_exponent(self.clock.progress)
            self.place.random.reseed()
            self.online.resample(self.place.random.there)
        mask = self.place.moved(mask)
        q = self._q(self.place.moved(obs), noise=explore)
        action = self.explore(q, self.epsilon, mask) if explore else greedy(q, mask)
        return like(obs, action), carry

    def _q(self, obs: Array, noise: bool) -> Array:
        """Q(s, ·; θ), (N, A)."""
        with self.place.precision():
            out = self.online.infer(self.normalizer.forward(obs), noise=noise)
        return like(obs, self.values.expected(as_tensor(out, self.setting.device)))

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        found = q_estimates(self._q(obs, noise=False), self.epsilon, mask)
        # How often each action is the best under noise in the weights has no closed form.
        return replace(found, exploring=None) if self.recipe.noisy else found

    @torch.no_grad()
    def update(self, batch: ReplayBatch) -> dict[str, Metric]:
        place, lr = self.place, self.recipe.learning_rate(self.clock.progress)
        self._rates = place.scalars(lr)
        self._require_finite(RETURN, batch.reward, "a return over n steps")
        for found in self._learned_there(batch) if place.ahead else self._learned(batch):
            self.follower.follow()
            loss, out, _ = found
        self.normalizer.include(batch.obs)
        self.flat.look(lr)
        metrics = {"loss": loss.mean(), "q_mean": self.values.expected(out).mean()}
        # of the burst's last minibatch
        return place.kept(metrics) | {"learning_rate": lr, "exploration_rate": self.epsilon}

    def _learned(self, batch: ReplayBatch) -> Iterator[Found]:
        """What each minibatch came to."""
        for mini, out_next in self._minibatches(batch):
            yield (found := self._descend(mini, out_next))
            if mini.weight is not None and mini.cell is not None:
                self.memory.update_priorities(mini.cell, found.surprise)

    def _learned_there(self, batch: ReplayBatch) -> Iterator[Found]:
        """The same on a device; priorities, of which the last one counts, change after all."""
        self.place.random.reseed()
        learn, surprise = self._descend_there.bind(*batch.columns()), []
        for number in self._numbers:
            yield (found := learn(number))
            surprise.append(found.surprise.clone())
        if batch.weight is not None and batch.cell is not None:
            self.memory.update_priorities(batch.cell, torch.stack(surprise))

    def _descend_on(self, *columns: Tensor | None) -> Found:
        """A step on the minibatch of a number (1,), which comes last."""
        *of_batch, number = columns
        assert number is not None
        picked = (None if c is None else c.index_select(0, number)[0] for c in of_batch)
        mini = self._normalized(ReplayBatch(*picked))  # type: ignore[arg-type]
        return self._descend(mini, self._targets_of(mini.next_obs))

    def _descend(self, mini: ReplayBatch, out_next: Tensor) -> Found:
        """A step on a minibatch, its observations normalised; `out_next` is Q(s_n, ·; θ⁻)."""
        recipe, values, (lr,) = self.recipe, self.values, self._rates
        # One sample of the noise for the prediction and the choice of the next action alike.
        self.online.resample(self.place.random.there)
        with self.place.precision():
            out, pull = self.online.vjp(mini.obs)  # (B, A), or (B, A, K) with distributions
            select = self.online(mini.next_obs).float() if recipe.double else out_next
        a_star = greedy(values.expected(select), mini.next_mask)  # (B,)
        y = values.target(mini.reward, mini.discount, take(out_next, a_star))
        taken = take(out, mini.action)  # (B,) or (B, K), as y is
        # L = E[w·loss(Q(s, a), y)]: ∂L/∂Q, and 0 for the actions not taken
        loss, g = values.loss(taken, y)
        self._require_finite(LOSS, loss.mean(), "the loss")  # its clipped gradient would hide it
        if mini.weight is not None:
            g = g * mini.weight.view(-1, *[1] * (g.ndim - 1))
        self.flat.grad.zero_()
        pull(put(g / recipe.batch_size, mini.action, out))
        self.flat.clip_grad(recipe.max_grad_norm)
        self.optimizer.step(lr)
        surprise = loss if mini.weight is None else values.surprise(taken, y, loss)
        return Found(loss, out, surprise)

    def _targets_of(self, next_obs: Tensor) -> Tensor:
        """Q(s_n, ·; θ⁻) under noise of its own."""
        self.target.resample(self.place.random.there)
        with self.place.precision():
            out: Tensor = self.target(next_obs).float()
        return out

    def _normalized(self, batch: ReplayBatch) -> ReplayBatch:
        forward = self.normalizer.forward
        return replace(batch, obs=forward(batch.obs), next_obs=forward(batch.next_obs))

    def _require_finite(self, kind: int, x: Tensor, what: str) -> None:
        health = self.place.health
        if health is not None:
            health.watch(kind, x.sum())
        elif not math.isfinite(x.sum().item()):  # one pass: where a term is not, the sum is not
            raise overflow_error(what)

    def _minibatches(self, batch: ReplayBatch) -> Iterator[tuple[ReplayBatch, Tensor]]:
        """Each minibatch, its observations normalised, and Q(s_n, ·; θ⁻).

        The target net stands still between two moves, so one forward serves several minibatches;
        its noise, where it has any, is then theirs together.
        """
        batch = self._normalized(batch)
        at_once = max(1, CACHED_ROWS // self.recipe.batch_size)
        start, end = 0, len(batch.obs)
        while start < end:
            stop = min(end, start + self.follower.stands_for, start + at_once)
            out_next = self._targets_of(batch.next_obs[start:stop])  # (stop − start, B, A[, K])
            for g in range(start, stop):
                yield batch.minibatch(g), out_next[g - start]
            start = stop
