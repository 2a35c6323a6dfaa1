"""MiniGrid's cells with their true bounds.

An observation's image holds three codes for each of the cells in view: object, colour, state. The
package declares them as any bytes, though the largest code is 10; a network that scales its inputs
by the bounds would see next to nothing.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

PART = "image"


class TrueBounds(gym.ObservationWrapper[Any, Any, Any]):
    """Declares the codes that cells may hold; observations are left as they are."""

    def __init__(self, env: gym.Env[Any, Any], space: spaces.Dict, cells: spaces.Box) -> None:
        super().__init__(env)
        self.observation_space = spaces.Dict({**space.spaces, PART: cells})

    def observation(self, observation: Any) -> Any:
        return observation


def with_true_bounds(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The environment, with MiniGrid's cells in their bounds where it shows such."""
    space = env.observation_space
    cells = space.spaces.get(PART) if isinstance(space, spaces.Dict) else None
    side = getattr(env.unwrapped, "agent_view_size", None)
    if not isinstance(cells, spaces.Box) or cells.shape != (side, side, 3):
        return env
    from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX

    most = [max(codes.values()) for codes in (OBJECT_TO_IDX, COLOR_TO_IDX, STATE_TO_IDX)]
    most[2] = max(most[2], 3)  # an agent's cell holds its direction in place of a state
    high = np.broadcast_to(np.array(most, np.uint8), cells.shape)
    assert isinstance(space, spaces.Dict)
    return TrueBounds(env, space, spaces.Box(np.zeros_like(high), high, dtype=np.uint8))
