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
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FilterObservation, TransformObservation
from seeds import Setting, table

DOOR_KEY = "MiniGrid-DoorKey-5x5-v0"
GO_TO = "MiniGrid-GoToDoor-5x5-v0"  # the mission says at which of four doors to stop
RECIPE = {
    "envs": 16,
    "minibatch_size": 512,
    "learning_rate": "1e-3:0",
    "entropy_cost": "0.01:0",
    "core": "gru",
    "hidden": (64,),
    "activation": "relu",
}


def room(name: str, mission: bool = True) -> gym.Env[Any, Any]:
    """The environment with its cells' true bounds, for it declares all bytes, up to 255.

    A cell is three numbers, of its object, its colour and its state: `rlkit` scales by the bounds.
    """
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

    env = gym.make(name)
    parts = dict(env.observation_space.spaces)
    most = [max(codes.values()) for codes in (OBJECT_TO_IDX, COLOR_TO_IDX, STATE_TO_IDX)]
    high = np.broadcast_to(np.array(most, np.uint8), parts["image"].shape)
    parts["image"] = spaces.Box(np.zeros_like(high), high, dtype=np.uint8)
    env = TransformObservation(env, lambda obs: obs, spaces.Dict(parts))
    return env if mission else FilterObservation(env, ("image", "direction"))


def setting(name: str, env: Any, steps: int) -> Setting:
    return Setting(name, "ppo", env, RECIPE | {"steps": steps})


SETTINGS = [
    setting("DoorKey-5x5, ppo gru", partial(room, DOOR_KEY), 150_000),
    setting("GoToDoor-5x5, ppo gru", partial(room, GO_TO), 100_000),
    setting("GoToDoor-5x5, ppo gru, mission not shown", partial(room, GO_TO, False), 100_000),
]

if __name__ == "__main__":
    table(SETTINGS, __doc__.splitlines()[0])
