"""An `rlkit.MDP`, copied from the host's memory to a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.mdp.bellman import largest
from rlkit.mdp.device.memory import require_device_memory
from rlkit.mdp.device.model import (
    BLOCK_OUTCOMES,
    DeviceMDP,
    csr_bytes,
    ell_bytes,
    placing_bytes,
)
from rlkit.mdp.device.rows import Csr, Ell, Rows
from rlkit.mdp.device.sweep import fused
from rlkit.mdp.model import MDP

_MOST_IN_COLUMNS = 16  # successors of a pair for which columns are taken
_MOST_PADDED = 1.5  # places in columns, as a multiple of the transitions and pairs that there are


def on_device(mdp: MDP, device: torch.device) -> DeviceMDP:
    """The model on the device: in columns where few of their places stay empty, else compressed.

    Raises UsageError where it would not fit, before anything is copied.
    """
    counts = np.diff(mdp.offsets)
    actions, width, S = int(counts.max(initial=1)), max(mdp.width, 1), mdp.n_states
    actions = max(actions, 1)
    places, needed = S * actions * (width + 1), mdp.P.nnz + mdp.n_pairs
    few = places <= _MOST_PADDED * needed or not mdp.P.nnz
    columns = width <= _MOST_IN_COLUMNS and few
    single = fused(device)
    if columns:
        per_state = ell_bytes(actions, width, mdp.gamma, fused=single)
    else:
        per_state = csr_bytes(S, mdp.n_pairs + S, mdp.P.nnz, mdp.gamma, fused=single) / S
    require_device_memory(placing_bytes(S, per_state), S, device)
    rows: Rows = _ell(mdp, actions, width, device) if columns else _csr(mdp, device)
    ends = mdp.terminal.copy()
    ends[mdp.pair_state[mdp.ends]] = True
    return DeviceMDP(
        rows=rows,
        gamma=mdp.gamma,
        live=_copied(~mdp.terminal, device),
        ends=_copied(ends, device),
        width=mdp.width,
        reward=largest(mdp.r),
        least_reward=float(mdp.r.min(initial=0.0)),
        n_pairs=mdp.n_pairs,
        n_transitions=int(mdp.P.nnz),
        closed=not ends.any(),
    )


def _ell(mdp: MDP, actions: int, width: int, device: torch.device) -> Ell:
    S = mdp.n_states
    successors = torch.full((actions, width, S), S, dtype=torch.int32, device=device)
    p = torch.zeros(actions, width, S, dtype=torch.float64, device=device)
    r = torch.full((actions, S), -torch.inf, dtype=torch.float64, device=device)
    block = max(1, BLOCK_OUTCOMES // (actions * width))
    for first in range(0, S, block):
        last = min(first + block, S)
        off = mdp.offsets[first : last + 1]
        ptr = mdp.P.indptr[off[0] : off[-1] + 1]
        pairs, entries = slice(off[0], off[-1]), slice(ptr[0], ptr[-1])
        state, slot = _places(_copied(off, device))
        state += first
        pair, place = _places(_copied(ptr, device).to(torch.int64))
        where = slot[pair], place, state[pair]
        successors[where] = _copied(mdp.P.indices[entries], device).to(torch.int32)
        p[where] = _copied(mdp.P.data[entries], device)
        r[slot, state] = _copied(mdp.r[pairs], device)
    r[0].masked_fill_(_copied(mdp.terminal, device), 0.0)
    return Ell(successors, p, r, discount_on(mdp.gamma, device))


def _places(starts: Tensor) -> tuple[Tensor, Tensor]:
    """The group of each member, and its place in the group; groups begin at starts (G + 1,)."""
    counts, members = starts.diff(), int(starts[-1] - starts[0])
    groups = torch.arange(counts.shape[0], device=starts.device)
    group = torch.repeat_interleave(groups, counts, output_size=members)
    members_of = torch.arange(members, device=starts.device)
    return group, members_of - (starts[:-1] - starts[0])[group]


def _csr(mdp: MDP, device: torch.device) -> Csr:
    """With a pair without successors at each terminal state."""
    S = mdp.n_states
    offsets = _copied(mdp.offsets, device)
    counts = offsets.diff()
    without = counts == 0
    added = torch.zeros_like(offsets)
    torch.cumsum(without, 0, out=added[1:])
    off = offsets + added
    L = mdp.n_pairs + int(added[-1])
    states = torch.arange(S, dtype=torch.int32, device=device)
    owner = torch.repeat_interleave(states, off.diff(), output_size=L)
    real = ~without[owner]
    lengths = torch.zeros(L, dtype=torch.int64, device=device)
    lengths[real] = _copied(mdp.P.indptr, device).to(torch.int64).diff()
    ptr = torch.zeros(L + 1, dtype=torch.int64, device=device)
    torch.cumsum(lengths, 0, out=ptr[1:])
    r = torch.zeros(L, dtype=torch.float64, device=device)
    r[real] = _copied(mdp.r, device)
    return Csr(
        off,
        ptr,
        owner,
        _copied(mdp.P.indices, device).to(torch.int32),
        _copied(mdp.P.data, device),
        r,
        discount_on(mdp.gamma, device),
        width=-(-int(mdp.P.nnz) // max(mdp.n_pairs, 1)),
    )


def discount_on(gamma: float, device: torch.device) -> Tensor:
    return torch.tensor(gamma, dtype=torch.float64, device=device)


def _copied(array: NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device; the model's own arrays are read-only, which torch does not know."""
    return torch.tensor(array, device=device)
