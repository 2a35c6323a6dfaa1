"""What is seen of a finite MDP's state: its number, one-hot, or its place on a grid."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.errors import UsageError
from rlkit.mdp.draw_grid import WALL, GridLayout
from rlkit.registry import unknown
from rlkit.system import require_memory

PIXELS = "pixels"
OBSERVE = ("index", "one-hot", "coordinates", PIXELS)
SIDE = 84  # pixels of a grid's longer side, about
LARGEST_SIDE = 1024
_FLOOR, _WALL, _GOOD, _BAD = (246, 246, 242), (44, 52, 64), (46, 160, 103), (204, 71, 66)
AGENT = (31, 97, 190)


class View(Protocol):
    """`space` is what is observed; a call gives the observations (N, *obs) of states (N,)."""

    @property
    def space(self) -> spaces.Space[Any]: ...

    def __call__(self, states: NDArray[np.int64]) -> NDArray[Any]: ...


def view_for(observe: str, n_states: int, layout: GridLayout | None, n_envs: int) -> View:
    """The view of that name. Raises UsageError where the model is no grid, or N are too many."""
    is_framed = observe.startswith(f"{PIXELS}-")
    if observe not in OBSERVE and not is_framed:
        raise unknown("observation", observe, OBSERVE)
    if observe == "index":
        return Index(n_states)
    if observe == "one-hot":
        require_memory(
            4 * n_states * n_envs,
            f"observe is one-hot and the model has {n_states:,} states",
            f"an observation of {n_envs} environments",
            lambda free: f"{free // (4 * n_envs):,} states",
        )
        return OneHot(n_states)
    if layout is None:
        raise UsageError(f"observe is {observe}, and the model is no grid; allowed: index, one-hot")
    if observe == "coordinates":
        return Coordinates(layout, n_states)
    return Picture(layout, n_states, _frame(observe, layout) if is_framed else None)


class Index:
    """The state's number: Discrete(S)."""

    def __init__(self, n_states: int) -> None:
        self.space = spaces.Discrete(n_states)

    def __call__(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        return states.copy()


class OneHot:
    """1 at the state's number and 0 elsewhere: Box (S,) float32."""

    def __init__(self, n_states: int) -> None:
        self.space = spaces.Box(0.0, 1.0, (n_states,), np.float32)

    def __call__(self, states: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = np.zeros((len(states), *self.space.shape), np.float32)
        rows[np.arange(len(states)), states] = 1.0
        return rows


class Coordinates:
    """The cell's row and column, each scaled to [0, 1]: Box (2,) float32."""

    def __init__(self, layout: GridLayout, n_states: int) -> None:
        self.space = spaces.Box(0.0, 1.0, (2,), np.float32)
        largest = np.maximum(np.array(layout.shape) - 1, 1)
        places: NDArray[np.float32] = (_cells(layout, n_states) / largest).astype(np.float32)
        self.places = places  # (S, 2)

    def __call__(self, states: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.places[states]


class Picture:
    """The grid from above with the agent in it: Box (height, width, 3) uint8.

    A cell is so many pixels wide that the longer side has up to 84 of them, and at least one. With
    `frame` N the picture is N x N, whatever the grid, which is in its middle with walls around it:
    grids of all sizes then look alike to a network.
    """

    def __init__(self, layout: GridLayout, n_states: int, frame: int | None = None) -> None:
        self._side = side = max(1, (frame or SIDE) // max(layout.shape))
        colours = np.full((*layout.shape, 3), _FLOOR, np.uint8)
        colours[(layout.states < 0) | (layout.marks == WALL)] = _WALL
        colours[layout.tones > 0], colours[layout.tones < 0] = _GOOD, _BAD
        grid = colours.repeat(side, axis=0).repeat(side, axis=1)
        height, width = grid.shape[:2]
        size = (height, width) if frame is None else (frame, frame)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        self.picture = np.full((*size, 3), _WALL, np.uint8)
        self.picture[top : top + height, left : left + width] = grid
        self._corners = _cells(layout, n_states) * side + [top, left]  # of each state: (S, 2)
        self.space = spaces.Box(0, 255, self.picture.shape, np.uint8)

    def states_of_pixels(self) -> NDArray[np.int64]:
        """The state that each pixel is of, (height, width); -1 where it is of none."""
        states = np.full(self.picture.shape[:2], -1)
        within = np.arange(self._side)
        row, column = self._corners.T[..., None, None]  # (S, 1, 1) each
        states[row + within[:, None], column + within] = np.arange(len(row))[:, None, None]
        return states

    def __call__(self, states: NDArray[np.int64]) -> NDArray[np.uint8]:
        n, within = len(states), np.arange(self._side)
        pictures = np.repeat(self.picture[None], n, axis=0)
        row, column = self._corners[states].T[..., None, None]  # (N, 1, 1) each
        pictures[np.arange(n)[:, None, None], row + within[:, None], column + within] = AGENT
        return pictures


def _frame(observe: str, layout: GridLayout) -> int:
    """N of "pixels-N"; raises UsageError where it is no number, or too few for the grid."""
    text, least = observe.removeprefix(f"{PIXELS}-"), max(layout.shape)
    if not text.isdecimal() or not least <= int(text) <= LARGEST_SIDE:
        raise UsageError(
            f"observe is {observe}, and the grid is {' x '.join(map(str, layout.shape))} cells; "
            f"allowed: {PIXELS}-N for N x N pixels, N from {least} to {LARGEST_SIDE}"
        )
    return int(text)


def _cells(layout: GridLayout, n_states: int) -> NDArray[np.int64]:
    """The row and column of each state: (S, 2)."""
    cells = np.argwhere(layout.states >= 0)
    if len(cells) != n_states:
        raise UsageError(
            f"the layout shows {len(cells)} states, and the model has {n_states}; give the layout "
            "of this model"
        )
    places = np.empty((n_states, 2), np.int64)
    places[layout.states[tuple(cells.T)]] = cells
    return places
