"""Environments. Importing this package registers rlkit's own with Gymnasium, and nothing more.

Gymnasium imports the package by itself where an id names it:
``gymnasium.make("rlkit.envs:rlkit/GridWorld-v0")``.
"""

import gymnasium

from rlkit.registry import ENVS

for _entry in ENVS.values():
    if _entry.id not in gymnasium.registry:
        gymnasium.register(
            _entry.id,
            entry_point=_entry.target,
            vector_entry_point=_entry.vector,
            max_episode_steps=_entry.max_episode_steps,
            reward_threshold=_entry.reward_threshold,
        )
