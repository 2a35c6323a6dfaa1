"""A sweep: every setting of some recipe fields with every seed, each run a process of its own.

On disk, besides a run folder for each run, named after its setting and seed::

    sweep.json      the plan; the same sweep goes on where it stopped, another one is refused
    results.json    what came of each run so far
    logs/           what each run printed

This module imports no torch but for `together`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from rlkit.errors import UsageError
from rlkit.many.batch import DONE, FAILED, STOPPED, Ledger, Record, run_all
from rlkit.many.board import Board
from rlkit.many.child import Training
from rlkit.many.jobs import Job, make_slots
from rlkit.many.plans import check_seeds, field_of, keep_plan, make_folder, plan_training
from rlkit.recipe import json_value, read_options
from rlkit.registry import AGENTS
from rlkit.run.folder import NAME_LIMIT, RUN_DIR, run_name
from rlkit.run.lock import locked
from rlkit.run.signals import StopSignals
from rlkit.training.options import RunOptions

if TYPE_CHECKING:
    from rich.console import Console

PLAN, RESULTS = "sweep.json", "results.json"
FORMAT = 1
NUMBER_WIDTH = 6  # of "-12345", which a run's folder gets
MOST_RUNS = 100_000


@dataclass(frozen=True)
class Setting:
    """What one setting of a sweep came to; None where none of its runs is done."""

    changes: Mapping[str, Any]  # to the recipe, in JSON values
    returns: Sequence[float]  # final mean greedy return of each seed that is done
    failed: int
    mean_return: float | None
    worst_return: float | None  # of the seeds
    seconds: float | None  # of training, mean over the seeds


@dataclass(frozen=True)
class Swept:
    """What `sweep` gives back."""

    folder: Path
    settings: Sequence[Setting]  # the best first
    runs: Mapping[str, Record]  # by name; what has not started is not in it
    missing: int  # runs that are still to be done
    exit_status: int  # 0; 1 where runs failed or are missing; 128 + the signal that stopped it


@dataclass(frozen=True)
class Plan:
    """What a sweep is to do. `settings`: for each field its values, which are JSON values."""

    training: Training
    settings: Mapping[str, Sequence[Any]]
    seeds: Sequence[int]

    def grid(self) -> Sequence[Mapping[str, Any]]:
        """Every setting: the last field's values change fastest."""
        return [
            dict(zip(self.settings, values, strict=True))
            for values in itertools.product(*self.settings.values())
        ]

    def names(self) -> Mapping[tuple[int, int], str]:
        """The runs' names, by setting's number and seed: the fields that differ, and the seed."""
        grid = self.grid()
        varied = [name for name, values in self.settings.items() if len(values) > 1]
        labels = [",".join(f"{name}={_word(found[name])}," for name in varied) for found in grid]
        labels = [label.replace(",,", ",") for label in labels]
        room = NAME_LIMIT - NUMBER_WIDTH - len(f"seed={max(self.seeds)}")
        if len(set(labels)) < len(grid) or max(map(len, labels)) > room:
            labels = [f"setting={i}," for i in range(len(grid))]
        return {
            (i, seed): f"{label}seed={seed}"
            for i, label in enumerate(labels)
            for seed in self.seeds
        }

    def jobs(self, folder: Path) -> Mapping[str, Job]:
        """Seed by seed, so that every setting has a result early."""
        grid, names = self.grid(), self.names()
        return {
            names[i, seed]: self.training.job(folder, names[i, seed], changes, seed)
            for seed in self.seeds
            for i, changes in enumerate(grid)
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "agent": self.training.agent,
            "env": self.training.env,
            "settings": {name: list(values) for name, values in self.settings.items()},
            "seeds": list(self.seeds),
            "options": dict(self.training.options),
            "env_options": dict(self.training.env_options),
        }


