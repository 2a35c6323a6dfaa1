"""`rlkit list agents|solvers|models|envs|runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from rlkit.cli.output import console, emit_json, json_option
from rlkit.cli.streams import printable
from rlkit.registry import AGENTS, MODELS, SOLVERS, unknown

KINDS = ("agents", "solvers", "models", "envs", "runs")


@click.command()
@click.argument("kind", metavar="|".join(KINDS))
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the runs are.  [default: runs]",
)
@json_option
def command(kind: str, run_dir: Path | None, as_json: bool) -> None:
    """List what there is: agents, solvers, models, envs or runs."""
    if kind not in KINDS:
        raise unknown("listing", kind, KINDS)
    rows = _ROWS[kind](run_dir)
    if not rows:
        console(as_json).print(f"no {kind} yet")
    else:
        _print_table(rows, as_json)
    if as_json:
        emit_json({kind: rows})


def _print_table(rows: list[dict[str, Any]], as_json: bool) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0]:
        numeric = all(isinstance(row[name], (int, float, type(None))) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    out = console(as_json)
    if not out.is_terminal:
        out.width = 1000  # what is read by programs stands on one line
    out.print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1e9 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return printable(str(value))


def _agents(run_dir: Path | None) -> list[dict[str, Any]]:
    return [
        {"agent": name, "what": entry.summary, "actions": ", ".join(entry.actions)}
        for name, entry in AGENTS.items()
    ]


def _solvers(run_dir: Path | None) -> list[dict[str, Any]]:
    return [{"solver": name, "what": entry.summary} for name, entry in SOLVERS.items()]


def _models(run_dir: Path | None) -> list[dict[str, Any]]:
    from rlkit.envs.models import model_options

    return [
        {
            "model": name,
            "what": entry.summary,
            "options": ", ".join(model_options(name)) or None,
        }
        for name, entry in MODELS.items()
    ]


def _envs(run_dir: Path | None) -> list[dict[str, Any]]:
    from rlkit.envs.listing import list_envs

    return [
        {
            "env": listed.name,
            "id": listed.id,
            "what": listed.summary,
            "needs": f"pip install {listed.needs}" if listed.needs else None,
        }
        for listed in list_envs()
    ]


def _runs(run_dir: Path | None) -> list[dict[str, Any]]:
    from datetime import datetime

    from rlkit.run.folder import RUN_DIR, list_runs

    return [
        {
            "run": str(run.path),
            "agent": run.agent,
            "env": run.env,
            "steps": run.steps,
            "return": run.last_return,
            "when": datetime.fromtimestamp(run.when).strftime("%Y-%m-%d %H:%M"),
        }
        for run in list_runs(run_dir or RUN_DIR)
    ]


_ROWS = {
    "agents": _agents,
    "solvers": _solvers,
    "models": _models,
    "envs": _envs,
    "runs": _runs,
}
