"""The exact state of a vector environment, as a tree, for resuming bit for bit.

Three kinds of environment can be saved:

- Those that offer the hooks ``get_state() -> tree`` and ``set_state(tree)``, where a tree is a
  nested dict of NumPy arrays and JSON scalars. The hooks need not save ``np_random``.
- Gymnasium's classic control and some of its toy texts, by the attributes in `ATTRIBUTES`.
- Gymnasium's native CartPole vector environment, likewise.

Sync and async vector environments of the first two are saved environment by environment, as long as
only wrappers stand around them whose state is known; either kind goes on from what the other saved.
Everything else can't be saved: episodes restart.
"""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.wrappers import (
    AddRenderObservation,
    FrameStackObservation,
    GrayscaleObservation,
    OrderEnforcing,
    PassiveEnvChecker,
    ResizeObservation,
    TimeLimit,
)

from rlkit.envs.cartpole_hidden import HiddenVelocities
from rlkit.envs.checks import CheckedEnv
from rlkit.envs.foreign import describe
from rlkit.envs.pixels import ByteImages
from rlkit.envs.stack import StackedVectorEnv
from rlkit.envs.workers import WorkerVectorEnv
from rlkit.errors import EnvError, RlkitError, RlkitWarning, UsageError

Tree: TypeAlias = dict[str, Any]

# "module:class" -> the attributes that change between steps, np_random apart.
ATTRIBUTES = {
    f"gymnasium.envs.{place}": attributes
    for place, attributes in {
        "classic_control.cartpole:CartPoleVectorEnv": ("state", "steps", "prev_done"),
        "classic_control.cartpole:CartPoleEnv": ("state", "steps_beyond_terminated"),
        "classic_control.mountain_car:MountainCarEnv": ("state",),
        "classic_control.continuous_mountain_car:Continuous_MountainCarEnv": ("state",),
        "classic_control.acrobot:AcrobotEnv": ("state",),
        "classic_control.pendulum:PendulumEnv": ("state",),
        "toy_text.frozen_lake:FrozenLakeEnv": ("s", "lastaction"),
        "toy_text.cliffwalking:CliffWalkingEnv": ("s", "lastaction"),
    }.items()
}
# Wrappers that hold no state of their own, but for the two that are dealt with by name.
WRAPPERS = (
    AddRenderObservation,
    ByteImages,
    CheckedEnv,
    FrameStackObservation,
    GrayscaleObservation,
    HiddenVelocities,
    OrderEnforcing,
    PassiveEnvChecker,
    ResizeObservation,
    TimeLimit,
)


def get_state(venv: VectorEnv[Any, Any, Any]) -> Tree | None:
    """The state of all environments; None where it can't be saved."""
    if isinstance(venv, StackedVectorEnv):
        inner = get_state(venv.env)
        return None if inner is None else {"inner": inner, **venv.stack_state()}
    if isinstance(venv, WorkerVectorEnv):
        # Of an environment that is to take a lost one's place, there is nothing to save yet.
        states = venv.call("apply", _env_state) if venv.has_begun else (None,)
        ended = venv.ended
    elif type(venv) is SyncVectorEnv:
        states = tuple(_env_state(env) for env in venv.envs)
        ended = venv._autoreset_envs.copy()
    else:
        return _core_state(venv) if venv.unwrapped is venv else None
    if any(state is None for state in states):
        return None
    return {
        "ended": ended,
        "envs": {str(i): state for i, state in enumerate(states)},
    }


def set_state(venv: VectorEnv[Any, Any, Any], tree: Tree) -> None:
    """Go on from what `get_state` returned, without a reset.

    Raises UsageError where it comes from another number or kind of environments.
    """
    try:
        if isinstance(venv, StackedVectorEnv):
            set_state(venv.env, tree["inner"])
            venv.set_stack_state(tree)
            return
        if type(venv) not in (SyncVectorEnv, WorkerVectorEnv):
            _set_core_state(venv, tree)
            return
        if len(tree["envs"]) != venv.num_envs:
            raise UsageError(
                f"the saved state is of {len(tree['envs'])} environments, these are {venv.num_envs}"
            )
        states = [tree["envs"][str(i)] for i in range(venv.num_envs)]
        ended = np.array(tree["ended"], dtype=np.bool_)
        if isinstance(venv, WorkerVectorEnv):
            venv.restore(_restored, states, ended)
        else:
            assert isinstance(venv, SyncVectorEnv)
            for env, state in zip(venv.envs, states, strict=True):
                _set_env_state(env, state)
            venv._autoreset_envs = ended
    except KeyError as error:
        raise _foreign(error) from error


