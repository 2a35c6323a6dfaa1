"""Encoders: from an observation space to a vector of features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.arrays import Array, as_float
from rlkit.errors import UsageError
from rlkit.networks.mlp import MLP, NO_NORM
from rlkit.networks.vjp import Pull

LARGEST_ONE_HOT = 100_000  # a one-hot row of this many float32 is 400 kB


class OneHot(nn.Module):
    """(...,) int64 of values in [0, n) → (..., n) float32."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.width = n

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(x.long(), self.width).float()


class OneHots(nn.Module):
    """(..., k) int64, the j-th in [0, nvec[j]) → (..., Σ nvec) float32."""

    offset: Tensor

    def __init__(self, nvec: Sequence[int]) -> None:
        super().__init__()
        self.width = sum(nvec)
        self.register_buffer("offset", torch.tensor([0, *nvec[:-1]]).cumsum(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.zeros((*x.shape[:-1], self.width), device=x.device)
        return rows.scatter(-1, x.long() + self.offset, 1.0)


class Flat(nn.Module):
    """(..., *shape) of any dtype → (..., product of shape) float32; arrays too."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.dims = len(shape)
        self.width = math.prod(shape)

    def forward(self, x: Array) -> Array:
        if self.dims != 1:
            x = x.reshape(*x.shape[: x.ndim - self.dims], self.width)
        return as_float(x) if isinstance(x, np.ndarray) else x.float()


class Encoder(nn.Module):
    """A space's values as numbers, then an MLP: (..., *obs) → (..., width)."""

    def __init__(self, numbers: OneHot | OneHots | Flat, mlp: MLP) -> None:
        super().__init__()
        self.numbers = numbers
        self.mlp = mlp
        self.width = mlp.width
        self.takes_arrays = isinstance(numbers, Flat) and mlp.takes_arrays

    def forward(self, obs: Array) -> Array:
        return self.mlp.forward(self.numbers.forward(obs))

    def vjp(self, obs: Array) -> tuple[Array, Pull]:
        return self.mlp.vjp(self.numbers.forward(obs))


def encoder_for(
    space: spaces.Space[Any], hidden: Sequence[int], activation: str, norm: str = NO_NORM
) -> Encoder:
    """The encoder of an observation space: one-hot where it is discrete, then an MLP.

    Raises UsageError for spaces that have no encoder, and for a Discrete too large for one-hot.
    """
    numbers = _numbers(space)
    return Encoder(numbers, MLP(numbers.width, hidden, activation, norm))


def _numbers(space: spaces.Space[Any]) -> OneHot | OneHots | Flat:
    if isinstance(space, spaces.Discrete):
        if space.n > LARGEST_ONE_HOT:
            raise UsageError(
                f"the observation space is Discrete({space.n}); allowed: up to {LARGEST_ONE_HOT} "
                "values; give the environment an observation of a few numbers instead"
            )
        return OneHot(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return OneHots([int(n) for n in space.nvec.ravel()])
    if isinstance(space, spaces.MultiBinary):
        return Flat(space.shape)
    if isinstance(space, spaces.Box) and math.prod(space.shape) == 0:
        raise UsageError(f"the observation space {space} is empty: there is nothing to learn from")
    if isinstance(space, spaces.Box) and len(space.shape) <= 1:
        return Flat(space.shape)
    raise UsageError(
        f"no encoder for the observation space {space}; there are encoders for Discrete, "
        "MultiDiscrete, MultiBinary and Box vectors (gymnasium.wrappers.FlattenObservation "
        "makes a vector of most others)"
    )
