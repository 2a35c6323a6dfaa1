"""What a sweep or a study is to do, checked before anything starts; imports no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rlkit.envs.names import resolve
from rlkit.errors import UsageError
from rlkit.many.child import Training
from rlkit.recipe import Option, read_options
from rlkit.recipe import options as options_of
from rlkit.registry import AGENTS, unknown
from rlkit.run.files import json_bytes, read_json, write_atomically
from rlkit.training.options import RunOptions, run_options

PLAN_LIMIT = 1 << 26  # bytes


def plan_training(
    agent: str,
    env: str,
    options: RunOptions | Mapping[str, Any] | None,
    env_options: Mapping[str, Any] | None,
) -> Training:
    """What all runs of a sweep or a study are told; raises UsageError where it is not allowed."""
    if agent not in AGENTS:
        raise unknown("agent", agent, AGENTS)
    told = options if isinstance(options, RunOptions) else run_options(options or {})
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", told.device):
        raise UsageError(f"device (--device) is {told.device!r}; allowed: auto, cpu, cuda, cuda:I")
    return Training(agent, resolve(env).name, common_options(told), dict(env_options or {}))


def common_options(told: RunOptions) -> dict[str, Any]:
    """What all runs of a sweep or a study are told alike, as JSON values."""
    return {k: v for k, v in told.to_json().items() if k not in ("seed", "run_dir")}


def check_seeds(seeds: Sequence[int]) -> Sequence[int]:
    """The seeds; raises UsageError for none, for the same twice, and for what is no seed."""
    if not seeds:
        raise UsageError("seeds (--seeds) is empty; give some, as in 0:5 or 0,3,7")
    (allowed,) = (option for option in options_of(RunOptions) if option.name == "seed")
    for seed in seeds:
        allowed.check(seed)
    (twice, times), *_ = Counter(seeds).most_common(1)
    if times > 1:
        raise UsageError(f"seeds (--seeds) has {twice} more than once; name each seed once")
    return list(seeds)


def field_of(agent: str, name: str) -> Option:
    """A field of the agent's recipe; raises UsageError with the nearest names."""
    known = {option.name: option for option in read_options(AGENTS[agent].target)}
    if name not in known:
        raise unknown("option", name, known)
    return known[name]


def make_folder(folder: Path, option: str) -> None:
    """Make a folder of runs; raises UsageError where it can't be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):  # of no name that another process could take away
            pass
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"the folder {folder} is not writable: {why}; choose another one with {option}"
        ) from None


def keep_plan(path: Path, plan: Mapping[str, Any], option: str) -> None:
    """Write the plan down; raises UsageError where another one is there, with the difference."""
    if not path.exists():
        write_atomically(path, json_bytes(plan))
        return
    same_plan(str(path), read_json(path, UsageError, PLAN_LIMIT), plan, f"folder with {option}")


def same_plan(where: str, found: Any, plan: Mapping[str, Any], remedy: str) -> None:
    """Raise UsageError, with the first difference, where the plan found is not this one."""
    if not isinstance(found, dict):
        raise UsageError(f"{where} holds no plan of rlkit's; choose another {remedy}")
    if isinstance(found.get("options"), dict):  # of a time when there were fewer
        found = {**found, "options": {**common_options(RunOptions()), **found["options"]}}
    for name, value in plan.items():
        if found.get(name) != value:
            was, now = _difference(found.get(name), value)
            raise UsageError(
                f"{where} has another plan: its {name} is {was}, not {now}; choose another "
                f"{remedy}, or what the plan says"
            )


def _difference(found: Any, value: Any) -> tuple[str, str]:
    """Two values in words; of two objects, what differs."""
    if isinstance(found, dict) and isinstance(value, dict):
        names = [name for name in {**found, **value} if found.get(name) != value.get(name)]
        return tuple(  # type: ignore[return-value]
            str({name: side[name] for name in names if name in side}) for side in (found, value)
        )
    return repr(found), repr(value)
