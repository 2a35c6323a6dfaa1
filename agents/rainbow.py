"""Rainbow (Hessel et al. 2018): DQN with all of its extensions.

Double Q-learning, dueling streams, noisy layers in place of ε-greedy exploration, prioritised
replay, 3-step returns and C51's distribution of returns. The update is DQN's (agents/dqn.py);
here are the switches and the values that go with them.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlkit.agents.dqn import DQN, DQNRecipe
from rlkit.recipe import Tuned, default
from rlkit.schedule import Schedule


@dataclass(frozen=True)
class RainbowRecipe(DQNRecipe):
    """Rainbow's hyperparameters: DQN's, with other defaults."""

    learning_rate: Schedule = default("5e-4:1e-4")
    n_step: int = default(3)
    dueling: bool = default(True)
    noisy: bool = default(True)
    values: str = default("c51")
    priority_exponent: float = default(0.5)
    exploration: Schedule = default("0")
    optimizer_eps: float = default(1.5e-4)
    hidden: tuple[int, ...] = default((128,))
    head_hidden: tuple[int, ...] = default((128,))


RECIPES: dict[str, Tuned] = {}


class Rainbow(DQN):
    """DQN with every extension on."""

    name = "rainbow"
    recipe_type = RainbowRecipe
    recipes = RECIPES
