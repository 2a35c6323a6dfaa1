"""Gridworlds made on a device: the model of `rlkit.envs.gridworld.GridWorld`, of any size."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rlkit.errors import UsageError
from rlkit.mdp.device.generate import from_function
from rlkit.mdp.device.memory import require_device_memory
from rlkit.mdp.device.model import DeviceMDP, ell_bytes
from rlkit.mdp.device.sweep import fused

_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left: (row, col)
_MAP_BYTES = 40  # of a cell: its number, its state's cell, reward, wall and end, and copies of them


def gridworld(
    walls: ArrayLike,
    ends: ArrayLike,
    rewards: ArrayLike,
    gamma: float,
    device: torch.device,
    *,
    slip: float,
    step_cost: float,
    starts: ArrayLike | None = None,
) -> DeviceMDP:
    """The model of a grid, with states and actions numbered as GridWorld does.

    Args:
        walls: (rows, cols) bool. The other cells are the states, numbered row by row.
        ends: (rows, cols) bool: cells that end the episode.
        rewards: (rows, cols) float64, earned by a move that ends there.
        slip: probability that a move goes to a side instead, half to each.
        step_cost: of every move.
        starts: (rows, cols) bool: cells in which one begins.

    Raises UsageError where shapes differ, and where the device's free memory is too small.
    """
    wall = torch.as_tensor(walls, dtype=torch.bool)
    cells = wall.numel()
    outcomes = [(0, 1.0 - slip), (1, slip / 2), (-1, slip / 2)]
    outcomes = [(turn, chance) for turn, chance in outcomes if chance > 0]
    per_state = ell_bytes(4, len(outcomes), gamma, fused=fused(device), shared=True)
    require_device_memory(per_state + _MAP_BYTES, cells - int(wall.sum()), device)

    def placed(values: ArrayLike, dtype: torch.dtype) -> Tensor:
        found = torch.as_tensor(values)
        if found.ndim != 2 or found.shape != wall.shape:
            raise UsageError(
                f"a grid's walls have shape {tuple(wall.shape)}, and its ends, rewards or starts "
                f"{tuple(found.shape)}; they must all be (rows, cols)"
            )
        return found.to(device, dtype)[free]

    free = ~wall.to(device)
    n_rows, n_cols = wall.shape
    number = torch.cumsum(free.flatten(), 0, dtype=torch.int32).sub_(1)
    number = number.view(n_rows, n_cols).masked_fill_(~free, -1)
    terminal, reward = placed(ends, torch.bool), placed(rewards, torch.float64)
    begin = () if starts is None else placed(starts, torch.bool).nonzero().flatten().tolist()
    cell = free.flatten().nonzero().flatten().to(torch.int32)
    p = torch.tensor([chance for _, chance in outcomes], dtype=torch.float64, device=device)

    def f(states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        row = cell[states] // n_cols
        col = cell[states] % n_cols
        moved = []
        for down, right in _MOVES:
            to_row, to_col = row + down, col + right
            inside = (to_row >= 0) & (to_row < n_rows) & (to_col >= 0) & (to_col < n_cols)
            to = number[to_row.clamp(0, n_rows - 1), to_col.clamp(0, n_cols - 1)]
            moved.append(torch.where(inside & (to >= 0), to.to(torch.int64), states))
        actions = [
            torch.stack([moved[(action + turn) % 4] for turn, _ in outcomes], dim=-1)
            for action in range(4)
        ]
        successors = torch.stack(actions, dim=1)  # (B, 4, K)
        return successors, p, reward[successors] @ p - step_cost, ~terminal[states][:, None]

    return from_function(f, len(cell), gamma, device, start=begin)
