"""GridMaps: a way to the goal on a map that nobody has seen before.

Each episode draws a map of `size` x `size` cells: walls all around, rectangles of wall inside, a
goal and a start from which it can be reached. The agent moves to one of the eight neighbouring
cells; reaching the goal ends the episode with reward 1, running into a wall with -1, and a move
costs 0.01 times its length, which is 1 straight and √2 diagonally. This is the grid-world domain of
Tamar et al., Value Iteration Networks (NIPS 2016), section 4.1. Their maps have up to 30, 40 and 50
obstacles on 8x8, 16x16 and 28x28 cells, walls around included; here it is `size` + 22 rectangles
with sides of up to ⌈size/8⌉ cells, which cover about as much.

What is best is the shortest way. Many maps are one model with a block for each, and are solved
together: `shortest_ways` says of thousands of maps a second how long it is from each of their cells
and how it begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import sparse

from rlkit.envs.games import Bools, Floats, GameEnv, GameVectorEnv, Ints, check_size
from rlkit.errors import UsageError
from rlkit.mdp.model import MDP
from rlkit.mdp.solve import solve

SIZE, STEPS = 8, 100
GOAL, CRASH, STEP = 1.0, -1.0, 0.01  # rewards, and what a move of length 1 costs
ACTIONS = ("up", "down", "right", "left", "up-right", "up-left", "down-right", "down-left")
MOVES = np.array([(-1, 0), (1, 0), (0, 1), (0, -1), (-1, 1), (-1, -1), (1, 1), (1, -1)])
LENGTHS = np.hypot(*MOVES.T)  # (8,)
WALLS, GOALS, AGENT = range(3)  # an observation's channels

# Two ways whose lengths differ do so by at least 0.012 up to 40 moves, and 0.005 up to 100.
_TIE = 1e-5  # of values, which are solved to a tenth of that
_LIT = 255
_PICTURE = 400  # pixels of a side, about
_COLOURS = np.array([(246, 246, 242), (44, 52, 64), (46, 160, 103), (31, 97, 190)], dtype=np.uint8)


class GridMaps:
    """The rules; a state is the cells (size²: 1 is wall), the goal's, the agent's, and the time."""

    def __init__(self, size: int) -> None:
        self._size = check_size("size", size, 4, 100)
        self._cells = self._size**2
        self.variables = self._cells + 3
        self._rectangles, self._side = self._size + 22, math.ceil(self._size / 8)
        self._offsets = MOVES @ (self._size, 1)  # of a neighbour's number
        self.observation_space = spaces.Box(0, _LIT, (self._size, self._size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(MOVES))

    def start(self, generators: Sequence[Generator]) -> Ints:
        states = np.zeros((self.variables, len(generators)), dtype=np.int64)
        waiting = np.arange(len(generators))
        while waiting.size:
            u = np.stack([generators[i].random(4 * self._rectangles + 3) for i in waiting.tolist()])
            walls = self._walls(u[:, 2:-1], 1 + (u[:, 0] * self._rectangles).astype(np.int64))
            free = ~walls.reshape(len(u), -1)
            goal = _drawn(free, u[:, 1])
            ways = _component(~walls, goal)
            ways[np.arange(len(u)), goal] = False
            kept = ways.any(axis=1)  # where there is a way at all
            drawn = waiting[kept]
            states[: self._cells, drawn] = ~free[kept].T
            states[self._cells, drawn] = goal[kept]
            states[self._cells + 1, drawn] = _drawn(ways, u[:, -1])[kept]
            waiting = waiting[~kept]
        return states

    def advance(self, states: Ints, actions: Ints) -> tuple[Floats, Bools]:
        walls, (goal, agent, time) = states[: self._cells], states[self._cells :]
        agent += self._offsets[actions]
        np.clip(agent, 0, self._cells - 1, out=agent)  # those that ended in the outer wall
        time += 1
        won, crashed = agent == goal, walls[agent, np.arange(agent.size)] > 0
        return GOAL * won + CRASH * crashed - STEP * LENGTHS[actions], won | crashed

    def observe(self, states: Ints) -> NDArray[np.uint8]:
        walls, (goal, agent, _) = states[: self._cells], states[self._cells :]
        n = goal.size
        image = np.zeros((n, self._cells, 3), dtype=np.uint8)
        image[:, :, WALLS] = walls.T * _LIT
        image[np.arange(n), goal, GOALS] = _LIT
        image[np.arange(n), agent, AGENT] = _LIT
        return image.reshape(n, self._size, self._size, 3)

    def picture(self, state: Ints) -> NDArray[np.uint8]:
        image = self.observe(state[:, None])[0] > 0
        cells = np.where(image[..., AGENT], 3, np.where(image[..., GOALS], 2, image[..., WALLS]))
        side = max(1, _PICTURE // self._size)
        return _COLOURS[cells].repeat(side, axis=0).repeat(side, axis=1)

    def time(self, states: Ints) -> Ints:
        """The moves (N,) that have been made in each of the episodes (S, N)."""
        return np.asarray(states[-1])

    def _walls(self, u: Floats, counts: Ints) -> Bools:
        """K maps (K, size, size) of `counts` rectangles, from uniform draws (K, 4·rectangles)."""
        size, rest = self._size, u.reshape(len(u), 4, 1, self._rectangles)
        corner = (rest[:, :2] * size).astype(np.int64)  # (K, 2, 1, R)
        end = corner + 1 + (rest[:, 2:] * self._side).astype(np.int64)
        line = np.arange(size)[:, None]
        inside = ((corner <= line) & (line < end)).astype(np.float32)  # (K, 2, size, R)
        there = np.arange(self._rectangles) < counts[:, None]  # (K, R)
        rows, columns = inside[:, 0] * there[:, None], inside[:, 1]
        walls: Bools = rows @ columns.swapaxes(1, 2) > 0
        walls[:, [0, -1]] = walls[:, :, [0, -1]] = True
        return walls


class GridMapsEnv(GameEnv):
    """One map at a time, which has a model."""

    def mdp(self, gamma: float) -> MDP:
        """The model of the map that is being played, a state for each cell, row by row.

        Walls and the goal are terminal. Raises UsageError before the first reset.
        """
        walls, goal, agent, _ = np.split(
            self._states[:, 0], np.cumsum([len(self._states) - 3, 1, 1])
        )
        if not walls.any():
            raise UsageError(
                "each episode has a map of its own, and there is none yet; call reset first"
            )
        size = math.isqrt(len(walls))
        start = np.zeros(len(walls))
        start[agent] = 1.0
        return model(walls.reshape(1, size, size) > 0, goal, gamma, start)


class GridMapsVectorEnv(GameVectorEnv):
    """N maps side by side, whose episodes are cut off at `max_episode_steps`."""

    def __init__(self, game: GridMaps, num_envs: int, max_episode_steps: int) -> None:
        super().__init__(game, num_envs)
        self._time, self._limit = game.time, max_episode_steps

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], Floats, Bools, Bools, dict[str, Any]]:
        obs, reward, terminated, _, info = super().step(actions)
        truncated = self._time(self._states) >= self._limit
        self._over = terminated | truncated
        return obs, reward, terminated, truncated, info


def model(
    walls: Bools, goal: Ints, gamma: float, start: Floats | None = None, crashes: bool = True
) -> MDP:
    """B maps as one model of B blocks: a state for each cell, map by map and row by row.

    Args:
        walls: (B, size, size), all around each map at least.
        goal: (B,), the number of the goal's cell in its map.
        gamma: discount per move.
        start: (B·size²,) distribution of the first state.
        crashes: whether there are moves into walls. Where there are none, nothing can be done in
            cells from which no way leads to the goal: they are terminal, as walls and goals are.

    A state has up to eight pairs, labelled by `MOVES`. Raises UsageError for a map that is open at
    its edge.
    """
    if not (walls[:, [0, -1]].all() and walls[:, :, [0, -1]].all()):
        raise UsageError("a map is open at its edge; its outer cells must be walls")
    cells, size = walls.size, walls.shape[-1]
    blocked, won = walls.ravel(), np.zeros(cells, dtype=np.bool_)
    won[np.arange(len(walls)) * size**2 + goal] = True
    live = ~(blocked | won)
    if not crashes:
        live &= _component(~walls, goal).ravel()
    neighbours = np.flatnonzero(live)[:, None] + MOVES @ (size, 1)  # (live, 8)
    exists = ~blocked[neighbours] | crashes
    counts = np.zeros(cells, dtype=np.int64)
    counts[live] = exists.sum(axis=1)
    actions = np.broadcast_to(np.arange(len(MOVES)), exists.shape)[exists]  # (L,)
    follows = neighbours[exists].astype(np.int32)
    wins, lost = won[follows], blocked[follows]
    goes_on = ~(wins | lost)
    P = sparse.csr_array(
        (
            np.ones(np.count_nonzero(goes_on)),
            follows[goes_on],
            np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(goes_on, dtype=np.int32)]),
        ),
        shape=(actions.size, cells),
    )
    r = GOAL * wins + CRASH * lost - STEP * LENGTHS[actions]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return MDP.from_pairs(P, r, offsets, gamma, actions, start, copy=False)


def shortest_ways(walls: Bools, goal: Ints) -> tuple[Floats, Bools]:
    """The length of the shortest way from each cell, (B, size, size), and how it begins, (..., 8).

    Args are those of `model`. A length is infinite where no way leads to the goal, and in walls. Of
    the eight moves all that begin a shortest way are True: none at the goal, nor where there is no
    way.
    """
    mdp = model(walls, goal, gamma=1.0, crashes=False)
    V = solve(mdp, tol=_TIE / 10).values
    lengths = np.where(mdp.terminal, np.inf, (GOAL - V) / STEP)
    lengths.reshape(len(walls), -1)[np.arange(len(walls)), goal] = 0.0
    best = np.zeros((V.size, len(MOVES)), dtype=np.bool_)
    best[mdp.pair_state, mdp.actions] = mdp.r + mdp.P @ V >= V[mdp.pair_state] - _TIE
    return lengths.reshape(walls.shape), best.reshape(*walls.shape, len(MOVES))


def optimal_actions(images: NDArray[np.uint8]) -> Bools:
    """What is optimal in every cell of the maps in observations (B, size, size, 3): (..., 8).

    Wherever the agent is; see `shortest_ways`.
    """
    return shortest_ways(*read(images))[1]


def read(images: NDArray[np.uint8]) -> tuple[Bools, Ints]:
    """The walls (B, size, size) and the goal's cell (B,) in observations (B, size, size, 3)."""
    goal = images[..., GOALS].reshape(len(images), -1).argmax(1)
    return images[..., WALLS] > 0, goal


