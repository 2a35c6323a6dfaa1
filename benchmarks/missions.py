"""Keys, doors and missions in words: a table of docs/networks.md.

    .venv/bin/python benchmarks/missions.py              # every row, 5 seeds each
    .venv/bin/python benchmarks/missions.py DoorKey --seeds 10

What is seen are the 7 × 7 cells in front of the agent, so a policy needs a memory. An episode's
return is MiniGrid's own: 1 − 0.9·(steps / most steps) at the goal, 0 where it isn't reached.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import FilterObservation
from seeds import Setting, table

from rlkit.envs.make import make_env

DOOR_KEY = "MiniGrid-DoorKey-5x5-v0"
GO_TO = "BabyAI-GoToLocalS5N2-v0"  # the mission says to which of two objects
RECIPE = {
    "envs": 16,
    "minibatch_size": 512,
    "learning_rate": "1e-3:0",
    "entropy_cost": "0.02:0",
    "core": "gru",
    "hidden": (64,),
    "activation": "relu",
}


def without_mission(name: str) -> gym.Env[Any, Any]:
    return FilterObservation(make_env(name), ("image", "direction"))


def setting(name: str, env: Any, steps: int) -> Setting:
    return Setting(name, "ppo", env, RECIPE | {"steps": steps})


SETTINGS = [
    setting("DoorKey-5x5, ppo gru", DOOR_KEY, 300_000),
    setting("GoToLocalS5N2, ppo gru", GO_TO, 100_000),
    setting("GoToLocalS5N2, ppo gru, mission not shown", partial(without_mission, GO_TO), 100_000),
]

if __name__ == "__main__":
    table(SETTINGS, __doc__.splitlines()[0])
