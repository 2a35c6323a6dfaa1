"""Making environments: one of them, or N as a vector environment."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.error import DependencyNotInstalled
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit

from rlkit.envs import atari
from rlkit.envs.checks import CheckedEnv
from rlkit.envs.classic import ClassicVectorEnv, why_not_compiled
from rlkit.envs.foreign import describe, quiet_gymnasium
from rlkit.envs.listing import family_of
from rlkit.envs.minigrid_cells import with_one_hot_cells
from rlkit.envs.names import (
    LIMIT,
    Facts,
    ResolvedEnv,
    facts_of,
    newest,
    resolve,
    unversioned,
    with_options,
)
from rlkit.envs.packages import MINIGRID
from rlkit.envs.pixels import RENDER_MODE, Pixels, from_pixels, with_byte_images
from rlkit.envs.stack import StackedVectorEnv
from rlkit.envs.vector import Envs
from rlkit.envs.workers import UNLIMITED, WorkerLimits, WorkerVectorEnv
from rlkit.errors import RlkitError, UsageError
from rlkit.registry import ENVS, did_you_mean, unknown

Vectorization: TypeAlias = Literal["auto", "compiled", "model", "native", "sync", "async", "device"]
# A native step costs much the same for one environment as for eight: few step faster one by one.
NATIVE_FROM = 4
# Of which even one is a native vector environment inside.
NATIVE_ALWAYS = (atari.ENTRY, ENVS["model"].target)
VECTORIZATIONS: tuple[Vectorization, ...] = (
    "auto",
    "compiled",
    "model",
    "native",
    "sync",
    "async",
    "device",
)


def make_env(name: str, options: Mapping[str, object] | None = None) -> gym.Env[Any, Any]:
    """One environment, by any form of name (see `rlkit.envs.names`).

    `options` are arguments of the environment's constructor; `max_episode_steps` sets its time
    limit. Gymnasium's own checker is left out: `rlkit.envs.checks` does its work.

    Raises UsageError for a name or an option that doesn't exist, for a constructor that fails, and
    for a package that the environment needs and that is not installed.
    """
    return _make_resolved(resolve(name), options or {})


def evaluation_options(env: object, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options to evaluate with what was trained on `env` (as in `make_envs`) with `options`.

    Those that make an Atari game easier to learn, and its score another one, are left out.
    """
    spec = resolve(env).spec if isinstance(env, str) else None
    return dict(options) if spec is None else atari.evaluation_options(spec, options)


def make_envs(
    env: str | Callable[[], gym.Env[Any, Any]] | VectorEnv[Any, Any, Any],
    n: int,
    seed: int | None,
    vectorization: Vectorization = "auto",
    strict: bool = False,
    options: Mapping[str, object] | None = None,
    pixels: Pixels | None = None,
    frame_stack: int = 1,
    limits: WorkerLimits = UNLIMITED,
    device: Any = "cpu",
) -> Envs:
    """`n` environments, not reset yet.

    Args:
        env: a name, a function that makes one environment, or a vector environment of `n`, whose
            own autoreset mode (NEXT_STEP or SAME_STEP) is kept.
        n: how many, at least 1.
        seed: of the first reset, from which each environment's own is drawn; None for a new one.
        vectorization: "compiled" is rlkit's compiled form of it (`rlkit.envs.classic`), "model"
            draws from its exact model (`rlkit.envs.model_env`), "native" the environment's own
            vector environment, "sync" one process, "async" a process each, "device" steps tensors
            on a device (`rlkit.envs.device`); "auto" is compiled where there is such a form that
            takes the options, else native for 4 environments and more, likewise, else sync.
        strict: an observation outside its Box is an error instead of a warning.
        options: of the environment's constructor, for a name.
        pixels: observe what the environment renders (`rlkit.envs.pixels`), in place of what it
            returns; sync or async only.
        frame_stack: how many of the newest observations are one (`rlkit.envs.stack`).
        limits: of the worker processes of async environments (`rlkit.envs.workers`).
        device: of device environments: a torch.device, or its name.

    Raises UsageError for all of that which doesn't fit, and for spaces that rlkit does not support,
    and EnvError for a worker process that dies or hangs as it starts.
    """
    if n < 1:
        raise UsageError(f"the number of environments is {n}; give 1 or more")
    if vectorization not in VECTORIZATIONS:
        raise unknown("vectorization", vectorization, VECTORIZATIONS)
    if options and not isinstance(env, str):
        raise UsageError("options are for environments given by name; set them in your function")
    if vectorization == "device":
        if pixels is not None or frame_stack > 1:
            option = "frame_stack (--frame-stack)" if pixels is None else "pixels (--pixels)"
            raise UsageError(f"vectorization device has no {option}; leave it out, or use sync")
        return _on_device(env, n, seed, options or {}, device)
    if pixels is None:
        venv, facts = _vectorize(env, n, vectorization, options or {}, limits)
    else:
        venv, facts = _vectorize_pixels(env, n, vectorization, options or {}, pixels, limits)
    try:
        if frame_stack > 1:
            venv, facts = _stacked(venv, facts, frame_stack)
        return Envs(venv, facts, seed, strict)
    except BaseException:
        venv.close()
        raise