def single(size: int = SIZE, render_mode: str | None = None) -> GridMapsEnv:
    """One map of `size` x `size` cells.

    Observations: Box (size, size, 3) uint8, 255 where the walls, the goal and the agent are, else
    0. Actions: Discrete(8), in the order of `ACTIONS`. Raises UsageError for a size out of range.
    """
    return GridMapsEnv(GridMaps(size), render_mode)


def vector(
    num_envs: int = 1, size: int = SIZE, max_episode_steps: int = STEPS
) -> GridMapsVectorEnv:
    """`num_envs` maps; see `single`."""
    limit = check_size("max_episode_steps", max_episode_steps, 1, 2**31)
    return GridMapsVectorEnv(GridMaps(size), num_envs, limit)


def _drawn(allowed: Bools, u: Floats) -> Ints:
    """The number of one of the cells that are `allowed` (K, cells), by uniform draws (K,).

    The last one's where none is.
    """
    rank = allowed.cumsum(axis=1)
    number: Ints = (rank <= np.floor(u * rank[:, -1])[:, None]).sum(axis=1)
    np.minimum(number, allowed.shape[1] - 1, out=number)
    return number


def _component(free: Bools, cell: Ints) -> Bools:
    """The cells (K, cells) that a way connects with the one given, on K maps (K, size, size).

    None where that one is not free.
    """
    from scipy import ndimage  # here: it takes long to import, and environments are many

    neighbours = np.zeros((3, 3, 3))
    neighbours[1] = 1  # eight in the same map, none in another
    parts, _ = ndimage.label(free, neighbours)
    parts = parts.reshape(len(free), -1)
    own = parts[np.arange(len(parts)), cell]
    return np.asarray((parts == own[:, None]) & (parts > 0))