def _restored(env: gym.Env[Any, Any], tree: Tree) -> bool:
    """Restore an environment in a worker process, from which only errors of rlkit come back."""
    try:
        _set_env_state(env, tree)
    except KeyError as error:
        raise _foreign(error) from error
    return True


def _foreign(missing: KeyError) -> UsageError:
    return UsageError(f"the saved state is of another environment: it has no {missing}")


def _env_state(env: gym.Env[Any, Any]) -> Tree | None:
    of_wrappers: Tree = {"elapsed_steps": None}
    while isinstance(env, gym.Wrapper):
        if type(env) not in WRAPPERS:
            return None
        if isinstance(env, TimeLimit):
            of_wrappers["elapsed_steps"] = env._elapsed_steps
        elif isinstance(env, FrameStackObservation):
            of_wrappers["frames"] = np.array(env.obs_queue)
        env = env.env
    core = _core_state(env)
    return None if core is None else {**of_wrappers, **core}


def _set_env_state(env: gym.Env[Any, Any], tree: Tree) -> None:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            env._elapsed_steps = tree["elapsed_steps"]
        elif isinstance(env, FrameStackObservation):
            env.obs_queue.extend(tree["frames"])
        elif isinstance(env, OrderEnforcing):
            env._has_reset = True
        env = env.env
    _set_core_state(env, tree)


def _core_state(env: Any) -> Tree | None:
    """The state of an environment, single or vector, that no wrapper surrounds."""
    if hasattr(env, "get_state") and hasattr(env, "set_state"):
        try:
            own = env.get_state()
            problem = _no_tree(own, "")
        except Exception as error:
            problem = f"raised {describe(error)}"
        if problem:
            warnings.warn(
                f"{type(env).__name__}.get_state {problem}; checkpoints are saved without the "
                "environments: a resumed run begins their episodes afresh",
                RlkitWarning,
                stacklevel=2,
            )
            return None
    elif (attributes := _attributes(env)) is not None:
        own = {name: _plain(getattr(env, name)) for name in attributes}
    else:
        return None
    return {"own": own, "np_random": env.np_random.bit_generator.state}


def _set_core_state(env: Any, tree: Tree) -> None:
    attributes = _attributes(env)
    if hasattr(env, "get_state") and hasattr(env, "set_state"):
        own = tree["own"]
        try:
            env.set_state(own)
        except (KeyError, RlkitError):  # a state of another environment
            raise
        except Exception as error:
            raise EnvError(
                f"{type(env).__name__}.set_state raised {describe(error)}; mend it, and resume"
            ) from error
    elif attributes is not None:
        for name in attributes:
            value = tree["own"][name]
            setattr(env, name, value.copy() if isinstance(value, np.ndarray) else value)
    else:
        raise UsageError(
            f"the state of {type(env).__name__} can't be restored; restart its episodes"
        )
    env.np_random.bit_generator.state = tree["np_random"]


def _no_tree(value: Any, path: str) -> str:
    """What is wrong with what a hook gave, if it is no tree; else nothing."""
    if isinstance(value, (np.ndarray, np.generic)):
        return "" if value.dtype.kind in "biufc" else f"gave {value.dtype} at {path or 'the top'}"
    if isinstance(value, dict):
        items = value.items()
        if wrong := [key for key in value if not isinstance(key, (str, int))]:
            return f"gave the key {wrong[0]!r:.40} at {path or 'the top'}; keys are strings"
    elif isinstance(value, (list, tuple)):
        items = dict(enumerate(value)).items()
    elif value is None or isinstance(value, (bool, int, float, str)):
        return ""
    else:
        what = type(value).__name__
        return f"gave the type {what} at {path or 'the top'}, which is no array, number or text"
    found = (_no_tree(item, f"{path}/{key}") for key, item in items)
    return next(filter(None, found), "")


def _attributes(env: object) -> tuple[str, ...] | None:
    return ATTRIBUTES.get(f"{type(env).__module__}:{type(env).__qualname__}")


def _plain(value: Any) -> Any:
    """A copy as an array, or as a JSON scalar."""
    if isinstance(value, (np.ndarray, tuple, list)):
        return np.array(value)
    return value.item() if isinstance(value, np.generic) else value
