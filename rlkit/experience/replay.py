"""The memory of off-policy agents: a ring of the last steps, sampled with replacement.

Each observation is stored once: what followed row i is row i + 1, across the end of an episode too,
where NEXT_STEP autoreset puts the final observation. A dead reset step fills a row that is never
drawn. Under SAME_STEP the final observations of episodes are kept beside the ring.

Its parts say how observations are kept (`rlkit.experience.observations`) and which steps are drawn
(`rlkit.experience.draws`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit.device.engine import Place
from rlkit.errors import CheckpointError, RlkitWarning, UsageError
from rlkit.experience import sum_tree
from rlkit.experience.blocks import fill, split
from rlkit.experience.device_draws import PrioritizedThere, UniformThere
from rlkit.experience.draws import Draws, Prioritized, Uniform
from rlkit.experience.finals import Finals
from rlkit.experience.observations import Observations, Stacked, Whole
from rlkit.experience.placing import free_on, no_room
from rlkit.experience.step import Step
from rlkit.packing import space_array
from rlkit.returns import n_step
from rlkit.system import require_memory

COLUMNS = ("action", "reward", "terminated", "ended", "valid")

# Of a device: what of its free memory the steps may take, and the bytes per step of a draw.
SHARE, DRAWING = 0.8, 12


@dataclass(slots=True)
class ReplayBatch:
    """G minibatches of B transitions, drawn at once."""

    obs: Tensor  # (G, B, *obs)
    action: Tensor  # (G, B, *action)
    reward: Tensor  # (G, B) float32: the n-step return's rewards, Σ γ^k·r_k
    discount: Tensor  # (G, B) float32: γ^m, and 0 where the window ended in a terminal state
    next_obs: Tensor  # (G, B, *obs): the observation m steps later, before any reset
    cell: Tensor | None = None  # (G, B) int64, where the ring is: for `Replay.update_priorities`
    weight: Tensor | None = None  # (G, B) float32: of each loss; None: 1, as draws are uniform
    next_mask: Tensor | None = None  # (G, B, n) bool: the actions allowed at next_obs; None: all

    def columns(self) -> tuple[Tensor | None, ...]:
        """All of it, in this order."""
        return tuple(getattr(self, name) for name in self.__slots__)

    def minibatch(self, g: int) -> ReplayBatch:
        """The g-th minibatch alone: every field without its first axis."""

        def part(column: Any) -> Any:
            return None if column is None else column[g]

        return ReplayBatch(*map(part, self.columns()))


@dataclass(frozen=True)
class Sampling:
    """When a replay memory hands out batches, and what is in them."""

    start: int  # steps to collect first
    every: int  # then a burst each time this many steps have been added
    minibatches: int  # G
    batch_size: int  # B
    n_step: int
    gamma: float
    priority_exponent: float = 0.0  # α of prioritised replay (`draws.Prioritized`); 0: uniform
    priority_eps: float = 1e-6  # ε: added to errors, so that no step is forgotten


class Replay:
    """A ring of `capacity` steps over N environments, in host memory.

    Where `place` is a device that works ahead and has room for it, it is drawn from a copy there,
    to which rows go before they are drawn from; of steps that are tensors there is that one alone.

    With `frame_stack` k > 1 observations are stacks of the last k frames (k, ...), and each frame
    is kept once (`observations.Stacked`). The exponent of the importance weights, `beta`, is the
    agent's to set.
    """

    def __init__(
        self,
        capacity: int,
        n_envs: int,
        obs_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        sampling: Sampling,
        device: torch.device,
        generator: torch.Generator,
        frame_stack: int = 1,
        place: Place | None = None,
    ) -> None:
        self.capacity = capacity
        self.place = place
        # Room for windows that start at three neighbouring rows, of which at most two are dead
        # (the first row of all is not: until the ring is full, two are enough).
        self.limit = max(capacity // n_envs, sampling.n_step + 2)
        # One row more than steps: the newest observation has no action yet. And the frames of the
        # oldest stacks lie further back.
        self.rows = self.limit + frame_stack
        self.n_envs = n_envs
        self.action_space = action_space
        self.sampling = sampling
        self.device = device
        self.generator = generator
        self.observations: Observations = (
            Whole(obs_space) if frame_stack == 1 else Stacked(obs_space, frame_stack)
        )
        self.beta = 1.0
        self.quantum = n_envs
        self.finals = Finals(n_envs)
        self.masks: Tensor | None = None  # (rows, N, n), from the first step on that has one
        self.head = 0  # the row that the next step fills
        self.filled = 0  # rows that hold a step which may be sampled, at most `limit`
        self.added = 0  # steps added so far, over all environments
        self.due = sampling.start
        self._restarted = True  # the next step's observation is not yet in the ring
        self._there: dict[str, Tensor] | None = None  # the columns on the device, (rows, N, ...)
        self._unsent = 0  # of the newest rows, how many have not gone there yet
        self._resident = False  # the steps are tensors: what is here is of no use

    def allocate(self) -> None:
        grid = (self.rows, self.n_envs)
        self._check_memory(mask_bytes=0)
        self.observations.allocate(*grid)
        self.action = torch.from_numpy(space_array(self.action_space, grid))  # (rows, N, *action)
        self.reward = torch.zeros(grid)
        self.terminated = torch.zeros(grid, dtype=torch.bool)
        self.ended = torch.zeros(grid, dtype=torch.bool)  # terminated or truncated
        self.valid = torch.zeros(grid, dtype=torch.bool)
        self._arrays = [getattr(self, name).numpy() for name in COLUMNS]
        self.draws: Draws = self._draws_here()
        if self.place is not None and self.place.ahead and self._has_room(self.place):
            self._allocate_there(self.place)

    def _draws_here(self) -> Draws:
        spec = self.sampling
        if not spec.priority_exponent:
            return Uniform(self.valid, self.generator)
        exponent, eps = spec.priority_exponent, spec.priority_eps
        return Prioritized(self.valid.numpy(), exponent, eps, self.generator)

    def _allocate_there(self, place: Place) -> None:
        self._there = {name: torch.zeros_like(x, device=place.device) for name, x in self._all()}
        valid, spec = self._there["valid"], self.sampling
        if spec.priority_exponent:
            exponent, eps = spec.priority_exponent, spec.priority_eps
            self.draws = PrioritizedThere(valid, exponent, eps, place)
        else:
            self.draws = UniformThere(valid, place)

    def _all(self) -> Iterator[tuple[str, Tensor]]:
        """All columns here, by name."""
        yield from ((name, getattr(self, name)) for name in COLUMNS)
        yield from self.observations.arrays().items()

    def add(self, step: Step) -> None:
        # On the CPU tensors are as good as arrays, where nothing is kept elsewhere.
        if isinstance(step.obs, Tensor) and (self._there is not None or not step.obs.is_cpu):
            self._add_there(step)
        else:
            self._add_here(step)
        self._advance()
        self.added += self.n_envs

    def _add_here(self, step: Step) -> None:
        action, reward, terminated, ended, valid = self._arrays
        row, next_row = self.head, (self.head + 1) % self.rows
        if self._restarted:
            self.observations.begin(row, step.obs)
            self._restarted = False
        self.observations.follow(next_row, step.obs, step.next_obs)
        action[row] = step.action
        reward[row] = step.reward
        terminated[row] = step.terminated
        ended[row] = step.terminated | step.truncated
        valid[row] = step.valid
        self._put_mask(next_row, step.next_mask)
        self.finals.forget(row)
        if step.final_obs is not None:
            self.finals.put(row, step.obs, step.final_obs, self.observations)

    def _add_there(self, step: Step) -> None:
        """A step of tensors, into the columns on the device."""
        there = self._there
        if there is None or step.final_obs is not None:
            raise self._refusal(step)
        if not self._resident:
            self._send()  # what a checkpoint held
            self._resident = True
        row, next_row = self.head, (self.head + 1) % self.rows
        if self._restarted:
            self.observations.begin_there(there, row, step.obs)
            self._restarted = False
        self.observations.follow_there(there, next_row, step.obs, step.next_obs)
        there["action"][row] = step.action
        there["reward"][row] = step.reward
        there["terminated"][row] = step.terminated
        there["ended"][row] = step.terminated | step.truncated
        there["valid"][row] = step.valid
        if step.next_mask is not None and "masks" not in there:
            shape = (self.rows, *step.next_mask.shape)
            there["masks"] = torch.ones(shape, dtype=torch.bool, device=step.next_mask.device)
        if "masks" in there:
            there["masks"][next_row] = True if step.next_mask is None else step.next_mask

    def _refusal(self, step: Step) -> UsageError:
        if step.final_obs is not None:
            return UsageError(
                "the environments' steps are tensors, and their autoreset is SAME_STEP, which "
                "sets the last observation of an episode apart; make them with NEXT_STEP"
            )
        return UsageError(
            f"buffer_size (--buffer-size) is {self.capacity}: the environments' steps are tensors, "
            f"and the replay memory has no room beside them on {self.device}; lower it"
        )

    def _send(self) -> dict[str, Tensor] | None:
        """The columns on the device, with all that is here; None: there are none."""
        there = self._there
        if there is None or self._unsent == 0:
            return there
        if self.masks is not None and "masks" not in there:
            there["masks"] = torch.ones_like(self.masks, device=self.device)
        # the rows before and after them too: an episode's end, the newest observation
        count = min(self._unsent + 2, self.rows)
        first = (self.head - count + 1) % self.rows
        here = dict(self._all())
        if self.masks is not None:
            here["masks"] = self.masks
        for start, stop in ((first, min(first + count, self.rows)), (0, first + count - self.rows)):
            for name, column in here.items() if start < stop else ():
                there[name][start:stop].copy_(column[start:stop], non_blocking=True)
        self._unsent = 0
        return there

    def _put_mask(self, row: int, mask: NDArray[np.bool_] | None) -> None:
        if mask is not None and self.masks is None:
            self._check_memory(mask_bytes=mask.shape[-1])
            self.masks = torch.ones((self.rows, *mask.shape), dtype=torch.bool)
        if self.masks is not None:
            self.masks.numpy()[row] = True if mask is None else mask

    def _advance(self) -> None:
        """The head's row is complete: a window of n steps can start n − 1 rows before it."""
        oldest = self.head - self.filled
        self._unsent += not self._resident
        self.head = (self.head + 1) % self.rows
        if self.filled == self.limit:
            self.draws.drop(oldest % self.rows)
        else:
            self.filled += 1
        if self.filled >= self.sampling.n_step:
            self.draws.admit((self.head - self.sampling.n_step) % self.rows)

    def batches(self) -> Iterator[ReplayBatch]:
        if self.filled <= self.sampling.n_step:
            self.due = max(self.due, self.added + 1)
        while self.added >= self.due:
            self.due += self.sampling.every
            yield self.sample()

    def restart(self) -> None:
        """All episodes broke off after the last step: a dead row stands in between."""
        if not self._restarted:
            rows = self._there if self._resident and self._there is not None else dict(self._all())
            rows["ended"][self.head - 1] = True
            rows["valid"][self.head] = False
            self._advance()
            self._restarted = True

    def sample(self) -> ReplayBatch:
        """G·B windows of n steps that start at valid steps."""
        spec, there = self.sampling, self._send()
        columns = there
        if columns is None:
            columns = dict(self._all())
            if self.masks is not None:
                columns["masks"] = self.masks
        shape = (spec.minibatches, spec.batch_size)
        row, env, weight = self.draws.draw(
            shape, self.head - self.filled, self.filled - spec.n_step + 1, self.beta
        )
        # (n, G·B) flat indices of each window's steps
        ahead = torch.arange(spec.n_step, device=row.device)
        window = (row + ahead[:, None]) % self.rows * self.n_envs + env
        reward, discount, m = n_step(
            columns["reward"].view(-1)[window],
            columns["terminated"].view(-1)[window],
            columns["ended"].view(-1)[window],
            spec.gamma,
        )
        cell, after = window[0], (row + m) % self.rows
        # One block of memory for both: the allocator would give two of pixels back to the system
        # after every batch, and to get them again costs ten times as much as to fill them.
        taken = self.observations.take(torch.cat([row, after]), env.repeat(2), there)
        obs, next_obs = taken.chunk(2)
        next_mask = columns["masks"][after, env] if "masks" in columns else None
        if self.finals:
            last = (row + m - 1) % self.rows * self.n_envs + env
            self.finals.take(last.tolist(), next_obs, next_mask, self.observations)

        def moved(x: Tensor) -> Tensor:
            return x.view(*shape, *x.shape[1:]).to(self.device, non_blocking=True)

        return ReplayBatch(
            moved(obs),
            moved(columns["action"].flatten(0, 1).index_select(0, cell)),
            moved(reward),
            moved(discount),
            moved(next_obs),
            cell.view(shape),
            None if weight is None else moved(weight),
            None if next_mask is None else moved(next_mask),
        )

    def update_priorities(self, cell: Tensor, td_error: Tensor) -> None:
        """Have steps drawn as their errors ask, from the next draw on.

        Args: `cell` as in the batch and the errors δ, of one shape, on any device. Cells that can't
        be drawn any more are passed over. Without effect where draws are uniform. Raises RunError,
        before a priority changes, where an error is not finite.
        """
        self._send()
        self.draws.update(cell, td_error)

    def _columns(self) -> dict[str, Tensor]:
        """The rows that hold something, of every column."""
        used = self.rows if self.filled == self.limit else self.filled + 1
        if self._resident and self._there is not None:
            return {name: column[:used].cpu() for name, column in self._there.items()}
        columns = dict(self._all())
        if self.masks is not None:
            columns["masks"] = self.masks
        return {name: column[:used] for name, column in columns.items()}

    def get_state(self) -> dict[str, Any]:
        rows = self._columns()
        self._send()
        return {
            "rows": {name: split(column) for name, column in rows.items()},
            **self.finals.get_state(),
            "draws": self.draws.get_state(len(rows["valid"])),
            "beta": self.beta,
            "head": self.head,
            "filled": self.filled,
            "added": self.added,
            "due": self.due,
            "restarted": self._restarted,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.head, self.filled = state["head"], state["filled"]
        if self.head != self.filled < self.limit or self.filled > self.limit:
            raise CheckpointError(
                f"the checkpoint's memory went around a ring of {self.filled} rows where the run's "
                f"config.json asks for one of {self.limit}; undo what was changed in it"
            )
        if "masks" in state["rows"]:
            shape = (self.rows, *state["rows"]["masks"][0].shape[1:])
            self.masks = torch.ones(shape, dtype=torch.bool)
        for name, column in self._columns().items():
            fill(column, state["rows"][name])
        self._unsent = self.rows  # all of it; and the draws ask which of it is valid
        self._send()
        self.finals.set_state(state)
        self.draws.set_state(state["draws"])
        self.beta = state["beta"]
        self.added, self.due = state["added"], state["due"]
        self._restarted = state["restarted"]

    def _row_bytes(self, mask_bytes: int) -> int:
        flags = 4 + 3  # a float32 reward and three booleans
        step = self.observations.cell_bytes + space_array(self.action_space, ()).nbytes + flags
        step += mask_bytes
        if self.sampling.priority_exponent:
            step += sum_tree.BYTES_PER_CELL
        return step * self.n_envs

    def _fits(self, free: float, row: int) -> int:
        """The largest buffer_size of which the memory has room in so many bytes."""
        beyond = self.rows - self.limit  # rows that are no steps
        return int(max(0, free // row - beyond)) * self.n_envs

    def _check_memory(self, mask_bytes: int) -> None:
        row = self._row_bytes(mask_bytes)
        require_memory(
            self.rows * row,
            f"buffer_size (--buffer-size) is {self.capacity}",
            "the replay memory",
            lambda free: self._fits(free, row),
        )

    def _has_room(self, place: Place) -> bool:
        """Whether the device has room for it, and for what training takes; says where not."""
        row, free = self._row_bytes(mask_bytes=0), SHARE * free_on(place.device)
        need = self.rows * (row + DRAWING * self.n_envs)
        if need <= free:
            return True
        asked = f"buffer_size (--buffer-size) is {self.capacity}"
        fits = self._fits(free, row + DRAWING * self.n_envs)
        refusal = no_room(need, free, place.device, asked, "the replay memory", fits)
        warnings.warn(f"{refusal}; it stays in host memory", RlkitWarning, stacklevel=2)
        return False
