"""n-step SARSA (Sutton & Barto 2018, section 7.2), in a table.

    G = R_{t+1} + γ·R_{t+2} + ... + γ^{n−1}·R_{t+n} + γ^n·Q(S_{t+n}, A_{t+n})           (eq. 7.4)
    Q(S_t, A_t) ← Q(S_t, A_t) + α·[G − Q(S_t, A_t)]                                    (eq. 7.5)

G ends where the episode ends. n = 1 is SARSA; a large n is Monte Carlo with a constant step size.
Where a time limit cuts the episode off, the expectation of Q under the ε-greedy policy stands in
for the action that was not chosen there.
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
from rlkit.control import Control, Held
from rlkit.experience.latest import Bools, Floats, Ints, Transitions
from rlkit.recipe import Recipe, Tuned, option
from rlkit.schedule import Schedule
from rlkit.tables import TABLE, check_size, expected, step_size, update_kernel


@dataclass(frozen=True)
class NStepSARSARecipe(Recipe):
    """n-step SARSA's hyperparameters."""

    steps: int = option(500_000, "environment steps to train for", low=1)
    envs: int = option(16, "environments that step together", low=1, high=65536)
    gamma: float = option(0.99, "discount γ", low=0, high=1)
    n_step: int = option(4, "steps n of the return", low=1, high=10_000)
    learning_rate: Schedule = option("0.2:0.01", "step size α", above=0, high=1)
    visit_exponent: float = option(
        0.0, "ω: the N-th update of a pair has the step size α·N^−ω; 1: averages", low=0, high=1
    )
    exploration: Schedule = option(
        "1:0.05@0.5", "ε of the ε-greedy policy, falling over a share of the run", low=0, high=1
    )
    initial_value: float = option(
        0.0, "Q before anything is learned; high: optimism, which explores", low=-1e9, high=1e9
    )


RECIPES: dict[str, Tuned] = {}


class NStepSARSA(Agent):
    """One table, updated towards returns over n steps."""

    name = "n-step-sarsa"
    recipe_type = NStepSARSARecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: NStepSARSARecipe) -> None:
        super().__init__(setting)
        self.recipe = recipe
        self.control = Control(setting, recipe, self.clock, self.generator)
        self.memory = self.control.memory
        shape = (setting.n_envs, recipe.n_step)
        check_size(f"n_step (--n-step) {recipe.n_step}", *shape)
        self._window = Held(  # the newest transitions, n at most, that are not learned from yet
            {
                "first": np.zeros(shape[0], dtype=np.int64),  # where the oldest of them is
                "count": np.zeros(shape[0], dtype=np.int64),
                "s": np.zeros(shape, dtype=np.int64),
                "a": np.zeros(shape, dtype=np.int64),
                "r": np.zeros(shape),
            }
        )
        self.parts = {**self.control.parts, "window": self._window}

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        return self.control.act(obs, explore, mask), carry

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        return self.control.estimates(obs, mask)

    def update(self, batch: Transitions) -> dict[str, Metric]:
        control, window = self.control, self._window.arrays.values()
        total = _load()(
            *batch.columns(), *window, *control.table(), control.epsilon, *control.rates
        )
        return control.metrics(total, batch)


@cache
def _load() -> Callable[..., float]:
    window = "i8[::1], i8[::1], i8[:,::1], i8[:,::1], f8[:,::1]"
    return update_kernel(_learn, f"{window}, {TABLE}, f8, f8, f8, f8", _learn_oldest)


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
    first: Ints,
    count: Ints,
    window_s: Ints,
    window_a: Ints,
    window_r: Floats,
    q: Floats,
    visits: Ints,
    epsilon: float,
    gamma: float,
    alpha: float,
    omega: float,
) -> float:
    """Take N transitions into the windows (N, n), and learn from those that are complete; in place.

    Returns the sum of the errors' sizes.
    """
    total = 0.0
    n = window_s.shape[1]
    for i in range(len(s)):
        if not valid[i]:
            continue
        if begins[i]:
            count[i] = 0
        window = window_s[i], window_a[i], window_r[i]
        if count[i] == n:  # A_{t+n} is known now
            v = q[s[i], a[i]]
            total += _learn_oldest(first[i], n, *window, v, q, visits, gamma, alpha, omega)
            first[i], count[i] = (first[i] + 1) % n, n - 1
        newest = (first[i] + count[i]) % n
        window_s[i, newest], window_a[i, newest], window_r[i, newest] = s[i], a[i], r[i]
        count[i] += 1
        if terminated[i] or truncated[i]:
            v = 0.0 if terminated[i] else expected(q, s_next[i], next_mask, i, epsilon)
            for left in range(count[i], 0, -1):
                total += _learn_oldest(first[i], left, *window, v, q, visits, gamma, alpha, omega)
                first[i] = (first[i] + 1) % n
            count[i] = 0
    return total


def _learn_oldest(
    first: int,
    count: int,
    s: Ints,
    a: Ints,
    r: Floats,
    v: float,
    q: Floats,
    visits: Ints,
    gamma: float,
    alpha: float,
    omega: float,
) -> float:
    """Learn from the oldest of `count` transitions, with v what follows the newest; the error."""
    # G = R_{t+1} + γ·R_{t+2} + ... + γ^count·v                                     (eq. 7.4)
    G = v
    for k in range(count - 1, -1, -1):
        G = r[(first + k) % len(r)] + gamma * G
    s_0, a_0 = s[first], a[first]
    # Q(S_t, A_t) ← Q(S_t, A_t) + α·[G − Q(S_t, A_t)]                               (eq. 7.5)
    delta: float = G - q[s_0, a_0]
    q[s_0, a_0] += step_size(visits, s_0, a_0, alpha, omega) * delta
    return abs(delta)
