"""Q-learning (Watkins 1989; Sutton & Barto 2018, section 6.5), in a table.

    Q(S, A) ← Q(S, A) + α·[R + γ·max_a Q(S', a) − Q(S, A)]                              (eq. 6.8)

off-policy: whatever is done to explore, it learns the values of the greedy policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.agent import Agent, Estimates, Metric, Setting
from rlkit.arrays import Array
from rlkit.carry import Carry
from rlkit.control import Control
from rlkit.experience.latest import Bools, Floats, Ints, Transitions
from rlkit.recipe import Recipe, Result, Tuned, option
from rlkit.schedule import Schedule
from rlkit.tables import TABLE, highest, step_size, update_kernel


@dataclass(frozen=True)
class QLearningRecipe(Recipe):
    """Q-learning's hyperparameters."""

    steps: int = option(500_000, "environment steps to train for", low=1)
    envs: int = option(16, "environments that step together", low=1, high=65536)
    gamma: float = option(0.99, "discount γ", low=0, high=1)
    learning_rate: Schedule = option("0.5:0.01", "step size α", above=0, high=1)
    visit_exponent: float = option(
        0.0, "ω: the N-th update of a pair has the step size α·N^−ω; 1: averages", low=0, high=1
    )
    exploration: Schedule = option(
        "1:0.05@0.5", "ε of the ε-greedy policy, falling over a share of the run", low=0, high=1
    )
    initial_value: float = option(
        0.0, "Q before anything is learned; high: optimism, which explores", low=-1e9, high=1e9
    )


RECIPES = {
    "FrozenLake-v1": Tuned(
        QLearningRecipe(
            steps=300_000,
            envs=64,
            learning_rate=Schedule(1, 0.05),
            visit_exponent=0.5,
            exploration=Schedule(1, 0.3),
        ),
        Result(mean_return=0.7, worst_return=0.64, seeds=5, episodes=100, seconds=45.3),
    ),
    "FrozenLake8x8-v1": Tuned(
        QLearningRecipe(
            steps=2_000_000,
            envs=64,
            gamma=0.995,
            learning_rate=Schedule(1, 0.05),
            visit_exponent=0.5,
            exploration=Schedule(1, 0.3),
        ),
        Result(mean_return=0.88, worst_return=0.83, seeds=5, episodes=100, seconds=141.0),
    ),
    "CliffWalking-v1": Tuned(
        QLearningRecipe(steps=20_000, learning_rate=Schedule(1), exploration=Schedule(0.1)),
        Result(mean_return=-13.0, worst_return=-13.0, seeds=5, episodes=100, seconds=3.3),
    ),
    "Taxi-v4": Tuned(
        QLearningRecipe(steps=300_000, learning_rate=Schedule(1), exploration=Schedule(1, 0.1)),
        Result(mean_return=7.78, worst_return=7.68, seeds=5, episodes=100, seconds=99.7),
    ),
}


class QLearning(Agent):
    """One table, updated towards its own maximum."""

    name = "q-learning"
    recipe_type = QLearningRecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: QLearningRecipe) -> None:
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
        total = _load()(*batch.columns(), *control.table(), *control.rates)
        return control.metrics(total, batch)


@cache
def _load() -> Callable[..., float]:
    return update_kernel(_learn, f"{TABLE}, f8, f8, f8")


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
    gamma: float,
    alpha: float,
    omega: float,
) -> float:
    """One update for each of N transitions, in place; the sum of the errors' sizes."""
    total = 0.0
    for i in range(len(s)):
        if not valid[i]:
            continue
        # δ = R + γ·max_a Q(S', a) − Q(S, A)
        v = 0.0 if terminated[i] else highest(q, s_next[i], next_mask, i)
        delta = r[i] + gamma * v - q[s[i], a[i]]
        # Q(S, A) ← Q(S, A) + α·δ                                                   (eq. 6.8)
        q[s[i], a[i]] += step_size(visits, s[i], a[i], alpha, omega) * delta
        total += abs(delta)
    return total
