"""MiniGrid's cells as what they are: categories.

An observation's image holds three codes for each of the cells in view: object, colour, state. As
numbers they say that a door is a little less than a key and much less than the goal; here each code
has planes of its own, of which one is 1.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

PART = "image"


class OneHotCells(gym.ObservationWrapper[Any, Any, Any]):
    """Shows (size, size, Σ codes) planes of 0 and 1 for (size, size, 3) codes, all uint8.

    Args: `codes`, how many values each of the three may have.
    """

    def __init__(self, env: gym.Env[Any, Any], space: spaces.Dict, codes: tuple[int, ...]) -> None:
        super().__init__(env)
        self._rows = [np.eye(n, dtype=np.uint8) for n in codes]
        side = space[PART].shape
        assert side is not None
        planes = spaces.Box(0, 1, (*side[:2], sum(codes)), np.uint8)
        self.observation_space = spaces.Dict({**space.spaces, PART: planes})

    def observation(self, observation: Any) -> Any:
        codes = np.moveaxis(observation[PART], -1, 0)  # (3, size, size)
        planes = [rows[code] for rows, code in zip(self._rows, codes, strict=True)]
        return {**observation, PART: np.concatenate(planes, -1)}


def with_one_hot_cells(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment, with MiniGrid's cells as planes where it shows such."""
    space = env.observation_space
    cells = space.spaces.get(PART) if isinstance(space, spaces.Dict) else None
    side = getattr(env.unwrapped, "agent_view_size", None)
    if not isinstance(cells, spaces.Box) or cells.shape != (side, side, 3):
        return env
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

    objects, colours, states = (
        1 + max(codes.values()) for codes in (OBJECT_TO_IDX, COLOR_TO_IDX, STATE_TO_IDX)
    )
    states = max(states, 4)  # an agent's cell holds its direction in place of a state
    assert isinstance(space, spaces.Dict)
    return OneHotCells(env, space, (objects, colours, states))
