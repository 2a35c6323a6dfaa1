"""A solution drawn as a picture: a heat map with the policy's arrows, or the sorted values.

matplotlib, the extra "plot", is imported when a picture is drawn.
"""

from __future__ import annotations

import importlib.util
import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import UsageError
from rlkit.mdp.criteria import FiniteHorizonSolution
from rlkit.mdp.draw_grid import DOWN, LEFT, RIGHT, UP, WALL, GridLayout, fixed_point
from rlkit.mdp.model import FloatArray, IntArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from rlkit.mdp.solution import Solution

FORMATS = (".png", ".pdf", ".svg")
MAX_ARROWS = 60  # along the longer side; finer grids show every second, third, ... arrow
_DARKEST = 0.18  # where the colours begin on viridis: below it, low values look like walls
_DARK, _LIGHT, _GOOD, _BAD, _PLAIN = "#252b36", "#ffffff", "#2a9d5f", "#c8443c", "#7b8494"
_STEPS = {UP: (0, -1), RIGHT: (1, 0), DOWN: (0, 1), LEFT: (-1, 0)}  # (x, y), y downwards


def plot(
    solution: Solution | FiniteHorizonSolution,
    path: str | os.PathLike[str],
    grid: GridLayout | None = None,
    title: str | None = None,
) -> None:
    """Write a picture of `solution` to `path`, whose ending says the format: png, pdf or svg.

    With a `grid` (see `rlkit.mdp.draw_grid.layout_of`) it is a heat map of the values with the
    policy's arrows; without one, the values of all states in descending order. Of a finite horizon
    it is the first step that is drawn.

    Raises UsageError where matplotlib is missing or the ending is another, OSError where the file
    can't be written.
    """
    check_plot(path)
    drawn = figure(solution, grid, title)
    drawn.savefig(path, bbox_inches="tight", pad_inches=0.15)


def figure(
    solution: Solution | FiniteHorizonSolution,
    grid: GridLayout | None = None,
    title: str | None = None,
) -> Figure:
    """The picture that `plot` writes, as a matplotlib figure that no window manager knows of."""
    from matplotlib.figure import Figure

    drawn = Figure(dpi=150)
    axes = drawn.add_subplot()
    values, policy = solution.values, solution.policy
    if isinstance(solution, FiniteHorizonSolution):
        values, policy = values[0], policy[0]
    if grid is None:
        _sorted_values(drawn, axes, values)
    else:
        _heat_map(drawn, axes, values, policy, grid)
    _caption(axes, solution, title)
    return drawn


