"""What an environment's name stands for.

    CartPole            short name: the newest registered version; case does not matter
    CartPole-v1         id of Gymnasium's registry
    gridworld           rlkit's own: an entry of `rlkit.registry.ENVS`
    Pong                an Atari game: ALE/Pong-v5 (`rlkit.envs.atari`)
    my_envs:Maze-v0     id, after importing the module that registers it
    my_envs:Maze        class derived from `gymnasium.Env`, of a module
    my_envs.py:Maze     the same, of a file (relative to the current folder)

The forms with a colon run code outside the registry. `runs_code` tells them apart without running
it, so that a name found in somebody else's run is never imported unasked.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlkit.envs import atari
from rlkit.envs.foreign import describe, quiet_gymnasium
from rlkit.envs.packages import ATARI, package_of
from rlkit.errors import UsageError
from rlkit.registry import ENVS, did_you_mean, unknown

# Gymnasium's time limit can be set for every environment, whatever its constructor takes.
LIMIT = "max_episode_steps"


@dataclass(frozen=True)
class ResolvedEnv:
    """An environment that exists: its name in full, and its registry entry or its class' place."""

    name: str  # what a configuration stores: "CartPole-v1", "my_envs:Maze-v0", "my_envs.py:Maze"
    spec: EnvSpec | None  # None: a class outside the registry

    def creator(self) -> Callable[..., gym.Env]:
        """What makes the environment: a class, or whatever its registry entry names."""
        if self.spec is None:
            source, _, attribute = self.name.rpartition(":")
            created: Callable[..., gym.Env] = getattr(_import(source), attribute)
            return created
        entry = self.spec.entry_point
        if entry is None:
            raise UsageError(
                f"env {self.name} has a vector entry point only; use vectorization native"
            )
        return load_env_creator(entry) if isinstance(entry, str) else entry  # type: ignore[return-value]


def runs_code(name: str) -> bool:
    """Whether the name has rlkit import code that is not in the registry; imports nothing."""
    return ":" in name


def resolve(name: str) -> ResolvedEnv:
    """What `name` stands for; see the forms above.

    Raises UsageError, with the nearest names, where it stands for nothing.
    """
    if runs_code(name):
        return _resolve_code(name)
    if name.endswith(".py"):
        raise UsageError(f"env {name!r} is a file: name the class in it too, as in {name}:MyEnv")
    spec = find_spec(name)
    if spec is None:
        raise _unknown_id(name)
    return ResolvedEnv(spec.id, spec)


def short_name(name: str) -> str:
    """The name without namespace, module or file, for a run's folder; imports no user's code.

    "cartpole" → "CartPole-v1", "rlkit/GridWorld-v0" → "GridWorld-v0", "my_envs.py:Maze" → "Maze".
    """
    spec = None if runs_code(name) else find_spec(name)
    full = name.rpartition(":")[2] if spec is None else spec.id
    return full.rpartition("/")[2]


def find_spec(name: str) -> EnvSpec | None:
    """The registry's entry for an id or a short name, the newest version where none is given.

    The entry of an Atari game is the one that preprocesses it.
    """
    package = package_of(name)
    if package is not None:
        package.register()
    own = ENVS.get(name.lower())
    wanted = own.id if own is not None else name
    found = gym.registry.get(wanted) or newest(wanted) or newest(f"rlkit/{wanted}")
    if found is None or (atari.is_ale(found) and unversioned(found).lower() == name.lower()):
        ATARI.register()
        found = newest(f"ale/{name}") or found
    return None if found is None else atari.preprocessed(found)


def newest(name: str) -> EnvSpec | None:
    """The registry's entry for an id, or of the highest version for a name without one.

    Upper and lower case are the same.
    """
    folded = name.lower()
    matches = [
        spec
        for spec in gym.registry.values()
        if folded in (spec.id.lower(), unversioned(spec).lower())
    ]
    return max(matches, key=lambda spec: -1 if spec.version is None else spec.version, default=None)


def unversioned(spec: EnvSpec) -> str:
    """The id without its version: "CartPole", "phys2d/CartPole"."""
    return spec.id.removesuffix(f"-v{spec.version}")


def _unknown_id(name: str) -> UsageError:
    package = package_of(name)
    if package is not None and not package.installed():
        return UsageError(
            f"env {name!r} needs a package that is not installed: pip install {package.install}"
        )
    versioned = name.rpartition("-v")[2].isdigit()
    known = {spec.id if versioned else unversioned(spec) for spec in gym.registry.values()}
    return unknown("env", name, known if versioned else known | set(ENVS))


