"""A run's folder: one per run, taken with an exclusive mkdir, holding all that the run leaves.

On disk::

    runs/a2c-CartPole-v1-0/
      config.json             what was asked for: format, agent, env, seed, device, recipe, versions
      env.json                Gymnasium's EnvSpec, kept as a record: nothing is built from it
      metrics.jsonl           what was measured: see rlkit.run.metrics
      events.out.tfevents.*   the same for TensorBoard
      checkpoints/            see rlkit.run.checkpoint
      faults/                 the last steps before an error: see rlkit.training.black_box
      ranks/                  what the others of several ranks keep: see rlkit.training.parallel

This module imports neither torch nor TensorBoard: listing runs is quick.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import rlkit
from rlkit.errors import UsageError
from rlkit.registry import unknown
from rlkit.run.files import json_bytes, read_json, write_atomically
from rlkit.run.metrics import METRICS, RETURN, read_tail

RUN_DIR = Path("runs")
FORMAT = 1
CONFIG, ENV = "config.json", "env.json"
CONFIG_LIMIT = 1 << 20  # bytes
NAME_LIMIT = 100  # characters

_FIRST = ("agent", "env", "seed", "device")
_NAME = re.compile(r"\w[\w.+=@,-]*")


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: its folder and its config. `Path(run)` is the folder."""

    path: Path
    config: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.path)

    @classmethod
    def create(
        cls,
        run_dir: Path,
        name: str,
        config: Mapping[str, Any],
        env_spec: str | None,
    ) -> RunFolder:
        """Take a new folder `run_dir/name-K`, with the first number K that is free.

        `config` holds what JSON holds; format, time and versions are added to it. `env_spec` is
        `EnvSpec.to_json()`. Raises UsageError, before anything is made, for a name that is not
        allowed or a config that is not JSON, and where the folder can't be written.
        """
        check_name(name)
        config = _complete_config(config)
        files = {CONFIG: _json_bytes(config)}
        if env_spec is not None:
            # a spec may hold an infinity, which strict JSON doesn't know: keep it as a string
            files[ENV] = _json_bytes(json.loads(env_spec, parse_constant=str))
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            path = _take(run_dir, name)
            try:
                for file, content in files.items():
                    write_atomically(path / file, content)
            except BaseException:
                shutil.rmtree(path, ignore_errors=True)
                raise
        except OSError as error:
            raise UsageError(
                f"the run folder {run_dir} is not writable: {error.strerror} "
                f"({error.filename or run_dir}); choose another one with --run-dir"
            ) from None
        except ValueError as error:  # a NUL in the path
            raise UsageError(f"run_dir (--run-dir) is {str(run_dir)!r}: {error}") from None
        return cls(path, config)

    @classmethod
    def open(cls, path: str | os.PathLike[str], run_dir: Path = RUN_DIR) -> RunFolder:
        """The run at `path`, or of that name in `run_dir`.

        Raises UsageError, with the nearest names, where there is none, or it is no run of rlkit's.
        """
        given = Path(path)
        places = [given, run_dir / given] if given.name == str(given) else [given]
        for place in places:
            if _is_run(place):
                return cls(place, _read_config(place))
        for place in places:
            if os.path.exists(place):
                raise UsageError(f"{place} is no run: it holds no {CONFIG}; see 'rlkit list runs'")
        home = places[-1].parent
        known = [found.name for found in _runs(home)]
        if not known:
            raise UsageError(
                f"no run {str(given)!r}: there is no run in {home}; "
                "make one with 'rlkit train AGENT ENV'"
            )
        raise unknown("run", given.name, known)


@dataclass(frozen=True)
class RunSummary:
    """One line about a run; None stands for what its files don't say (yet)."""

    path: Path
    agent: str | None
    env: str | None
    steps: int | None  # environment steps at the last measurement
    last_return: float | None  # mean over the last episodes, 100 at most
    when: float  # of the last measurement, in seconds since 1970


def list_runs(run_dir: Path = RUN_DIR) -> list[RunSummary]:
    """The runs in `run_dir`, oldest first; a damaged one is listed with what it still says."""
    summaries = []
    for path in _runs(run_dir):
        try:
            config = _read_config(path)
        except UsageError:
            config = {}
        try:
            summaries.append(_summary(path, config))
        except OSError:  # removed while it was looked at
            continue
    return sorted(summaries, key=lambda summary: (summary.when, summary.path))


def run_name(agent: str, env_id: str) -> str:
    """The name of a run that was given none: "ALE/Pong-v5" becomes "dqn-ALE-Pong-v5"."""
    return re.sub(r"[^\w.+=@,-]+", "-", f"{agent}-{env_id}")[:NAME_LIMIT]


def check_name(name: str) -> None:
    """Raise UsageError unless `name` can name a folder, in the run folder and nowhere else."""
    if not _NAME.fullmatch(name) or len(name) > NAME_LIMIT or len(name.encode()) > 2 * NAME_LIMIT:
        shown = name if len(name) <= NAME_LIMIT else name[:20] + "..."
        raise UsageError(
            f"run name {shown!r} is not allowed: use letters, digits and _ . + = @ , - "
            f"(at most {NAME_LIMIT}), a letter, a digit or _ first"
        )


def _take(run_dir: Path, name: str) -> Path:
    """Make the folder `name-K`; mkdir is exclusive, so that of two runs each gets its own."""
    numbers = [
        int(match[1])
        for entry in os.listdir(run_dir)
        if (match := re.fullmatch(re.escape(name) + r"-(\d{1,9})", entry))
    ]
    number = max(numbers, default=-1) + 1
    while True:
        path = run_dir / f"{name}-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the format first, what names the run next, and the versions last."""
    ordered = sorted(config, key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
    return {
        "format": FORMAT,
        **{key: config[key] for key in ordered},
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what a run's results depend on."""
    return {
        "rlkit": rlkit.__version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in ("torch", "gymnasium", "numpy")},
    }


def _json_bytes(value: dict[str, Any]) -> bytes:
    try:
        return json_bytes(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the run's config can't be written as JSON: {error}") from None


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path / CONFIG, UsageError, CONFIG_LIMIT)
    if config.get("format") != FORMAT:
        raise UsageError(
            f"{path / CONFIG}: format {config.get('format')!r}, this rlkit reads {FORMAT}; "
            "open it with the rlkit that wrote it"
        )
    return config


def _runs(run_dir: Path) -> list[Path]:
    try:
        return sorted(path for path in run_dir.iterdir() if _is_run(path))
    except OSError:
        return []


def _is_run(path: Path) -> bool:
    try:
        return (path / CONFIG).is_file()
    except OSError:  # somebody else's, who lets nobody look in
        return False


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def _finite(value: Any) -> float | None:
    """`value` as a float; None where it is no number, or beyond floats."""
    if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max:
        return float(value)
    return None


def _summary(path: Path, config: Mapping[str, Any]) -> RunSummary:
    measured = path / METRICS
    lines = read_tail(measured) if measured.is_file() else []
    returns = [found for line in lines if (found := _finite(line.get(RETURN))) is not None][-100:]
    steps = [count for line in lines if (count := _count(line.get("step"))) is not None]
    agent, env = config.get("agent"), config.get("env")
    return RunSummary(
        path=path,
        agent=agent if isinstance(agent, str) else None,
        env=env if isinstance(env, str) else None,
        steps=max(steps, default=None),
        last_return=sum(returns) / len(returns) if returns else None,
        when=(measured if measured.is_file() else path / CONFIG).stat().st_mtime,
    )
