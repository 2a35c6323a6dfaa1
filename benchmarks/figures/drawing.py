"""What the figures here share: their looks, their tables, and their command line.

matplotlib, rlkit's extra "plot", is imported when a picture is drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette for all kinds of colour vision; dashes differ too, for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", (0, (1, 1.2)), (0, (6, 2)), (0, (4, 1.5, 1, 1.5, 1, 1.5)), ":")
PLAIN = "#7b8494"


def arguments(description: str | None, name: str, runs: int | None = None) -> argparse.Namespace:
    """The options of a figure: out, and seed and runs where chance plays a part in it."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--out", default=f"{name}.png", help="png, pdf or svg, by its ending")
    if runs is not None:
        parser.add_argument("--runs", type=int, default=runs, help="runs that are averaged")
        parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in markdown."""
    for line in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(line)} |")


def canvas(columns: int, title: str, source: str, height: float = 4.4) -> tuple[Figure, Any]:
    """A figure of so many panels side by side, its title above and its source below them."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10.5, height), dpi=110, layout="constrained")
    panels = drawn.subplots(1, columns)
    drawn.suptitle(title, weight="bold")
    drawn.supxlabel(source, fontsize=8, color=PLAIN)
    return drawn, panels


def line(axes: Axes, k: int, x: Any, y: Any, label: str | None = None, width: float = 1.6) -> None:
    """The k-th line of a panel, told from the others by its colour and its dashes."""
    axes.plot(
        x,
        y,
        color=COLOURS[k % len(COLOURS)],
        linestyle=DASHES[k % len(DASHES)],
        linewidth=width,
        label=label,
    )


def shade(number: float) -> tuple[float, float, float, float]:
    """The colour of a place in an order, 0 to 1: dark to light."""
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["viridis"](0.9 * number)
    return red, green, blue, alpha


def rule(axes: Axes, y: float, text: str, below: bool = False, left: bool = False) -> None:
    """A thin line across at y, with what it stands for above or below it, at the right or left."""
    axes.axhline(y, color=PLAIN, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.annotate(
        text,
        xy=(0 if left else 1, y),
        xycoords=("axes fraction", "data"),
        xytext=(4 if left else -4, -3 if below else 3),
        textcoords="offset points",
        ha="left" if left else "right",
        va="top" if below else "bottom",
        fontsize=8,
        color=PLAIN,
    )


def finish(axes: Axes, title: str, x: str, y: str) -> None:
    """Name a panel and its axes, and take away what is not needed."""
    axes.set_title(title, fontsize=10)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def save(drawn: Figure, path: str) -> None:
    """Write a figure; a PNG with 256 colours, which keeps it small and shows no difference."""
    drawn.savefig(path)
    if path.endswith(".png"):
        from PIL import Image

        with Image.open(path) as full:
            few = full.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
