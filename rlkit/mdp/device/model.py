"""A finite MDP in a device's memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlkit.mdp.bellman import rounding_of
from rlkit.mdp.device.rows import Ell, Rows

BLOCK_OUTCOMES = 2**22  # that are put in place at a time
_BYTES_IN_PLACING = 64 * BLOCK_OUTCOMES


@dataclass(frozen=True, eq=False, repr=False)
class DeviceMDP:
    """A finite MDP on a device, made by `from_function` or, of an `rlkit.MDP`, by `on_device`.

    Fields:
        rows: the state–action pairs, in one of the layouts of rlkit/mdp/device/rows.py.
        gamma: discount per step, in [0, 1].
        live: (S,) bool: the states that are not terminal.
        ends: (S,) bool: the states that are terminal, or have a pair that may end the episode.
        width: the largest number of successors of a pair.
        reward, least_reward: the largest |r| of a pair, and the least r.
        n_pairs, n_transitions: how many there are.
        start: the states in which one begins, each as likely; none where the model names none.
    """

    rows: Rows
    gamma: float
    live: Tensor
    ends: Tensor
    width: int
    reward: float
    least_reward: float
    n_pairs: int
    n_transitions: int
    closed: bool
    start: tuple[int, ...] = ()

    @property
    def n_states(self) -> int:
        """S, terminal ones included."""
        return self.rows.n_states

    @property
    def device(self) -> torch.device:
        return self.live.device

    def values(self, value: float = 0.0) -> Tensor:
        """(S + 1,) float64: of every live state the value, 0 at terminal ones and at the end."""
        V = torch.zeros(self.n_states + 1, dtype=torch.float64, device=self.device)
        return V.masked_fill_(torch.cat([self.live, self.live.new_zeros(1)]), value)

    def in_order(self, x: Tensor) -> Tensor:
        """(L,) of x, which is as `rows.r`, for the pairs sorted by state. Waits for the device."""
        real = self.rows.pairs & self.rows.per_pair(self.live)
        return x.T[real.T] if isinstance(self.rows, Ell) else x[real]

    def rounding(self, size: float) -> float:
        """As `rlkit.mdp.bellman.rounding`; size is max |V|."""
        return rounding_of(self.width, self.reward + size)

    def __repr__(self) -> str:
        return (
            f"DeviceMDP({self.n_states} states, {self.n_pairs} pairs, {self.rows.name}, "
            f"gamma={self.gamma:g}, {self.device})"
        )


def ell_bytes(
    actions: int, width: int, gamma: float, *, fused: bool, shared: bool = False
) -> float:
    """Bytes of a state in rows of `actions` x `width` successors, sweeps and proofs included.

    shared: all states have the same probabilities. fused: sweeps store nothing in between.
    """
    entry = 4 if shared else 12
    between = 16 * width + 24
    kept = actions * (entry * width + 8) + 2
    policy = entry * width + 16 + (0 if fused else between)
    proof = 48 + between + (0 if gamma < 1.0 else 26 * actions)
    return kept + 24 + max(policy, proof)


def csr_bytes(states: int, pairs: int, entries: int, gamma: float, *, fused: bool) -> float:
    """The same for compressed rows, of all states."""
    between = 24 * entries + 24 * pairs
    kept = 12 * entries + 20 * pairs + 10 * states
    policy = 36 * entries * states / max(pairs, 1) + 32 * states + (0 if fused else between)
    proof = 48 * states + between + (0 if gamma < 1.0 else 26 * pairs)
    return kept + 24 * states + max(policy, proof)


def placing_bytes(n_states: int, per_state: float) -> float:
    """`per_state`, with what is needed beside it while a model is put in place."""
    return per_state + min(_BYTES_IN_PLACING / n_states, 2 * per_state)
