"""`rlkit compare RUN...`: learning curves over seeds, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import click
from rich.console import Console
from rich.table import Table

from rlkit.cli.output import console, emit_json, json_option
from rlkit.cli.streams import printable
from rlkit.comparison.compare import compare
from rlkit.comparison.result import Comparison, Estimate, Group
from rlkit.errors import UsageError
from rlkit.run.folder import RUN_DIR
from rlkit.run.metrics import EVALUATED
from rlkit.statistics import CONFIDENCE, RESAMPLES

_PAIRS = 12  # that are printed
_NONE = "–"


@click.command(
    name="compare",
    epilog="""
    \b
    Examples:
    rlkit compare runs --plot curves.png
    rlkit compare a2c-CartPole ppo-CartPole
    rlkit compare q-learning-FrozenLake --by learning_rate
    rlkit compare runs --metric rollout/ep_rew_mean --x seconds
    rlkit compare runs --normalize CartPole-v1=0:500 --normalize Acrobot-v1=-500:-80
    """,
)
@click.argument("runs", nargs=-1, metavar="RUN...")
@click.option(
    "--metric",
    default=EVALUATED,
    metavar="M",
    show_default=True,
    help="Any scalar that the runs have measured.",
)
@click.option("--by", metavar="F,F,...", help="Group by these fields, such as learning_rate.")
@click.option(
    "--x",
    default="steps",
    metavar="steps|seconds",
    show_default=True,
    help="What the curves are drawn over.",
)
@click.option(
    "--better",
    type=click.Choice(["higher", "lower"]),
    help="Which values are.  [default: lower of losses, regrets and errors]",
)
@click.option(
    "--threshold",
    type=float,
    metavar="T",
    help="What counts as solved.  [default: the environment's, or within 1 % of the optimum]",
)
@click.option(
    "--normalize",
    multiple=True,
    metavar="optimum|ENV=LOW:HIGH",
    help="Values as shares of the way from random play to the optimum, or of your own.",
)
@click.option(
    "--no-optimum", is_flag=True, help="Do not solve the model that an environment may have."
)
@click.option(
    "--confidence",
    type=float,
    default=CONFIDENCE,
    metavar="C",
    show_default=True,
    help="Of the intervals.",
)
@click.option(
    "--resamples",
    type=int,
    default=RESAMPLES,
    metavar="N",
    show_default=True,
    help="Of the bootstrap.",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=RUN_DIR,
    metavar="FOLDER",
    show_default=True,
    help="Where runs are looked up by name.",
)
@click.option("--plot", "picture", type=Path, metavar="FILE.png", help="Draw the learning curves.")
@json_option
def command(
    runs: tuple[str, ...],
    metric: str,
    by: str | None,
    x: str,
    better: str | None,
    threshold: float | None,
    normalize: tuple[str, ...],
    no_optimum: bool,
    confidence: float,
    resamples: int,
    run_dir: Path,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Compare runs over their seeds, with interquartile means and bootstrap intervals.

    RUN is a run's folder, its name, a folder of runs, a pattern, or the beginning of names. Runs
    that differ in nothing but their seed are a group.
    """
    if picture is not None:
        from rlkit.mdp.plot import check_plot

        check_plot(picture)
    found = compare(
        runs,
        metric,
        x=x,
        by=[field.strip() for field in by.split(",")] if by is not None else (),
        higher_is_better=None if better is None else better == "higher",
        threshold=threshold,
        normalize=_scales(normalize),
        optimum=not no_optimum,
        confidence=confidence,
        resamples=resamples,
        run_dir=run_dir,
    )
    out = console(as_json)
    _show(out, found)
    if picture is not None:
        found.plot(picture)
        out.print(f"drew {picture}")
    if as_json:
        emit_json(found.to_json())


def _scales(given: Sequence[str]) -> Literal["optimum"] | Mapping[str, tuple[float, float]] | None:
    """What --normalize says, however often it is given; None where it is not."""
    if not given:
        return None
    if [*given] == ["optimum"]:
        return "optimum"
    scales = {}
    for text in given:
        env, _, ends = text.rpartition("=")
        low, _, high = ends.partition(":")
        try:
            scales[env] = float(low), float(high)
        except ValueError:
            env = ""
        if not env:
            raise UsageError(
                f"--normalize is {text!r}; allowed: optimum, or ENV=LOW:HIGH for each environment, "
                "such as CartPole-v1=0:500"
            )
    return scales


