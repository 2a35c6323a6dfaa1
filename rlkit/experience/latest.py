"""The memory of tabular agents: each step is learned from as it comes, and then forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rlkit.experience.step import Step

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

EVERYTHING = np.zeros((0, 0), dtype=np.bool_)  # as a mask


@dataclass(slots=True)
class Transitions:
    """One transition of each of N environments, their states by number: arrays that are C-ordered.

    Nothing is to be learned where `valid` is False. `begins` says where the transition is the first
    of its episode: what was held of an earlier one there is void.
    """

    s: Ints  # (N,)
    a: Ints  # (N,)
    r: Floats  # (N,)
    s_next: Ints  # (N,): where the action led, before any reset
    terminated: Bools  # (N,): s_next is terminal, and its value 0
    truncated: Bools  # (N,): the episode was cut off at s_next, which has a value
    valid: Bools  # (N,)
    begins: Bools  # (N,)
    next_mask: Bools  # (N, A): the actions allowed in s_next; (0, 0): all

    def columns(self) -> tuple[NDArray[Any], ...]:
        """All of it, in this order: what the kernels take first."""
        return (
            self.s,
            self.a,
            self.r,
            self.s_next,
            self.terminated,
            self.truncated,
            self.valid,
            self.begins,
            self.next_mask,
        )


class Latest:
    """Hands out every step at once, as one batch: see `rlkit.agent.Memory`."""

    def __init__(self, number: Callable[[NDArray[Any]], Ints], n_envs: int) -> None:
        """`number` gives the number of the state that each of (N, *obs) shows, (N,)."""
        self.quantum = n_envs
        self._number = number
        self._begins = np.ones(n_envs, dtype=np.bool_)
        self._due: Transitions | None = None

    def allocate(self) -> None:
        """It holds one step alone."""

    def add(self, step: Step) -> None:
        s_next, next_mask = self._number(step.next_obs), _mask(step.next_mask)
        if step.final_obs is not None:
            final = step.final_obs
            s_next = s_next.copy()
            s_next[final.index] = self._number(final.obs)
            if final.mask is not None and len(next_mask):
                next_mask = next_mask.copy()
                next_mask[final.index] = final.mask
        valid, ended = step.valid, step.terminated | step.truncated
        if step.lost is not None:  # what the action did there, nobody knows
            valid = valid & ~step.lost
        self._due = Transitions(
            self._number(step.obs),
            np.ascontiguousarray(step.action, dtype=np.int64),
            step.reward.astype(np.float64),
            s_next,
            step.terminated,
            step.truncated & ~step.terminated,
            valid,
            self._begins,
            next_mask,
        )
        self._begins = np.where(step.valid, ended, self._begins)

    def restart(self) -> None:
        self._begins = np.ones_like(self._begins)

    def batches(self) -> Iterator[Transitions]:
        if self._due is not None:
            due, self._due = self._due, None
            yield due

    def get_state(self) -> dict[str, Any]:
        return {"begins": self._begins.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        self._begins = state["begins"].astype(np.bool_)


def _mask(mask: NDArray[np.bool_] | None) -> Bools:
    return EVERYTHING if mask is None else np.ascontiguousarray(mask)
