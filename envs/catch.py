"""Catch: a ball falls, a paddle moves below it; observed in pixels.

The ball begins in a column drawn at random in the top row and falls by a row a step. The paddle
begins in the middle of the bottom row and moves left, stays or moves right. When the ball reaches
the bottom row the episode ends, with reward 1 where the paddle is there, else -1. The rules are
those of Osband et al., Behaviour Suite for Reinforcement Learning (2020), which has them from
Mnih et al., Recurrent Models of Visual Attention (2014), section 4.2.

A policy that doesn't look gets 2/columns - 1 on average, -0.6 by default. One that follows the ball
gets 1, as long as the paddle has time to reach every column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from numpy.random import Generator
from numpy.typing import NDArray

from rlkit.envs.games import Bools, Floats, GameEnv, GameVectorEnv, Ints, check_size

ROWS, COLUMNS, SCALE = 10, 5, 1
_LIT = 255
_PICTURE = 200  # pixels of the longer side, about


class Catch:
    """The rules; a state is (the ball's column, its row, the paddle's column)."""

    variables = 3

    def __init__(self, rows: int, columns: int, scale: int) -> None:
        self._rows = check_size("rows", rows, 2, 1000)
        self._columns = check_size("columns", columns, 1, 1000)
        self._scale = check_size("scale", scale, 1, 100)
        shape = (self._rows * self._scale, self._columns * self._scale, 1)
        self.observation_space = spaces.Box(0, _LIT, shape, np.uint8)
        self.action_space = spaces.Discrete(3)

    def start(self, generators: Sequence[Generator]) -> Ints:
        states = np.zeros((3, len(generators)), dtype=np.int64)
        states[0] = [int(each.random() * self._columns) for each in generators]
        states[2] = self._columns // 2
        return states

    def advance(self, states: Ints, actions: Ints) -> tuple[Floats, Bools]:
        ball, row, paddle = states
        np.add(paddle, actions - 1, out=paddle)
        np.minimum(np.maximum(paddle, 0, out=paddle), self._columns - 1, out=paddle)
        row += 1
        ended = row == self._rows - 1
        reward = np.where(ball == paddle, 1.0, -1.0)
        reward[~ended] = 0.0
        return reward, ended

    def observe(self, states: Ints) -> NDArray[np.uint8]:
        ball, row, paddle = states
        n, side = len(ball), self._scale
        image = np.zeros((n, self._rows, side, self._columns, side), dtype=np.uint8)
        each = np.arange(n)
        image[each, row, :, ball] = _LIT
        image[each, self._rows - 1, :, paddle] = _LIT
        return image.reshape(n, self._rows * side, self._columns * side, 1)

    def picture(self, state: Ints) -> NDArray[np.uint8]:
        side = max(1, _PICTURE // max(self._rows, self._columns))
        cells: NDArray[np.uint8] = Catch(self._rows, self._columns, 1).observe(state[:, None])[0]
        return cells.repeat(side, axis=0).repeat(side, axis=1).repeat(3, axis=2)


def single(
    rows: int = ROWS, columns: int = COLUMNS, scale: int = SCALE, render_mode: str | None = None
) -> GameEnv:
    """One board of `rows` x `columns` cells, each drawn as `scale` x `scale` pixels.

    Observations: Box (rows·scale, columns·scale, 1) uint8, 255 for the ball and the paddle, else 0.
    Actions: Discrete(3), 0 left, 1 stay, 2 right. Raises UsageError for a size out of range.
    """
    return GameEnv(Catch(rows, columns, scale), render_mode)


def vector(
    num_envs: int = 1, rows: int = ROWS, columns: int = COLUMNS, scale: int = SCALE
) -> GameVectorEnv:
    """`num_envs` boards; see `single`."""
    return GameVectorEnv(Catch(rows, columns, scale), num_envs)
