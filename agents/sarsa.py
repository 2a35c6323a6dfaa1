"""SARSA (Rummery & Niranjan 1994; Sutton & Barto 2018, section 6.4), in a table.

    Q(S, A) ← Q(S, A) + α·[R + γ·Q(S', A') − Q(S, A)]                                   (eq. 6.7)

on-policy: A' is the action that is taken in S', so each transition is learned from in the step
after it, as in the book's box. Where a time limit cuts the episode off there is no A', and its
expectation under the ε-greedy policy takes the place of Q(S', A').
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
from rlkit.control import Control, Held
from rlkit.experience.latest import Bools, Floats, Ints, Transitions
from rlkit.recipe import Tuned
from rlkit.tables import TABLE, expected, step_size, update_kernel


@dataclass(frozen=True)
class SARSARecipe(QLearningRecipe):
    """SARSA's hyperparameters: Q-learning's."""


RECIPES: dict[str, Tuned] = {}


class SARSA(Agent):
    """One table, updated towards the action that is taken next."""

    name = "sarsa"
    recipe_type = SARSARecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: SARSARecipe) -> None:
        super().__init__(setting)
        self.recipe = recipe
        self.control = Control(setting, recipe, self.clock, self.generator)
        self.memory = self.control.memory
        n = setting.n_envs
        self._waiting = Held(  # the transitions whose A' is not chosen yet
            {
                "is_there": np.zeros(n, dtype=np.bool_),
                "s": np.zeros(n, dtype=np.int64),
                "a": np.zeros(n, dtype=np.int64),
                "r": np.zeros(n),
            }
        )
        self.parts = {**self.control.parts, "waiting": self._waiting}

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        return self.control.act(obs, explore, mask), carry

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        return self.control.estimates(obs, mask)

    def update(self, batch: Transitions) -> dict[str, Metric]:
        control, waiting = self.control, self._waiting.arrays.values()
        total = _load()(
            *batch.columns(), *waiting, *control.table(), control.epsilon, *control.rates
        )
        return control.metrics(total, batch)


@cache
def _load() -> Callable[..., float]:
    return update_kernel(_learn, f"b1[::1], i8[::1], i8[::1], f8[::1], {TABLE}, f8, f8, f8, f8")


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
    waits: Bools,
    s_0: Ints,
    a_0: Ints,
    r_0: Floats,
    q: Floats,
    visits: Ints,
    epsilon: float,
    gamma: float,
    alpha: float,
    omega: float,
) -> float:
    """Update N transitions that waited, (s_0, a_0, r_0), and have those that came wait; in place.

    Returns the sum of the errors' sizes.
    """
    total = 0.0
    for i in range(len(s)):
        if not valid[i]:
            continue
        if waits[i] and not begins[i]:
            # δ = R + γ·Q(S', A') − Q(S, A)
            delta = r_0[i] + gamma * q[s[i], a[i]] - q[s_0[i], a_0[i]]
            # Q(S, A) ← Q(S, A) + α·δ                                               (eq. 6.7)
            q[s_0[i], a_0[i]] += step_size(visits, s_0[i], a_0[i], alpha, omega) * delta
            total += abs(delta)
        s_0[i], a_0[i], r_0[i] = s[i], a[i], r[i]
        waits[i] = not (terminated[i] or truncated[i])
        if not waits[i]:
            v = 0.0 if terminated[i] else expected(q, s_next[i], next_mask, i, epsilon)
            delta = r[i] + gamma * v - q[s[i], a[i]]
            q[s[i], a[i]] += step_size(visits, s[i], a[i], alpha, omega) * delta
            total += abs(delta)
    return total
