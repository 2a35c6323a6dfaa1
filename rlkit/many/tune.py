"""A search for a better recipe: many trials of an agent on an environment, judged by Optuna.

On disk, besides a run folder for each seed of each trial, named after its number::

    study.journal   what Optuna knows, unless the study is kept elsewhere
    logs/           what each run printed
    confirm/        the best trials once more, on fresh seeds
    best.json       the best recipe, for `rlkit train --config`

Several processes, on several machines, may work on one study.
"""

from __future__ import annotations

import importlib.util
import shlex
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from rlkit.errors import RlkitWarning, UsageError
from rlkit.many.batch import Ledger, run_all
from rlkit.many.board import Board
from rlkit.many.jobs import Job, make_slots
from rlkit.many.plans import make_folder
from rlkit.recipe import json_value, options
from rlkit.run.files import json_bytes, write_atomically
from rlkit.run.folder import RUN_DIR, check_name, run_name
from rlkit.run.lock import locked
from rlkit.run.signals import StopSignals
from rlkit.training.options import RunOptions, run_options

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.many.search import Dimension
    from rlkit.many.task import Task
    from rlkit.many.trials import TrialResult, Trials

JOURNAL, BEST, RESULTS = "study.journal", "best.json", "results.json"
CONFIRM, CONFIRM_SEED = "confirm", 1000  # fresh seeds begin so far behind those of the trials


@dataclass(frozen=True)
class Confirmed:
    """One of the best trials on seeds that did not choose it."""

    number: int
    changes: Mapping[str, Any]
    value: float  # what the search saw
    returns: Sequence[float]  # of each fresh seed
    mean_return: float
    worst_return: float


@dataclass(frozen=True)
class Tuning:
    """What `tune` gives back."""

    folder: Path
    study: str
    trials: Sequence[TrialResult]  # the best first
    importances: Mapping[str, float]  # of the fields; {} for too few trials
    confirmed: Sequence[Confirmed]  # the best first
    best: int | None  # the number of the best trial: by fresh seeds where there are any
    recipe: Mapping[str, Any] | None  # the best recipe, whole
    command: str | None  # that repeats it
    missing: int  # trials that are still to be done
    exit_status: int  # 0; 1 where no trial is complete; 128 + the signal that stopped it


