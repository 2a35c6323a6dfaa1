"""Where the states of a grid world lie: what the pictures of a solution need to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import gymnasium

UP, RIGHT, DOWN, LEFT = "↑", "→", "↓", "←"
WALL = "#"


@dataclass(frozen=True, eq=False)
class GridLayout:
    """The cells of a grid world.

    states: (rows, cols) int, the state of each cell, −1 where there is none (a wall).
    marks: (rows, cols) str, one character a cell: "#" at walls, " " at plain cells, "S" at starts.
    ends: (rows, cols) bool, where the agent never acts: goals, pits, a cliff.
    tones: (rows, cols) int8, 1 where a cell is good to enter, −1 where it is bad, 0 elsewhere.
    arrows: one arrow for each action label.
    """

    states: NDArray[np.integer[Any]]
    marks: NDArray[np.str_]
    ends: NDArray[np.bool_]
    tones: NDArray[np.int8]
    arrows: str = UP + RIGHT + DOWN + LEFT

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.states.shape
        return rows, cols

    def spread(self, values: NDArray[Any], fill: Any) -> NDArray[Any]:
        """Values (S,) of the states on the grid (rows, cols), `fill` at walls."""
        spread: NDArray[Any] = np.where(self.states >= 0, values[self.states], fill)
        return spread


def fixed_point(value: float, decimals: int) -> str:
    """`value` with so many decimals, and no sign where that leaves nothing but zeros."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # -0.0 + 0.0 is 0.0


def layout_of(env: gymnasium.Env[Any, Any]) -> GridLayout | None:
    """The layout that `env` offers as `grid_layout()`, or that of Gymnasium's FrozenLake and
    CliffWalking; None for an environment that is no grid."""
    inner = env.unwrapped
    if hasattr(inner, "grid_layout"):
        layout: GridLayout = inner.grid_layout()
        return layout
    known = _GYMNASIUM.get(type(inner).__name__)
    return None if known is None else known(inner)


def _frozen_lake(env: Any) -> GridLayout:
    marks = np.where(env.desc == b"F", b" ", env.desc).astype("U1")
    goals, holes = marks == "G", marks == "H"
    tones = goals.astype(np.int8) - holes.astype(np.int8)
    states = _numbered(marks.shape)
    return GridLayout(states, marks, goals | holes, tones, LEFT + DOWN + RIGHT + UP)


def _cliff_walking(env: Any) -> GridLayout:
    states = _numbered(env.shape)
    marks = np.full(env.shape, " ", dtype="U1")
    marks[env._cliff] = "C"
    marks[states == env.start_state_index] = "S"
    marks[-1, -1] = "G"
    goals = marks == "G"
    tones = goals.astype(np.int8) - env._cliff.astype(np.int8)
    return GridLayout(states, marks, goals | env._cliff, tones)


def _numbered(shape: tuple[int, ...]) -> NDArray[np.intp]:
    return np.arange(np.prod(shape)).reshape(shape)


_GYMNASIUM = {"FrozenLakeEnv": _frozen_lake, "CliffWalkingEnv": _cliff_walking}
