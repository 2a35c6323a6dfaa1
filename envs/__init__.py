"""Environments. Importing this package registers rlkit's own with Gymnasium, and nothing more.

Gymnasium imports the package by itself where an id names it:
``gymnasium.make("rlkit.envs:rlkit/GridWorld-v0")``.
"""

import gymnasium

from rlkit.registry import ENVS, MODELS, model_id

# Steps after which an episode of a model is cut off: some never end.
MODEL_LIMIT = 1000

for _entry in ENVS.values():
    if _entry.id not in gymnasium.registry:
        gymnasium.register(
            _entry.id,
            entry_point=_entry.target,
            vector_entry_point=_entry.vector,
            max_episode_steps=_entry.max_episode_steps,
            reward_threshold=_entry.reward_threshold,
        )

for _name in MODELS:
    if model_id(_name) not in gymnasium.registry:
        gymnasium.register(
            model_id(_name),
            entry_point=ENVS["model"].target,
            vector_entry_point=ENVS["model"].vector,
            max_episode_steps=MODEL_LIMIT,
            kwargs={"source": _name},
        )
