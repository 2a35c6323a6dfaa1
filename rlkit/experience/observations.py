"""How a ring of steps keeps observations: as they come, or of stacks of frames each frame once."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit.errors import UsageError
from rlkit.packing import space_array


class Observations(Protocol):
    """The observations of a ring of rows, each of N environments."""

    cell_bytes: int  # what one observation takes

    def allocate(self, rows: int, n_envs: int) -> None: ...

    def arrays(self) -> dict[str, Tensor]:
        """All that is kept, (rows, N, ...) each."""

    def begin(self, row: int, obs: NDArray[Any]) -> None:
        """Put the observations (N, *obs) into a row; nothing is known of what came before."""

    def follow(self, row: int, obs: NDArray[Any], next_obs: NDArray[Any]) -> None:
        """Put `next_obs` into a row; `obs` is in the row before it. (N, *obs) each."""

    def take(self, row: Tensor, env: Tensor) -> Tensor:
        """The observations of M rows and environments, (M,) each: (M, *obs)."""

    def final(self, obs: NDArray[Any], final_obs: NDArray[Any]) -> Tensor:
        """What to keep of an observation that ended an episode, which no row will hold: (*obs).

        `obs` is the one before it, in the row and environment that `take_final` will be told.
        """

    def take_final(self, row: int, env: int, kept: Tensor) -> Tensor:
        """The observation (*obs) of which `final` kept that."""


class Whole:
    """Observations as they come."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._space = space
        self.cell_bytes = space_array(space, ()).nbytes

    def allocate(self, rows: int, n_envs: int) -> None:
        self._obs = space_array(self._space, (rows, n_envs))
        self._cells = torch.from_numpy(self._obs).flatten(0, 1)  # (rows·N, *obs)

    def arrays(self) -> dict[str, Tensor]:
        return {"obs": torch.from_numpy(self._obs)}

    def begin(self, row: int, obs: NDArray[Any]) -> None:
        self._obs[row] = obs

    def follow(self, row: int, obs: NDArray[Any], next_obs: NDArray[Any]) -> None:
        self._obs[row] = next_obs

    def take(self, row: Tensor, env: Tensor) -> Tensor:
        return self._cells.index_select(0, row * self._obs.shape[1] + env)

    def final(self, obs: NDArray[Any], final_obs: NDArray[Any]) -> Tensor:
        return torch.tensor(final_obs)

    def take_final(self, row: int, env: int, kept: Tensor) -> Tensor:
        return kept


class Stacked:
    """Stacks of the last k frames along the first axis, oldest first, of which the newest is kept.

    The others lie in the rows before. At the start of an episode the frames that are missing are
    copies of the first one (`gymnasium.wrappers.FrameStackObservation`) or zeros (its padding_type
    "zero", `ale_py.AtariVectorEnv`): whichever comes is noticed. Each stack is held against what
    will be made in its place, so that what is drawn is what came.
    """

    def __init__(self, space: spaces.Space[Any], k: int) -> None:
        shape = space.shape
        if not isinstance(space, spaces.Box) or len(space.shape) < 2 or space.shape[0] != k:
            raise UsageError(
                f"frame_stack is {k}; the environment's observations are {type(space).__name__} of "
                f"shape {shape}; allowed: the length of their first axis, or 1 to keep them whole"
            )
        if k > 256:
            raise UsageError(f"frame_stack is {k}; allowed: 1 to 256")
        self.k = k
        self._frame = np.zeros(space.shape[1:], dtype=space.dtype)
        self.cell_bytes = self._frame.nbytes + 2

    def allocate(self, rows: int, n_envs: int) -> None:
        grid = (rows, n_envs)
        self._frames = np.zeros((*grid, *self._frame.shape), dtype=self._frame.dtype)
        self._depth = np.zeros(grid, dtype=np.uint8)  # frames before its own that a stack has
        self._zero = np.zeros(grid, dtype=np.bool_)  # what is missing is 0, and not the first frame
        self._cells = torch.from_numpy(self._frames).flatten(0, 1)  # (rows·N, *frame)
        self._depths, self._zeros = torch.from_numpy(self._depth), torch.from_numpy(self._zero)
        self._back = torch.arange(self.k - 1, -1, -1)  # (k,)

    def arrays(self) -> dict[str, Tensor]:
        frames = torch.from_numpy(self._frames)
        return {"frames": frames, "depth": self._depths, "zero": self._zeros}

    def begin(self, row: int, obs: NDArray[Any]) -> None:
        self._frames[row] = obs[:, -1]
        self._depth[row] = 0
        self._zero[row] = [self._padded_with_zeros(env, stack) for env, stack in enumerate(obs)]

    def follow(self, row: int, obs: NDArray[Any], next_obs: NDArray[Any]) -> None:
        self._frames[row] = next_obs[:, -1]
        self._depth[row] = np.minimum(self._depth[row - 1], self.k - 2) + 1
        self._zero[row] = self._zero[row - 1]
        goes_on = (next_obs[:, :-1] == obs[:, 1:]).reshape(len(obs), -1).all(axis=1)
        for env in np.flatnonzero(~goes_on):
            self._depth[row, env] = 0
            self._zero[row, env] = self._padded_with_zeros(int(env), next_obs[env])

    def take(self, row: Tensor, env: Tensor) -> Tensor:
        rows, n_envs = self._depth.shape
        depth = self._depths[row, env].unsqueeze(-1)  # (M, 1)
        place = (row.unsqueeze(-1) - torch.minimum(self._back, depth)) % rows  # (M, k)
        cell = place * n_envs + env.unsqueeze(-1)
        frames = self._cells.index_select(0, cell.flatten())  # (M·k, *frame)
        missing = (self._back > depth) & self._zeros[row, env].unsqueeze(-1)
        frames.index_fill_(0, missing.flatten().nonzero().squeeze(-1), 0)
        return frames.view(*cell.shape, *self._frame.shape)

    def final(self, obs: NDArray[Any], final_obs: NDArray[Any]) -> Tensor:
        if not np.array_equal(final_obs[:-1], obs[1:]):
            raise self._refusal("a final observation")
        return torch.tensor(final_obs[-1])

    def take_final(self, row: int, env: int, kept: Tensor) -> Tensor:
        before = self.take(torch.tensor([row]), torch.tensor([env]))[0]  # (k, *frame)
        return torch.cat([before[1:], kept.unsqueeze(0)])

    def _padded_with_zeros(self, env: int, stack: NDArray[Any]) -> bool:
        """Whether a stack that begins an episode is filled up with zeros, or its frame repeated."""
        if (stack == stack[-1]).all():
            return False
        if stack[:-1].any():
            raise self._refusal(f"env {env}'s observation")
        return True

    def _refusal(self, what: str) -> UsageError:
        return UsageError(
            f"frame_stack is {self.k}; {what} is not a stack of the last {self.k} frames, oldest "
            "first and filled up with the episode's first frame or with zeros; set it to 1, which "
            "keeps observations whole"
        )
