"""`rlkit export RUN`: a policy as one file that runs without rlkit."""

from __future__ import annotations

import click

from rlkit.cli.output import console, emit_json, json_option


@click.command()
@click.argument("run")
@click.option(
    "--format", metavar="FORMAT", default="onnx", show_default=True, help="onnx or torch-export."
)
@click.option("--best", is_flag=True, help="The checkpoint that evaluated best, not the newest.")
@click.option(
    "--output",
    metavar="FILE",
    help="The file to write.  [default: policy.onnx or policy.pt2 in the run folder]",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option(
    "--env",
    metavar="ENV",
    help="The run's environment; needed where it is code outside the run.",
)
@json_option
def command(
    run: str,
    format: str,
    best: bool,
    output: str | None,
    force: bool,
    env: str | None,
    as_json: bool,
) -> None:
    """Write RUN's policy to one file for those who deploy it without rlkit.

    RUN is a run folder or its name in runs/. The file takes observations as the environment gives
    them and returns the greedy actions as it takes them; it is compared with the policy first.
    """
    from rlkit.run.folder import RunFolder
    from rlkit.training.export import export_checked  # imports torch

    found = export_checked(run, output, format, best, env, force)
    comparison, size = found.comparison, found.path.stat().st_size
    out = console(as_json)
    out.print(f"wrote {found.path} ({size:,} bytes)")
    out.print("inputs: " + "; ".join(map(str, found.inputs)))
    out.print("outputs: " + "; ".join(map(str, found.outputs)))
    out.print(f"checked: {comparison}")
    if as_json:
        emit_json(
            {
                "run": str(RunFolder.open(run).path),
                "path": str(found.path),
                "format": format,
                "bytes": size,
                "inputs": [port.to_json() for port in found.inputs],
                "outputs": [port.to_json() for port in found.outputs],
                "observations": comparison.observations,
                "ties": comparison.ties,
                "largest_difference": comparison.difference,
            }
        )
