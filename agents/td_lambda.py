"""TD(λ) (Sutton 1988; Sutton & Barto 2018, section 12.2): the values of a policy, in a table.

    δ = R + γ·V(S') − V(S)
    z ← γλ·z,  z(S) ← z(S) + 1                                   (accumulating traces, eq. 12.5)
    V ← V + α·δ·z                                                                      (eq. 12.7)

It evaluates the uniformly random policy (among the actions that are allowed) and learns to do
nothing else: with `rlkit.MDP`, and one action in each state, that is any policy. Each environment
has its own traces z, and all share V.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit.agent import Agent, Estimates, Metric, Setting
from rlkit.arrays import Array
from rlkit.carry import Carry
from rlkit.control import Held
from rlkit.errors import RunError, UsageError
from rlkit.experience.latest import Bools, Floats, Ints, Latest, Transitions
from rlkit.networks.distributions import uniform_allowed
from rlkit.recipe import Recipe, Tuned, option
from rlkit.schedule import Schedule
from rlkit.tables import StateNumber, check_size, update_kernel


@dataclass(frozen=True)
class TDLambdaRecipe(Recipe):
    """TD(λ)'s hyperparameters."""

    steps: int = option(500_000, "environment steps to train for", low=1)
    envs: int = option(16, "environments that step together", low=1, high=65536)
    gamma: float = option(0.99, "discount γ", low=0, high=1)
    trace_decay: float = option(0.9, "λ of the traces; 0: TD(0), 1: Monte Carlo", low=0, high=1)
    learning_rate: Schedule = option("0.1:0.001", "step size α", above=0, high=1)
    initial_value: float = option(0.0, "V before anything is learned", low=-1e9, high=1e9)


RECIPES: dict[str, Tuned] = {}

FADED = 1e-16  # a trace below adds nothing to a value that float64 would show


class Uniform:
    """A random stream of numbers in [0, 1)."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, n: int) -> NDArray[np.float32]:
        return self._generator.random(n, dtype=np.float32)

    def get_state(self) -> dict[str, Any]:
        return dict(self._generator.bit_generator.state)

    def set_state(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = state


class TDLambda(Agent):
    """A table of state values of the uniformly random policy.

    Attributes:
        v: (S,) float64.
    """

    name = "td-lambda"
    recipe_type = TDLambdaRecipe
    recipes = RECIPES
    v: Tensor

    def __init__(self, setting: Setting, recipe: TDLambdaRecipe) -> None:
        super().__init__(setting)
        assert isinstance(setting.action_space, spaces.Discrete)
        self.recipe = recipe
        self._number = StateNumber(setting.obs_space)
        n, states = setting.n_envs, self._number.count
        check_size(f"the observation space {setting.obs_space}", n, states)
        self.register_buffer("v", torch.full((states,), recipe.initial_value, dtype=torch.float64))
        self._n_actions = int(setting.action_space.n)
        self._draw = Uniform(setting.seed)
        self._draw_in_evaluation = Uniform(setting.seed + 1)  # the same policy: it changes no run
        self._traces = Held(
            {
                "z": np.zeros((n, states)),
                "where": np.zeros((n, states), dtype=np.int64),  # the states with a trace
                "count": np.zeros(n, dtype=np.int64),  # how many there are
            }
        )
        self.memory = Latest(self._number, n)
        self.parts = {"memory": self.memory, "traces": self._traces}
        self.parts |= {"draw": self._draw, "draw_in_evaluation": self._draw_in_evaluation}

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        if not isinstance(obs, np.ndarray):
            raise UsageError("td-lambda learns values and no policy: there is none to export")
        if mask is None:
            mask = np.ones((len(obs), self._n_actions), dtype=np.bool_)
        draw = self._draw if explore else self._draw_in_evaluation
        return uniform_allowed(draw(len(obs)), mask), carry

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        if mask is None:
            mask = np.ones((len(obs), self._n_actions), dtype=np.bool_)
        uniform = mask / mask.sum(-1, keepdims=True)
        return Estimates(uniform, uniform, v=self.v.numpy()[self._number(obs)])

    def update(self, batch: Transitions) -> dict[str, Metric]:
        recipe = self.recipe
        alpha = recipe.learning_rate(self.clock.progress)
        total = _load()(
            *batch.columns(),
            *self._traces.arrays.values(),
            self.v.numpy(),
            recipe.gamma,
            recipe.trace_decay,
            alpha,
        )
        if not math.isfinite(total):
            raise RunError("a value overflowed; make the learning rate, λ or the rewards smaller")
        return {
            "td_error": total / max(1, int(np.count_nonzero(batch.valid))),
            "learning_rate": alpha,
        }


@cache
def _load() -> Callable[..., float]:
    return update_kernel(_learn, "f8[:,::1], i8[:,::1], i8[::1], f8[::1], f8, f8, f8")


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
    z: Floats,
    where: Ints,
    count: Ints,
    v: Floats,
    gamma: float,
    lam: float,
    alpha: float,
) -> float:
    """Update v (S,) and the traces z (N, S) by N transitions, in place.

    Returns the sum of the errors' sizes; NaN where a value would overflow, which then is not
    written.
    """
    total = 0.0
    for i in range(len(s)):
        if not valid[i]:
            continue
        fade = 0.0 if begins[i] else gamma * lam
        # δ = R + γ·V(S') − V(S)                                                    (eq. 12.6)
        v_next = 0.0 if terminated[i] else v[s_next[i]]
        delta = r[i] + gamma * v_next - v[s[i]]
        # z ← γλ·z, z(S) ← z(S) + 1                                                 (eq. 12.5)
        kept = 0
        for k in range(count[i]):
            x = where[i, k]
            z[i, x] *= fade
            if z[i, x] < FADED:
                z[i, x] = 0.0
            else:
                where[i, kept] = x
                kept += 1
        if z[i, s[i]] == 0.0:
            where[i, kept] = s[i]
            kept += 1
        z[i, s[i]] += 1.0
        count[i] = kept
        # V ← V + α·δ·z                                                             (eq. 12.7)
        for k in range(kept):
            x = where[i, k]
            updated = v[x] + alpha * delta * z[i, x]
            if not math.isfinite(updated):
                return math.nan
            v[x] = updated
        total += abs(delta)
    return total
