"""How a ring of steps keeps observations: as they come, or of stacks of frames each frame once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit.errors import UsageError
from rlkit.packing import space_array

Columns: TypeAlias = Mapping[str, Tensor]  # (rows, N, ...) each, by name


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

    def begin_there(self, columns: Columns, row: int, obs: Tensor) -> None:
        """`begin`, of tensors, in columns like `arrays` on another device."""

    def follow_there(self, columns: Columns, row: int, obs: Tensor, next_obs: Tensor) -> None:
        """`follow`, likewise."""

    def take(self, row: Tensor, env: Tensor, columns: Columns | None = None) -> Tensor:
        """The observations of M rows and environments, (M,) each: (M, *obs).

        `columns`: of where row and env are, if not of those here.
        """

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

    def begin_there(self, columns: Columns, row: int, obs: Tensor) -> None:
        columns["obs"][row] = obs

    def follow_there(self, columns: Columns, row: int, obs: Tensor, next_obs: Tensor) -> None:
        columns["obs"][row] = next_obs

    def take(self, row: Tensor, env: Tensor, columns: Columns | None = None) -> Tensor:
        cells = self._cells if columns is None else columns["obs"].flatten(0, 1)
        return cells.index_select(0, row * self._obs.shape[1] + env)

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

    def begin_there(self, columns: Columns, row: int, obs: Tensor) -> None:
        columns["frames"][row] = obs[:, -1]
        columns["depth"][row] = 0
        columns["zero"][row] = _is_padded_with_zeros(obs)

    def follow_there(self, columns: Columns, row: int, obs: Tensor, next_obs: Tensor) -> None:
        depth, zero = columns["depth"], columns["zero"]
        goes_on = (next_obs[:, :-1] == obs[:, 1:]).flatten(1).all(1)  # (N,)
        deeper = depth[row - 1].clamp(max=self.k - 2) + 1
        columns["frames"][row] = next_obs[:, -1]
        depth[row] = deeper * goes_on
        zero[row] = torch.where(goes_on, zero[row - 1], _is_padded_with_zeros(next_obs))

    def take(self, row: Tensor, env: Tensor, columns: Columns | None = None) -> Tensor:
        rows, n_envs = self._depth.shape
        back, there = self._back, columns is not None
        if columns is None:
            columns = self.arrays()
        else:
            back = torch.arange(self.k - 1, -1, -1, device=row.device)
        depth = columns["depth"][row, env].unsqueeze(-1)  # (M, 1)
        place = (row.unsqueeze(-1) - torch.minimum(back, depth)) % rows  # (M, k)
        cell = place * n_envs + env.unsqueeze(-1)
        frames = columns["frames"].flatten(0, 1).index_select(0, cell.flatten())  # (M·k, *frame)
        missing = (back > depth) & columns["zero"][row, env].unsqueeze(-1)
        if there:  # which they are is not read back
            frames.masked_fill_(missing.view(-1, *[1] * self._frame.ndim), 0)
        else:
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


def _is_padded_with_zeros(stack: Tensor) -> Tensor:
    """Of stacks (N, k, ...) that begin an episode: whether all but the newest frame are zeros, and
    that one is not, (N,)."""
    frames = stack.flatten(2)
    repeated = (frames == frames[:, -1:]).flatten(1).all(1)
    return ~repeated & ~frames[:, :-1].flatten(1).any(1)
