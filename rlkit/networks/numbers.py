"""From the values of an observation space to vectors of numbers: what comes before the MLP.

Each is a module that takes values (..., *shape), as the space has them, and gives float32 (...,
width); images, windows and clips go through convolutions, rlkit/networks/cnn.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.arrays import Array, as_float
from rlkit.errors import UsageError
from rlkit.networks.cnn import trunk_for
from rlkit.networks.initialization import ORTHOGONAL
from rlkit.packing import VOCABULARY, Leaf, is_composite, is_text, leaves, words_of

LARGEST_ONE_HOT = 1024  # beyond, a table of learned vectors is less work
LARGEST_DISCRETE = 100_000  # an optimiser visits the whole table at every step
EMBEDDING_WIDTH = 64
OF_IMAGES = ("nature", "impala", "cnn")
WORD_WIDTH = 32


class Numbers(Protocol):
    """What turns observations into vectors."""

    width: int

    def forward(self, x: Any) -> Any: ...

    def __call__(self, x: Any) -> Any: ...


class OneHot(nn.Module):
    """(...,) int64 of values in [0, n) → (..., n) float32."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.width = n

    def forward(self, x: Tensor) -> Tensor:
        # torch.func does not map one_hot over members
        rows = torch.zeros((*x.shape, self.width), device=x.device)
        return rows.scatter(-1, x.long().unsqueeze(-1), 1.0)


class Embedding(nn.Embedding):
    """(...,) int64 of values in [0, n) → (..., width) float32: a learned vector for each."""

    def __init__(self, n: int, width: int = EMBEDDING_WIDTH) -> None:
        super().__init__(n, width)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.long())


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
    """(..., *shape) of any dtype → (..., product of shape) float32; arrays too.

    `largest` is what the values are divided by: the highest byte of an image.
    """

    def __init__(self, shape: Sequence[int], largest: float = 1.0) -> None:
        super().__init__()
        self.dims = len(shape)
        self.width = math.prod(shape)
        self.scale = 1 / largest

    def forward(self, x: Array) -> Array:
        if self.dims != 1:
            x = x.reshape(*x.shape[: x.ndim - self.dims], self.width)
        x = as_float(x) if isinstance(x, np.ndarray) else x.float()
        return x if self.scale == 1 else x * self.scale


class Words(nn.Module):
    """(..., length) int32 numbers of words, 0 after the last → (..., width) float32.

    A learned vector for each word, with one for its position added (Gehring et al. 2017), and their
    mean, or with `pooling` "attention" their mean weighted by a learned score of each (Yang et al.
    2016, §2.2). A text without words gives zeros.
    """

    def __init__(self, length: int, width: int = WORD_WIDTH, pooling: str = "attention") -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.position = nn.Parameter(torch.randn(length, width) * width**-0.5)
        self.score: nn.Module | None = None
        if pooling == "attention":
            hidden = nn.Linear(width, width)
            self.score = nn.Sequential(hidden, nn.Tanh(), nn.Linear(width, 1, bias=False))
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        x = x.long()
        there = x > 0  # (..., length)
        words = self.table(x) + self.position  # (..., length, width)
        score = words.new_zeros(x.shape) if self.score is None else self.score(words)[..., 0]
        weight = score.masked_fill(~there, -1e30).softmax(-1) * there
        pooled: Tensor = (weight[..., None] * words).sum(-2)
        return pooled


class Folded(nn.Module):
    """Stacks (..., k, H, W, C) of k images as one of k·C channels, as in Mnih et al. 2015."""

    def __init__(self, space: spaces.Box, name: str, init: str) -> None:
        super().__init__()
        low, high = (self._fold(torch.from_numpy(bound)) for bound in (space.low, space.high))
        folded = spaces.Box(low.numpy(), high.numpy(), dtype=space.dtype.type)
        self.trunk = trunk_for(folded, name, init)
        self.width = self.trunk.width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.trunk(self._fold(x))
        return y

    def _fold(self, x: Tensor) -> Tensor:  # (..., k, H, W, C) → (..., H, W, k·C)
        return x.movedim(-4, -2).flatten(-2)


class Parts(nn.Module):
    """The numbers of each leaf of a Dict or a Tuple, one after another: (..., width) float32.

    Takes rows of bytes (..., bytes) uint8 as `rlkit.packing` makes them, or the nested dict or
    tuple of tensors (..., *shape) itself.
    """

    def __init__(self, space: spaces.Space[Any], name: str, init: str) -> None:
        super().__init__()
        self.leaves = leaves(space)
        each = [
            numbers_for(leaf.space, name if is_seen(leaf.space) else "auto", init)
            for leaf in self.leaves
        ]
        self.each = nn.ModuleList(each)
        self.width = sum(numbers.width for numbers in each)

    def forward(self, x: Tensor | Mapping[Any, Any] | tuple[Any, ...]) -> Tensor:
        values = [_read(leaf, x) if isinstance(x, Tensor) else leaf.of(x) for leaf in self.leaves]
        return torch.cat([f(value) for f, value in zip(self.each, values, strict=True)], -1)


def _read(leaf: Leaf, rows: Tensor) -> Tensor:
    """The leaf's values (..., *shape) in rows of bytes, in place."""
    part = rows[..., leaf.start : leaf.stop].view(getattr(torch, leaf.dtype.name))
    return part.reshape(*rows.shape[:-1], *leaf.shape)


def numbers_for(space: spaces.Space[Any], name: str, init: str = ORTHOGONAL) -> Any:
    """The module for a space; `name` says what takes images, windows and clips, `init` how
    convolutions start.

    Raises UsageError for spaces that have none.
    """
    if is_composite(space):
        return Parts(space, name, init)
    if is_text(space):
        return Words(words_of(space))
    if isinstance(space, spaces.Discrete):
        if space.n > LARGEST_DISCRETE:
            raise UsageError(
                f"the observation space is Discrete({space.n}); allowed: up to {LARGEST_DISCRETE} "
                "values; give the environment an observation of a few numbers instead"
            )
        return OneHot(int(space.n)) if space.n <= LARGEST_ONE_HOT else Embedding(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return OneHots([int(n) for n in space.nvec.ravel()])
    if isinstance(space, spaces.MultiBinary):
        return Flat(space.shape)
    if isinstance(space, spaces.Box):
        return _numbers_of_box(space, name, init)
    raise UsageError(
        f"no encoder for the observation space {space}; there are encoders for Discrete, "
        "MultiDiscrete, MultiBinary, Box and Text, and for Dict and Tuple of them"
    )


def is_seen(space: spaces.Space[Any]) -> bool:
    """Whether the space is of images, windows or clips, or a part of it is."""
    if is_composite(space):
        return any(is_seen(leaf.space) for leaf in leaves(space))
    return isinstance(space, spaces.Box) and len(space.shape) > 1


def is_plain(space: spaces.Space[Any], name: str) -> bool:
    """Whether the space's values are a few numbers, or become such without convolutions."""
    if is_composite(space) or is_text(space):
        return False
    return name == "mlp" or not is_seen(space)


def _numbers_of_box(space: spaces.Box, name: str, init: str) -> Any:
    if math.prod(space.shape) == 0:
        raise UsageError(f"the observation space {space} is empty: there is nothing to learn from")
    if name == "mlp" or not is_seen(space):
        is_bytes = space.dtype == np.uint8
        return Flat(space.shape, max(1.0, float(space.high.max())) if is_bytes else 1.0)
    if len(space.shape) == 4 and name in OF_IMAGES:
        return Folded(space, name, init)
    return trunk_for(space, name, init)
