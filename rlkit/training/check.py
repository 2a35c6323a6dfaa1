"""`rlkit.check`: tries an environment out, and says what is wrong and what rlkit makes of it.

It needs no torch.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from rlkit.envs.checks import CheckedEnv
from rlkit.envs.foreign import describe, quiet_gymnasium
from rlkit.envs.make import make_env, make_envs
from rlkit.envs.names import resolve
from rlkit.envs.pixels import RENDER_MODE
from rlkit.envs.vector import Envs
from rlkit.errors import EnvError, ModelError, RlkitError, RlkitWarning, UsageError
from rlkit.mdp.model import MDP
from rlkit.packing import described, is_numbered
from rlkit.registry import MODELS, agents_for, model_id
from rlkit.training.probe import (
    REPLAYED,
    Played,
    RandomActions,
    Watch,
    first_difference,
    play,
    recorded,
    speed,
)
from rlkit.training.report import NOTE, OK, PROBLEM, Report, describe_play

SIDE_BY_SIDE = 8  # environments whose speed is measured

# What Gymnasium's checker warns of that matters to nobody here.
_BESIDE_THE_POINT = (
    "infinity",
    "unwrapped version",
    "render modes",
    "symmetric and normalized",
    "Casting input",
)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


def check(
    env: str | Callable[[], gym.Env[Any, Any]],
    env_options: Mapping[str, Any] | None = None,
    *,
    episodes: int = 20,
    seed: int = 0,
) -> Report:
    """Try an environment out: Gymnasium's checker, rlkit's own checks, and some random play.

    Args:
        env: a name (see rlkit.envs.names), or a function that makes one environment.
        env_options: arguments of the environment's constructor.
        episodes: how many to play at random, at most; see rlkit.training.probe for the limits.
        seed: of the environments and of the actions.

    Raises UsageError where there is no such environment, or it can't be made.
    """
    if isinstance(env, (gym.Env, VectorEnv)) or not (isinstance(env, str) or callable(env)):
        raise UsageError(
            f"the environment is a {type(env).__name__}; give its name, or a function without "
            "arguments that makes one environment, since several are made"
        )
    for name, value, low in (("episodes", episodes, 1), ("seed", seed, 0)):
        if value < low:
            raise UsageError(f"{name} (--{name}) is {value}; allowed: a whole number >= {low}")
    subject = _Subject(env, dict(env_options or {}), seed)
    report = Report(subject.name)
    with _noted_warnings(report):
        if _check_spaces(report, subject) and _check_play(report, subject, episodes):
            _check_repeats(report, subject)
            _check_state(report, subject)
            _check_speed(report, subject)
    _check_model(report, subject)
    _check_pixels(report, subject)
    _check_gymnasium(report, subject)
    return report


class _Subject:
    """The environment that is checked, made as often as it takes."""

    def __init__(self, env: Any, options: Mapping[str, Any], seed: int) -> None:
        self.env, self.options, self.seed = env, options, seed
        made: Any = self.make()
        if not isinstance(made, gym.Env):
            CheckedEnv(made, 0)  # which refuses it
        spec = getattr(made, "spec", None)
        self.name = resolve(env).name if isinstance(env, str) else _name_of(made, spec)
        _close(made)

    def make(self) -> gym.Env[Any, Any]:
        if isinstance(self.env, str):
            return make_env(self.env, self.options)
        with quiet_gymnasium():
            made: gym.Env[Any, Any] = self.env()
        return made

    def envs(self, n: int = 1, vectorization: Any = "sync") -> Envs:
        return make_envs(self.env, n, self.seed, vectorization, options=self.options)

    def renders(self) -> bool:
        """Whether it can be made so that it renders images."""
        if not isinstance(self.env, str):
            return bool(self.make().render_mode == RENDER_MODE)
        try:
            _close(make_env(self.env, {**self.options, "render_mode": RENDER_MODE}))
        except UsageError:
            return False
        return True


def _name_of(made: object, spec: Any) -> str:
    return type(getattr(made, "unwrapped", made)).__name__ if spec is None else str(spec.id)


def _close(env: gym.Env[Any, Any]) -> None:
    with quiet_gymnasium():
        env.close()


def _check_gymnasium(report: Report, subject: _Subject) -> None:
    env = subject.make()
    while isinstance(env, (OrderEnforcing, PassiveEnvChecker, TimeLimit)):
        env = env.env
    found = len(report.findings)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            check_env(env, skip_render_check=True)
        except Exception as error:
            # What stands in rlkit's way is found by its own checks: a problem to others, maybe.
            is_verdict = isinstance(error, AssertionError)
            text = _first_sentence(str(error)) if is_verdict else describe(error)
            report.add(NOTE, "gymnasium", f"its checker stops at: {text}")
    for warning in said:
        text = _first_sentence(str(warning.message)).removeprefix("WARN: ")
        if not any(words in text for words in _BESIDE_THE_POINT):
            report.add(NOTE, "gymnasium", text)
    if len(report.findings) == found:
        report.add(OK, "gymnasium", "gymnasium.utils.env_checker.check_env finds nothing")
    _close(env)


def _first_sentence(text: str) -> str:
    return re.split(r"\.\s", _COLOUR.sub("", text), maxsplit=1)[0].strip().rstrip(".")


@contextmanager
def _noted_warnings(report: Report) -> Iterator[None]:
    """Put what is warned of into the report."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for warning in said:
        ours = issubclass(warning.category, RlkitWarning)
        text = _COLOUR.sub("", str(warning.message))
        report.add(NOTE, "rlkit" if ours else "warning", text)


