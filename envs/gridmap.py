"""Grid maps: text in, arrays of cells out.

A map is a rectangle of characters, one a cell:

=============  =====================================================================
``#``          a wall
``.`` or space a free cell
``S``          a start: a free cell; among several, each is as likely as the others
``G``          a goal: entering it ends the episode
``P`` or ``H`` a pit or hole: entering it ends the episode
=============  =====================================================================

Lines with a colon are its legend, before or after the rectangle. They give the reward of every move
that ends in a cell with that character, which may be any other one or G, P or H::

    S..a
    .#.P
    b..G

    a: +0.5             a free cell
    b: +2 terminal      entering it ends the episode
    G: +10              in place of the usual reward
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import UsageError
from rlkit.registry import did_you_mean

MAX_FILE_BYTES = 16 * 2**20
WALL_SHARE = 0.1  # of a random map

_WALL, _START, _GOAL, _FREE = "#", "S", "G", "."
_PITS = "PH"
_LEGEND = re.compile(r"(?P<mark>\S): *(?P<reward>\S+)(?P<terminal> +terminal)? *")
_CELLS = "'#' wall, '.' or ' ' free, S start, G goal, P or H pit"

NAMED_MAPS = {
    # Eleven moves along the pits or fifteen around them: which is better depends on the slip.
    "two-ways": """
............
.##.#..#.##.
.#........#.
.#.#####..#.
S..........G
...#PPP#.#..
.#.......#..
.##.#.##....
""",
    # Russell and Norvig, Artificial Intelligence: A Modern Approach, the 4x3 world
    # (4th edition, figure 17.1), with its usual start.
    "russell-norvig": """
...G
.#.P
S...
""",
    # Sutton, Precup and Singh (1999), Between MDPs and semi-MDPs, figure 2.
    "four-rooms": """
#############
#S....#.....#
#.....#.....#
#...........#
#.....#.....#
#.....#.....#
##.####.....#
#.....###.###
#.....#.....#
#.....#.....#
#...........#
#.....#....G#
#############
""",
}
_MAPS = f"give a text file or one of {', '.join(NAMED_MAPS)}"


@dataclass(frozen=True, eq=False)
class GridMap:
    """cells: (rows, cols) of single characters, free cells as "."; rewards: of the legend's
    characters; terminals: the legend's characters that end an episode."""

    cells: NDArray[np.str_]
    rewards: dict[str, float] = field(default_factory=dict)
    terminals: frozenset[str] = frozenset()

    def where(self, marks: str | frozenset[str]) -> NDArray[np.bool_]:
        """(rows, cols) bool: the cells that hold one of these characters."""
        found: NDArray[np.bool_] = np.isin(self.cells, list(marks))
        return found


def load_map(source: str | os.PathLike[str] | Sequence[str]) -> GridMap:
    """A map from its text, its rows, its file, or its name in `NAMED_MAPS`.

    A string with a line break is a map's text; one without is a name or a file. Raises UsageError
    with file, line and column for what is not a map.
    """
    if isinstance(source, str) and "\n" in source:
        return parse(source.splitlines(), "map")
    if isinstance(source, (str, os.PathLike)):
        if source in NAMED_MAPS:
            return parse(NAMED_MAPS[str(source)].splitlines(), "map")
        path = Path(source)
        return parse(_read(path), f"map {str(path)!r}")
    return parse(list(source), "map")


def _read(path: Path) -> list[str]:
    if not path.is_file():
        if path.exists():
            raise UsageError(f"map {str(path)!r} is not a file; {_MAPS}")
        beside = path.parent.glob(f"*{path.suffix}") if path.suffix else ()
        hint = did_you_mean(str(path), [*NAMED_MAPS, *(str(file) for file in beside)], _MAPS)
        raise UsageError(f"map {str(path)!r} was not found; {hint}")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise UsageError(f"map {str(path)!r} has {size:,} bytes; allowed: up to {MAX_FILE_BYTES:,}")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"map {str(path)!r} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise UsageError(f"map {str(path)!r} can't be read: {error.strerror}") from error


