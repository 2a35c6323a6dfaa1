"""First-visit Monte Carlo control (Sutton & Barto 2018, section 5.4), in a table.

An episode is learned from once it is over: every pair by the return that followed its first visit,

    G ← γ·G + R_{t+1},   Q(S_t, A_t) ← average of the returns

with ε-greedy exploration. A learning rate below 1 or a visit exponent below 1 forget old returns.
Where a time limit cuts the episode off, the expectation of Q under the ε-greedy policy there stands
for the return that is not seen.
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
from rlkit.errors import RunError
from rlkit.experience.latest import Bools, Floats, Ints, Transitions
from rlkit.recipe import Recipe, Tuned, option
from rlkit.schedule import Schedule
from rlkit.tables import LARGEST_TABLE, TABLE, expected, step_size, update_kernel


@dataclass(frozen=True)
class MonteCarloRecipe(Recipe):
    """Monte Carlo's hyperparameters."""

    steps: int = option(500_000, "environment steps to train for", low=1)
    envs: int = option(16, "environments that step together", low=1, high=65536)
    gamma: float = option(0.99, "discount γ", low=0, high=1)
    learning_rate: Schedule = option("1", "step size α", above=0, high=1)
    visit_exponent: float = option(
        1.0, "ω: the N-th update of a pair has the step size α·N^−ω; 1: averages", low=0, high=1
    )
    exploration: Schedule = option(
        "1:0.05", "ε of the ε-greedy policy, falling over a share of the run", low=0, high=1
    )
    initial_value: float = option(
        0.0, "Q before anything is learned; high: optimism, which explores", low=-1e9, high=1e9
    )


RECIPES: dict[str, Tuned] = {}

FIRST_ROOM = 64  # steps of an episode, doubled as often as one is longer


class MonteCarlo(Agent):
    """One table, updated towards the returns of whole episodes."""

    name = "monte-carlo"
    recipe_type = MonteCarloRecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: MonteCarloRecipe) -> None:
        super().__init__(setting)
        self.recipe = recipe
        self.control = Control(setting, recipe, self.clock, self.generator)
        self.memory = self.control.memory
        self._episodes = Held(_room(setting.n_envs, FIRST_ROOM))  # those under way
        self._first = np.zeros(self.control.q.shape[1:], dtype=np.int64)  # scratch
        self.parts = {**self.control.parts, "episodes": self._episodes}

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        return self.control.act(obs, explore, mask), carry

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        return self.control.estimates(obs, mask)

    def update(self, batch: Transitions) -> dict[str, Metric]:
        control = self.control
        self._make_room()
        episodes = self._episodes.arrays.values()
        total = _load()(
            *batch.columns(),
            *episodes,
            self._first,
            *control.table(),
            control.epsilon,
            *control.rates,
        )
        return control.metrics(total, batch)

    def _make_room(self) -> None:
        """Have every episode's arrays take one more step. Raises RunError for an endless one."""
        held = self._episodes.arrays
        n, room = held["r"].shape
        longest = int(held["length"].max())
        if longest < room:
            return
        if 2 * room * n > LARGEST_TABLE:
            raise RunError(
                f"an episode has gone on for {longest:,} steps, and Monte Carlo learns at its end; "
                "give episodes a limit (--env-option max_episode_steps=N), or take q-learning"
            )
        self._episodes.arrays = _room(n, 2 * room)
        self._episodes.arrays["length"][:] = held["length"]
        for name in ("s", "a", "r"):
            self._episodes.arrays[name][:, :room] = held[name]


def _room(n: int, steps: int) -> dict[str, NDArray[Any]]:
    """Room for n episodes of so many steps."""
    return {
        "length": np.zeros(n, dtype=np.int64),
        "s": np.zeros((n, steps), dtype=np.int64),
        "a": np.zeros((n, steps), dtype=np.int64),
        "r": np.zeros((n, steps)),
    }


@cache
def _load() -> Callable[..., float]:
    episodes = "i8[::1], i8[:,::1], i8[:,::1], f8[:,::1], i8[:,::1]"
    return update_kernel(_learn, f"{episodes}, {TABLE}, f8, f8, f8, f8")


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
    length: Ints,
    episode_s: Ints,
    episode_a: Ints,
    episode_r: Floats,
    first: Ints,
    q: Floats,
    visits: Ints,
    epsilon: float,
    gamma: float,
    alpha: float,
    omega: float,
) -> float:
    """Take N transitions into the episodes (N, room), and learn from those that end; in place.

    `first` (S, A) is scratch. Returns the sum of the errors' sizes.
    """
    total = 0.0
    for i in range(len(s)):
        if not valid[i]:
            continue
        T = 0 if begins[i] else length[i]
        episode_s[i, T], episode_a[i, T], episode_r[i, T] = s[i], a[i], r[i]
        length[i] = T = T + 1
        if not (terminated[i] or truncated[i]):
            continue
        length[i] = 0
        for t in range(T - 1, -1, -1):
            first[episode_s[i, t], episode_a[i, t]] = t
        G = 0.0 if terminated[i] else expected(q, s_next[i], next_mask, i, epsilon)
        for t in range(T - 1, -1, -1):
            # G ← γ·G + R_{t+1}
            G = gamma * G + episode_r[i, t]
            s_t, a_t = episode_s[i, t], episode_a[i, t]
            if first[s_t, a_t] == t:
                # Q(S_t, A_t) ← Q(S_t, A_t) + (G − Q(S_t, A_t))/N(S_t, A_t)
                delta = G - q[s_t, a_t]
                q[s_t, a_t] += step_size(visits, s_t, a_t, alpha, omega) * delta
                total += abs(delta)
    return total
