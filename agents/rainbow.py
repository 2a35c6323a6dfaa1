"""Rainbow (Hessel et al. 2018): DQN with all of its extensions.

Double Q-learning, dueling streams, noisy layers in place of ε-greedy exploration, prioritised
replay, 3-step returns and C51's distribution of returns. The update is DQN's (agents/dqn.py);
here are the switches and the values that go with them.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlkit.agents.dqn import DQN, DQNRecipe
from rlkit.recipe import Result, Tuned, default
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


RECIPES = {
    "CartPole-v1": Tuned(
        RainbowRecipe(
            steps=30_000,
            gamma=0.995,
            learning_rate=Schedule(2e-3, 0),
            batch_size=64,
            buffer_size=30_000,
            train_every=48,
            target_interval=64,
            v_min=0.0,
            v_max=200.0,
            exploration=Schedule(1, 0, share=0.25),
            normalize_obs=True,
            hidden=(128,),
            head_hidden=(64,),
        ),
        Result(mean_return=499.7, worst_return=496.8, seeds=10, episodes=100, seconds=19.0),
    ),
}


class Rainbow(DQN):
    """DQN with every extension on."""

    name = "rainbow"
    recipe_type = RainbowRecipe
    recipes = RECIPES
