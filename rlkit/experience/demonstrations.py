"""The memory of agents that imitate: maps as they come, and what is optimal in all of their cells.

The expert is an exact solution, which knows every state of a map at once. So the states to learn
from are drawn among all of them, whether or not anybody goes there: what DAgger (Ross et al. 2011)
has the learner visit before it may ask is known beforehand, and an episode's first observation is
all that is kept of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.errors import UsageError
from rlkit.experience.step import Step
from rlkit.system import require_memory

# Images (B, H, W, C) to what is optimal in each of their cells, (B, H, W, actions) bool: nothing
# where there is nothing to choose.
Teacher: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Schooling:
    """When to learn, and on what."""

    maps: int  # that are kept, the newest
    every: int  # environment steps, after which the new maps are solved together
    minibatches: int  # drawn then
    batch_size: int  # maps in a minibatch
    states: int  # of each of them


@dataclass(slots=True)
class Lesson:
    """A minibatch: maps, some of their cells, and what is optimal there."""

    images: Tensor  # (B, H, W, C) uint8
    cells: Tensor  # (B, P) int64, numbered row by row
    optimal: Tensor  # (B, P, actions) bool, at least one of each


class Demonstrations:
    """Collects the maps of new episodes, has the teacher solve many at once, and draws from all."""

    def __init__(
        self,
        shape: tuple[int, ...],
        n_actions: int,
        n_envs: int,
        schooling: Schooling,
        teacher: Teacher,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.quantum = n_envs
        self._shape, self._n_actions = shape, n_actions
        self._schooling, self._teacher = schooling, teacher
        self._device, self._generator = device, generator
        self._new: list[NDArray[np.uint8]] = []
        self._begins = True  # every environment, with the next step
        self._steps = 0  # since the last minibatches
        self._seen = 0  # maps, those that were overwritten included

    def allocate(self) -> None:
        H, W, C = self._shape
        packed = -(-self._n_actions // 8)
        row = H * W * (C + packed)
        maps = self._schooling.maps
        require_memory(
            maps * row, f"maps (--maps) is {maps:,}", "the memory", lambda free: f"{free // row:,}"
        )
        self._images = np.zeros((maps, H, W, C), dtype=np.uint8)
        self._optimal = np.zeros((maps, H * W, packed), dtype=np.uint8)  # a bit for each action

    def add(self, step: Step) -> None:
        if self._begins:
            self._new.append(step.obs)
            self._begins = False
        self._steps += len(step.obs)
        begins = step.begins
        if begins.any():
            self._new.append(step.next_obs[begins])

    def restart(self) -> None:
        self._begins = True

    def batches(self) -> Iterator[Lesson]:
        if self._steps < self._schooling.every:
            return
        self._steps = 0
        if self._new:
            self._learn_of(np.concatenate(self._new))
            self._new.clear()
        for _ in range(self._schooling.minibatches if self._seen else 0):
            yield self._drawn()

    def _learn_of(self, images: NDArray[np.uint8]) -> None:
        optimal = self._teacher(images)
        if optimal.shape[-1] != self._n_actions:
            raise UsageError(
                f"the environment has {self._n_actions} actions, and the teacher (--teacher) knows "
                f"{optimal.shape[-1]}; take another agent for this environment"
            )
        optimal = optimal.reshape(len(images), -1, self._n_actions)
        some = np.flatnonzero(optimal.any(axis=(1, 2)))[-self._schooling.maps :]
        row = (self._seen + np.arange(len(some))) % self._schooling.maps
        self._images[row] = images[some]
        self._optimal[row] = np.packbits(optimal[some], axis=-1)
        self._seen += len(some)

    def _drawn(self) -> Lesson:
        size, told = min(self._seen, self._schooling.maps), self._schooling
        row = torch.randint(size, (told.batch_size,), generator=self._generator).numpy()
        bits = np.unpackbits(self._optimal[row], axis=-1, count=self._n_actions)
        optimal = torch.from_numpy(bits.view(np.bool_))  # (B, H·W, actions)
        live = optimal.any(-1).float()
        cells = torch.multinomial(live, told.states, True, generator=self._generator)  # (B, P)
        chosen = optimal.gather(1, cells.unsqueeze(-1).expand(-1, -1, self._n_actions))
        images = torch.from_numpy(self._images[row])
        return Lesson(*(x.to(self._device) for x in (images, cells, chosen)))

    def get_state(self) -> dict[str, Any]:
        size = min(self._seen, self._schooling.maps)
        new = np.concatenate([*self._new, np.zeros((0, *self._shape), dtype=np.uint8)])
        return {
            "images": self._images[:size],
            "optimal": self._optimal[:size],
            "seen": self._seen,
            "new": new,
            "steps": self._steps,
            "begins": self._begins,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        size = len(state["images"])
        self._images[:size], self._optimal[:size] = state["images"], state["optimal"]
        self._seen, self._begins = int(state["seen"]), bool(state["begins"])
        self._new = [state["new"]] if len(state["new"]) else []
        self._steps = int(state["steps"])
