"""Finite MDPs as environments by name: rlkit's models, models in files, and of environments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from rlkit.envs.model_env import INDEX, ModelEnv, ModelVectorEnv, check_model
from rlkit.envs.models import make_model
from rlkit.envs.names import LIMIT, ResolvedEnv, runs_code
from rlkit.errors import UsageError
from rlkit.mdp.draw_grid import GridLayout, layout_of
from rlkit.mdp.formats import is_model_file
from rlkit.mdp.model import MDP
from rlkit.registry import MODELS

SOURCE = "frozen-lake"
_ANY = 1.0  # the discount, which plays no part here


def single(source: str = SOURCE, observe: str = INDEX, **options: Any) -> ModelEnv:
    """A model as an environment (`rlkit.envs.model_env`).

    Args:
        source: one of `rlkit.registry.MODELS`, a model's file (`MDP.load`), or the name of an
            environment that has a model.
        observe: see `ModelEnv`.
        options: of the model or the environment, which Gymnasium passes one by one.
    """
    mdp, layout = model_of(source, options)
    return ModelEnv(mdp, observe, layout)


def vector(
    num_envs: int = 1,
    source: str = SOURCE,
    observe: str = INDEX,
    max_episode_steps: int | None = None,
    **options: Any,
) -> ModelVectorEnv:
    """`num_envs` of it that step together; see `single`."""
    mdp, layout = model_of(source, options)
    return ModelVectorEnv(mdp, num_envs, observe, layout, max_episode_steps)


def model_of(source: object, options: Mapping[str, Any]) -> tuple[MDP, GridLayout | None]:
    """The model that a source names, and where its states lie if that is known.

    Raises UsageError for what has no model, for an option that it doesn't take, and for a name that
    runs code: it may stand in a run that a stranger made.
    """
    from rlkit.envs.make import make_env  # which can make these environments too

    if not isinstance(source, str):
        raise UsageError(
            f"source is {source!r}; allowed: a model's name or file, or the name of an environment "
            "with a model (--env-option source=FrozenLake)"
        )
    if source in MODELS:
        model = make_model(source, options=options)
        return model.mdp, model.layout
    if is_model_file(source):
        if options:
            raise UsageError(
                f"a model's file takes no option {next(iter(options))!r}; leave it out"
            )
        return MDP.load(Path(source), gamma=_ANY), None
    if runs_code(source):
        raise UsageError(
            f"source is {source!r}, which is code; give that environment itself and "
            "--vectorization model"
        )
    env = make_env(source, options)
    return MDP.from_gymnasium(env, _ANY), layout_of(env)


def model_form(
    env: ResolvedEnv, made: gym.Env[Any, Any], n: int, options: Mapping[str, Any]
) -> ModelVectorEnv:
    """`n` of the environment that was `made`, drawn from its model.

    Raises UsageError where that would be another environment: see `model_behind`.
    """
    limit = options.get(LIMIT, env.spec.max_episode_steps if env.spec else None)
    try:
        mdp = model_behind(env, made)
    except UsageError as error:
        raise UsageError(
            f"env {env.name} can't be stepped by its model: {error}; use vectorization auto"
        ) from error
    return ModelVectorEnv(mdp, n, max_episode_steps=limit)


def model_behind(env: ResolvedEnv, made: gym.Env[Any, Any]) -> MDP:
    """The model that the environment that was `made` is, in law.

    Raises UsageError, which says no more than why, where there is none: it has no model, shows or
    takes something else than its states and actions, or has wrappers.
    """
    why = "it has no model, a table P or mdp(gamma)"
    inner = made.unwrapped
    if hasattr(inner, "P") or hasattr(inner, "mdp"):
        mdp = MDP.from_gymnasium(made, _ANY)
        check_model(mdp, None)
        model = spaces.Discrete(mdp.n_states), spaces.Discrete(int(mdp.actions.max()) + 1)
        found = made.observation_space, made.action_space
        if found == model:
            if env.spec is None or not env.spec.additional_wrappers:
                return mdp
            why = f"it has the wrapper {env.spec.additional_wrappers[0].name}"
        else:
            why = f"its spaces are {found[0]} and {found[1]}, the model's {model[0]} and {model[1]}"
    raise UsageError(why)