def _show(out: Console, found: Comparison) -> None:
    direction = "" if found.higher_is_better else ", lower is better"
    scale = ", normalised" if found.normalized else ""
    out.print(
        f"{found.metric}{scale}{direction}: last values, interquartile mean (IQM) over seeds with "
        f"{100 * found.confidence:g} % bootstrap intervals"
    )
    for task in found.tasks:
        out.print()
        out.print(_heading(task, found.on(task)))
        _print_table(out, _table(found.on(task)))
    if found.aggregates:
        out.print()
        out.print("all environments, pooled")
        table = _plain("", "IQM", "interval", "runs")
        for one in found.aggregates:
            table.add_row(printable(one.label), *_estimate(one.iqm), f"{one.runs}")
        _print_table(out, table)
    _show_improvements(out, found)
    if found.notes:
        out.print()
    for note in found.notes:
        out.print(f"note: {printable(note)}")


def _heading(task: str, groups: Sequence[Group]) -> str:
    """The environment, with what its groups are held against where that is the same for all."""
    said = [printable(task)]
    optima = {(g.optimum.value, g.optimum.what) for g in groups if g.optimum is not None}
    said += [f"optimum {_number(value)} ({what})" for value, what in sorted(optima)]
    thresholds = {g.threshold for g in groups if g.threshold is not None}
    said += [f"solved at {_number(value)}" for value in sorted(thresholds)]
    return " · ".join(said)


def _table(groups: Sequence[Group]) -> Table:
    rules = any(group.threshold is not None for group in groups)
    optima = any(group.optimum is not None for group in groups)
    columns = ["IQM", "interval", "mean", "worst", "best", "seeds", "steps", "seconds"]
    table = _plain("", *columns, *(["solved by", "at step"] * rules), *(["of optimum"] * optima))
    for group in groups:
        row = [*_estimate(group.iqm), *map(_number, (group.mean, group.worst, group.best))]
        least, most = group.steps
        row += [f"{len(group.scores)}", f"{most:,}" if least == most else f"{least:,}–{most:,}"]
        row.append(_NONE if group.seconds is None else f"{group.seconds:.3g}")
        if rules:
            row.append(f"{group.passed}/{len(group.scores)}")
            row.append(_NONE if group.passed_at is None else f"{group.passed_at:,.0f}")
        if optima:
            row.append(_of_optimum(group))
        table.add_row(printable(group.label), *row)
    return table


def _of_optimum(group: Group) -> str:
    """The share of the optimum; where that says nothing, as below 0, what is missing of it."""
    if group.fraction is not None:
        return f"{100 * group.fraction:.1f} %"
    return _NONE if group.gap is None else f"{_number(group.gap)} short"


def _show_improvements(out: Console, found: Comparison) -> None:
    if not found.improvements:
        return
    several = len({pair.task for pair in found.improvements}) > 1
    out.print()
    out.print("probability of improvement, P(a run of the first > one of the second)")
    table = _plain("", "P", "interval")
    for pair in found.improvements[:_PAIRS]:
        where = f" on {pair.task}" if several else ""
        name = f"{pair.better} > {pair.worse}{where}"
        table.add_row(printable(name), *_estimate(pair.probability, "{:.2f}"))
    _print_table(out, table)
    if len(found.improvements) > _PAIRS:
        out.print(f"{len(found.improvements) - _PAIRS} more: --json")


def _estimate(found: Estimate, form: str = "{:.4g}") -> tuple[str, str]:
    shown = _number(found.value) if form == "{:.4g}" else form.format(found.value)
    if found.low is None or found.high is None:
        return shown, _NONE
    return shown, f"[{form.format(found.low)}, {form.format(found.high)}]"


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _plain(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    table.columns[0].overflow = "fold"
    return table


def _print_table(out: Console, table: Table) -> None:
    if not out.is_terminal:
        out.width = 1000  # what is read by programs stands on one line
    out.print(table)
