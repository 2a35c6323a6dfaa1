"""Grids of the literature as exact models, each with where its states lie, for drawing.

Their states are all cells, numbered row by row from the top left. Moves are 0 up, 1 right, 2 down,
3 left, unless said otherwise; a move off the grid stays where it is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkit.envs.gridworld import GridWorld
from rlkit.envs.limits import flags, probabilities, whole
from rlkit.mdp.draw_grid import DOWN, LEFT, RIGHT, UP, GridLayout
from rlkit.mdp.generate import Generated
from rlkit.mdp.model import MDP, FloatArray, IntArray

MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])  # (row, col) of up, right, down, left
_WIND = np.array([0, 0, 0, 1, 1, 1, 2, 2, 1, 0])
_LAKE_MOVES = MOVES[[3, 2, 1, 0]]  # Gymnasium's FrozenLake: left, down, right, up


def moved(states: IntArray, shape: tuple[int, int]) -> tuple[IntArray, IntArray, IntArray]:
    """Rows, columns (B, 4) that the four moves lead to on a grid, and whether each stays on it."""
    row, col = np.divmod(states[:, None], shape[1])
    row, col = row + MOVES[:, 0], col + MOVES[:, 1]
    inside = (row >= 0) & (row < shape[0]) & (col >= 0) & (col < shape[1])
    return np.clip(row, 0, shape[0] - 1), np.clip(col, 0, shape[1] - 1), inside


def layout(
    marks: list[str] | NDArray[np.str_], arrows: str = UP + RIGHT + DOWN + LEFT
) -> GridLayout:
    """Where the states lie on a grid of these marks, one character a cell: G is a goal, C a cliff
    and H a hole, which all end; others are cells in which one acts."""
    cells = np.array([list(row) for row in marks])
    goals, bad = cells == "G", np.isin(cells, ["C", "H"])
    tones = goals.astype(np.int8) - bad.astype(np.int8)
    states = np.arange(cells.size).reshape(cells.shape)
    return GridLayout(states, cells, goals | bad, tones, arrows)


def only(state: int, n_states: int) -> FloatArray:
    """(S,) the start distribution that is certain of one state."""
    start = np.zeros(n_states)
    start[state] = 1.0
    return start


def cliff(gamma: float = 1.0, rows: int = 4, cols: int = 12) -> MDP:
    """The cliff of Sutton and Barto (2018), example 6.6: every move costs 1, falling off it 100.

    From the bottom left to the bottom right; the cells in between are the cliff, from which one is
    set back to the start. They are states that are never entered.
    """
    whole(2, rows=rows, cols=cols)
    S = rows * cols
    start, goal = S - cols, S - 1

    def f(states: IntArray) -> tuple[IntArray, float, FloatArray, NDArray[np.bool_]]:
        row, col, _ = moved(states, (rows, cols))
        successors = row * cols + col
        falls = (successors > start) & (successors < goal)
        rewards = np.where(falls, -100.0, -1.0)
        acts = states <= start
        return np.where(falls, start, successors)[..., None], 1.0, rewards, acts[:, None]

    return MDP.from_function(f, S, gamma, start=only(start, S))


def cliff_layout(rows: int = 4, cols: int = 12) -> GridLayout:
    """Where the states of `cliff` lie."""
    return layout([" " * cols] * (rows - 1) + ["S" + "C" * (cols - 2) + "G"])


def windy_grid(gamma: float = 1.0) -> MDP:
    """The windy gridworld of Sutton and Barto (2018), example 6.5: a wind blows upwards, by 1 or 2
    cells in the middle columns; every move costs 1."""
    rows, cols = 7, _WIND.size
    S, goal = rows * cols, 3 * cols + 7

    def f(states: IntArray) -> tuple[IntArray, float, float, NDArray[np.bool_]]:
        row, col = np.divmod(states[:, None], cols)
        row = np.clip(row + MOVES[:, 0] - _WIND[col], 0, rows - 1)
        col = np.clip(col + MOVES[:, 1], 0, cols - 1)
        return (row * cols + col)[..., None], 1.0, -1.0, (states != goal)[:, None]

    return MDP.from_function(f, S, gamma, start=only(3 * cols, S))


def windy_grid_layout() -> GridLayout:
    """Where the states of `windy_grid` lie."""
    return layout([" " * 10] * 3 + ["S" + " " * 6 + "G  "] + [" " * 10] * 3)


def russell_norvig(gamma: float = 1.0, slip: float = 0.2, step_cost: float = 0.04) -> MDP:
    """The 4x3 world of Russell and Norvig, Artificial Intelligence: A Modern Approach (3rd edition
    2010, §17.1), which is GridWorld's map of that name."""
    return GridWorld("russell-norvig", slip=slip, step_cost=step_cost).mdp(gamma)


