"""What processes that train one agent together have to exchange in its updates.

Each rank learns from rows of its own. For all of them to take the step that one process would take
on the rows of all, every mean over a batch has to be the mean over all ranks' rows. Which processes
these are, and how they talk, is `rlkit.distributed`'s; an agent that trains alone has no peers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from rlkit.arrays import Array

M = TypeVar("M")  # a minibatch, or what names one


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

    Chan, Golub & LeVeque 1979. Args: mean and var of one shape, of any value where count is 0;
    count of rows, or of that shape where each mean has rows of its own. Where nobody has a row, the
    count is 0, and so are mean and variance.
    """
    n, each = mean.numel(), isinstance(count, Tensor) and count.ndim > 0
    k = n if each else 1
    own = torch.zeros(k + 2 * n, dtype=torch.float64, device=mean.device)
    own[:k] = count.flatten() if isinstance(count, Tensor) else float(count)
    told = torch.stack([mean.flatten(), var.flatten()]).double()  # (2, n)
    own[k:] = torch.where(own[:k] > 0, told, 0.0).flatten()
    table = peers.gathered(own)  # (size, k + 2n)
    counts, means, variances = torch.split(table, [k, n, n], 1)
    total = counts.sum(0)  # (k,)
    share = counts / total.clamp(min=1)
    centre = (share * means).sum(0)  # (n,)
    spread = (share * (variances + (means - centre) ** 2)).sum(0)
    return total.view(mean.shape if each else ()), centre.view_as(mean), spread.view_as(mean)


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


def jointly(
    minibatches: Iterable[M],
    parts: int,
    moments: Callable[[M], tuple[Array, Array, Array]],
    peers: Peers,
) -> Iterator[tuple[M, tuple[Array, Array]]]:
    """The minibatches, each with a mean and a variance () over all ranks' rows of it.

    The ranks exchange once for `parts` of them. Args: `moments`: of one, by this rank's rows: mean,
    variance and count; numbers or tensors (), of which kind the results are.
    """
    left = iter(minibatches)
    while some := [*islice(left, parts)]:
        found = [moments(each) for each in some]
        columns = zip(*found, strict=True)
        mean, var, count = (torch.stack([*map(torch.as_tensor, x)]) for x in columns)  # (parts,)
        joint: list[Array] = [x.to(mean.dtype) for x in merged(count, mean, var, peers)[1:]]
        if not isinstance(found[0][0], Tensor):
            joint = [x.numpy() for x in joint]
        yield from zip(some, zip(*joint, strict=True), strict=True)


def mean_count(count: Array | int, peers: Peers | None) -> float:
    """How many rows a rank has on average."""
    own = int(count)
    if peers is None:
        return own
    total = torch.tensor([own])
    peers.add_up(total)
    return int(total) / peers.size
