"""Catch on a device, observed in pixels; the rules are those of `rlkit.envs.catch`."""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit.envs.device.views import blocks

_LIT = 255


class Catch:
    """A board of `rows` x `columns` cells, each of `scale` x `scale` pixels.

    A state is the ball's column, its row, and the paddle's column: int64.
    """

    draws = 1

    def __init__(self, rows: int, columns: int, scale: int, device: torch.device) -> None:
        self._rows, self._columns = rows, columns
        cells = torch.arange(rows * columns, device=device).view(rows, columns)
        self._cells = blocks(cells, scale).unsqueeze(-1)  # of each pixel: (H, W, 1)
        self._first = torch.tensor([[0], [columns // 2]], device=device)
        self._lit = torch.tensor(_LIT, dtype=torch.uint8, device=device)
        self._dark = torch.zeros_like(self._lit)
        earned = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float32, device=device)
        self._won, self._lost, self._nothing = earned

    def start(self, u: Tensor) -> Tensor:
        ball = (u * self._columns).long()
        return torch.cat((ball, self._first.expand(-1, ball.shape[1])))

    def step(self, state: Tensor, action: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ball, row, paddle = state
        paddle = (paddle + action - 1).clamp(0, self._columns - 1)
        row = row + 1
        ended = row == self._rows - 1
        earned = torch.where(ball == paddle, self._won, self._lost)
        reward = torch.where(ended, earned, self._nothing)
        return torch.stack((ball, row, paddle)), reward, ended

    def observe(self, state: Tensor) -> Tensor:
        ball, row, paddle = state.unsqueeze(-1).unsqueeze(-1).unsqueeze(-1)  # (N, 1, 1, 1) each
        at_ball = self._cells == row * self._columns + ball
        at_paddle = self._cells == paddle + (self._rows - 1) * self._columns
        return torch.where(at_ball | at_paddle, self._lit, self._dark)

    def mask(self, state: Tensor) -> None:
        return None
