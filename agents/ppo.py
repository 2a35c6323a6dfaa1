"""Proximal policy optimisation, PPO (Schulman et al. 2017), with the clipped objective.

Each rollout is learned from for several epochs of minibatches. The actor climbs

    L(θ) = E[min(ρ_t·A_t, clip(ρ_t, 1 − ε, 1 + ε)·A_t)] + β·E[H(π(·|s_t; θ))]     (eq. 7 and 9)

with ρ_t = π(a_t|s_t; θ)/π(a_t|s_t; θ_old), so that nothing is gained by moving the probability of
an action beyond the clip; the critic is fitted to the returns A_t + V(s_t; θ_old). Advantages are
generalised advantage estimates (Schulman et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rlkit.actor_critic import ActorCritic
from rlkit.agent import Agent, Estimates, Metric, Setting
from rlkit.arrays import Array, as_float, like, namespace
from rlkit.carry import Carry, rows
from rlkit.experience.minibatches import Mean, minibatch_indices, minibatches, parts_of
from rlkit.experience.rollout import RolloutBatch
from rlkit.networks.distributions import masked
from rlkit.peers import jointly, mean_count
from rlkit.recipe import Recipe, Result, Tuned, option
from rlkit.schedule import Schedule

M = TypeVar("M")  # a minibatch, or what names one


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
    init: str = option(
        "orthogonal",
        "how the weights of convolutions and hidden layers start",
        choices=("kaiming", "orthogonal", "xavier"),
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
    "ALE/Pong-v5": Tuned(
        # RL Zoo, after Schulman et al. 2017, table 5
        PPORecipe(
            steps=10_000_000,
            learning_rate=Schedule(2.5e-4, 0),
            clip=Schedule(0.1, 0),
            entropy_cost=Schedule(0.01),
            hidden=(512,),
            activation="relu",
        ),
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
    live: Array | None = None  # as A: 1 where a step counts, where dead ones stand among them
    moments: tuple[Array, Array] | None = None  # mean and variance of all ranks' A; None: of A


class Found(NamedTuple):
    """What a minibatch came to."""

    mean: Mean
    gain: Array  # ρ·A, (B,)
    clipped: Array  # clip(ρ, 1 − ε, 1 + ε)·A, (B,)
    error: Array  # V − G, (B,)
    entropy: Array  # (B,)
    kl: Array
    grad_norm: Metric | None = None  # None: no step was taken


class PPO(Agent):
    """An actor and a critic, learned from each rollout for several epochs."""

    name = "ppo"
    recipe_type = PPORecipe
    recipes = RECIPES
    is_compiled = True
    steps_type = Steps

    def __init__(self, setting: Setting, recipe: PPORecipe) -> None:
        super().__init__(setting)
        self.recipe = recipe
        self.ac = ActorCritic(setting, recipe, self.generator, self.place)
        self.memory, self.parts, self.noise = self.ac.memory, self.ac.parts, self.ac.noise
        envs, steps = setting.n_envs, setting.n_envs * recipe.n_steps
        # Of a rollout on a device: what minibatches are drawn from, and how many those are.
        self._rows = envs if self.ac.nets.has_core else steps
        self._parts = min(self._rows, parts_of(steps, recipe.minibatch_size))
        self.gradient_steps = recipe.epochs * self._parts
        self._columns_there = self.place.graphed(self._columns)
        self._descend_there = self.place.graphed(self._descend_on)

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
        recipe, place, progress = self.recipe, self.place, self.clock.progress
        rates = recipe.learning_rate, recipe.clip, recipe.entropy_cost
        self._rates = place.scalars(*(rate(progress) for rate in rates))
        if place.ahead:
            place.random.reseed()

    def learn(self, batch: RolloutBatch) -> dict[str, Metric]:
        found, grad_norm = None, None
        for found in self._learned_there(batch) if self.place.ahead else self._learned(batch):
            grad_norm = grad_norm if found.grad_norm is None else found.grad_norm
        if found is None:  # dead steps alone
            return {}
        self.ac.normalizer.include(batch.obs[:-1], batch.valid)
        # Where the first minibatch is too far already there was no step.
        return self.metrics(found) | ({} if grad_norm is None else {"grad_norm": grad_norm})

    def told(self, found: dict[str, Metric]) -> dict[str, Metric]:
        if not found:
            return {}
        lr = self.recipe.learning_rate(self.clock.progress)
        self.ac.flat.look(lr)
        return self.place.kept(found) | {"learning_rate": lr}

    def _learned(self, batch: RolloutBatch) -> Iterator[Found]:
        """What the rollout's minibatches came to, until the policy has changed enough."""
        for k, steps in enumerate(self._minibatches(batch)):
            yield (found := self._descend(steps, k > 0))
            if found.grad_norm is None:
                break

    def _learned_there(self, batch: RolloutBatch) -> Iterator[Found]:
        """The same on a device, of all steps, the dead ones with weight 0."""
        recipe, ac = self.recipe, self.ac
        if ac.flat.health is not None:
            ac.flat.health.resume()
        prepare = self._columns if batch.final_at is not None else self._columns_there
        columns = prepare(*batch.columns())
        learn = self._descend_there.bind(*columns)
        rows, parts = self._rows, self._parts
        indices = minibatch_indices(rows, parts, recipe.epochs, ac.place.random)

        def weighed(index: Array) -> tuple[Array, Array]:
            _, _, _, _, A, *_, valid = columns
            return self._picked(A, index), self._picked(as_float(valid), index)

        for index, moments in self._with_moments(indices, parts, weighed):
            yield learn(index, moments)

    def _descend(self, steps: Steps, may_stop: bool) -> Found:
        """A step on a minibatch; none where `may_stop` and the policy has changed enough."""
        recipe, ac, (lr, clip, beta) = self.recipe, self.ac, self._rates
        with ac.place.precision():  # (B, outputs), (B,)
            head, v, pull = ac.nets.evaluate(steps.obs, steps.carry, steps.reset, valid=steps.valid)
        ac.flat.grad.zero_()  # to which the policy's own parameters add at once
        g_head, g_v, found = self.gradients(head, v, steps, clip, beta)
        pull(g_head, g_v)
        found = found._replace(kl=ac.flat.average(found.mean.count, found.kl))
        if recipe.target_kl:  # by which all ranks stop, or none
            if ac.flat.health is not None:
                ac.flat.health.pause(found.kl > recipe.target_kl)
            elif may_stop and found.kl > recipe.target_kl:
                return found
        grad_norm = ac.flat.clip_grad(recipe.max_grad_norm, None)
        ac.optimizer.step(lr)
        return found._replace(grad_norm=grad_norm)

    def gradients(
        self, head: Array, v: Array, steps: Steps, clip: Array, beta: Array
    ) -> tuple[Array, Array, Found]:
        """∂L/∂head (B, outputs), ∂L/∂V (B,), and what the minibatch came to.

        L = −E[min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A) + β·H] + c·E[(V − G)²], with what the networks give
        for the steps: `head` and `v`.
        """
        recipe, ac, (A, G, v_old) = self.recipe, self.ac, (steps.A, steps.G, steps.v_old)
        xp, mean = namespace(A), Mean(A, steps.live)
        if recipe.normalize_advantage:
            centre, var = steps.moments or mean.moments(A)
            A = (A - centre) / (var**0.5 + 1e-8)
        # (B,) each
        log_pi, H, pull_policy = ac.policy.vjp(masked(head, steps.mask), steps.action)
        log_ratio = log_pi - steps.log_pi_old
        ratio = xp.exp(log_ratio)
        kl = mean(ratio - 1 - log_ratio)  # an estimate of KL(θ_old, θ): Schulman 2020
        error = v - G  # (B,)
        gain, clipped = ratio * A, xp.clip(ratio, 1 - clip, 1 + clip) * A
        # ∂L/∂log π = −ρ·A where ρ·A is the lesser, and 0 where the clip is;  ∂L/∂H = −β
        g_head = pull_policy(
            mean.share(-xp.where(gain <= clipped, gain, 0 * A)), mean.share(-beta) + 0 * A
        )
        # ∂L/∂V = 2c·(V − G)
        g_v = mean.share(2 * recipe.value_cost) * error
        if recipe.value_clip:  # then L takes the greater of (V − G)² and (V_clipped − G)²
            change = v - v_old
            v_clipped = v_old + xp.clip(change, -recipe.value_clip, recipe.value_clip)
            nearer = error * error < (v_clipped - G) ** 2
            g_v = g_v * ~(nearer & (abs(change) > recipe.value_clip))
        return g_head, g_v, Found(mean, gain, clipped, error, H, kl)

    def metrics(self, found: Found) -> dict[str, Metric]:
        """Of the rollout's last minibatch."""
        mean, gain, clipped, error, H, kl, _ = found
        return {
            "policy_loss": -mean(namespace(gain).minimum(gain, clipped)),
            "value_loss": mean(error * error),
            "entropy": mean(H),
            "kl": kl,
            "clip_fraction": 1 - mean(as_float(gain <= clipped)),
        }

    def _columns(self, *columns: Any) -> tuple[Any, ...]:
        """What all epochs learn from: the fields of `Steps` but the last, of T steps of N."""
        batch, ac = RolloutBatch(*columns), self.ac
        obs = ac.normalizer.forward(batch.obs)  # (T + 1, N, *obs)
        with ac.place.precision():  # (T + 1, N, outputs), (T + 1, N)
            head, v = ac.nets.infer(obs, batch.carry, batch.reset)
        A = ac.advantages(batch, v)  # (T, N)
        log_pi, _, _ = ac.policy.vjp(masked(head[:-1], batch.mask), batch.action)
        reset = None if batch.reset is None else batch.reset[:-1]
        columns = obs[:-1], batch.action, batch.mask, log_pi, A, A + v[:-1], v[:-1]
        return *columns, batch.carry, reset, batch.valid

    def _descend_on(self, *columns: Any) -> Found:
        """A step on the rows of `_columns`, with a memory the environments, of an index.

        It comes last but for the moments of the rows' advantages, if they are all ranks'.
        """
        *of_steps, carry, reset, valid, index, moments = columns
        columns = (*of_steps, reset, as_float(valid))
        *part, reset, live = (self._picked(column, index) for column in columns)
        part += rows(carry, index), reset, None, live, moments
        return self._descend(Steps(*part), True)

    def _picked(self, column: Array | None, index: Array) -> Array | None:
        """A column (T, N, ...) at some of its T·N steps or, with a memory, of its environments."""
        if column is None:
            return None
        if self.ac.nets.has_core:
            return column.index_select(1, index)
        return column.flatten(0, 1).index_select(0, index)

    def _with_moments(
        self,
        minibatches: Iterable[M],
        parts: int,
        weighed: Callable[[M], tuple[Array, Array | None]],
    ) -> Iterator[tuple[M, tuple[Array, Array] | None]]:
        """Minibatches, `parts` an epoch, each with `Steps.moments`.

        Args: `weighed`: of a minibatch, its advantages and which of them are live.
        """

        def moments(minibatch: M) -> tuple[Array, Array, Array]:
            A, live = weighed(minibatch)
            mean = Mean(A, live)
            return *mean.moments(A), mean.count

        if self.ac.peers is None or not self.recipe.normalize_advantage:
            return ((minibatch, None) for minibatch in minibatches)
        return jointly(minibatches, parts, moments, self.ac.peers)

    def _minibatches(self, batch: RolloutBatch) -> Iterator[Steps]:
        """The epochs' minibatches of the rollout: of steps, or with a memory of environments.

        Of dead steps alone none. All ranks make as many minibatches.
        """
        ac = self.ac
        count = mean_count(batch.valid.sum(), ac.peers)  # of valid steps, a rank's
        if not count:
            return
        columns = self._columns(*batch.columns())
        has_core = ac.nets.has_core
        parts, made = self._of_envs(columns) if has_core else self._of_steps(columns, count)
        for steps, moments in self._with_moments(made, parts, lambda steps: (steps.A, None)):
            if ac.peers is not None or len(steps.A):
                yield steps._replace(moments=moments)

    def _of_steps(self, columns: tuple[Any, ...], count: float) -> tuple[int, Iterator[Steps]]:
        """How many minibatches an epoch has, and those of all epochs, of `_columns`."""
        *of_steps, _, _, valid = columns
        rollout = [None if column is None else column[valid] for column in of_steps]  # (K, ...)
        parts, epochs = parts_of(count, self.recipe.minibatch_size), self.recipe.epochs
        return parts, (Steps(*part) for part in minibatches(rollout, parts, epochs, self.generator))

    def _of_envs(self, columns: tuple[Any, ...]) -> tuple[int, Iterator[Steps]]:
        """The same of environments, for a memory."""
        recipe, (obs, *of_steps, carry, reset, valid) = self.recipe, columns
        everyone = like(valid, torch.arange(valid.shape[1]))
        parts = parts_of(len(everyone), max(1, recipe.minibatch_size // recipe.n_steps))

        def steps(envs: Array) -> Steps:
            live = valid[:, envs]
            part = [None if column is None else column[:, envs][live] for column in of_steps]
            part += rows(carry, envs), reset[:, envs], live
            return Steps(obs[:, envs], *part)

        drawn = minibatches([everyone], parts, recipe.epochs, self.generator)
        return parts, (steps(envs) for (envs,) in drawn)
