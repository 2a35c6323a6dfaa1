"""`rlkit solve ENV`: a finite MDP's optimal values and policy, with certified bounds."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlkit.cli.output import console, emit_json, json_option
from rlkit.envs.gridmap import NAMED_MAPS
from rlkit.envs.make import make_env
from rlkit.envs.names import ResolvedEnv, resolve
from rlkit.errors import UsageError
from rlkit.mdp.draw_grid import GridLayout, layout_of
from rlkit.mdp.model import MDP
from rlkit.mdp.plot import check_plot, plot
from rlkit.mdp.solution import Solution
from rlkit.mdp.solve import solve
from rlkit.mdp.terminal import draw
from rlkit.registry import ENVS, SOLVERS

_DEFAULTS = {name: about.default for name, about in inspect.signature(solve).parameters.items()}
_LISTED_STATES = 20  # of a model that is no grid
_WIDEST = 120  # columns that a drawing may take


@click.command(name="solve", epilog="Example: rlkit solve gridworld --slip 0.1 --plot grid.png")
@click.argument("env")
@click.option(
    "--map", "map_", metavar="FILE", help=f"gridworld: a text file, or {', '.join(NAMED_MAPS)}."
)
@click.option("--size", type=int, metavar="N", help="gridworld: a random maze of N x N cells.")
@click.option("--slip", type=float, metavar="P", help="gridworld: probability of a move to a side.")
@click.option(
    "--method",
    default=_DEFAULTS["method"],
    metavar="M",
    show_default=True,
    help=f"{', '.join(SOLVERS)} or auto.",
)
@click.option(
    "--gamma",
    type=float,
    default=0.99,
    metavar="G",
    show_default=True,
    help="Discount per step, 0 to 1.",
)
@click.option(
    "--tol",
    type=float,
    default=_DEFAULTS["tol"],
    metavar="T",
    show_default=True,
    help="Largest error that a value may have.",
)
@click.option("--save", type=Path, metavar="FILE.npz", help="Write values, policy, Q and bounds.")
@click.option("--plot", "picture", type=Path, metavar="FILE.png", help="Draw a picture.")
@json_option
def command(
    env: str,
    map_: str | None,
    size: int | None,
    slip: float | None,
    method: str,
    gamma: float,
    tol: float,
    save: Path | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Solve ENV exactly, with certified bounds on every value.

    ENV is gridworld, a Gymnasium environment with a model (FrozenLake, FrozenLake8x8, CliffWalking,
    Taxi), an id, or module:EnvId.
    """
    _check_files(save, picture)
    resolved = resolve(env)
    options = {"map": map_, "size": size, "slip": slip}
    made = make_env(resolved.name, _given(resolved, options))
    mdp = MDP.from_gymnasium(made, gamma)
    layout = layout_of(made)
    solution = solve(mdp, method, tol)

    out = console(as_json)
    out.print(_summary(resolved.name, method, mdp, solution), end="")
    _show(out, solution, layout)
    if save is not None:
        solution.save(save)
        out.print(f"saved {save}")
    if picture is not None:
        plot(solution, picture, layout, title=resolved.name)
        out.print(f"drew {picture}")
    if as_json:
        emit_json(
            {
                "env": resolved.name,
                "method": solution.method,
                "gamma": solution.gamma,
                "states": mdp.n_states,
                "pairs": mdp.n_pairs,
                "sweeps": solution.sweeps,
                "seconds": solution.seconds,
                "error_bound": solution.error_bound,
                "start_value": solution.start_value,
            }
        )


def _check_files(save: Path | None, picture: Path | None) -> None:
    """Say before solving what could not be written after it."""
    if picture is not None:
        check_plot(picture)
    for option, path in (("--save", save), ("--plot", picture)):
        if path is None:
            continue
        there = path.exists()
        try:
            path.open("ab").close()
        except OSError as error:
            raise UsageError(
                f"{option} {str(path)!r} can't be written: {error.strerror}; name a file in a "
                "folder that exists and may be written to"
            ) from error
        if not there:
            path.unlink()


def _given(env: ResolvedEnv, options: Mapping[str, object]) -> dict[str, object]:
    """The options that were given; refused where `env` is not gridworld."""
    given = {name: value for name, value in options.items() if value is not None}
    if given and (env.spec is None or env.spec.id != ENVS["gridworld"].id):
        flags = ", ".join(f"--{name}" for name in given)
        raise UsageError(f"{flags}: for gridworld alone, not for {env.name}; leave it out")
    return given


def _summary(name: str, asked: str, mdp: MDP, solution: Solution) -> Text:
    terminal = int(mdp.terminal.sum())
    chosen = " (chosen by auto)" if asked != solution.method else ""
    values = solution.values[mdp.live]
    facts = {
        "environment": name,
        "states": f"{mdp.n_states:,}" + (f" ({terminal:,} terminal)" if terminal else ""),
        "state-action pairs": f"{mdp.n_pairs:,}",
        "discount": f"{solution.gamma:g}",
        "method": solution.method + chosen,
        "sweeps": f"{solution.sweeps:,}",
        "seconds": f"{solution.seconds:.3g}",
        "certified error": f"at most {solution.error_bound:.2g} in any state",
        "values": f"{values.min():.6g} to {values.max():.6g}",
    }
    if solution.start_value is not None:
        facts["value of the start"] = f"{solution.start_value:.6g}"
    text = Text()
    for label, fact in facts.items():
        text.append(f"{label:20}", style="dim").append(f"{fact}\n")
    return text


def _show(out: Console, solution: Solution, layout: GridLayout | None) -> None:
    """The grid, or the table of states; a word on what to do where there are too many of them."""
    if layout is not None:
        plain = not out.encoding.lower().startswith("utf")
        drawing = draw(solution, layout, min(out.width, _WIDEST), ascii_only=plain)
        if drawing is not None:
            out.print()
            out.print(drawing, end="")
        else:
            rows, cols = layout.shape
            out.print(f"A grid of {rows} x {cols} is too large to draw here; --plot FILE.png does.")
    elif solution.values.size <= _LISTED_STATES:
        out.print()
        out.print(_states(solution))


def _states(solution: Solution) -> Table:
    table = Table("state", "value", "action", box=None, pad_edge=False, header_style="dim")
    for column in table.columns:
        column.justify = "right"
    for state in np.arange(solution.values.size):
        action = solution.policy[state]
        table.add_row(
            str(state), f"{solution.values[state]:.6g}", str(action) if action >= 0 else "terminal"
        )
    return table