def russell_norvig_layout() -> GridLayout:
    """Where the states of `russell_norvig` lie."""
    return GridWorld("russell-norvig").grid_layout()


def frozen_lake(
    gamma: float = 0.99, size: int = 8, seed: int = 0, frozen: float = 0.8, slippery: bool = True
) -> MDP:
    """A lake of any size by the rules of Gymnasium's FrozenLake, drawn at random.

    Args:
        gamma: discount per step.
        size: rows and columns.
        seed: the same seed gives the same lake.
        frozen: probability of a cell to be ice, not a hole; drawn again until a way leads across,
            which takes long for a large lake with less than 0.6.
        slippery: a move goes in the direction meant or to either side of it, a third each.

    Moves are 0 left, 1 down, 2 right, 3 up. Reaching the bottom right from the top left earns 1;
    holes end the episode, too.
    """
    return frozen_lake_in_parts(size, seed, frozen, slippery).mdp(gamma)


def frozen_lake_in_parts(size: int, seed: int, frozen: float, slippery: bool) -> Generated:
    """`frozen_lake`, any part of which can be made alone, once the lake is drawn."""
    flags(slippery=slippery)
    return _lake_in_parts(lake(size, seed, frozen), slippery)


def frozen_lake_layout(size: int = 8, seed: int = 0, frozen: float = 0.8) -> GridLayout:
    """Where the states of `frozen_lake` lie."""
    return layout(lake(size, seed, frozen), LEFT + DOWN + RIGHT + UP)


def lake(size: int, seed: int, frozen: float) -> NDArray[np.str_]:
    """(size, size) of " " ice, "H" holes, "S" top left and "G" bottom right, with a way across."""
    from scipy import ndimage  # here: it takes longer to import than a small lake to solve

    whole(2, size=size)
    whole(0, seed=seed)
    probabilities(frozen=frozen)
    rng = np.random.default_rng(seed)
    while True:
        ice = rng.random((size, size)) < frozen
        ice[0, 0] = ice[-1, -1] = True
        parts, _ = ndimage.label(ice)
        if parts[0, 0] == parts[-1, -1]:
            break
    cells = np.where(ice, " ", "H")
    cells[0, 0], cells[-1, -1] = "S", "G"
    return cells


def lake_model(cells: NDArray[np.str_], gamma: float, slippery: bool) -> MDP:
    """The model of a lake whose holes are "H" and whose goal is "G"; it begins in the first cell.

    Its rules are Gymnasium's: what ends the episode has no actions.
    """
    return _lake_in_parts(cells, slippery).mdp(gamma)


def _lake_in_parts(cells: NDArray[np.str_], slippery: bool) -> Generated:
    rows, cols = cells.shape
    marks = cells.ravel()
    ends = np.isin(marks, ["H", "G"])
    turns = np.array([-1, 0, 1] if slippery else [0])

    def f(states: IntArray) -> tuple[IntArray, float, FloatArray, NDArray[np.bool_]]:
        directions = (np.arange(4)[:, None] + turns) % 4  # (4, outcomes)
        steps = _LAKE_MOVES[directions]
        row = np.clip(states[:, None, None] // cols + steps[..., 0], 0, rows - 1)
        col = np.clip(states[:, None, None] % cols + steps[..., 1], 0, cols - 1)
        successors = row * cols + col
        rewards = (marks[successors] == "G").astype(np.float64)
        return successors, 1 / turns.size, rewards, ~ends[states][:, None]

    return Generated(f, cells.size, start=(0,))
