"""`rlkit resume RUN`: go on with a run from its newest checkpoint."""

from __future__ import annotations

import click

from rlkit.cli.output import console, json_option
from rlkit.cli.train import report


@click.command()
@click.argument("run")
@click.option(
    "--steps",
    type=int,
    metavar="N",
    help="Environment steps in all.  [default: where it was going]",
)
@click.option(
    "--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:I.  [default: the run's own]"
)
@click.option(
    "--env",
    metavar="ENV",
    help="The run's environment; needed where it is code outside the run.",
)
@json_option
def command(
    run: str, steps: int | None, device: str | None, env: str | None, as_json: bool
) -> None:
    """Go on with RUN, a run folder or its name in runs/, from its newest checkpoint."""
    from rlkit.training.api import resume  # imports torch

    out = console(as_json, endures=True)
    report(resume(run, steps, device=device, env=env, console=out), out, as_json)