def parse(lines: Sequence[str], source: str) -> GridMap:
    """The map in `lines`; `source` names it in errors."""
    rewards: dict[str, float] = {}
    terminals: set[str] = set()
    rows: dict[int, str] = {}  # by line number
    for number, line in enumerate(lines, start=1):
        if ":" not in line:
            rows[number] = line
            continue
        mark, reward, terminal = _legend(line, f"{source} line {number}")
        if mark in rewards:
            raise UsageError(f"{source} line {number}: {mark!r} has a reward already")
        rewards[mark] = reward
        if terminal:
            terminals.add(mark)
    cells, first = _rectangle(rows, source)
    return GridMap(_checked(cells, rewards, first, source), rewards, frozenset(terminals))


def _legend(line: str, place: str) -> tuple[str, float, bool]:
    match = _LEGEND.fullmatch(line)
    reward = math.nan
    if match:
        with contextlib.suppress(ValueError):
            reward = float(match["reward"])
    if match is None or not math.isfinite(reward):
        raise UsageError(
            f"{place}: {line.strip()!r} is not a legend; write 'x: 0.5' or 'x: 0.5 terminal', "
            "x being the cells' character and 0.5 the reward for entering them"
        )
    if match["mark"] in (_WALL, _FREE, _START):
        raise UsageError(f"{place}: {match['mark']!r} can't have a reward; allowed: {_OTHERS}")
    return match["mark"], reward, match["terminal"] is not None


_OTHERS = "G, P, H and characters without a meaning of their own, such as 'a'"


def _rectangle(rows: dict[int, str], source: str) -> tuple[NDArray[np.str_], int]:
    """The rows (rows, cols), less empty ones above and below, and the first one's line number."""
    drawn = [number for number, row in rows.items() if row]
    if not drawn:
        raise UsageError(f"{source} is empty; draw one of {_CELLS}")
    first, last = drawn[0], drawn[-1]
    kept = {number: row for number, row in rows.items() if first <= number <= last}
    width = len(kept[first])
    for number, row in kept.items():
        if len(row) != width:
            raise UsageError(
                f"{source} line {number} has {len(row)} cells, line {first} has {width}; all rows "
                "need the same length ('.' is a free cell, too)"
            )
    return np.array(list(kept.values())).view("U1").reshape(len(kept), width), first


def _checked(
    cells: NDArray[np.str_], rewards: dict[str, float], first: int, source: str
) -> NDArray[np.str_]:
    cells = np.where(cells == " ", _FREE, cells)
    allowed = [_WALL, _FREE, _START, _GOAL, *_PITS, *rewards]
    strange = np.argwhere(~np.isin(cells, allowed))
    if len(strange):
        row, col = strange[0]
        mark = str(cells[row, col])
        legend = f", or a character with a legend line, such as '{mark}: 0.5'"
        raise UsageError(
            f"{source} line {first + row}, column {col + 1}: {mark!r} is not a cell; allowed: "
            f"{_CELLS}{legend if mark.isprintable() else ''}"
        )
    if not (cells == _START).any():
        raise UsageError(f"{source} has no start; mark one or more cells with S")
    return cells


def random_map(size: int, seed: int) -> GridMap:
    """A square map, S top left, G bottom right, a tenth of the cells walls, all others connected.

    Cells that the walls cut off become walls, too. Drawn again until G can be reached from S.
    """
    from scipy import ndimage  # here: it takes longer to import than a small grid to solve

    rng = np.random.default_rng(seed)
    while True:
        free = rng.random((size, size)) >= WALL_SHARE
        free[0, 0] = free[-1, -1] = True
        parts, _ = ndimage.label(free)
        if parts[0, 0] == parts[-1, -1]:
            break
    cells = np.where(parts == parts[0, 0], _FREE, _WALL)
    cells[0, 0], cells[-1, -1] = _START, _GOAL
    return GridMap(cells)
