"""How a replay memory draws: every transition alike, or the surprising ones more often."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.errors import RunError
from rlkit.experience.sum_tree import SumTree

# What a priority is at least: 0 is the mark of steps that can't be drawn.
SMALLEST = float(np.finfo(np.float64).tiny)


class Draws(Protocol):
    """Which cells (rows and environments) of a ring of steps to learn from."""

    def admit(self, row: int) -> None:
        """From now on the row's valid steps may be drawn."""

    def drop(self, row: int) -> None:
        """From now on none of the row's steps may be drawn."""

    def draw(
        self, shape: tuple[int, int], oldest: int, count: int, beta: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """G minibatches of B valid steps, from `count` admitted rows of which `oldest` is first.

        Returns rows and environments, (G·B,) int64, and the weights that undo the preference, with
        exponent β: (G·B,) float32, or None where there is none.
        """

    def update(self, cell: Tensor, td_error: Tensor) -> None:
        """Learn how surprising cells (...) were: their errors δ (...)."""

    def get_state(self, rows: int) -> dict[str, Any]:
        """What resuming needs, of the first `rows` rows."""

    def set_state(self, state: dict[str, Any]) -> None: ...


class Uniform:
    """Every valid step with equal probability, with replacement."""

    def __init__(self, valid: Tensor, generator: torch.Generator) -> None:
        self._valid = valid  # (rows, N)
        self._generator = generator

    def admit(self, row: int) -> None:
        pass

    def drop(self, row: int) -> None:
        pass

    def draw(
        self, shape: tuple[int, int], oldest: int, count: int, beta: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        row, env = self._candidates(shape[0] * shape[1], oldest, count)
        while (dead := ~self._valid[row, env]).any():
            row[dead], env[dead] = self._candidates(int(dead.sum()), oldest, count)
        return row, env, None

    def _candidates(self, number: int, oldest: int, count: int) -> tuple[Tensor, Tensor]:
        rows, n_envs = self._valid.shape
        cell = torch.randint(count * n_envs, (number,), generator=self._generator)
        row = (oldest + torch.div(cell, n_envs, rounding_mode="floor")) % rows
        return row, cell % n_envs

    def update(self, cell: Tensor, td_error: Tensor) -> None:
        pass

    def get_state(self, rows: int) -> dict[str, Any]:
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        pass


class Prioritized:
    """Proportional prioritisation (Schaul et al. 2016, eq. 1 and section 3.4, algorithm 1).

        P(i) = p_i / Σ_k p_k,  p_i = (|δ_i| + ε)^α
        w_i = (N·P(i))^−β / max_j w_j

    The p here are the paper's p^α. A new step has the largest p so far, 1 at first. Each minibatch
    of B is stratified (appendix B.2.1): one step from each B-th of the probability. The weights'
    maximum is that of the minibatch, so that N and Σ p cancel. Minibatches that are drawn together
    are drawn with the same p; of a step's several errors the last one counts.
    """

    def __init__(
        self, valid: NDArray[np.bool_], alpha: float, eps: float, generator: torch.Generator
    ) -> None:
        self._valid = valid  # (rows, N)
        self._alpha, self._eps = alpha, eps
        self._generator = generator
        self._tree = SumTree(valid.size)
        self._largest = 1.0
        self._nothing = np.zeros(valid.shape[1])

    def admit(self, row: int) -> None:
        self._tree.fill(row * len(self._nothing), self._largest * self._valid[row])

    def drop(self, row: int) -> None:
        self._tree.fill(row * len(self._nothing), self._nothing)

    def draw(
        self, shape: tuple[int, int], oldest: int, count: int, beta: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        u = torch.rand(shape, generator=self._generator, dtype=torch.float64).numpy()
        cell, p = self._tree.draw(u)
        weight = (p.min(axis=-1, keepdims=True) / p) ** beta
        row, env = np.divmod(cell.ravel(), len(self._nothing))
        return (
            torch.from_numpy(row),
            torch.from_numpy(env),
            torch.from_numpy(weight.ravel().astype(np.float32)),
        )

    def update(self, cell: Tensor, td_error: Tensor) -> None:
        error = np.abs(td_error.detach().float().cpu().numpy().ravel(), dtype=np.float64)
        p = np.maximum((error + self._eps) ** self._alpha, SMALLEST)
        largest = float(p.max())
        if not math.isfinite(largest):
            raise RunError(
                "the TD error of a replayed step is not finite, and gives no priority; scale the "
                "rewards down, or lower the learning rate"
            )
        self._tree.change(cell.cpu().numpy().ravel(), p)
        self._largest = max(self._largest, largest)

    def get_state(self, rows: int) -> dict[str, Any]:
        priority = self._tree.leaves[: rows * len(self._nothing)]
        return {"priority": priority, "largest": self._largest}

    def set_state(self, state: dict[str, Any]) -> None:
        self._tree.fill(0, np.array(state["priority"]))
        self._largest = state["largest"]
