"""Perfect mazes: one way, and one only, leads from any cell to any other."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array

from rlkit.envs.gridworld import GridWorld
from rlkit.envs.limits import whole
from rlkit.mdp.draw_grid import GridLayout
from rlkit.mdp.generate import Generated
from rlkit.mdp.model import MDP


@lru_cache(maxsize=1)  # the model and its layout are asked for one after the other
def perfect_maze(size: int, seed: int) -> tuple[str, ...]:
    """A map for GridWorld, of `size` x `size` rooms with walls between them.

    The rooms lie in every second row and column of 2 size - 1, so that there are 2 size² - 1 free
    cells; S is top left, G bottom right. The doors are a random spanning tree of the grid: that of
    least weight, with independent uniform weights (Kruskal, 1956).
    """
    from scipy.sparse.csgraph import minimum_spanning_tree

    whole(2, size=size)
    whole(0, seed=seed)
    rooms = np.arange(size * size).reshape(size, size)
    tails = np.concatenate([rooms[:, :-1].ravel(), rooms[:-1].ravel()])
    heads = np.concatenate([rooms[:, 1:].ravel(), rooms[1:].ravel()])
    weights = 1.0 - np.random.default_rng(seed).random(tails.size)  # never 0, which is no edge
    tree = minimum_spanning_tree(csr_array((weights, (tails, heads)), shape=(size**2, size**2)))
    ends = np.stack(tree.tocoo().coords)  # (2, size² - 1)
    cells = np.full((2 * size - 1, 2 * size - 1), "#")
    cells[::2, ::2] = "."
    row, col = np.divmod(ends, size)
    cells[row.sum(axis=0), col.sum(axis=0)] = "."  # halfway between two rooms, in map coordinates
    cells[0, 0], cells[-1, -1] = "S", "G"
    return tuple(cells.view(f"U{cells.shape[1]}").ravel().tolist())


def maze(
    gamma: float = 0.99, size: int = 10, seed: int = 0, slip: float = 0.2, step_cost: float = 0.04
) -> MDP:
    """A perfect maze of `size` x `size` rooms, by the rules of `rlkit.envs.gridworld`.

    Args:
        gamma: discount per step.
        size: rooms in each direction, at least 2.
        seed: the same seed gives the same maze.
        slip: probability that a move goes to a side.
        step_cost: what each move costs; the goal is worth 1.
    """
    return GridWorld(perfect_maze(size, seed), slip=slip, step_cost=step_cost).mdp(gamma)


def maze_in_parts(size: int, seed: int, slip: float, step_cost: float) -> Generated:
    """`maze`, any part of which can be made alone, once the maze is drawn."""
    return GridWorld(perfect_maze(size, seed), slip=slip, step_cost=step_cost).in_parts()


def maze_layout(size: int = 10, seed: int = 0) -> GridLayout:
    """Where the states of `maze` lie."""
    return GridWorld(perfect_maze(size, seed)).grid_layout()
