"""`rlkit.experience.draws` on a device: what to learn from is drawn where it is kept.

Nothing is read back: a rejected draw would be, so none is rejected. The sum tree is that of
`rlkit.experience.sum_tree`, gone through level by level for all draws at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rlkit.device.engine import Place
from rlkit.device.health import PRIORITY
from rlkit.experience.draws import SMALLEST
from rlkit.experience.sum_tree import FAN, widths_of


class UniformThere:
    """Every valid step with equal probability, with replacement."""

    def __init__(self, valid: Tensor, place: Place) -> None:
        self._valid = valid  # (rows, N) bool
        self._place = place

    def admit(self, row: int) -> None:
        pass

    def drop(self, row: int) -> None:
        pass

    def draw(
        self, shape: tuple[int, int], oldest: int, count: int, beta: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        rows, n_envs = self._valid.shape
        device, random = self._place.device, self._place.random
        age = (torch.arange(rows, device=device) - oldest) % rows
        live = self._valid & (age < count).unsqueeze(-1)
        rank = live.flatten().cumsum(0)  # (rows·N,): how many there are up to each cell
        random.reseed()
        u = _uniform((shape[0] * shape[1],), random.there, device)
        chosen = torch.minimum((u * rank[-1]).long(), rank[-1] - 1)
        cell = torch.searchsorted(rank, chosen, right=True)
        return torch.div(cell, n_envs, rounding_mode="floor"), cell % n_envs, None

    def update(self, cell: Tensor, td_error: Tensor) -> None:
        pass

    def get_state(self, rows: int) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass


class PrioritizedThere:
    """Proportional prioritisation: see `rlkit.experience.draws.Prioritized`."""

    def __init__(self, valid: Tensor, alpha: float, eps: float, place: Place) -> None:
        self._valid = valid  # (rows, N) bool
        self._alpha, self._eps, self._place = alpha, eps, place
        self._tree = TensorTree(valid.numel(), place.device)
        self._largest = torch.ones((), dtype=torch.float64, device=place.device)
        self._pending: dict[int, bool] = {}  # row → whether it may be drawn

    def admit(self, row: int) -> None:
        self._pending[row] = True

    def drop(self, row: int) -> None:
        self._pending[row] = False

    def _settle(self) -> None:
        """What was admitted and dropped since: all of it at once, before anything depends on it."""
        if not self._pending:
            return
        device, n_envs = self._place.device, self._valid.shape[1]
        row = torch.tensor(list(self._pending)).to(device, non_blocking=True)
        admitted = torch.tensor(list(self._pending.values())).to(device, non_blocking=True)
        p = self._largest * (self._valid[row] & admitted.unsqueeze(-1))  # (M, N)
        cell = row.unsqueeze(-1) * n_envs + torch.arange(n_envs, device=device)
        self._tree.put(cell.flatten(), p.flatten())
        self._pending.clear()

    def draw(
        self, shape: tuple[int, int], oldest: int, count: int, beta: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        self._settle()
        random = self._place.random
        random.reseed()
        cell, p = self._tree.draw(_uniform(shape, random.there, self._place.device))
        weight = ((p.amin(-1, keepdim=True) / p) ** beta).float()
        cell, n_envs = cell.flatten(), self._valid.shape[1]
        return torch.div(cell, n_envs, rounding_mode="floor"), cell % n_envs, weight.flatten()

    def update(self, cell: Tensor, td_error: Tensor) -> None:
        self._settle()
        error = td_error.detach().flatten().double().abs()
        p = ((error + self._eps) ** self._alpha).clamp(min=SMALLEST)
        largest, health = p.max(), self._place.health
        assert health is not None
        health.watch(PRIORITY, largest)
        self._tree.change(cell.flatten(), torch.where(p.isfinite(), p, self._largest))
        fits = torch.where(largest.isfinite(), largest, self._largest)
        self._largest.copy_(torch.maximum(self._largest, fits))

    def get_state(self, rows: int) -> dict[str, Any]:
        self._settle()
        priority = self._tree.leaves[: rows * self._valid.shape[1]]
        return {"priority": priority.cpu().numpy(), "largest": float(self._largest)}

    def set_state(self, state: dict[str, Any]) -> None:
        priority = torch.as_tensor(state["priority"], dtype=torch.float64).to(self._place.device)
        self._tree.put(torch.arange(len(priority), device=priority.device), priority)
        self._largest.fill_(state["largest"])


class TensorTree:
    """The priorities of `size` cells, all 0 at first, and the sums of each eight of them, and so on
    up to a level of eight."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._levels = [
            torch.zeros(width, dtype=torch.float64, device=device) for width in widths_of(size)
        ]
        self.leaves = self._levels[0][:size]  # to read only

    def put(self, cell: Tensor, p: Tensor) -> None:
        """Give the cells (K,), each once, priorities (K,) of 0 or more."""
        self._levels[0][cell] = p
        node = cell
        for below, level in zip(self._levels, self._levels[1:], strict=False):
            node = torch.div(node, FAN, rounding_mode="floor")
            level[node] = below.view(-1, FAN)[node].sum(-1)

    def change(self, cell: Tensor, p: Tensor) -> None:
        """Give the cells (K,) priorities (K,) > 0, the last one where a cell comes up twice.

        A cell whose priority is 0 keeps it.
        """
        ordered, order = cell.sort(stable=True)
        last = order[torch.searchsorted(ordered, cell, right=True) - 1]  # of the same cell
        self.put(cell, torch.where(self._levels[0][cell] > 0, p[last], 0.0))

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """For each of G rows B cells and their priorities, (G, B), by stratified sampling.

        Args: u (G, B) float64 in [0, 1), as `rlkit.experience.sum_tree.SumTree.draw` has it.
        """
        count = u.shape[-1]
        number = torch.arange(FAN, device=u.device)
        share = (torch.arange(count, device=u.device) + u) / count
        node, rest = torch.zeros_like(u, dtype=torch.int64), share * self._levels[-1].sum()
        for level in reversed(self._levels):
            below = level.view(-1, FAN)[node]  # (G, B, 8)
            running, drawable = below.cumsum(-1), below > 0
            within = drawable & (rest.unsqueeze(-1) < running)
            first = torch.where(within, number, FAN).amin(-1)
            # Rounding may leave a rest after the last: it belongs to the last that is not 0.
            last = torch.where(drawable, number, 0).amax(-1)
            chosen = torch.where(first == FAN, last, first)  # (G, B)
            before = F.pad(running, (1, 0)).gather(-1, chosen.unsqueeze(-1))[..., 0]
            rest = rest - before
            node = node * FAN + chosen
        return node, self._levels[0][node]


def _uniform(
    shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
