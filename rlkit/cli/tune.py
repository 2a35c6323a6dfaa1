"""`rlkit tune AGENT ENV`: a search for a better recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlkit.cli.output import console, emit_json, json_option
from rlkit.cli.sweep import Assignment, read_value, read_values, run_parameters, shown
from rlkit.cli.train import ENV_HELP, as_click, whole
from rlkit.errors import UsageError
from rlkit.recipe import Option, options
from rlkit.training.options import RunOptions

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.many.search import Dimension
    from rlkit.many.tune import Tuning

TOP = 10  # trials in the table


@click.command(
    help=f"""Search for a recipe of AGENT with a higher return on ENV, with Optuna.

    ENV: {ENV_HELP}.

    \b
    rlkit tune a2c CartPole --trials 50 --steps 50000
    rlkit tune ppo CartPole --trials 50 --search learning_rate=1e-4:1e-2:log \\
        --search n_steps=16:256:log --search hidden=64,64 --search hidden=256
    rlkit tune a2c CartPole --trials 0 --steps 50000    what the first has found so far

    The same command goes on with the study, until there are --trials in all; several processes and
    machines may do so at once, in one folder or with one --storage.
    """
)
@click.argument("agent")
@click.argument("env")
@click.option("--trials", type=whole, required=True, metavar="N", help="Trials in all.")
@click.option(
    "--search",
    type=Assignment(),
    multiple=True,
    help="A field and LOW:HIGH, LOW:HIGH:log, or its values (repeatable).  [default: learning "
    "rate, discount and what else the agent has of rlkit.many.search.RULES]",
)
@click.option(
    *("--set", "given"),
    type=Assignment(),
    multiple=True,
    help="A recipe's field and its value in all trials (repeatable).",
)
@click.option("--steps", type=whole, metavar="N", help="Environment steps of each run.")
@click.option(
    "--seeds-per-trial",
    type=int,
    metavar="K",
    default=1,
    show_default=True,
    help="A trial's value is the mean over K seeds.",
)
@click.option(
    "--pruner",
    metavar="median|halving|none",
    default="median",
    show_default=True,
    help="Which trials are stopped for their learning curves.",
)
@click.option("--study", metavar="NAME", help="Name of the study.  [default: tune-AGENT-ENV]")
@click.option(
    "--storage",
    metavar="FILE|URL",
    help="Where the study is kept: a journal's file, or an SQLAlchemy URL such as "
    "sqlite:///study.db.  [default: study.journal in the study's folder]",
)
@click.option(
    "--study-dir",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder for the runs.  [default: runs/STUDY]",
)
@click.option("--jobs", type=int, metavar="N", help="Trials at a time.  [default: cores, or GPUs]")
@click.option(
    "--confirm",
    type=int,
    metavar="K",
    default=3,
    show_default=True,
    help="Run the best K trials again on fresh seeds.",
)
@click.option(
    "--confirm-seeds",
    type=int,
    metavar="N",
    default=5,
    show_default=True,
    help="Fresh seeds of each.",
)
@json_option
def command(
    agent: str,
    env: str,
    trials: int,
    search: Sequence[tuple[str, str]],
    given: Sequence[tuple[str, str]],
    steps: int | None,
    seeds_per_trial: int,
    pruner: str,
    study: str | None,
    storage: str | None,
    study_dir: Path | None,
    jobs: int | None,
    confirm: int,
    confirm_seeds: int,
    as_json: bool,
    env_option: Sequence[tuple[str, Any]],
    **run: Any,
) -> None:
    from rlkit.many.tune import tune

    out = console(as_json, endures=True)
    done = tune(
        agent,
        env,
        trials,
        read_search(agent, search) or None,
        read_changes(agent, given, steps),
        {name: value for name, value in run.items() if value is not None},
        env_options=dict(env_option),
        seeds_per_trial=seeds_per_trial,
        pruner=pruner,
        study=study,
        storage=storage,
        folder=study_dir,
        jobs=jobs,
        confirm=confirm,
        confirm_seeds=confirm_seeds,
        console=out,
    )
    report(done, out)
    if as_json:
        emit_json(as_document(done))
    if done.exit_status:
        raise SystemExit(done.exit_status)


command.params += [
    *(as_click(option) for option in options(RunOptions) if option.name == "seed"),
    *run_parameters(),
]


def read_changes(agent: str, given: Sequence[tuple[str, str]], steps: int | None) -> dict[str, Any]:
    """{field: value} of all `--set`, and of `--steps`."""
    from rlkit.many.plans import field_of

    changes: dict[str, Any] = {} if steps is None else {"steps": steps}
    for name, text in given:
        if name in changes:
            raise UsageError(f"{name} (--set) is given twice; give it once, or --search values")
        changes[name] = read_value(field_of(agent, name), text)
    return changes


def read_search(agent: str, given: Sequence[tuple[str, str]]) -> dict[str, Dimension]:
    """{field: dimension} of all `--search`; the values of one field stand together."""
    from rlkit.many.plans import field_of
    from rlkit.many.search import Choice

    search: dict[str, Dimension] = {}
    for name, text in given:
        found = read_dimension(field_of(agent, name), text)
        earlier = search.get(name)
        if isinstance(found, Choice) and isinstance(earlier, Choice):
            found = Choice(earlier.values + found.values)
        elif earlier is not None:
            raise UsageError(f"{name} (--search) is given twice; several times only with values")
        search[name] = found
    return search


def read_dimension(option: Option, text: str) -> Dimension:
    """A range from LOW:HIGH or LOW:HIGH:log, for numbers; else a choice of values."""
    from rlkit.many.search import NUMBERS, Choice, Range

    low, colon, rest = text.partition(":")
    high, _, scale = rest.partition(":")
    if colon and option.type in NUMBERS and scale in ("", "log"):
        try:
            return Range(float(low), float(high), scale == "log")
        except ValueError:
            pass
    return Choice(tuple(read_values(option, text)))


def report(done: Tuning, out: Console) -> None:
    """The best trials, what mattered, and how to repeat the best."""
    _print_trials(done, out)
    for trial in done.trials:
        if trial.error:
            out.print(f"trial {trial.number} failed: {trial.error}")
    if done.importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in done.importances.items())
        out.print(f"importance: {shares}")
    for one in done.confirmed:
        out.print(
            f"trial {one.number} on {len(one.returns)} fresh seeds: return {one.mean_return:.2f}, "
            f"worst {one.worst_return:.2f} (the search saw {one.value:.2f})"
        )
    if done.best is not None:
        out.print(f"best, trial {done.best}: {json.dumps(done.recipe)}")
        out.print(f"train with it: {done.command}")
    if done.missing:
        out.print(f"{done.missing} trials are still to be done; the same command goes on with them")


def _print_trials(done: Tuning, out: Console) -> None:
    from rich.table import Table

    fields = [
        name for name in (done.trials[0].changes if done.trials else {}) if _varies(done, name)
    ]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("trial", *fields, "return", "seconds", "state"):
        table.add_column(name, justify="right", overflow="fold")
    for trial in done.trials[:TOP]:
        table.add_row(
            str(trial.number),
            *(shown(trial.changes.get(name)) for name in fields),
            shown(trial.value),
            shown(trial.seconds),
            trial.state,
        )
    if not out.is_terminal:
        out.width = 1000  # what is read by programs stands on one line
    out.print(table)


def _varies(done: Tuning, name: str) -> bool:
    return len({str(trial.changes.get(name)) for trial in done.trials}) > 1


def as_document(done: Tuning) -> Mapping[str, Any]:
    """The results as JSON values."""
    return {
        "study": done.study,
        "folder": str(done.folder),
        "trials": [asdict(trial) for trial in done.trials],
        "importances": dict(done.importances),
        "confirmed": [asdict(one) for one in done.confirmed],
        "best": done.best,
        "recipe": done.recipe,
        "command": done.command,
        "missing": done.missing,
    }