def _check_spaces(report: Report, subject: _Subject) -> bool:
    """Whether agents can be trained on the spaces."""
    try:
        envs = subject.envs()
    except UsageError as error:
        report.add(PROBLEM, "spaces", str(error))
        return False
    with envs:
        seen, taken = envs.obs_port.declared_space, envs.action_port.declared_space
        report.add(OK, "observations", described(seen))
        _note_images(report, seen)
        kind = type(envs.action_space).__name__
        takers = agents_for(kind, is_numbered(envs.obs_space))
        if isinstance(taken, spaces.Box) and not taken.is_bounded():
            takers.remove("sac")
            report.add(NOTE, "actions", "the Box has no bounds, which sac needs")
        level = OK if takers else PROBLEM
        report.add(
            level, "actions", f"{described(taken)}, taken by {', '.join(takers) or 'no agent'}"
        )
    return bool(takers)


def _note_images(report: Report, space: spaces.Space[Any]) -> None:
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return
    if space.dtype != np.uint8 and space.high.max() == 255:
        report.add(NOTE, "observations", "images of floats up to 255: uint8 take a quarter")
    if space.dtype == np.uint8 and max(space.shape) > 128:
        report.add(
            NOTE,
            "observations",
            f"images of {space.shape} cost time; gymnasium.wrappers.ResizeObservation to 84 x 84, "
            "or --pixels, learn as well",
        )


def _check_play(report: Report, subject: _Subject, episodes: int) -> bool:
    """Whether random play found no fault."""
    watch: list[Watch] = []

    def watched() -> gym.Env[Any, Any]:
        watch.append(Watch(subject.make()))
        return watch[0]

    played = Played()
    with make_envs(watched, 1, subject.seed) as envs:
        limit, space = envs.max_episode_steps, envs.obs_port.declared_space
        try:
            play(envs, watch[0], episodes, subject.seed, played)
        except EnvError as error:
            report.add(PROBLEM, "play", str(error))
            return False
    describe_play(report, played, limit, space)
    return True


def _check_repeats(report: Report, subject: _Subject) -> None:
    with subject.envs() as first, subject.envs() as second:
        act = RandomActions(first.action_space, subject.seed)
        begin = first.reset(subject.seed)
        steps = recorded(first, act, REPLAYED)
        for again in ("in a new environment", "after a reset"):
            found = "the first observation differs"
            if np.array_equal(begin, second.reset(subject.seed)):
                found = first_difference(steps, second)
            if found:
                report.add(
                    PROBLEM,
                    "seeds",
                    f"the same seed and actions twice, {again}: {found}; draw from self.np_random "
                    "after super().reset(seed=seed), and keep no state over a reset",
                )
                return
    report.add(
        OK, "seeds", f"the same seed and {REPLAYED} actions twice: equal; runs can be repeated"
    )


def _check_state(report: Report, subject: _Subject) -> None:
    with subject.envs(2, "auto") as first, subject.envs(2, "auto") as second:
        act = RandomActions(first.action_space, subject.seed)
        first.reset()
        recorded(first, act, REPLAYED // 2)
        state = first.get_state()
        if state is None:
            report.add(
                NOTE,
                "saving",
                "its state can't be saved, so a resumed run starts its episodes afresh; it could "
                "offer get_state() and set_state(tree)",
            )
            return
        steps = recorded(first, act, REPLAYED // 2)
        second.reset(subject.seed + 1)
        try:
            second.set_state(state)
            found = first_difference(steps, second)
        except RlkitError as error:
            found = str(error)
    if not found:
        report.add(OK, "saving", "its state can be saved: resumed runs go on as if never stopped")
    else:
        report.add(
            PROBLEM,
            "saving",
            f"restored from its saved state: {found}; get_state() must hold all that steps "
            "depend on",
        )


def _check_speed(report: Report, subject: _Subject) -> None:
    rates: dict[str, float] = {}
    for vectorization in ("compiled", "native", "sync"):
        with suppress(UsageError), subject.envs(SIDE_BY_SIDE, vectorization) as envs:
            rates[vectorization] = speed(envs, subject.seed)
    report.statistics["steps_per_second"] = rates
    told = ", ".join(f"{how} {float(f'{rate:.2g}'):,.0f}" for how, rate in rates.items())
    report.add(
        OK, "speed", f"steps/s of {SIDE_BY_SIDE} side by side: {told}; async: a process each"
    )


def _check_model(report: Report, subject: _Subject) -> None:
    env = subject.make()
    try:
        mdp = MDP.from_gymnasium(env, 0.99)
    except ModelError as error:
        report.add(PROBLEM, "model", f"what it offers as a model is none: {error}")
    except UsageError:
        report.add(OK, "model", "none: for deep agents, not for rlkit solve")
    else:
        name = next((name for name in MODELS if model_id(name) == report.env), report.env)
        report.add(OK, "model", f"{mdp.n_states:,} states: rlkit solve {name}")
    _close(env)


def _check_pixels(report: Report, subject: _Subject) -> None:
    """Whether `--pixels` is for it; nothing is rendered to find out."""
    env = subject.make()
    space = getattr(env, "observation_space", None)
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3:
        report.add(OK, "pixels", "its observations are images as they are")
    elif RENDER_MODE in (env.metadata.get("render_modes") or []) and subject.renders():
        report.add(OK, "pixels", "it renders images: --pixels trains from them")
    else:
        report.add(OK, "pixels", "it renders no images: --pixels is not for it")
    _close(env)