def _resolve_code(name: str) -> ResolvedEnv:
    source, _, attribute = name.rpartition(":")
    if not source or not attribute:
        raise UsageError(f"env {name!r}: write file.py:Class, module:Class or module:Id-v0")
    module = _import(source)
    member = getattr(module, attribute, None)
    if member is None:
        spec = find_spec(attribute)
        if spec is None:
            raise _unknown_member(source, attribute, module)
        return ResolvedEnv(f"{source}:{spec.id}", spec)
    if not (isinstance(member, type) and issubclass(member, gym.Env)):
        raise UsageError(_why_no_env(name, member))
    return ResolvedEnv(name, None)


def _unknown_member(source: str, attribute: str, module: ModuleType) -> UsageError:
    classes = [
        name
        for name, member in vars(module).items()
        if isinstance(member, type) and issubclass(member, gym.Env) and member is not gym.Env
    ]
    package = module.__name__
    ids = [
        spec.id
        for spec in gym.registry.values()
        if isinstance(spec.entry_point, str)
        and (spec.entry_point.startswith((f"{package}:", f"{package}.")))
    ]
    known = sorted(classes + ids)
    listing = f"it has: {', '.join(known[:10])}" if known else "it defines no gymnasium.Env"
    hint = did_you_mean(attribute, known, listing)
    return UsageError(f"{source} has no environment {attribute!r}; {hint}")


def _why_no_env(name: str, member: object) -> str:
    if not isinstance(member, type):
        return (
            f"env {name!r} is a {type(member).__name__}, not a class; name a class derived from "
            "gymnasium.Env"
        )
    if any(base.__module__.partition(".")[0] == "gym" for base in member.__mro__):
        return (
            f"env {name!r} is derived from the old package gym; derive it from gymnasium.Env: its "
            "reset returns (observation, info), its step five values"
        )
    bases = ", ".join(base.__name__ for base in member.__bases__)
    return f"env {name!r} is a class of {bases}; derive it from gymnasium.Env"


def _import(source: str) -> ModuleType:
    """The module behind the part of a name before the colon: a file or a dotted module."""
    try:
        with quiet_gymnasium():
            return _import_file(Path(source)) if source.endswith(".py") else _import_module(source)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"env module {source} could not be imported: {describe(error)}") from error


def _import_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        beside = [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []
        listing = f"no such file in {path.parent}" if path.parent.is_dir() else "no such folder"
        raise UsageError(
            f"env file {str(path)!r} was not found; {did_you_mean(path.name, beside, listing)}"
        )
    # The private name keeps `random.py` from standing in for the library's; the time of the last
    # change in it has a notebook see an edited file.
    mark = hashlib.sha256(f"{path}:{path.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    name = f"_rlkit_env_file_{mark}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable_from(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    with _importable_from(Path.cwd()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if name != missing and not name.startswith(f"{missing}."):
                raise  # the module is there; what it imports is not
            parent = missing.rpartition(".")[0]
            path = getattr(sys.modules[parent], "__path__", []) if parent else None
            prefix = f"{parent}." if parent else ""
            known = [f"{prefix}{module.name}" for module in pkgutil.iter_modules(path)]
            hint = did_you_mean(missing, known, "is it installed, or in the current folder?")
            raise UsageError(f"env module {missing!r} was not found; {hint}") from error


@contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """Let imports find the modules in `folder` too, after all that are installed."""
    if str(folder) in sys.path:
        yield
        return
    sys.path.append(str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


@dataclass(frozen=True)
class Facts:
    """What is known of an environment besides its spaces."""

    id: str
    spec_json: str | None
    reward_threshold: float | None
    max_episode_steps: int | None
    frame_stack: int = 1  # images in an observation's first axis, oldest first, zeros before all


def facts_of(name: str, spec: EnvSpec | None, options: Mapping[str, Any]) -> Facts:
    """The facts of the environment called `name` when it's made with `options`.

    `spec_json` is None where there is no registry entry or it holds what JSON can't. It is a
    record: an entry point names code, so a stranger's JSON must never be made.
    """
    if spec is None:
        return Facts(name, None, None, options.get(LIMIT))
    spec = with_options(spec, options)
    try:
        as_json = spec.to_json()
    except (TypeError, ValueError):
        as_json = None
    stack = atari.frame_stack(spec)
    return Facts(name, as_json, spec.reward_threshold, spec.max_episode_steps, stack)


def with_options(spec: EnvSpec, options: Mapping[str, Any]) -> EnvSpec:
    """The registry entry of the same environment made with `options`."""
    spec = copy.deepcopy(spec)
    spec.kwargs.update({key: value for key, value in options.items() if key != LIMIT})
    spec.max_episode_steps = options.get(LIMIT, spec.max_episode_steps)
    return spec
