"""Environments. Importing this package registers rlkit's own with Gymnasium, and nothing more.

Gymnasium imports the package by itself where an id names it:
``gymnasium.make("rlkit.envs:rlkit/GridWorld-v0")``.
"""

import gymnasium

from rlkit.registry import ENVS

# Twice the moves that a random maze of 100 x 100 cells takes; `max_episode_steps` changes it.
_TIME_LIMITS = {"rlkit/GridWorld-v0": 500}

for _entry in ENVS.values():
    if _entry.id not in gymnasium.registry:
        gymnasium.register(
            _entry.id, entry_point=_entry.target, max_episode_steps=_TIME_LIMITS.get(_entry.id)
        )
