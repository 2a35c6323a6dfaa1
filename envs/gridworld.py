"""GridWorld: a maze from a text map in which moves may slip, as an environment and as a model.

The agent moves up, right, down or left. With probability `slip` the move goes to one of the two
perpendicular directions instead, half each. A move into a wall or off the map stays where it is.
Every move costs `step_cost` and earns the reward of the cell in which it ends; goals and pits end
the episode. The defaults are those of the 4x3 world of Russell and Norvig, Artificial Intelligence:
A Modern Approach (section "Sequential Decision Problems"), which is the map "russell-norvig".

States are the cells that are not walls, numbered row by row from the top left. A legend in a map
(see `rlkit.envs.gridmap`) can give further cells a reward or an end.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from numpy.typing import NDArray
from scipy import sparse

from rlkit.envs.gridmap import GridMap, load_map, random_map
from rlkit.envs.limits import finite, probabilities, whole
from rlkit.errors import UsageError
from rlkit.mdp.draw_grid import GridLayout
from rlkit.mdp.generate import Generated
from rlkit.mdp.model import MDP, BoolArray, FloatArray, IntArray
from rlkit.system import require_memory

UP, RIGHT, DOWN, LEFT = range(4)
_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # (row, col) of each action

# Measured: the peak while the exact model is built, which is more than the environment needs.
BYTES_PER_CELL = 800

_COLOURS = {"#": (44, 52, 64), "G": (46, 160, 103), "P": (204, 71, 66), "S": (205, 222, 245)}
_COLOURS["H"] = _COLOURS["P"]
_FLOOR, _LEGEND, _AGENT = (246, 246, 242), (240, 214, 140), (31, 97, 190)
_PICTURE = 512  # pixels of the longer side, about


class GridWorld(gymnasium.Env[np.int64, np.int64]):
    """A grid world over a map, or over a random maze of `size` x `size` cells.

    Parameters:
        map: a map's text (with line breaks), its rows, its file, or the name of one of rlkit's:
            two-ways (taken where neither map nor size is given), russell-norvig, four-rooms.
        size: at least 2; a random square maze in place of a map.
        slip: probability in [0, 1] that a move goes to a perpendicular direction.
        step_cost: what each move costs.
        goal_reward, pit_reward: rewards for entering G, and P or H.
        seed: draws the random maze; the same seed gives the same maze.
        render_mode: None, "ansi" or "rgb_array".

    Observations: Discrete(S), the agent's cell. Actions: Discrete(4), 0 up, 1 right, 2 down,
    3 left. `reset` draws the start among the map's S with equal probability.

    Raises UsageError for a bad map (with line and column), a bad number, and a size whose model
    would not fit into the free memory.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's

    def __init__(
        self,
        map: str | os.PathLike[str] | Sequence[str] | None = None,
        size: int | None = None,
        slip: float = 0.2,
        step_cost: float = 0.04,
        goal_reward: float = 1.0,
        pit_reward: float = -1.0,
        seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        probabilities(slip=slip)
        finite(step_cost=step_cost, goal_reward=goal_reward, pit_reward=pit_reward)
        whole(0, seed=seed)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UsageError(f"render_mode is {render_mode!r}; allowed: None, 'ansi', 'rgb_array'")
        self.render_mode = render_mode
        self.slip = float(slip)
        self.step_cost = float(step_cost)
        self.grid = _grid(map, size, seed)

        free = self.grid.cells != "#"
        self._index = np.where(free, np.cumsum(free).reshape(free.shape) - 1, -1).astype(np.int32)
        self._cells = np.argwhere(free).astype(np.int32)  # (S, 2)
        self._next = _successors(self._index, self._cells)  # (S, 4)
        rewards = {"G": goal_reward, "P": pit_reward, "H": pit_reward, **self.grid.rewards}
        self._reward = np.zeros(self.n_states)  # (S,) of the cell in which a move ends
        for mark, reward in rewards.items():
            self._reward[self.grid.where(mark)[free]] = reward
        self._terminal = self.grid.where(self.grid.terminals | set("GPH"))[free]  # (S,)
        self._starts = np.flatnonzero(self.grid.where("S")[free])
        self._state: np.int64 | None = None

        self.observation_space = spaces.Discrete(self.n_states)
        self.action_space = spaces.Discrete(4)

    @property
    def n_states(self) -> int:
        return len(self._cells)

    def state_at(self, row: int, col: int) -> int:
        """The state of the cell in this row and column, counted from 0 at the top left."""
        rows, cols = self._index.shape
        if not (0 <= row < rows and 0 <= col < cols) or self._index[row, col] < 0:
            raise UsageError(f"row {row}, column {col} is not a free cell of the {rows}x{cols} map")
        return int(self._index[row, col])

    def position(self, state: int | np.int64) -> tuple[int, int]:
        """The row and column of a state, counted from 0 at the top left."""
        if not 0 <= state < self.n_states:
            raise UsageError(f"state is {state}; allowed: 0 to {self.n_states - 1}")
        row, col = self._cells[state]
        return int(row), int(col)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = np.int64(self.np_random.choice(self._starts))
        return self._state, {}

    def step(self, action: int | np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        if self._state is None or self._terminal[self._state]:
            raise ResetNeeded("GridWorld: the episode is over or never began; call reset()")
        if not 0 <= action < 4:
            raise InvalidAction(
                f"GridWorld: action is {action}; allowed: 0 up, 1 right, 2 down, 3 left"
            )
        draw = self.np_random.random()
        turn = 0 if draw >= self.slip else 1 if draw >= self.slip / 2 else -1
        state = np.int64(self._next[self._state, (action + turn) % 4])
        self._state = state
        reward = float(self._reward[state]) - self.step_cost
        return state, reward, bool(self._terminal[state]), False, {}

    def get_state(self) -> dict[str, Any]:
        """Where the agent is, for resuming bit for bit (see `rlkit.envs.state`)."""
        return {"state": None if self._state is None else int(self._state)}

    def set_state(self, tree: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        state = tree["state"]
        if state is not None:
            self.position(state)  # raises where this map has no such state
        self._state = None if state is None else np.int64(state)

    def mdp(self, gamma: float) -> MDP:
        """The exact model with discount `gamma`: four pairs a state, none at goals and pits."""
        inner = np.flatnonzero(~self._terminal)
        actions = np.arange(4)
        targets, p, rewards = self._outcomes(inner)
        r = rewards.ravel()
        L = len(r)
        P = sparse.csr_array(
            (
                np.tile(p, L),
                targets.ravel(),
                np.arange(0, L * len(p) + 1, len(p), dtype=np.int32),
            ),
            shape=(L, self.n_states),
        )
        P.sum_duplicates()
        offsets = np.concatenate([[0], np.cumsum(np.where(self._terminal, 0, 4))])
        start = np.zeros(self.n_states)
        start[self._starts] = 1 / len(self._starts)
        labels = np.tile(actions, len(inner))
        return MDP.from_pairs(P, r, offsets, gamma, labels, start, copy=False)

    def in_parts(self) -> Generated:
        """The exact model without its discount, any part of which can be made alone."""

        def f(states: IntArray) -> tuple[NDArray[np.int32], FloatArray, FloatArray, BoolArray]:
            return *self._outcomes(states), ~self._terminal[states][:, None]

        return Generated(f, self.n_states, start=tuple(self._starts.tolist()))

    def _outcomes(self, states: IntArray) -> tuple[NDArray[np.int32], FloatArray, FloatArray]:
        """Successors (B, 4, K), their probabilities (K,), and expected rewards (B, 4)."""
        outcomes = [(0, 1 - self.slip), (1, self.slip / 2), (-1, self.slip / 2)]
        outcomes = [(turn, p) for turn, p in outcomes if p > 0]
        targets = np.stack(
            [self._next[states[:, None], (np.arange(4) + turn) % 4] for turn, _ in outcomes],
            axis=-1,
        )
        p = np.array([probability for _, probability in outcomes])
        return targets, p, self._reward[targets] @ p - self.step_cost

    def grid_layout(self) -> GridLayout:
        """Where the states lie, for drawing a solution."""
        cells = self.grid.cells
        ends = np.zeros(cells.shape, dtype=bool)
        tones = np.zeros(cells.shape, dtype=np.int8)
        ends[tuple(self._cells.T)] = self._terminal
        tones[tuple(self._cells.T)] = np.sign(self._reward)
        return GridLayout(self._index, np.where(cells == ".", " ", cells), ends, tones)

    def render(self) -> str | NDArray[np.uint8] | None:
        """The map with the agent as "@", or (height, width, 3) uint8, as `render_mode` says."""
        if self.render_mode == "ansi":
            cells = self.grid.cells.copy()
            if self._state is not None:
                cells[self.position(self._state)] = "@"
            return "\n".join("".join(row) for row in cells) + "\n"
        if self.render_mode == "rgb_array":
            return self._picture()
        gymnasium.logger.warn("GridWorld: render() without render_mode; give 'ansi' or 'rgb_array'")
        return None

    def _picture(self) -> NDArray[np.uint8]:
        cells = self.grid.cells
        colours = np.full((*cells.shape, 3), _FLOOR, dtype=np.uint8)
        for mark in np.unique(cells):
            if mark != ".":
                colours[cells == mark] = _COLOURS.get(str(mark), _LEGEND)
        side = max(1, _PICTURE // max(cells.shape))
        picture = colours.repeat(side, axis=0).repeat(side, axis=1)
        if side >= 8:  # a grid line above and left of each cell
            picture[::side] = picture[:, ::side] = _COLOURS["#"]
        if self._state is not None:
            row, col = self.position(self._state)
            y, x = np.ogrid[:side, :side]
            middle = (side - 1) / 2
            disc = (y - middle) ** 2 + (x - middle) ** 2 <= max(0.35 * side, 0.5) ** 2
            cell = picture[row * side : (row + 1) * side, col * side : (col + 1) * side]
            cell[disc] = _AGENT
        return picture


def _grid(
    map: str | os.PathLike[str] | Sequence[str] | None, size: int | None, seed: int
) -> GridMap:
    if map is not None and size is not None:
        raise UsageError("map and size are both given; give one of them")
    if size is None:
        grid = load_map("two-ways" if map is None else map)
        _check_memory(grid.cells.size, "the map")
        return grid
    whole(2, size=size)
    _check_memory(size**2, f"size {size}")
    return random_map(size, seed)


def _check_memory(cells: int, what: str) -> None:
    def fits(free: int) -> str:
        side = math.isqrt(free // BYTES_PER_CELL)
        return f"about {side:,} x {side:,}"

    require_memory(cells * BYTES_PER_CELL, f"{what} is {cells:,} cells", "its model", fits)


def _successors(index: NDArray[np.int32], cells: NDArray[np.int32]) -> NDArray[np.int32]:
    """(S, 4): where each move from each state ends, if it doesn't slip."""
    rim = np.pad(index, 1, constant_values=-1)
    row, col = cells.T + 1
    ends = np.stack([rim[row + down, col + right] for down, right in _MOVES], axis=1)
    return np.where(ends >= 0, ends, np.arange(len(cells), dtype=np.int32)[:, None])