def _on_device(
    env: object, n: int, seed: int | None, options: Mapping[str, Any], device: Any
) -> Envs:
    if not isinstance(env, str):
        raise UsageError("vectorization device needs an environment's name; use sync or async")
    from rlkit.envs.device.forms import device_form  # it needs torch, which others don't

    resolved = resolve(env)
    with closing(_make_resolved(resolved, options)) as made:
        # they have the interface of Envs, with tensors for arrays
        return cast("Envs", device_form(resolved, made, n, seed, options, device))


def _stacked(
    venv: VectorEnv[Any, Any, Any], facts: Facts, k: int
) -> tuple[VectorEnv[Any, Any, Any], Facts]:
    if facts.frame_stack > 1:
        raise UsageError(
            f"frame_stack (--frame-stack) is {k}, and env {facts.id} has {facts.frame_stack} "
            f"frames in its observations already; change those: --env-option frame_stack={k}"
        )
    return StackedVectorEnv(venv, k), replace(facts, frame_stack=k)


def _vectorize(
    env: object,
    n: int,
    vectorization: Vectorization,
    options: Mapping[str, Any],
    limits: WorkerLimits,
) -> tuple[VectorEnv[Any, Any, Any], Facts]:
    if isinstance(env, VectorEnv):
        if env.num_envs != n:
            raise UsageError(f"the vector environment holds {env.num_envs} environments, not {n}")
        spec = env.spec
        return env, facts_of(type(env.unwrapped).__name__ if spec is None else spec.id, spec, {})
    if isinstance(env, str):
        resolved = resolve(env)
        venv = _make_named(resolved, n, vectorization, options, limits)
        return venv, facts_of(resolved.name, resolved.spec, options)
    if isinstance(env, gym.Env) or not callable(env):
        raise UsageError(
            f"the environment is a {type(env).__name__}; give its name, a gymnasium VectorEnv, or "
            f"a function without arguments that makes one environment, since {n} are made"
        )
    if vectorization in ("compiled", "model", "native"):
        raise UsageError(
            f"vectorization {vectorization} needs an environment's name; use sync or async"
        )
    venv = _make_vector(env, n, vectorization, limits)
    return venv, venv.call("facts")[0]


def _vectorize_pixels(
    env: object,
    n: int,
    vectorization: Vectorization,
    options: Mapping[str, Any],
    pixels: Pixels,
    limits: WorkerLimits,
) -> tuple[VectorEnv[Any, Any, Any], Facts]:
    if vectorization in ("compiled", "model", "native"):
        raise UsageError(f"vectorization {vectorization} renders nothing; use sync or async")
    if isinstance(env, str):
        resolved = resolve(env)
        make = _named_that_renders(resolved, options)
        venv = _make_vector(_Rendered(make, pixels), n, vectorization, limits)
        facts = facts_of(resolved.name, resolved.spec, options)
    elif callable(env) and not isinstance(env, (gym.Env, VectorEnv)):
        venv = _make_vector(_Rendered(env, pixels), n, vectorization, limits)
        facts = venv.call("facts")[0]
    else:
        raise UsageError(
            f"the environment is a {type(env).__name__}; pixels need its name, or a function "
            "without arguments that makes one environment"
        )
    return venv, replace(facts, frame_stack=pixels.frame_stack)


