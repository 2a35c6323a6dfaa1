"""`rlkit sweep AGENT ENV`: many runs, over settings and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlkit.cli.output import console, emit_json, json_option
from rlkit.cli.train import ENV_HELP, READERS, EnvOption, as_click, whole
from rlkit.errors import UsageError
from rlkit.recipe import Option, options
from rlkit.training.options import RunOptions

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.many.sweep import Swept

MOST_SEEDS = 100_000


class Assignment(click.ParamType[Any]):
    """NAME=TEXT, where the name may have dashes for underscores."""

    name = "field=values"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        name, equals, text = value.partition("=")
        if not (name and equals and text):
            self.fail(f"{value!r}: give FIELD=VALUES, such as learning_rate=1e-3,3e-4")
        return name.replace("-", "_"), text


def read_value(option: Option, text: str) -> Any:
    """A field's value from its text; text that is none is for `Option.check` to refuse."""
    if option.type == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return READERS[option.type][1](text)
    except ValueError:
        return text


def read_values(option: Option, text: str) -> list[Any]:
    """A field's values, separated by commas; where those separate widths, it is one value."""
    parts = [text] if option.type.startswith("tuple") else text.split(",")
    return [read_value(option, part.strip()) for part in parts]


def read_settings(agent: str, given: Sequence[tuple[str, str]], steps: int | None) -> Any:
    """{field: values} of all `--set`, those of one field together, and of `--steps`."""
    from rlkit.many.plans import field_of

    settings: dict[str, list[Any]] = {}
    for name, text in given:
        settings.setdefault(name, []).extend(read_values(field_of(agent, name), text))
    if steps is not None:
        if "steps" in settings:
            raise UsageError("steps is given by --set and by --steps; give one of them")
        settings["steps"] = [steps]
    return settings


def read_seeds(text: str) -> Sequence[int]:
    """Seeds from 0:10 (0 to 9), 0,3,7, or both."""
    seeds: list[int] = []
    for part in text.split(","):
        first, colon, end = part.partition(":")
        try:
            low = int(first)
            high = int(end) if colon else low + 1
        except ValueError:
            raise UsageError(
                f"seeds (--seeds) is {text!r}; give FIRST:END, as in 0:5 for 0 to 4, or 0,3,7"
            ) from None
        if high - low > MOST_SEEDS:
            raise UsageError(f"seeds (--seeds) is {text!r}; allowed: up to {MOST_SEEDS:,} seeds")
        seeds += range(low, high)
    return seeds


def run_parameters() -> list[click.Parameter]:
    """The options of `rlkit train` that hold for all runs alike."""
    alike = [option for option in options(RunOptions) if option.name not in ("seed", "run_dir")]
    env_option = click.Option(
        ["--env-option"],
        multiple=True,
        type=EnvOption(),
        help="argument of the environment's constructor, such as size=5 (repeatable)",
    )
    return [*map(as_click, alike), env_option]


@click.command(
    help=f"""Train AGENT on ENV with every setting and every seed, each run a process.

    ENV: {ENV_HELP}.

    \b
    rlkit sweep a2c CartPole --seeds 0:10
    rlkit sweep a2c CartPole --set learning_rate=1e-3,3e-4 --set gamma=0.98,0.99
    rlkit sweep a2c CartPole --set hidden=64,64 --set hidden=256 --jobs 4
    rlkit sweep ppo CartPole --seeds 0:128 --together --device cuda

    The same command goes on where it was stopped.
    """
)
@click.argument("agent")
@click.argument("env")
@click.option("--seeds", default="0:5", show_default=True, help="FIRST:END, or a list: 0,3,7.")
@click.option(
    *("--set", "given"),
    type=Assignment(),
    multiple=True,
    help="A recipe's field and its values; several fields: every combination (repeatable).",
)
@click.option("--steps", type=whole, metavar="N", help="Environment steps of each run.")
@click.option("--jobs", type=int, metavar="N", help="Runs at a time.  [default: cores, or GPUs]")
@click.option(
    "--sweep-dir",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Folder for the runs.  [default: runs/sweep-AGENT-ENV]",
)
@click.option("--retry-failed", is_flag=True, help="Try runs again that failed.")
@click.option(
    "--together",
    is_flag=True,
    help="All seeds of a setting in one process, as one batch on the device (PPO on a GPU).",
)
@json_option
def command(
    agent: str,
    env: str,
    seeds: str,
    given: Sequence[tuple[str, str]],
    steps: int | None,
    jobs: int | None,
    sweep_dir: Path | None,
    retry_failed: bool,
    together: bool,
    as_json: bool,
    env_option: Sequence[tuple[str, Any]],
    **run: Any,
) -> None:
    from rlkit.many.sweep import sweep
    from rlkit.registry import AGENTS, unknown

    if agent not in AGENTS:
        raise unknown("agent", agent, AGENTS)
    out = console(as_json, endures=True)
    done = sweep(
        agent,
        env,
        read_settings(agent, given, steps),
        read_seeds(seeds),
        {name: value for name, value in run.items() if value is not None},
        env_options=dict(env_option),
        folder=sweep_dir,
        jobs=jobs,
        retry_failed=retry_failed,
        together=together,
        console=out,
    )
    report(done, out)
    if as_json:
        emit_json(as_document(done))
    if done.exit_status:
        raise SystemExit(done.exit_status)


command.params += run_parameters()


def report(done: Swept, out: Console) -> None:
    """The table of results, what failed, and how to go on."""
    print_settings(done, out)
    for name, record in done.runs.items():
        if record.error:
            out.print(f"{name} failed: {record.error}")
    failed = sum(record.error is not None for record in done.runs.values())
    if failed:
        out.print(f"{failed} runs failed; the same command with --retry-failed tries them again")
    if done.missing:
        out.print(f"{done.missing} runs are still to be done; the same command goes on with them")


def print_settings(done: Swept, out: Console) -> None:
    """A row for each setting, the best first."""
    from rich.table import Table

    varied = [
        name
        for name in (done.settings[0].changes if done.settings else {})
        if any(s.changes[name] != done.settings[0].changes[name] for s in done.settings)
    ]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (*varied, "seeds", "return", "worst", "seconds", "failed"):
        table.add_column(name, justify="right", overflow="fold")
    for setting in done.settings:
        table.add_row(
            *(shown(setting.changes[name]) for name in varied),
            str(len(setting.returns)),
            *map(shown, (setting.mean_return, setting.worst_return, setting.seconds)),
            str(setting.failed or ""),
        )
    if not out.is_terminal:
        out.width = 1000  # what is read by programs stands on one line
    out.print(table)


def as_document(done: Swept) -> Mapping[str, Any]:
    """The results as JSON values."""
    return {
        "folder": str(done.folder),
        "settings": [asdict(setting) for setting in done.settings],
        "runs": {name: asdict(record) for name, record in done.runs.items()},
        "missing": done.missing,
    }


def shown(value: Any) -> str:
    """A value in a table of results."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4g}"
    return str(value)
