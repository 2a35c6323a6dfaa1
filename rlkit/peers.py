"""What processes that train one agent together have to exchange in its updates.

Each rank learns from rows of its own. For all of them to take the step that one process would take
on the rows of all, every mean over a batch has to be the mean over all ranks' rows. Which processes
these are, and how they talk, is `rlkit.distributed`'s; an agent that trains alone has no peers.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rlkit.arrays import Array


class Peers(Protocol):
    """The ranks of a job. All have to make the same calls in the same order."""

    rank: int
    size: int

    def add_up(self, x: Tensor) -> None:
        """Put the sum of all ranks' x in its place: the same bits on all of them."""

    def gathered(self, own: Tensor) -> Tensor:
        """All ranks' own (N,), by rank: (size, N)."""


def merged(
    count: Array | float, mean: Tensor, var: Tensor, peers: Peers
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and variance, float64, of all ranks' rows, from those of this rank's.

    Chan, Golub & LeVeque 1979. Args: mean and var of one shape, of any value where count is 0.
    Where nobody has a row, the count is 0, and so are mean and variance.
    """
    shape, n = mean.shape, mean.numel()
    own = torch.zeros(2 * n + 1, dtype=torch.float64, device=mean.device)
    own[0] = count if isinstance(count, Tensor) else float(count)
    own[1:] = torch.where(own[0] > 0, torch.cat([mean.flatten(), var.flatten()]).double(), 0.0)
    table = peers.gathered(own)  # (size, 2n + 1)
    counts, means, variances = table[:, :1], table[:, 1 : n + 1], table[:, n + 1 :]
    total = counts.sum()
    share = counts / total.clamp(min=1)
    centre = (share * means).sum(0)  # (n,)
    spread = (share * (variances + (means - centre) ** 2)).sum(0)
    return total, centre.view(shape), spread.view(shape)


def joint_moments(
    mean: Array, var: Array, count: Array | float, peers: Peers | None
) -> tuple[Array, Array]:
    """Mean and variance of a batch over all ranks' rows, from those of this rank's `count`.

    Scalars, of the kind of the batch; as they are without peers.
    """
    if peers is None:
        return mean, var
    _, joint_mean, joint_var = merged(count, torch.as_tensor(mean), torch.as_tensor(var), peers)
    if isinstance(mean, Tensor):
        return joint_mean.to(mean.dtype), joint_var.to(mean.dtype)
    return np.float32(joint_mean.item()), np.float32(joint_var.item())


def joint_mean(mean: Array, count: Array | float, peers: Peers | None) -> Array:
    """The mean over all ranks' rows of what has this mean over this rank's `count`."""
    return mean if peers is None else joint_moments(mean, 0 * mean, count, peers)[0]


def mean_count(count: Array | int, peers: Peers | None) -> float:
    """How many rows a rank has on average."""
    own = int(count)
    if peers is None:
        return own
    total = torch.tensor([own])
    peers.add_up(total)
    return int(total) / peers.size
