"""`rlkit check ENV`: what is wrong with an environment, and what rlkit makes of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from rlkit.cli.output import console, emit_json, json_option
from rlkit.cli.train import ENV_HELP, EnvOption
from rlkit.training.check import check
from rlkit.training.report import Report

STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


@click.command(help=f"Try ENV out, and report what is wrong with it.\n\nENV: {ENV_HELP}.")
@click.argument("env")
@click.option(
    "--env-option",
    multiple=True,
    type=EnvOption(),
    help="Argument of the environment's constructor, such as size=5 (repeatable).",
)
@click.option(
    "--episodes",
    type=int,
    metavar="N",
    default=20,
    show_default=True,
    help="How many to play at random.",
)
@click.option(
    "--seed",
    type=int,
    metavar="N",
    default=0,
    show_default=True,
    help="Seed of the environments and the actions.",
)
@json_option
def command(env: str, env_option: Any, episodes: int, seed: int, as_json: bool) -> int:
    report = check(env, dict(env_option), episodes=episodes, seed=seed)
    _show(report, as_json)
    if as_json:
        emit_json(
            {
                "env": report.env,
                "usable": report.usable,
                "findings": [asdict(finding) for finding in report.findings],
                "statistics": report.statistics,
            }
        )
    return 0 if report.usable else 1


def _show(report: Report, as_json: bool) -> None:
    out = console(as_json)
    out.print(report.env)
    if out.is_terminal:
        table = Table(box=None, show_header=False, pad_edge=False)
        for finding in report.findings:
            level = Text(finding.level, style=STYLES[finding.level])
            table.add_row(level, finding.topic, finding.text)
        out.print(table, soft_wrap=False)
    else:
        out.print(str(report))
    count = len(report.problems)
    if count:
        out.print(f"{count} problem{'s' * (count > 1)} to mend before training")
    else:
        out.print(f"usable: rlkit train AGENT {report.env}")