def _named_that_renders(env: ResolvedEnv, options: Mapping[str, Any]) -> _Named:
    if env.spec is not None and env.spec.entry_point == atari.ENTRY:
        raise UsageError(f"env {env.name} is observed in pixels as it is; leave pixels out")
    return _Named(env, _that_render(env, options, "pixels"))


def rendering_options(env: object, options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` with which the environment (as in `make_envs`) draws, where it has a name.

    Raises UsageError where it can't.
    """
    return _that_render(resolve(env), options, "--video") if isinstance(env, str) else {**options}


def _that_render(env: ResolvedEnv, options: Mapping[str, Any], wanted: str) -> dict[str, Any]:
    with _making(env.name, env.spec):
        known = _parameters(env.creator())
    if known is not None and "render_mode" not in known:
        raise UsageError(
            f"env {env.name} renders nothing, as its constructor takes no render_mode; leave "
            f"{wanted} out"
        )
    return {**options, "render_mode": RENDER_MODE}


def _make_named(
    env: ResolvedEnv,
    n: int,
    vectorization: Vectorization,
    options: Mapping[str, Any],
    limits: WorkerLimits,
) -> VectorEnv[Any, Any, Any]:
    if vectorization in ("auto", "compiled") and _has_compiled(env, options, vectorization):
        assert env.spec is not None
        with _making(env.name, env.spec):
            return ClassicVectorEnv(with_options(env.spec, options), n)
    if vectorization == "model":
        from rlkit.envs.model_source import model_form  # it needs SciPy, which others don't

        return model_form(env, _make_resolved(env, options), n, options)
    always = env.spec is not None and env.spec.entry_point in NATIVE_ALWAYS
    native = vectorization == "native" or (vectorization == "auto" and (always or n >= NATIVE_FROM))
    if native and _has_native(env, options, vectorization):
        return _make_native(env, n, options)
    return _make_vector(_Named(env, options), n, vectorization, limits)


@dataclass(frozen=True)
class _Named:
    """Makes an environment that was looked up by name, also in a worker process."""

    env: ResolvedEnv
    options: Mapping[str, Any]

    def __call__(self) -> gym.Env[Any, Any]:
        return _make_resolved(self.env, self.options)


@dataclass(frozen=True)
class _Rendered:
    """Makes an environment of which the pixels are observed."""

    make: Callable[[], gym.Env[Any, Any]]
    pixels: Pixels

    def __call__(self) -> gym.Env[Any, Any]:
        return from_pixels(self.make(), self.pixels)


@dataclass(frozen=True)
class _Checked:
    """Makes environment number `index` of a vector environment, with its checks around it."""

    make: Callable[[], gym.Env[Any, Any]]
    index: int

    def __call__(self) -> CheckedEnv:
        with _making("of your function", None):
            return CheckedEnv(with_byte_images(self.make()), self.index)


def _make_vector(
    make: Callable[[], gym.Env[Any, Any]],
    n: int,
    vectorization: Vectorization,
    limits: WorkerLimits,
) -> SyncVectorEnv[Any, Any] | WorkerVectorEnv:
    each = [_Checked(make, index) for index in range(n)]
    try:
        if vectorization != "async":
            # No copy: Envs makes the one copy that is needed.
            return SyncVectorEnv(each, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        with closing(each[0]()) as env:
            space = env.observation_space
        return WorkerVectorEnv(each, space, limits)
    except RlkitError:
        raise
    except RuntimeError as error:
        raise UsageError(
            f"the {n} environments differ in their spaces: {describe(error)}"
        ) from error


def _has_compiled(
    env: ResolvedEnv, options: Mapping[str, Any], vectorization: Vectorization
) -> bool:
    """Whether the compiled vector environment is to be used; an error if it's asked for in vain."""
    why_not = why_not_compiled(None if env.spec is None else with_options(env.spec, options))
    if why_not is not None and vectorization == "compiled":
        raise UsageError(f"env {env.name} can't be compiled: {why_not}; use vectorization auto")
    return why_not is None


def _has_native(env: ResolvedEnv, options: Mapping[str, Any], vectorization: Vectorization) -> bool:
    """Whether the native vector environment is to be used; an error if it's asked for in vain."""
    if env.spec is None or env.spec.vector_entry_point is None:
        if vectorization == "native":
            raise UsageError(f"env {env.name} has no native vector environment; use sync or async")
        return False
    if vectorization == "native":
        return True
    with _making(env.name, env.spec):
        known = _parameters(_vector_creator(env.spec))
    needed = set(options) if env.spec.max_episode_steps is None else {*options, LIMIT}
    return not env.spec.additional_wrappers and (known is None or needed <= known)


def _vector_creator(spec: EnvSpec) -> Callable[..., VectorEnv[Any, Any, Any]]:
    entry = spec.vector_entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    return cast("Callable[..., VectorEnv[Any, Any, Any]]", creator)


def _make_native(env: ResolvedEnv, n: int, options: Mapping[str, Any]) -> VectorEnv[Any, Any, Any]:
    assert env.spec is not None
    with _making(env.name, env.spec):
        known = _parameters(_vector_creator(env.spec))
        if known is not None:
            _check_options(env.name, options, known - {"num_envs"})
        return gym.make_vec(env.spec, n, vectorization_mode="vector_entry_point", **options)


def _make_resolved(env: ResolvedEnv, options: Mapping[str, Any]) -> gym.Env[Any, Any]:
    with _making(env.name, env.spec):
        creator = env.creator()
        known = _parameters(creator)
        if known is not None:
            _check_options(env.name, options, (known | {LIMIT}) - {"num_envs"})
        if env.spec is not None:
            made = gym.make(env.spec, disable_env_checker=True, **options)
            return with_one_hot_cells(made) if MINIGRID.owns(env.spec) else made
        if LIMIT not in options or known is None or LIMIT in known:
            return creator(**options)
        own = {key: value for key, value in options.items() if key != LIMIT}
        return TimeLimit(creator(**own), options[LIMIT])


def _parameters(creator: Callable[..., object]) -> set[str] | None:
    """The options that a constructor takes; None where it takes any."""
    found = inspect.signature(creator).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in found):
        return None
    return {parameter.name for parameter in found}


def _check_options(name: str, options: Iterable[str], known: set[str]) -> None:
    for option in options:
        if option not in known:
            takes = f"it takes: {', '.join(sorted(known))}" if known else "it takes none"
            raise UsageError(
                f"env {name} has no option {option!r}; {did_you_mean(option, known, takes)}"
            )


@contextmanager
def _making(name: str, spec: EnvSpec | None) -> Iterator[None]:
    """Put what goes wrong while an environment is made on one line."""
    try:
        with quiet_gymnasium():
            yield
    except UsageError:
        raise
    except (ImportError, DependencyNotInstalled) as error:
        raise UsageError(_what_is_missing(name, spec, error)) from error
    except Exception as error:
        raise UsageError(f"env {name} could not be made: {describe(error)}") from error


def _what_is_missing(name: str, spec: EnvSpec | None, error: Exception) -> str:
    if spec is not None and spec.version is not None and not isinstance(spec.entry_point, str):
        latest = newest(unversioned(spec))
        if latest is not None and latest.id != spec.id:
            return f"env {name} can't be made any more; use {latest.id}"
    family = None if spec is None else family_of(spec)
    if family is None or family.installed():
        return f"env {name} could not be imported: {describe(error)}"
    return f"env {name} needs a package that is not installed: pip install {family.install}"
