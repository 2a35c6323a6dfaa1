"""Double Q-learning (van Hasselt 2010; Sutton & Barto 2018, section 6.7), in two tables.

For each step a coin says which table learns, by the other's value of its own best action:

    Q₁(S, A) ← Q₁(S, A) + α·[R + γ·Q₂(S', argmax_a Q₁(S', a)) − Q₁(S, A)]              (eq. 6.10)

Where Q-learning takes the largest of many noisy estimates for the value of the largest, here the
noise that chooses and the noise that values are two. It acts by Q₁ + Q₂.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.agent import Agent, Estimates, Metric, Setting
from rlkit.agents.q_learning import QLearningRecipe
from rlkit.arrays import Array
from rlkit.carry import Carry
from rlkit.control import Control
from rlkit.experience.latest import Bools, Floats, Ints, Transitions
from rlkit.experience.noise import Noise
from rlkit.recipe import Tuned
from rlkit.tables import TABLES, UNIFORM, is_allowed, step_size, update_kernel


@dataclass(frozen=True)
class DoubleQLearningRecipe(QLearningRecipe):
    """Double Q-learning's hyperparameters: Q-learning's."""


RECIPES: dict[str, Tuned] = {}


class DoubleQLearning(Agent):
    """Two tables, each updated by the other; q = Q₁ + Q₂."""

    name = "double-q-learning"
    recipe_type = DoubleQLearningRecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: DoubleQLearningRecipe) -> None:
        super().__init__(setting)
        self.recipe = recipe
        self.control = Control(setting, recipe, self.clock, self.generator, tables=2)
        self.memory, self.parts = self.control.memory, self.control.parts
        self._coins = Noise(_uniform, setting.n_envs, self.generator)
        self.parts = {**self.parts, "coins": self._coins}

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        return self.control.act(obs, explore, mask), carry

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        return self.control.estimates(obs, mask)

    def update(self, batch: Transitions) -> dict[str, Metric]:
        control = self.control
        coins = self._coins.next(batch.s)
        q, visits = control.q.numpy(), control.visits.numpy()
        total = _load()(*batch.columns(), coins, q, visits, *control.rates)
        return control.metrics(total, batch)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


@cache
def _load() -> Callable[..., float]:
    return update_kernel(_learn, f"{UNIFORM}, {TABLES}, f8, f8, f8")


def _learn(
    s: Ints,
    a: Ints,
    r: Floats,
    s_next: Ints,
    terminated: Bools,
    truncated: Bools,
    valid: Bools,
    begins: Bools,
    next_mask: Bools,
    coins: NDArray[np.float32],
    q: Floats,
    visits: Ints,
    gamma: float,
    alpha: float,
    omega: float,
) -> float:
    """One update for each of N transitions, in place; the sum of the errors' sizes."""
    total = 0.0
    for i in range(len(s)):
        if not valid[i]:
            continue
        k = 0 if coins[i] < 0.5 else 1
        q_1, q_2 = q[k], q[1 - k]
        # δ = R + γ·Q₂(S', argmax_a Q₁(S', a)) − Q₁(S, A)
        v = 0.0
        if not terminated[i]:
            best = -math.inf
            for b in range(q.shape[2]):
                if is_allowed(next_mask, i, b) and q_1[s_next[i], b] > best:
                    best, v = q_1[s_next[i], b], q_2[s_next[i], b]
        delta = r[i] + gamma * v - q_1[s[i], a[i]]
        # Q₁(S, A) ← Q₁(S, A) + α·δ                                                (eq. 6.10)
        q_1[s[i], a[i]] += step_size(visits[k], s[i], a[i], alpha, omega) * delta
        total += abs(delta)
    return total
