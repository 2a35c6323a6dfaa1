"""`rlkit resume RUN`: go on with a run from its newest checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rlkit.cli.launch import rank_options, several
from rlkit.cli.output import console, json_option
from rlkit.cli.train import leads, report

if TYPE_CHECKING:
    from rlkit.ranks import Ranks


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
    run: str,
    steps: int | None,
    device: str | None,
    env: str | None,
    distributed: bool,
    rank_timeout: float | None,
    as_json: bool,
) -> int:
    """Go on with RUN, a run folder or its name in runs/, from its newest checkpoint."""

    def work(ranks: Ranks | None) -> int:
        from rlkit.training.api import resume  # imports torch

        out = console(as_json, endures=True)
        speaker = out if leads(ranks) else None
        done = resume(run, steps, device=device, env=env, console=speaker, ranks=ranks)
        return report(done, out, as_json) if leads(ranks) else done.exit_status

    if several(distributed):
        from rlkit.cli.ranks import on_ranks  # imports torch

        return on_ranks(work, rank_timeout)
    return work(None)


command.params.extend(rank_options())
