"""Which environments have a form on a device, and making it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch

from rlkit.device.names import device_for
from rlkit.envs import classic as compiled
from rlkit.envs.device.catch import Catch
from rlkit.envs.device.classic import ALL, POSITIONS, Acrobot, CartPole, MountainCar, Pendulum
from rlkit.envs.device.memory import MemoryCorridor, RepeatFirst
from rlkit.envs.device.model import Model
from rlkit.envs.device.rules import Rules
from rlkit.envs.device.vector import DeviceEnvs
from rlkit.envs.model_env import INDEX, ModelEnv
from rlkit.envs.model_source import model_behind
from rlkit.envs.model_views import Index
from rlkit.envs.names import Facts, ResolvedEnv, facts_of, with_options
from rlkit.errors import UsageError
from rlkit.mdp.draw_grid import GridLayout
from rlkit.mdp.model import MDP
from rlkit.registry import ENVS


@dataclass(frozen=True)
class Form:
    """An environment's rules on a device, from the options of its constructor."""

    name: str
    make: Callable[[Mapping[str, Any], torch.device], Rules]


_ANY = 1.0  # the discount, which plays no part here
_CLASSIC = "gymnasium.envs.classic_control"
FORMS = {
    f"{_CLASSIC}.cartpole:CartPoleEnv": Form(
        "CartPole", lambda o, device: CartPole(o["sutton_barto_reward"], ALL, device)
    ),
    f"{_CLASSIC}.acrobot:AcrobotEnv": Form("Acrobot", lambda o, device: Acrobot(device)),
    f"{_CLASSIC}.mountain_car:MountainCarEnv": Form(
        "MountainCar", lambda o, device: MountainCar(o["goal_velocity"], device)
    ),
    f"{_CLASSIC}.pendulum:PendulumEnv": Form(
        "Pendulum", lambda o, device: Pendulum(o["g"], device)
    ),
    ENVS["catch"].target: Form(
        "catch", lambda o, device: Catch(o["rows"], o["columns"], o["scale"], device)
    ),
    ENVS["memory-corridor"].target: Form(
        "memory-corridor", lambda o, device: MemoryCorridor(o["length"], device)
    ),
    ENVS["repeat-first"].target: Form(
        "repeat-first", lambda o, device: RepeatFirst(o["length"], o["suits"], device)
    ),
    ENVS["cartpole-hidden"].target: Form(
        "cartpole-hidden", lambda o, device: CartPole(o["sutton_barto_reward"], POSITIONS, device)
    ),
}


def device_form(
    env: ResolvedEnv,
    made: gym.Env[Any, Any],
    n: int,
    seed: int | None,
    options: Mapping[str, Any],
    device: torch.device | str,
) -> DeviceEnvs:
    """`n` of the environment that was `made` with `options`, on a device.

    Raises UsageError where it has no such form, saying what has.
    """
    device = device if isinstance(device, torch.device) else device_for(device)
    facts = facts_of(env.name, env.spec, options)
    declared = made.observation_space, made.action_space
    return DeviceEnvs(_rules(env, made, options, device), declared, n, facts, device, seed)


def model_envs(
    mdp: MDP,
    n: int,
    device: torch.device | str,
    seed: int | None = None,
    observe: str = INDEX,
    layout: GridLayout | None = None,
    max_episode_steps: int | None = None,
) -> DeviceEnvs:
    """`n` environments of a finite MDP on a device; see `rlkit.envs.model_env.ModelEnv`."""
    device = device if isinstance(device, torch.device) else device_for(device)
    single = ModelEnv(mdp, observe, layout, max_episode_steps)
    declared = single.observation_space, single.action_space
    rules = Model(mdp, single.view, device)
    return DeviceEnvs(rules, declared, n, Facts("MDP", None, None, max_episode_steps), device, seed)


def _rules(
    env: ResolvedEnv, made: gym.Env[Any, Any], options: Mapping[str, Any], device: torch.device
) -> Rules:
    spec = None if env.spec is None else with_options(env.spec, options)
    if spec is not None and spec.additional_wrappers:
        raise _no_form(env, f"it has the wrapper {spec.additional_wrappers[0].name}")
    form = None if spec is None else FORMS.get(str(spec.entry_point))
    if spec is not None and form is not None:
        if str(spec.entry_point) in compiled.MODELS and (why := compiled.why_not_compiled(spec)):
            raise _no_form(env, why)
        known = inspect.signature(env.creator()).parameters
        return form.make({name: p.default for name, p in known.items()} | spec.kwargs, device)
    inner = made.unwrapped
    if isinstance(inner, ModelEnv):
        return Model(inner.mdp(_ANY), inner.view, device)
    try:
        mdp = model_behind(env, made)
    except UsageError as error:
        raise _no_form(env, str(error)) from error
    return Model(mdp, Index(mdp.n_states), device)


def _no_form(env: ResolvedEnv, why: str) -> UsageError:
    names = ", ".join(form.name for form in FORMS.values())
    return UsageError(
        f"env {env.name} has no form on a device: {why}; {names} have one, and what has a model "
        "and shows its states by number; use vectorization auto"
    )
