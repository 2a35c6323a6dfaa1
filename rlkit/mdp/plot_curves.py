"""Convergence curves: how the certified error of several methods fell, by sweeps and by seconds.

matplotlib, the extra "plot", is imported when a picture is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlkit.mdp.plot import check_plot
from rlkit.registry import SOLVERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rlkit.mdp.compare import Comparison

# Okabe and Ito's palette for all kinds of colour vision, with a darker yellow; lines and marks
# differ too, for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8F8500")
DASHES = (
    "-",
    "--",
    "-.",
    (0, (1, 1.2)),
    (0, (6, 2)),
    (0, (4, 1.5, 1, 1.5, 1, 1.5)),
    ":",
    (0, (8, 1.5, 1, 1.5)),
)
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
PLAIN = "#7b8494"
_FEW_POINTS = 12  # each of them is marked
_NARROW = 50.0  # powers of ten alone would be few ticks on an axis whose ends have this ratio


def plot_curves(
    comparisons: Sequence[Comparison],
    path: str | os.PathLike[str],
    tol: float,
    title: str | None = None,
) -> None:
    """Write the curves of `rlkit.mdp.compare.compare` to `path`: png, pdf or svg, by its ending.

    The certified error, on a logarithmic scale, against sweeps (left) and seconds (right). A large
    mark is where a method ended; a method whose bounds came only then is that mark alone.

    Raises UsageError where matplotlib is missing or the ending is another, OSError where the file
    can't be written.
    """
    check_plot(path)
    curves_figure(comparisons, tol, title).savefig(path, bbox_inches="tight", pad_inches=0.15)


def curves_figure(
    comparisons: Sequence[Comparison], tol: float, title: str | None = None
) -> Figure:
    """The picture that `plot_curves` writes, as a matplotlib figure of its own."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10.5, 4.6), dpi=150, layout="constrained")
    by_sweeps, by_seconds = drawn.subplots(1, 2, sharey=True)
    for one in comparisons:
        points = [at for at in one.curve if at.sweeps > 0 and at.error > 0]
        errors = [at.error for at in points]
        _draw(by_sweeps, one.method, [at.sweeps for at in points], errors)
        _draw(by_seconds, one.method, [at.seconds for at in points], errors)
    by_sweeps.set(
        xlabel="sweeps (exact linear solves are none)",
        ylabel="certified error ‖V − V*‖∞, in units of reward",
    )
    by_seconds.set(xlabel="seconds")
    for axes in (by_sweeps, by_seconds):
        _finish(axes, tol)
    by_sweeps.annotate(
        f"asked for: {tol:g}",
        xy=(0, tol),
        xycoords=("axes fraction", "data"),
        xytext=(4, 4),
        textcoords="offset points",
        fontsize=8,
        color=PLAIN,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )
    drawn.suptitle("Convergence" if title is None else f"Convergence · {title}", weight="bold")
    handles, labels = by_sweeps.get_legend_handles_labels()
    drawn.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, handlelength=3.2
    )
    return drawn


def _draw(axes: Axes, method: str, x: Sequence[float], errors: Sequence[float]) -> None:
    number = [*SOLVERS].index(method)  # the same looks in every picture
    colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    mark = _MARKS[number % len(_MARKS)]
    axes.plot(
        x,
        errors,
        color=colour,
        linestyle=dashes,
        linewidth=1.8,
        marker=mark,
        markersize=8,
        markeredgecolor="white",
        markeredgewidth=0.8,
        markevery=[-1] if x else None,
        label=method,
    )
    if len(x) <= _FEW_POINTS:
        axes.plot(x, errors, color=colour, linestyle="none", marker=mark, markersize=3)


def _finish(axes: Axes, tol: float) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if not math.isfinite(axes.dataLim.minposx):  # no method came to anything
        axes.set_xlim(1, 10)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_xlim()
    if high < _NARROW * low:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axhline(tol, color=PLAIN, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.04)
