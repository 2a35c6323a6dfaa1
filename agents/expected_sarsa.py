"""Expected SARSA (van Seijen et al. 2009; Sutton & Barto 2018, section 6.6), in a table.

    Q(S, A) ← Q(S, A) + α·[R + γ·Σ_a π(a|S')·Q(S', a) − Q(S, A)]                        (eq. 6.9)

with π the ε-greedy policy that it acts by: SARSA without the chance of the next action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.agent import Agent, Estimates, Metric, Setting
from rlkit.agents.q_learning import QLearningRecipe
from rlkit.arrays import Array
from rlkit.carry import Carry
from rlkit.control import Control
from rlkit.experience.latest import Bools, Floats, Ints, Transitions
from rlkit.recipe import Tuned
from rlkit.tables import TABLE, expected, step_size, update_kernel


@dataclass(frozen=True)
class ExpectedSARSARecipe(QLearningRecipe):
    """Expected SARSA's hyperparameters: Q-learning's."""


RECIPES: dict[str, Tuned] = {}


class ExpectedSARSA(Agent):
    """One table, updated towards its mean under the ε-greedy policy."""

    name = "expected-sarsa"
    recipe_type = ExpectedSARSARecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: ExpectedSARSARecipe) -> None:
        super().__init__(setting)
        self.recipe = recipe
        self.control = Control(setting, recipe, self.clock, self.generator)
        self.memory, self.parts = self.control.memory, self.control.parts

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        return self.control.act(obs, explore, mask), carry

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        return self.control.estimates(obs, mask)

    def update(self, batch: Transitions) -> dict[str, Metric]:
        control = self.control
        total = _load()(*batch.columns(), *control.table(), control.epsilon, *control.rates)
        return control.metrics(total, batch)


@cache
def _load() -> Callable[..., float]:
    return update_kernel(_learn, f"{TABLE}, f8, f8, f8, f8")


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
    q: Floats,
    visits: Ints,
    epsilon: float,
    gamma: float,
    alpha: float,
    omega: float,
) -> float:
    """One update for each of N transitions, in place; the sum of the errors' sizes."""
    total = 0.0
    for i in range(len(s)):
        if not valid[i]:
            continue
        # δ = R + γ·Σ_a π(a|S')·Q(S', a) − Q(S, A)
        v = 0.0 if terminated[i] else expected(q, s_next[i], next_mask, i, epsilon)
        delta = r[i] + gamma * v - q[s[i], a[i]]
        # Q(S, A) ← Q(S, A) + α·δ                                                   (eq. 6.9)
        q[s[i], a[i]] += step_size(visits, s[i], a[i], alpha, omega) * delta
        total += abs(delta)
    return total
