"""`rlkit evaluate RUN`: what a run's policy is worth."""

from __future__ import annotations

import click
from click.core import ParameterSource

from rlkit.cli.exact import exact_json, show_exact
from rlkit.cli.output import console, emit_json, json_option
from rlkit.errors import UsageError


@click.command()
@click.argument("run")
@click.option(
    "--episodes", type=int, metavar="N", default=100, show_default=True, help="How many to play."
)
@click.option(
    "--seed", type=int, metavar="N", default=0, show_default=True, help="Seed of the environments."
)
@click.option("--best", is_flag=True, help="The checkpoint that evaluated best, not the newest.")
@click.option(
    "--device",
    metavar="DEVICE",
    default="cpu",
    show_default=True,
    help="auto, cpu, cuda or cuda:I.",
)
@click.option(
    "--env",
    metavar="ENV",
    help="The environment to play on; needed where it is code outside the run.",
)
@click.option(
    "--video",
    type=click.Path(dir_okay=False),
    metavar="FILE.mp4",
    help="Record one more episode as a video.",
)
@click.option(
    "--exact",
    is_flag=True,
    help="Play nothing: compute what the policy is truly worth, by the environment's model.",
)
@json_option
def command(
    run: str,
    episodes: int,
    seed: int,
    best: bool,
    device: str,
    env: str | None,
    video: str | None,
    exact: bool,
    as_json: bool,
) -> None:
    """Play RUN's policy greedily and report the returns.

    RUN is a run folder or its name in runs/.
    """
    if exact:
        _measure(run, best, device, env, as_json)
        return
    from rlkit.run.folder import RunFolder
    from rlkit.training.api import evaluate  # imports torch

    found = evaluate(run, episodes, seed, best=best, device=device, env=env, video=video)
    out = console(as_json)
    out.print(f"mean return {found.mean:.2f} ± {found.std:.2f} over {episodes} greedy episodes")
    out.print("returns: " + " ".join(f"{value:g}" for value in found.returns))
    if video:
        out.print(f"video: {video}")
    if found.capped:
        out.print(f"{found.capped} episodes did not end and were cut")
    if as_json:
        emit_json(
            {
                "run": str(RunFolder.open(run).path),
                "episodes": episodes,
                "mean_return": found.mean,
                "std_return": found.std,
                "returns": list(found.returns),
            }
        )


def _measure(run: str, best: bool, device: str, env: str | None, as_json: bool) -> None:
    """Hold RUN's agent to the exact ruler."""
    source = click.get_current_context().get_parameter_source
    for name in ("episodes", "seed", "video"):
        if source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--{name} does not go with --exact, which plays nothing; leave it out"
            )
    from rlkit.run.folder import RunFolder
    from rlkit.training.measure import measure  # imports torch

    found = measure(run, best=best, device=device, env=env)
    show_exact(console(as_json), found)
    if as_json:
        emit_json({"run": str(RunFolder.open(run).path), **exact_json(found)})