def tune(
    agent: str,
    env: str,
    trials: int,
    search: Mapping[str, Dimension] | None = None,
    settings: Mapping[str, Any] | None = None,
    options: RunOptions | Mapping[str, Any] | None = None,
    *,
    env_options: Mapping[str, Any] | None = None,
    seeds_per_trial: int = 1,
    pruner: str = "median",
    study: str | None = None,
    storage: str | None = None,
    folder: str | Path | None = None,
    jobs: int | None = None,
    confirm: int = 3,
    confirm_seeds: int = 5,
    console: Console | None = None,
) -> Tuning:
    """Look for a recipe with a higher greedy return at the end of training, in `trials` trials.

    The same call goes on with the study until there are as many trials in all, whether they are
    complete, pruned or failed; 0 only reports on it.

    Args:
        agent: a name in the registry.
        env: a name (see rlkit.envs.names).
        search: what to look at, by field; by default rlkit.many.search.RULES.
        settings: changes to the recipe that all trials share.
        options: as for `rlkit.train`, without run_dir; the seed is that of the search, and the
            first of each trial's runs.
        env_options: arguments of the environment's constructor.
        seeds_per_trial: a trial's value is the mean over so many.
        pruner: "median", "halving" or "none": which trials are stopped for their learning curves.
        study: its name; by default tune-AGENT-ENV.
        storage: an SQLAlchemy URL, or the file of a journal; by default one in `folder`.
        folder: for all runs; by default runs/STUDY.
        jobs: trials at a time; by default one for each core, or GPU where they are used.
        confirm: so many of the best trials are run again on `confirm_seeds` fresh seeds: the best
            of many noisy results is lucky, too.
        console: where progress is shown; None: nowhere.

    Raises UsageError before anything starts, and where Optuna is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UsageError(
            "tuning needs optuna, which is not installed: pip install -c constraints.txt -e "
            "'.[tune]'"
        )
    from rlkit.many.study import SharedStudy
    from rlkit.many.task import plan_task
    from rlkit.many.trials import Trials

    for name, value, low in (
        *(("trials", trials, 0), ("seeds_per_trial", seeds_per_trial, 1)),
        *(("confirm", confirm, 0), ("confirm_seeds", confirm_seeds, 1)),
    ):
        if value < low:
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{name} ({flag}) is {value}; allowed: a whole number >= {low}")
    told = options if isinstance(options, RunOptions) else run_options(options or {})
    task = plan_task(agent, env, told, env_options, settings or {}, search, seeds_per_trial)
    slots = make_slots(jobs, told.device)
    name = study if study is not None else run_name(f"tune-{agent}", task.training.env)
    check_name(name)
    home = Path(folder) if folder is not None else RUN_DIR / name
    make_folder(home, "--study-dir")
    place = storage if storage is not None else str(home / JOURNAL)
    shared = SharedStudy(place, name, task.to_json(), told.seed, pruner, create=trials > 0)
    if console is not None:
        _announce(console, task, home, place, trials, len(slots))
    with shared.guarded(), StopSignals() as stop, Board(console) as board:
        work = Trials(task, shared, home, board, stop)
        if trials:
            work.run(trials, slots)
            if confirm and not stop.received:
                _confirm(work, confirm, confirm_seeds, slots)
        return _result(work, name, trials, stop.exit_status)


def _announce(
    console: Console, task: Task, home: Path, place: str, trials: int, slots: int
) -> None:
    console.print(
        f"{task.training.agent} on {task.training.env}: {trials} trials of {task.base.steps:,} "
        f"steps x {len(task.seeds)} seeds, up to {slots} at a time"
    )
    console.print(f"searching {', '.join(task.search)}")
    console.print(f"study folder: {home}  (study in {place})")


def _confirm(work: Trials, best: int, seeds: int, slots: Sequence[Mapping[str, str]]) -> None:
    """Run the best trials again, on seeds that did not choose them; the last process does it."""
    if open_ := [t for t in work.results() if t.state in ("running", "waiting")]:
        work.board.event(
            f"{len(open_)} trials are still open elsewhere; the best are not confirmed"
        )
        return
    home = work.home / CONFIRM
    make_folder(home, "--study-dir")
    first = work.task.seeds[-1] + CONFIRM_SEED
    with ExitStack() as held:
        try:
            held.enter_context(locked(home))
        except UsageError:
            work.board.event("another process runs the best on fresh seeds")
            return
        ledger = Ledger(home / RESULTS)
        jobs = [
            confirm_job(work, trial, seed)
            for trial in work.results()[:best]
            if trial.state == "complete"
            for seed in range(first, first + seeds)
        ]
        todo = [job for job in jobs if ledger.done(job) is None]
        if todo:
            work.board.event(f"the best on fresh seeds: {len(todo)} runs")
        run_all(home, todo, slots, ledger, work.board, work.stop)


def confirm_job(work: Trials, trial: TrialResult, seed: int) -> Job:
    """The run of a trial on a fresh seed."""
    name = f"trial={trial.number:04d},seed={seed}"
    whole = work.task.base.but(trial.changes).to_json()
    return work.task.training.job(work.home / CONFIRM, name, whole, seed)


def _confirmed(work: Trials) -> Sequence[Confirmed]:
    """What the trials have reached on fresh seeds, in this call and earlier ones."""
    ledger = Ledger(work.home / CONFIRM / RESULTS)
    seeds = sorted({int(name.rpartition("=")[2]) for name in ledger.records})
    found = []
    for trial in work.results():
        records = [ledger.done(confirm_job(work, trial, seed)) for seed in seeds]
        returns = [one.final_return for one in records if one and one.final_return is not None]
        if returns and trial.value is not None:
            reached = trial.value, returns, mean(returns), min(returns)
            found.append(Confirmed(trial.number, trial.changes, *reached))
    return sorted(found, key=lambda one: -one.mean_return)


def _result(work: Trials, name: str, asked: int, status: int) -> Tuning:
    results = work.results()
    confirmed = _confirmed(work)
    complete = [trial for trial in results if trial.state == "complete"]
    best = confirmed[0].number if confirmed else complete[0].number if complete else None
    recipe = command = None
    if best is not None:
        changes = next(trial.changes for trial in results if trial.number == best)
        recipe = work.task.base.but(changes).to_json()
        command = train_command(work.task, changes)
        try:
            write_atomically(work.home / BEST, json_bytes(recipe))
        except OSError as error:
            warnings.warn(
                f"{work.home / BEST} can't be written: {error.strerror}", RlkitWarning, stacklevel=2
            )
    over = [trial for trial in results if trial.state not in ("running", "waiting")]
    return Tuning(
        folder=work.home,
        study=name,
        trials=results,
        importances=work.shared.importances(),
        confirmed=confirmed,
        best=best,
        recipe=recipe,
        command=command,
        missing=max(0, asked - len(over)),
        exit_status=status or int(best is None),
    )


def train_command(task: Task, changes: Mapping[str, Any]) -> str:
    """The command that trains with these changes to the recipe, as the first seed of a trial."""
    usual = {option.name: json_value(option.default) for option in options(RunOptions)}
    told = {**task.training.options, "seed": task.seeds[0]}
    given = {name: value for name, value in told.items() if value != usual[name]}
    words = ["rlkit", "train", task.training.agent, task.training.env]
    for name, value in {**changes, **given}.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    for name, value in task.training.env_options.items():
        words += ["--env-option", f"{name}={value!r}"]
    return shlex.join(words)
