"""A solution drawn as text: the values and the arrows of its policy, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

from rlkit.mdp.draw_grid import WALL, GridLayout, fixed_point
from rlkit.mdp.model import FloatArray, IntArray

MAX_BOXED_ROWS, MAX_ARROW_ROWS = 16, 40  # taller grids scroll away
_MIN_INNER, _MAX_INNER = 4, 7  # characters between two vertical lines
_WORDS = {"G": "goal", "P": "pit", "H": "hole", "C": "cliff"}
_ASCII = str.maketrans("↑→↓←█│─┌┬┐├┼┤└┴┘", "^>v<#|-+++++++++")

_RULE, _WALL_STYLE = Style(dim=True), Style(dim=True)
_TONES = {
    1: Style(color="#ffffff", bgcolor=Color.from_rgb(34, 139, 87).name, bold=True),
    -1: Style(color="#ffffff", bgcolor=Color.from_rgb(186, 52, 48).name, bold=True),
    0: Style(bold=True),
}
_RAMP = np.array([[38, 62, 110], [48, 112, 150], [92, 160, 152], [176, 204, 144], [250, 234, 160]])


class Drawable(Protocol):
    """What has values (S,) and a policy (S,), such as a Solution."""

    @property
    def values(self) -> FloatArray: ...

    @property
    def policy(self) -> IntArray: ...


@dataclass(frozen=True, eq=False)
class View:
    """Values (S,) and a policy (S,) to be drawn."""

    values: FloatArray
    policy: IntArray


def draw(
    solution: Drawable,
    layout: GridLayout,
    width: int = 80,
    ascii_only: bool = False,
    arrows_only: bool = False,
) -> Text | None:
    """The grid with a value and an arrow in each cell, or with arrows alone where that is too wide
    or too tall, or all that is wanted; None where the arrows don't fit either.

    Colours (higher values are lighter) appear where the console has them; the text alone says all.
    """
    rows, cols = layout.shape
    inner = min(_MAX_INNER, (width - 1) // cols - 1)
    decimals = None
    if not arrows_only and rows <= MAX_BOXED_ROWS and inner >= _MIN_INNER:
        inside = (layout.states >= 0) & ~layout.ends
        decimals = _formatted(solution.values[layout.states[inside]], inner)
    text = Text(no_wrap=True)
    if decimals is not None:
        pieces = _boxed(solution, layout, inner, decimals)
    elif rows <= MAX_ARROW_ROWS and 2 * cols - 1 <= width:
        pieces = _arrows(solution, layout)
    else:
        return None
    for piece, style in pieces:
        text.append(piece.translate(_ASCII) if ascii_only else piece, style)
    return text


def _formatted(values: NDArray[np.float64], inner: int) -> int | None:
    """The number of decimals, 3 at most, with which all the values fit; None: with none at all."""
    for decimals in (3, 2, 1, 0):
        if max((len(fixed_point(value, decimals)) for value in values), default=0) <= inner:
            return decimals
    return None


def _boxed(
    solution: Drawable, layout: GridLayout, inner: int, decimals: int
) -> Iterator[tuple[str, Style]]:
    rows, cols = layout.shape
    line = "─" * inner
    yield "┌" + "┬".join([line] * cols) + "┐\n", _RULE
    heat = _heat(solution, layout)
    for row in range(rows):
        cells = [_cell(solution, layout, row, col, inner, decimals) for col in range(cols)]
        for part in (0, 1):
            for col, cell in enumerate(cells):
                yield "│", _RULE
                yield cell[part], heat[row][col]
            yield "│\n", _RULE
        if row < rows - 1:
            yield "├" + "┼".join([line] * cols) + "┤\n", _RULE
    yield "└" + "┴".join([line] * cols) + "┘\n", _RULE


def _cell(
    solution: Drawable, layout: GridLayout, row: int, col: int, inner: int, decimals: int
) -> tuple[str, str]:
    """A cell's two lines: value and arrow, or what the cell is."""
    mark, state = str(layout.marks[row, col]), layout.states[row, col]
    if mark == WALL:
        return "█" * inner, "█" * inner
    if layout.ends[row, col]:
        word = _WORDS.get(mark, mark)
        return (word if len(word) <= inner else mark).center(inner), " " * inner
    value = fixed_point(solution.values[state], decimals).rjust(inner - inner // 6).center(inner)
    arrow = arrow_of(solution, layout, row, col).center(inner)
    return value, arrow if mark == " " else mark + arrow[1:]


def _arrows(solution: Drawable, layout: GridLayout) -> Iterator[tuple[str, Style]]:
    rows, cols = layout.shape
    heat = _heat(solution, layout)
    for row in range(rows):
        for col in range(cols):
            mark = str(layout.marks[row, col])
            if mark == WALL:
                piece = "██"
            elif layout.ends[row, col]:
                piece = mark + " "
            else:
                piece = arrow_of(solution, layout, row, col) + " "
            yield piece if col < cols - 1 else piece[0], heat[row][col]
        yield "\n", _RULE


def arrow_of(solution: Drawable, layout: GridLayout, row: int, col: int) -> str:
    """The policy's arrow in a cell, a blank where the model ends there."""
    action = int(solution.policy[layout.states[row, col]])
    return layout.arrows[action] if action >= 0 else " "


def _heat(solution: Drawable, layout: GridLayout) -> list[list[Style]]:
    """A style for each cell: the lighter the background, the higher the value."""
    inside = (layout.states >= 0) & ~layout.ends
    values = np.where(inside, layout.spread(solution.values, 0.0), 0.0)
    low, high = values[inside].min(), values[inside].max()
    share = (values - low) / (high - low if high > low else 1.0)
    places = np.linspace(0, 1, len(_RAMP))
    rgb = np.stack([np.interp(share, places, channel) for channel in _RAMP.T], axis=-1)
    return [
        [_style(layout, row, col, inside[row, col], rgb[row, col]) for col in range(rgb.shape[1])]
        for row in range(rgb.shape[0])
    ]


def _style(layout: GridLayout, row: int, col: int, inside: bool, rgb: NDArray[np.float64]) -> Style:
    if layout.marks[row, col] == WALL:
        return _WALL_STYLE
    if not inside:
        return _TONES[int(layout.tones[row, col])]
    red, green, blue = (int(channel) for channel in rgb)
    ink = "#101418" if 0.299 * red + 0.587 * green + 0.114 * blue > 135 else "#ffffff"
    return Style.parse(f"{ink} on #{red:02x}{green:02x}{blue:02x}")
