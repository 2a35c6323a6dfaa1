"""The memory of recurrent off-policy agents: sequences from a ring of the last steps.

A sequence is L steps of one environment and the observation after them. It begins where the memory
kept what the agent carried: in every `stride`-th row. It may hold ends of episodes; `reset` says
where the next one begins. As in `rlkit.experience.replay` each observation is stored once, and what
followed row i is row i + 1. That holds for NEXT_STEP autoreset alone: with SAME_STEP the last
observation of an episode would have no row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit.carry import Carry, mapped, tensors
from rlkit.errors import UsageError
from rlkit.experience import sum_tree
from rlkit.experience.blocks import fill, split
from rlkit.experience.draws import Draws, Prioritized, Uniform
from rlkit.experience.observations import Observations, Stacked, Whole
from rlkit.experience.step import Step
from rlkit.packing import space_array
from rlkit.system import require_memory

COLUMNS = ("action", "reward", "terminated", "ended", "valid", "begins")
PRIORITY_EPS = 1e-6  # added to errors, so that no sequence is forgotten


@dataclass(slots=True)
class SequenceBatch:
    """B sequences of L steps, time-major."""

    obs: Tensor  # (L + 1, B, *obs)
    action: Tensor  # (L, B)
    reward: Tensor  # (L, B) float32
    terminated: Tensor  # (L, B) bool
    ended: Tensor  # (L, B) bool: terminated or truncated
    valid: Tensor  # (L, B) bool: False on the dead step that resets an environment
    reset: Tensor  # (L + 1, B) bool: which obs begin an episode
    carry: Carry  # (B, ...): what the agent carried before obs[0]
    weight: Tensor | None  # (B,) float32: of each loss; None: 1, as draws are uniform
    mask: Tensor | None  # (L + 1, B, n) bool: the actions allowed at obs; None: all
    cell: Tensor | None = None  # (B,) int64, on the CPU: for `Sequences.update_priorities`

    def columns(self) -> tuple[Any, ...]:
        """All but `cell`, in this order: what is learned from."""
        return tuple(getattr(self, name) for name in self.__slots__ if name != "cell")


@dataclass(frozen=True)
class SequenceSampling:
    """When sequences are handed out, and what they are."""

    start: int  # steps to collect first
    every: int  # then a burst each time this many steps have been added
    minibatches: int
    batch_size: int  # B
    length: int  # L
    stride: int  # steps between the beginnings of two sequences
    priority_exponent: float  # α; 0: uniform


class Sequences:
    """A ring of `capacity` steps over N environments, in host memory.

    `fresh` is the carry of N episodes that are about to start. With `frame_stack` k > 1
    observations are stacks of the last k frames, and each frame is kept once. `beta`, the exponent
    of the importance weights, is the agent's to set.
    """

    def __init__(
        self,
        capacity: int,
        n_envs: int,
        obs_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        fresh: Carry,
        sampling: SequenceSampling,
        device: torch.device,
        generator: torch.Generator,
        frame_stack: int = 1,
    ) -> None:
        self.capacity, self.n_envs, self.action_space = capacity, n_envs, action_space
        self.sampling, self.device, self.generator = sampling, device, generator
        stride = sampling.stride
        self._older = frame_stack - 1  # rows before a sequence that its first stack needs
        # Room for a stride more than a sequence needs: there is always one that is whole.
        least = -(-(self._older + sampling.length + stride) // stride)
        self.slots = max(capacity // n_envs // stride, least)
        self.rows = self.slots * stride
        self.observations: Observations = (
            Whole(obs_space) if frame_stack == 1 else Stacked(obs_space, frame_stack)
        )
        self.fresh = fresh
        self.beta = 1.0
        self.quantum = n_envs
        self.masks: Tensor | None = None  # (rows, N, n), from the first step on that has one
        self.time = 0  # rows filled since the beginning: steps, and where episodes broke off
        self.added = 0  # steps added so far, over all environments
        self.due = sampling.start
        self._first, self._end = 0, 0  # sequences that may be drawn, counted from the first of all
        self._restarted = True  # the next step's observation is not yet in the ring

    def allocate(self) -> None:
        grid = (self.rows, self.n_envs)
        self._check_memory(mask_bytes=0)
        self.observations.allocate(*grid)
        self.action = torch.from_numpy(space_array(self.action_space, grid))
        self.reward = torch.zeros(grid)
        flags = (torch.zeros(grid, dtype=torch.bool) for _ in range(4))
        self.terminated, self.ended, self.valid, self.begins = flags
        self._arrays = [getattr(self, name).numpy() for name in COLUMNS]
        self.carries: Carry = mapped(
            lambda x: torch.zeros((self.slots, *x.shape), dtype=x.dtype), self.fresh
        )
        every = torch.ones((self.slots, self.n_envs), dtype=torch.bool)
        alpha = self.sampling.priority_exponent
        self.draws: Draws = (
            Prioritized(every.numpy(), alpha, PRIORITY_EPS, self.generator)
            if alpha
            else Uniform(every, self.generator)
        )

    def add(self, step: Step) -> None:
        if step.final_obs is not None:
            raise UsageError(
                "the vector environment's autoreset is SAME_STEP, which leaves no row for the last "
                "observation of an episode; make it with NEXT_STEP"
            )
        action, reward, terminated, ended, valid, begins = self._arrays
        row, next_row = self.time % self.rows, (self.time + 1) % self.rows
        if self._restarted:
            self.observations.begin(row, step.obs)
            begins[row] = True
            self._put_mask(row, step.mask)
            self._restarted = False
        self.observations.follow(next_row, step.obs, step.next_obs)
        begins[next_row] = step.begins
        self._put_mask(next_row, step.next_mask)
        self._put_carry(row, step.carry)
        action[row] = step.action
        reward[row] = step.reward
        terminated[row] = step.terminated
        ended[row] = step.terminated | step.truncated
        valid[row] = step.valid
        self.time += 1
        self.added += self.n_envs
        self._admit()

    def _put_mask(self, row: int, mask: NDArray[np.bool_] | None) -> None:
        if mask is not None and self.masks is None:
            self._check_memory(mask_bytes=mask.shape[-1])
            self.masks = torch.ones((self.rows, *mask.shape), dtype=torch.bool)
        if self.masks is not None:
            self.masks.numpy()[row] = True if mask is None else mask

    def _put_carry(self, row: int, carry: Carry) -> None:
        slot, between = divmod(row, self.sampling.stride)
        if between == 0:
            for kept, x in zip(tensors(self.carries), tensors(carry), strict=True):
                kept[slot] = x

    def _admit(self) -> None:
        """Have all sequences drawn that are in the ring as a whole: its last row is `time`."""
        stride, older = self.sampling.stride, self._older
        first = max(0, (self.time - self.rows + older) // stride + 1)
        end = max(0, (self.time - self.sampling.length) // stride + 1)
        for sequence in range(self._first, first):
            self.draws.drop(sequence % self.slots)
        for sequence in range(max(first, self._end), end):
            self.draws.admit(sequence % self.slots)
        self._first, self._end = first, end

    def batches(self) -> Iterator[SequenceBatch]:
        if self._end == self._first:
            self.due = max(self.due, self.added + 1)
        while self.added >= self.due:
            self.due += self.sampling.every
            for _ in range(self.sampling.minibatches):
                yield self.sample()

    def restart(self) -> None:
        """All episodes broke off after the last step: a dead row stands in between."""
        if not self._restarted:
            row = self.time % self.rows
            self.ended[row - 1] = True
            self.valid[row] = False
            self._put_carry(row, self.fresh)
            self.time += 1
            self._restarted = True

    def sample(self) -> SequenceBatch:
        """B sequences, with replacement."""
        spec = self.sampling
        slot, env, weight = self.draws.draw(
            (1, spec.batch_size), self._first % self.slots, self._end - self._first, self.beta
        )
        row = (slot * spec.stride + torch.arange(spec.length + 1)[:, None]) % self.rows
        cell = row * self.n_envs + env  # (L + 1, B)
        obs = self.observations.take(row.flatten(), env.repeat(spec.length + 1))

        def column(values: Tensor, cell: Tensor) -> Tensor:
            return values.flatten(0, 1)[cell].to(self.device)

        reset = column(self.begins, cell)
        reset[0] = False  # the carry already begins anew where an episode does
        return SequenceBatch(
            obs=obs.view(*row.shape, *obs.shape[1:]).to(self.device),
            action=column(self.action, cell[:-1]),
            reward=column(self.reward, cell[:-1]),
            terminated=column(self.terminated, cell[:-1]),
            ended=column(self.ended, cell[:-1]),
            valid=column(self.valid, cell[:-1]),
            reset=reset,
            carry=mapped(lambda x: x[slot, env].to(self.device), self.carries),
            cell=slot * self.n_envs + env,
            weight=None if weight is None else weight.to(self.device),
            mask=None if self.masks is None else column(self.masks, cell),
        )

    def update_priorities(self, cell: Tensor, td_error: Tensor) -> None:
        """Have sequences drawn as their errors (B,) ask, from the next draw on."""
        self.draws.update(cell, td_error)

    def _used(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The rows that hold something, of every column, and the slots of every carry."""
        used = min(self.rows, self.time + 1)
        slots = -(-used // self.sampling.stride)
        columns = {name: getattr(self, name) for name in COLUMNS} | self.observations.arrays()
        if self.masks is not None:
            columns["masks"] = self.masks
        rows = {name: column[:used] for name, column in columns.items()}
        return rows, [x[:slots] for x in tensors(self.carries)]

    def get_state(self) -> dict[str, Any]:
        rows, carries = self._used()
        slots = -(-len(rows["valid"]) // self.sampling.stride)
        return {
            "rows": {name: split(column) for name, column in rows.items()},
            "carries": [split(x) for x in carries],
            "draws": self.draws.get_state(slots),
            "beta": self.beta,
            "counts": [self.time, self.added, self.due, self._first, self._end],
            "restarted": self._restarted,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.time, self.added, self.due, self._first, self._end = state["counts"]
        if "masks" in state["rows"]:
            shape = (self.rows, *state["rows"]["masks"][0].shape[1:])
            self.masks = torch.ones(shape, dtype=torch.bool)
        rows, carries = self._used()
        for name, column in rows.items():
            fill(column, state["rows"][name])
        for carry, saved in zip(carries, state["carries"], strict=True):
            fill(carry, saved)
        self.draws.set_state(state["draws"])
        self.beta = state["beta"]
        self._restarted = state["restarted"]

    def _check_memory(self, mask_bytes: int) -> None:
        stride = self.sampling.stride
        flags = 4 + 4  # a float32 reward and four booleans
        step = self.observations.cell_bytes + space_array(self.action_space, ()).nbytes + flags
        sequence = 1  # a boolean
        if self.sampling.priority_exponent:
            sequence += sum_tree.BYTES_PER_CELL
        slot = (stride * (step + mask_bytes) + sequence) * self.n_envs
        slot += sum(x.nbytes for x in tensors(self.fresh))
        require_memory(
            self.slots * slot,
            f"buffer_size (--buffer-size) is {self.capacity}",
            "the replay memory",
            lambda free: max(0, free // slot) * stride * self.n_envs,
        )
