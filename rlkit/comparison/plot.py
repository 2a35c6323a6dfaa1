"""Learning curves of several settings, drawn: interquartile means with intervals, and the optimum.

matplotlib, the extra "plot", is imported when a picture is drawn.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlkit.comparison.result import STEPS, Comparison, Group
from rlkit.errors import UsageError
from rlkit.mdp.plot import check_plot
from rlkit.mdp.plot_curves import COLOURS, DASHES, PLAIN
from rlkit.run.metrics import EVALUATED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 3  # panels in a row, at most
_INK = "#252b36"
_FEW_POINTS = 12  # each of them is marked
_WORDS = {
    EVALUATED: "mean return of greedy episodes",
    "episode/return": "return of an episode",
    "rollout/ep_rew_mean": "mean return of the last episodes",
    "exact/greedy_value": "exact value of the greedy policy",
    "exact/greedy_regret": "exact regret of the greedy policy",
}


def plot_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write the learning curves to `path`: png, pdf or svg, by its ending.

    A panel for each environment. Thick lines are interquartile means over seeds, the shade around
    them their pointwise intervals, thin lines the seeds; dashed lines are the exact optimum or,
    dotted, the return that counts as solved. A thick line ends where the first of its seeds does.

    Raises UsageError where matplotlib is missing, the ending is another, or the file can't be
    written.
    """
    check_plot(path)
    try:
        comparison_figure(comparison).savefig(path, bbox_inches="tight", pad_inches=0.15)
    except OSError as error:
        raise UsageError(
            f"plot (--plot) {str(path)!r} can't be written: {error.strerror}; name a file in a "
            "folder that exists and may be written to"
        ) from None


def comparison_figure(comparison: Comparison) -> Figure:
    """The picture that `plot_comparison` writes, as a matplotlib figure of its own."""
    from matplotlib.figure import Figure

    tasks = comparison.tasks
    columns = min(_ACROSS, len(tasks))
    rows = -(-len(tasks) // columns)
    width = 7.5 if columns == 1 else 4.6 * columns
    drawn = Figure(figsize=(width, 4.4 if rows == 1 else 3.6 * rows), dpi=150, layout="constrained")
    panels = drawn.subplots(rows, columns, squeeze=False)
    labels = [*dict.fromkeys(group.label for group in comparison.groups)]
    for axes, task in zip(panels.flat, tasks, strict=False):
        _panel(axes, comparison.on(task), labels, comparison.x)
        axes.set_title(_verbatim(task), fontsize=11, weight="bold", loc="left")
    for spare in panels.flat[len(tasks) :]:
        spare.set_visible(False)
    for row in panels:
        row[0].set_ylabel(_named(comparison))
    for axes in panels.flat[max(0, len(tasks) - columns) :]:
        axes.set_xlabel("environment steps" if comparison.x == STEPS else "seconds of training")
    lines = {line.get_label(): line for axes in panels.flat for line in axes.lines}
    drawn.legend(
        [lines[label] for label in labels],
        [*map(_verbatim, labels)],
        loc="outside lower center",
        ncols=max(1, min(len(labels), int(width * 12 / (8 + max(map(len, labels)))))),
        frameon=False,
        handlelength=3,
    )
    drawn.suptitle(_caption(comparison), fontsize=8.5, color=PLAIN, x=0.01, ha="left")
    return drawn


def _verbatim(text: str) -> str:
    """What stands in a run's config is no formula, whatever dollars it holds."""
    return text.replace("$", r"\$")


def _named(comparison: Comparison) -> str:
    words = _verbatim(_WORDS.get(comparison.metric, comparison.metric))
    return f"{words}\n(normalised)" if comparison.normalized else words


def _caption(comparison: Comparison) -> str:
    counts = sorted({len(group.scores) for group in comparison.groups})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if counts == [1]:
        return "1 seed each"
    said = f"interquartile mean over {seeds} seeds; thin: single seeds"
    if any(group.low.size for group in comparison.groups):
        said += f"; shaded: {100 * comparison.confidence:g} % bootstrap intervals, by point"
    return said


def _panel(axes: Axes, groups: Sequence[Group], labels: Sequence[str], x: str) -> None:
    for group in groups:
        _draw(axes, group, labels.index(group.label), x)
    _set_limits(axes, groups)
    for text, (value, dashes) in _rules(groups).items():
        _rule(axes, value, text, dashes)
    _finish(axes)


def _draw(axes: Axes, group: Group, number: int, x: str) -> None:
    colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    for run in group.runs:
        at = run.steps if x == STEPS else run.seconds
        axes.plot(at, run.values, color=colour, linewidth=0.7, alpha=0.3, zorder=2)
    if group.low.size:
        axes.fill_between(
            group.x, group.low, group.high, color=colour, alpha=0.18, linewidth=0, zorder=1.5
        )
    axes.plot(
        group.x,
        group.curve,
        color=colour,
        linestyle=dashes,
        linewidth=2,
        marker="o" if group.x.size <= _FEW_POINTS else None,
        markersize=3.5,
        label=group.label,
        zorder=3,
    )


def _rules(groups: Sequence[Group]) -> dict[str, tuple[float, str]]:
    """The horizontal lines of a panel, each with its name: the optima, or else what is solved."""
    optima = {g.optimum.value for g in groups if g.optimum is not None}
    if optima:
        return {f"optimum {value:.4g}": (value, "--") for value in optima}
    solved = {g.threshold for g in groups if g.threshold is not None}
    return {f"solved {value:.4g}": (value, ":") for value in solved}


def _set_limits(axes: Axes, groups: Sequence[Group]) -> None:
    """Limits that show all thick lines, shades and rules, and most of every seed.

    One seed's worst value of a whole run would flatten everything else.
    """
    shown: list[Any] = [np.percentile(run.values, [2, 98]) for g in groups for run in g.runs]
    shown += [array for group in groups for array in (group.curve, group.low, group.high)]
    shown += [[value] for value, _ in _rules(groups).values()]
    values = np.concatenate(shown)
    low, high = values.min(), values.max()
    room = 0.05 * (high - low) or 0.05 * max(abs(high), 1.0)
    axes.set_ylim(low - room, high + 2 * room)  # a rule's name stands above it


def _rule(axes: Axes, value: float, text: str, dashes: str) -> None:
    axes.axhline(value, color=_INK, linewidth=1.1, linestyle=dashes, zorder=2.5)
    axes.annotate(
        text,
        xy=(1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color=_INK,
        zorder=4,
    )


def _finish(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.02)
    if math.isfinite(axes.dataLim.xmin) and axes.dataLim.xmin >= 0:
        axes.set_xlim(left=0)
