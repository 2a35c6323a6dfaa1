"""A model that is made on the device, block by block, and never leaves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.errors import ModelError, UsageError
from rlkit.mdp.checks import ROW_SUM_TOLERANCE, discount, row_sum_tolerance
from rlkit.mdp.device.memory import require_device_memory
from rlkit.mdp.device.model import BLOCK_OUTCOMES, DeviceMDP, ell_bytes, placing_bytes
from rlkit.mdp.device.rows import Ell
from rlkit.mdp.device.sweep import fused
from rlkit.mdp.device.upload import discount_on

# States (B,) to successors (B, A, K), probabilities, rewards and perhaps what is admissible.
DeviceGenerator = Callable[[Tensor], tuple[Any, ...]]

_FIRST_BLOCK = 64
_MOST_STATES = 2**31 - 2  # that indices of 32 bits can number, with the end


def from_function(
    f: DeviceGenerator,
    n_states: int,
    gamma: float,
    device: torch.device,
    *,
    start: Sequence[int] = (),
) -> DeviceMDP:
    """A model in the device's memory, from a function over blocks of states.

    Args:
        f: as of `MDP.from_function`, in tensors: called with states (B,) int64 on the device, it
            returns successors (B, A, K), probabilities, rewards and perhaps what is admissible,
            with A and K the same for every block. Probabilities (K,) are the same for all pairs,
            in every block, and kept once; as the others they may also be (B, A, K), or what
            broadcasts to that.
        n_states: S, the number of states.
        gamma: discount per step, in [0, 1].
        device: where `f` works and the model stays.
        start: the states in which one begins, each as likely.

    Raises:
        ModelError: what `f` returns is no MDP; names the state and the action.
        UsageError: the model would not fit into the device's free memory; nothing was allocated.
    """
    discount(gamma)
    if not 1 <= n_states <= _MOST_STATES:
        raise UsageError(f"n_states is {n_states!r}; allowed: 1 to {_MOST_STATES:,}")
    first = torch.arange(min(_FIRST_BLOCK, n_states), device=device)
    block = _described(f(first), first, n_states)
    made = _Making(block, n_states, gamma, device)
    made.take(block, first)
    size = max(1, BLOCK_OUTCOMES // block.successors[0].numel())
    for begin in range(len(first), n_states, size):
        states = torch.arange(begin, min(begin + size, n_states), device=device)
        made.take(_described(f(states), states, n_states), states)
    return made.model(gamma, tuple(start))


@dataclass(frozen=True, eq=False)
class _Block:
    """successors (B, A, K) int64, -1 the end; p (B, A, K) or, shared, (K,); r (B, A) float64;
    admissible (B, A) bool."""

    successors: Tensor
    p: Tensor
    r: Tensor
    admissible: Tensor

    @property
    def shared(self) -> bool:
        return self.p.ndim == 1

    @property
    def every_p(self) -> Tensor:
        return self.p.expand_as(self.successors)


class _Making:
    """Rows that are filled block by block."""

    def __init__(self, block: _Block, n_states: int, gamma: float, device: torch.device) -> None:
        _, self.actions, self.width = block.successors.shape
        self.p = block.p if block.shared else None
        per_state = ell_bytes(
            self.actions, self.width, gamma, fused=fused(device), shared=block.shared
        )
        require_device_memory(placing_bytes(n_states, per_state), n_states, device)
        columns = (self.actions, self.width, n_states)
        self.successors = torch.empty(columns, dtype=torch.int32, device=device)
        self.every_p = torch.empty(
            0 if block.shared else columns, dtype=torch.float64, device=device
        )
        self.r = torch.empty(self.actions, n_states, dtype=torch.float64, device=device)
        self.live = torch.empty(n_states, dtype=torch.bool, device=device)
        self.ends = torch.empty_like(self.live)
        self.pairs = self.transitions = 0

    def take(self, block: _Block, states: Tensor) -> None:
        """Put a block in its place."""
        n_states = self.live.shape[0]
        shape = block.successors.shape[1:]
        if shape != (self.actions, self.width):
            raise ModelError(
                f"f returned {tuple(shape)} actions and outcomes of state {int(states[0])}, and "
                f"{(self.actions, self.width)} of the first ones; on a device all have as many: "
                "give outcomes probability 0, or admissible"
            )
        if block.shared != (self.p is not None) or (
            self.p is not None and not torch.equal(self.p, block.p)
        ):
            raise ModelError(
                f"f returned other probabilities (K,) at state {int(states[0])} than before; "
                "where they differ, return them as (B, A, K)"
            )
        place = slice(int(states[0]), int(states[-1]) + 1)
        exists = block.admissible & ~_absorbing(block, states)[:, None]
        live = exists.any(1)
        onward = (block.successors >= 0) & exists[..., None]
        goes_on = torch.where(onward, block.every_p, 0.0)
        may_end = exists & (goes_on.sum(2) < 1.0 - ROW_SUM_TOLERANCE / 2)
        r = torch.where(exists, block.r, -torch.inf)
        r[:, 0] = torch.where(live, r[:, 0], 0.0)
        self.r[:, place] = r.T
        self.successors[:, :, place] = torch.where(onward, block.successors, n_states).permute(
            1, 2, 0
        )
        if not block.shared:
            self.every_p[:, :, place] = torch.where(onward, block.every_p, 0.0).permute(1, 2, 0)
        self.live[place] = live
        self.ends[place] = ~live | may_end.any(1)
        self.pairs += int(exists.sum())
        self.transitions += int((goes_on > 0).sum())

    def model(self, gamma: float, start: tuple[int, ...]) -> DeviceMDP:
        if self.p is not None:
            self.every_p = self.p[None, :, None].expand_as(self.successors)
        real = self.r.masked_fill(self.r == -torch.inf, 0.0)
        low, high = (float(x) for x in torch.aminmax(real))
        return DeviceMDP(
            rows=Ell(self.successors, self.every_p, self.r, discount_on(gamma, self.r.device)),
            gamma=float(gamma),
            live=self.live,
            ends=self.ends,
            width=self.width,
            reward=max(-low, high),
            least_reward=low,
            n_pairs=self.pairs,
            n_transitions=self.transitions,
            closed=not bool(self.ends.any()),
            start=start,
        )


def _described(described: tuple[Any, ...], states: Tensor, n_states: int) -> _Block:
    """What `f` returned, checked."""
    if not isinstance(described, tuple) or len(described) not in (3, 4):
        raise ModelError(
            "f must return successors, probabilities, rewards and perhaps admissible; it returned "
            f"{f'{len(described)} tensors' if isinstance(described, tuple) else type(described)}"
        )
    successors = torch.as_tensor(described[0], device=states.device)
    B = states.shape[0]
    whole = not (successors.is_floating_point() or successors.is_complex())
    if successors.ndim != 3 or len(successors) != B or not whole or 0 in successors.shape:
        raise ModelError(
            f"f returned successors of {successors.dtype} and shape {tuple(successors.shape)}; for "
            f"these {B} states they must be integers of shape ({B}, A, K), A and K 1 or more"
        )
    near_one = _tolerance(described[1])
    p = torch.as_tensor(described[1], dtype=torch.float64, device=states.device)
    if p.shape != successors.shape[2:]:
        p = _broadcast("probabilities", p, successors.shape)
    rewards = torch.as_tensor(described[2], dtype=torch.float64, device=states.device)
    if rewards.ndim == 3:
        rewards = (_broadcast("rewards", rewards, successors.shape) * p).sum(2)
    r = _broadcast("rewards", rewards, successors.shape[:2])
    admissible = torch.ones(successors.shape[:2], dtype=torch.bool, device=states.device)
    if len(described) == 4:
        given = torch.as_tensor(described[3], dtype=torch.bool, device=states.device)
        admissible = _broadcast("admissible", given, successors.shape[:2])
        successors = torch.where(admissible[..., None], successors, -1)
    block = _Block(successors.to(torch.int64), p, r, admissible)
    _check(block, states, n_states, near_one)
    sums = p.sum(-1, keepdim=True)
    near = (sums - 1.0).abs() <= near_one
    return _Block(block.successors, p / torch.where(near, sums, 1.0), r, admissible)


def _tolerance(p: object) -> float:
    """How far from 1 the sum of a row may be that is meant to be 1."""
    single = isinstance(p, Tensor) and p.is_floating_point() and p.dtype.itemsize < 8
    return row_sum_tolerance(np.dtype(np.float32)) if single else ROW_SUM_TOLERANCE


def _broadcast(name: str, values: Tensor, shape: torch.Size) -> Tensor:
    try:
        return values.broadcast_to(shape)
    except RuntimeError as error:
        raise ModelError(
            f"f returned {name} of shape {tuple(values.shape)}; they must be {tuple(shape)}, or "
            "broadcast to it"
        ) from error


def _check(block: _Block, states: Tensor, n_states: int, near_one: float) -> None:
    """Refuse what is no model, with the first state and action in question."""
    successors, exists = block.successors, block.admissible
    p, sums = block.every_p, block.every_p.sum(2)
    wrong = (successors < -1) | (successors >= n_states)
    for where in _first(wrong & exists[..., None]):
        raise ModelError(
            f"{_name(where, states)}: successor {int(successors[where])} is out of range; states "
            f"are 0 to {n_states - 1}, and -1 ends the episode"
        )
    for where in _first(~(p >= 0) & exists[..., None]):
        raise ModelError(
            f"{_name(where, states)}: probability {float(p[where])} is not a number in [0, 1]"
        )
    for where in _first(~(sums <= 1.0 + near_one) & exists):
        raise ModelError(
            f"{_name(where, states)}: probabilities sum to {float(sums[where]):.12g}; they may sum "
            "to 1 at most"
        )
    for where in _first(~block.r.isfinite() & exists):
        raise ModelError(
            f"{_name(where, states)}: reward {float(block.r[where])} is not a finite number"
        )


def _first(wrong: Tensor) -> list[tuple[int, ...]]:
    """The place of the first that is wrong; none where all is well."""
    if not bool(wrong.any()):
        return []
    return [tuple(wrong.nonzero()[0].tolist())]


def _name(where: tuple[int, ...], states: Tensor) -> str:
    return f"state {int(states[where[0]])}, action {where[1]}"


def _absorbing(block: _Block, states: Tensor) -> Tensor:
    """(B,) bool: states that every action keeps in place for ever with reward 0."""
    stays = block.successors == states[:, None, None]
    staying = torch.where(stays, block.every_p, 0.0).sum(2) >= 1.0 - ROW_SUM_TOLERANCE
    return ((staying & (block.r == 0)) | ~block.admissible).all(1)