def sweep(
    agent: str,
    env: str,
    settings: Mapping[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] = range(5),
    options: RunOptions | Mapping[str, Any] | None = None,
    *,
    env_options: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    jobs: int | None = None,
    retry_failed: bool = False,
    together: bool = False,
    console: Console | None = None,
) -> Swept:
    """Train on every combination of settings and seeds, each run in a process of its own.

    The same call goes on where an earlier one stopped: what is done is not done again.

    Args:
        agent: a name in the registry.
        env: a name (see rlkit.envs.names).
        settings: for each recipe field its values; one value is that of all runs.
        options: as for `rlkit.train`, without seed and run_dir.
        env_options: arguments of the environment's constructor.
        folder: for all runs; by default runs/sweep-AGENT-ENV.
        jobs: runs at a time; by default one for each core, or GPU where they are used, and all the
            seeds of a setting with `together`.
        retry_failed: runs that failed go on from their last checkpoints, or start anew.
        together: the seeds of a setting learn in one process, as one batched computation, on
            environments on the device (`rlkit.population`); for PPO on a GPU.
        console: where progress is shown; None: nowhere.

    Raises UsageError, for every setting, before anything starts.
    """
    training = plan_training(agent, env, options, env_options)
    if together:
        training = _on_device(training)
    plan = Plan(training, _checked(agent, settings or {}), check_seeds(seeds))
    count = len(plan.seeds) * math.prod(map(len, plan.settings.values()))
    if count > MOST_RUNS:
        raise UsageError(f"the sweep is of {count:,} runs; allowed: up to {MOST_RUNS:,}")
    if together:
        from rlkit.many.together import check_together  # imports torch

        check_together(training, plan.grid(), len(plan.seeds), jobs)
    slots = make_slots(jobs, training.options["device"])
    home = (
        Path(folder) if folder is not None else RUN_DIR / run_name(f"sweep-{agent}", training.env)
    )
    make_folder(home, "--sweep-dir")
    with locked(home):
        if (home / RESULTS).exists() and not (home / PLAN).exists():
            raise UsageError(
                f"{home / RESULTS} is of a sweep whose {PLAN} is gone; move it away, or choose "
                "another folder with --sweep-dir"
            )
        keep_plan(home / PLAN, plan.to_json(), "--sweep-dir")
        ledger = Ledger(home / RESULTS)
        planned = plan.jobs(home)
        for name, job in planned.items():
            if _state(ledger, name) == DONE and ledger.done(job) is None:  # its folder is gone
                del ledger.records[name]
        todo = [
            job
            for name, job in planned.items()
            if (state := _state(ledger, name)) != DONE and (state != FAILED or retry_failed)
        ]
        at_once = (jobs or len(plan.seeds)) if together else len(slots)
        _announce(console, plan, home, len(todo), at_once)
        with StopSignals() as stop, Board(console) as board:
            if together:
                from rlkit.many.together import run_together

                run_together(home, todo, jobs, ledger, board, stop)
            else:
                run_all(home, todo, slots, ledger, board, stop)
    return _result(home, plan, ledger, stop.exit_status)


def _checked(agent: str, settings: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The settings as JSON values; raises UsageError for the first that is not allowed."""
    for name in settings:
        field_of(agent, name)
    checked: dict[str, Sequence[Any]] = {}
    for option in read_options(AGENTS[agent].target):  # in whatever order they were given
        name = option.name
        if name not in settings:
            continue
        given = settings[name]
        if isinstance(given, str) or not given:
            raise UsageError(f"{name} (--set) is {given!r}; give a list of values, one or more")
        values = [json_value(option.check(value)) for value in given]
        for i, value in enumerate(values):
            if value in values[:i]:
                raise UsageError(f"{name} (--set) has {_word(value)} twice; name each value once")
        checked[name] = values
    return checked


def _word(value: Any) -> str:
    """A value of a recipe's field in a file name."""
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^\w.+=@-]+", "-", text)


def _state(ledger: Ledger, name: str) -> str | None:
    record = ledger.records.get(name)
    return record.state if record else None


def _announce(console: Console | None, plan: Plan, home: Path, todo: int, slots: int) -> None:
    if console is None:
        return
    settings, seeds = len(plan.grid()), len(plan.seeds)
    count = settings * seeds
    console.print(
        f"{plan.training.agent} on {plan.training.env}: {_counted(settings, 'setting')} x "
        f"{_counted(seeds, 'seed')} = {_counted(count, 'run')}, up to {slots} at a time"
    )
    over = f"  ({count - todo} are over, {todo} to do)" if todo < count else ""
    console.print(f"sweep folder: {home}{over}")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _result(home: Path, plan: Plan, ledger: Ledger, status: int) -> Swept:
    grid, names = plan.grid(), plan.names()
    settings = []
    for i, changes in enumerate(grid):
        records = [ledger.records.get(names[i, seed]) for seed in plan.seeds]
        settings.append(_setting(changes, [record for record in records if record]))
    settings.sort(key=lambda s: math.inf if s.mean_return is None else -s.mean_return)
    runs = {name: ledger.records[name] for name in names.values() if name in ledger.records}
    over = [record for record in runs.values() if record.state != STOPPED]
    whole = len(over) == len(names) and all(record.state == DONE for record in over)
    return Swept(home, settings, runs, len(names) - len(over), status or int(not whole))


def _setting(changes: Mapping[str, Any], records: Sequence[Record]) -> Setting:
    done = [record for record in records if record.state == DONE]
    returns = [record.final_return for record in done if record.final_return is not None]
    seconds = [record.seconds for record in done if record.seconds is not None]
    return Setting(
        changes,
        returns,
        sum(record.state == FAILED for record in records),
        mean(returns) if returns else None,
        min(returns, default=None),
        mean(seconds) if seconds else None,
    )


def _on_device(training: Training) -> Training:
    """With environments that live there; raises UsageError where others are asked for."""
    if (given := training.options["vectorization"]) not in ("auto", "device"):
        raise UsageError(
            f"vectorization (--vectorization) is {given}, and --together keeps environments on the "
            "device; leave one of them out"
        )
    return replace(training, options={**training.options, "vectorization": "device"})
