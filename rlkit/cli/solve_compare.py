"""`rlkit solve MODEL --compare`: several methods on one model, as a table and as curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from rlkit.cli.output import console, emit_json
from rlkit.cli.show import lines, plain_table, sizes
from rlkit.cli.solve_progress import INTERRUPTED, SolveProgress
from rlkit.envs.models import Model
from rlkit.mdp.compare import Comparison, all_methods, compare
from rlkit.mdp.plot_curves import plot_curves
from rlkit.registry import SOLVERS


def show_comparison(
    model: Model,
    names: str,
    tol: float,
    max_seconds: float,
    picture: Path | None,
    as_json: bool,
) -> int:
    """Solve by the methods in `names`, or by all, and show what each took; the exit status."""
    mdp = model.mdp
    methods = all_methods(mdp) if names == "all" else names.replace(" ", "").split(",")
    with SolveProgress(console(as_json=True), tol) as progress:
        found = compare(mdp, methods, tol, max_seconds, progress.update)
    out = console(as_json)
    asked = {"discount": f"{mdp.gamma:g}", "error asked for": f"at most {tol:g}"}
    out.print(lines({**sizes(model), **asked}))
    out.print(_table(found, tol))
    for one in found:
        if one.note:
            out.print(f"{one.method}: {one.note}")
    if names == "all" and len(methods) < len(SOLVERS):
        out.print("linear-programming: left out, too slow for a model of this size")
    if picture is not None:
        plot_curves(found, picture, tol, title=f"{model.name}, γ = {mdp.gamma:g}")
        out.print(f"drew {picture}")
    if as_json:
        about = {"env": model.name, "gamma": mdp.gamma}
        counts = {"states": mdp.n_states, "pairs": mdp.n_pairs, "tol": tol}
        emit_json({**about, **counts, "comparison": [_as_json(one) for one in found]})
    if any(one.interrupted for one in found):
        return INTERRUPTED
    return 0 if any(one.solution for one in found) else 1


def _table(comparisons: Sequence[Comparison], tol: float) -> Table:
    """What each method took, the fastest to `tol` first, then those that did not reach it."""
    solved = [(one, one.solution) for one in comparisons if one.solution is not None]
    reached = [solution.seconds for _, solution in solved if solution.error_bound <= tol]
    fastest = min(reached, default=math.nan)
    starts = any(solution.start_value is not None for _, solution in solved)
    columns = ["sweeps", "seconds", "certified\nerror", *(["start\nvalue"] * starts), "time"]
    table = plain_table("method", *columns)
    table.columns[0].justify = "left"
    table.columns[0].no_wrap = True
    for one, solution in sorted(solved, key=lambda of: (of[1].error_bound > tol, of[1].seconds)):
        missed = solution.error_bound > tol
        start = "" if solution.start_value is None else f"{solution.start_value:.6g}"
        ratio = solution.seconds / fastest if fastest else 1.0
        table.add_row(
            one.method,
            f"{solution.sweeps:,}",
            f"{solution.seconds:.3g}",
            f"{solution.error_bound:.1e}",
            *([start] * starts),
            "missed" if missed else "fastest" if ratio == 1 else f"{ratio:.3g} x",
            style="bold" if not missed and ratio == 1 else None,
        )
    for one in comparisons:
        if one.solution is None:
            table.add_row(one.method, *["-"] * (len(columns) - 1), "failed")
    return table


def _as_json(one: Comparison) -> dict[str, Any]:
    found = one.solution
    curve = {
        "sweeps": [reached.sweeps for reached in one.curve],
        "seconds": [reached.seconds for reached in one.curve],
        "error": [reached.error for reached in one.curve],
    }
    return {
        "method": one.method,
        "sweeps": None if found is None else found.sweeps,
        "seconds": None if found is None else found.seconds,
        "error_bound": None if found is None else found.error_bound,
        "start_value": None if found is None else found.start_value,
        "note": one.note,
        "curve": curve,
    }