def check_plot(path: str | os.PathLike[str]) -> None:
    """Raise UsageError where `plot` could not draw to a file of this name."""
    if Path(path).suffix.lower() not in FORMATS:
        raise UsageError(f"plot {str(path)!r}: the name must end in {' or '.join(FORMATS)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("drawing needs matplotlib, which is not installed: pip install matplotlib")


def _caption(axes: Axes, solution: Solution | FiniteHorizonSolution, title: str | None) -> None:
    method = f"{solution.method}, γ = {solution.gamma:g}"
    if isinstance(solution, FiniteHorizonSolution):
        method += f", {solution.horizon:,} steps to go"
    facts = [f"certified error ≤ {solution.error_bound:.1e}"]
    if solution.start_value is not None:
        facts.append(f"value of the start {solution.start_value:.4g}")
    head = method if title is None else f"{title} · {method}"
    above = partial(axes.annotate, xy=(0, 1), xycoords="axes fraction", textcoords="offset points")
    above(" · ".join(facts), xytext=(0, 7), fontsize=9, color=_PLAIN)
    above(head, xytext=(0, 23), fontsize=11, weight="bold")


def _sorted_values(figure: Figure, axes: Axes, values: FloatArray) -> None:
    figure.set_size_inches(7.5, 4.2)
    rank = np.arange(1, values.size + 1)
    axes.plot(rank, -np.sort(-values), color="#31688e", linewidth=2, drawstyle="steps-mid")
    axes.set_xlabel("states, best first")
    axes.set_ylabel("value V(s)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)


def _heat_map(
    figure: Figure, axes: Axes, values: FloatArray, policy: IntArray, grid: GridLayout
) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    rows, cols = grid.shape
    side = min(0.75, 8.5 / max(rows, cols))  # of a cell, in inches
    figure.set_size_inches(cols * side, rows * side)
    axes.set_position((0, 0, 1, 1))
    inside = (grid.states >= 0) & ~grid.ends
    cells = np.where(inside, grid.spread(values, np.nan), np.nan)
    colours = ListedColormap(colormaps["viridis"](np.linspace(_DARKEST, 1, 256)))
    image = axes.imshow(np.ma.masked_invalid(cells), cmap=colours, interpolation="nearest")
    bar = axes.inset_axes((1 + 0.15 / (cols * side), 0, 0.2 / (cols * side), 1))
    figure.colorbar(image, cax=bar, label="value V(s)").outline.set_visible(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    _paint(axes, grid, side)
    ink = _ink(image.to_rgba(cells)[..., :3])
    labelled = side >= 0.5
    _draw_arrows(axes, policy, grid, inside, ink, lowered=0.18 if labelled else 0.0)
    if labelled:
        _write_values(axes, cells, grid, ink, side)


def _paint(axes: Axes, grid: GridLayout, side: float) -> None:
    """Walls, goals and pits over the heat map, thin lines between cells that can bear them."""
    from matplotlib.colors import to_rgba

    rows, cols = grid.shape
    over = np.zeros((rows, cols, 4))
    over[grid.marks == WALL] = to_rgba(_DARK)
    for tone, colour in ((1, _GOOD), (-1, _BAD), (0, _PLAIN)):
        over[grid.ends & (grid.tones == tone)] = to_rgba(colour)
    axes.imshow(over, interpolation="nearest")
    points = min(14.0, 72 * side * 0.5)
    if points >= 4:
        axes.set_xticks(np.arange(cols - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(rows - 1) + 0.5, minor=True)
        axes.grid(which="minor", color=_LIGHT, linewidth=min(1.0, 2 * side))
        axes.tick_params(which="minor", length=0)
        for row, col in np.argwhere(grid.ends):
            _write(axes, col, row, grid.marks[row, col], _LIGHT, points, "bold")


def _draw_arrows(
    axes: Axes,
    policy: IntArray,
    grid: GridLayout,
    inside: NDArray[np.bool_],
    ink: NDArray[np.str_],
    lowered: float,
) -> None:
    stride = math.ceil(max(grid.shape) / MAX_ARROWS)
    kept = np.zeros_like(inside)
    kept[stride // 2 :: stride, stride // 2 :: stride] = True
    actions = grid.spread(policy, -1)
    row, col = np.nonzero(inside & kept & (actions >= 0))
    steps = np.array([_STEPS[arrow] for arrow in grid.arrows])[actions[row, col]]
    length = stride * (0.34 if lowered else 0.6)
    axes.quiver(
        col,
        row + lowered,
        *(steps.T * length),
        color=list(ink[row, col]),
        angles="xy",
        scale_units="xy",
        scale=1,
        units="xy",
        width=0.14 * length,
        headwidth=4,
        headlength=3.5,
        headaxislength=3.2,
        pivot="mid",
    )


def _write_values(
    axes: Axes, values: NDArray[np.float64], grid: GridLayout, ink: NDArray[np.str_], side: float
) -> None:
    shown = values[np.isfinite(values)]
    decimals = 3 if np.abs(shown).max(initial=0) < 1 else 2 if np.abs(shown).max() < 100 else 0
    for row, col in np.argwhere(np.isfinite(values)):
        colour = str(ink[row, col])
        text = fixed_point(values[row, col], decimals)
        _write(axes, col, row - 0.22, text, colour, 11.5 * side, "normal")
        if grid.marks[row, col] != " ":
            _write(axes, col - 0.32, row + 0.24, grid.marks[row, col], colour, 11.5 * side, "bold")


def _write(axes: Axes, x: Any, y: Any, text: Any, colour: str, points: float, weight: str) -> None:
    axes.text(x, y, text, color=colour, fontsize=points, weight=weight, ha="center", va="center")


def _ink(rgb: NDArray[np.float64]) -> NDArray[np.str_]:
    """Black or white, whichever reads better on each colour (rows, cols, 3)."""
    return np.where(rgb @ [0.299, 0.587, 0.114] > 0.55, _DARK, _LIGHT)
