"""Convolutional networks: from images, windows and clips to vectors of features.

Each is a plain module: ``trunk(x)`` takes (..., *shape) with any leading axes, in the dtype that
the observations have, and gives float32 (..., trunk.width).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias, TypeVar

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.errors import UsageError
from rlkit.networks.activations import Activation
from rlkit.networks.convs import (
    Axes,
    BasicBlock,
    ImpalaBlock,
    Make,
    Window,
    pool_layer,
    size_after,
)
from rlkit.networks.images import AUTO, AnyImages, Images, as_images
from rlkit.networks.initialization import ORTHOGONAL
from rlkit.networks.vin import Planner
from rlkit.registry import unknown

# One number for all layers, or one for each, which may have one for each axis.
PerLayer: TypeAlias = int | Sequence[int | Axes]

NATURE_LEAST = 36  # of which its last layer leaves one pixel
LARGE_SIDE = 36  # the small network halves axes that are longer in its first layer already
SMALL_SIDE = 6  # and in those after it, until they are no longer than this

T = TypeVar("T")


class Cnn(nn.Module):
    """Convolutional layers, then fully connected ones: (..., *shape) → (..., width).

    A layer is a convolution, the norm, the activation and pooling, in this order; with `residual`
    a block of two convolutions (`BasicBlock`), and pooling. As many axes are slid along as the
    images have: one in windows, two in images, three in clips.

    Args:
        images: the shape of one observation, or an `Images`.
        channels: of each layer after its activation, which with GLU is half the convolution's.
        kernel, stride, padding: for all layers, or for each: a number, or one for each axis.
            Without `padding`, half the kernel (an odd one with stride 1 keeps the size).
        pool: "max", "avg" or None for all layers or for each; over `pool_size` pixels each way.
        norm: "batch", "layer", "instance", "group" or None.
        dropout: the probability that a feature is dropped (Srivastava et al. 2014), of the features
            that the convolutions give and of each fully connected layer's, in train mode.
        spectral: spectral normalisation (Miyato et al. 2018) of every layer.
        hidden: the widths of fully connected layers after the convolutions.
        classes: the outputs of one last linear layer without an activation.

    Raises UsageError for unknown names, values out of range, and images too small for it.
    """

    def __init__(
        self,
        images: AnyImages,
        channels: Sequence[int],
        kernel: PerLayer = 3,
        *,
        stride: PerLayer = 1,
        padding: PerLayer | None = None,
        pool: str | Sequence[str | None] | None = None,
        pool_size: int = 2,
        activation: str = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        residual: bool = False,
        spectral: bool = False,
        hidden: Sequence[int] = (),
        classes: int | None = None,
        init: str = ORTHOGONAL,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout is {dropout}; allowed: 0 to less than 1; 0 drops nothing")
        _require_channels(channels)
        self.images = as_images(images)
        dims, n = len(self.images.size), len(channels)
        make = Make(dims, activation, norm, init, spectral)
        kinds = [pool] * n if pool is None or isinstance(pool, str) else _each("pool", pool, n)
        windows = _windows(dims, n, kernel, stride, padding)
        each = list(zip(channels, windows, kinds, strict=True))
        layers, width = _convolutions(self.images, make, each, pool_size, residual)
        layers += [nn.Flatten(), *_dropouts(dropout)]
        for fan_in, fan_out in pairwise((width, *hidden)):
            layers += [*make.activated_linear(fan_in, fan_out), *_dropouts(dropout)]
        self.width = hidden[-1] if hidden else width
        if classes is not None:
            layers.append(make.linear(self.width, classes, 1.0))
            self.width = classes
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.images.through(self.layers, x)


class Impala(nn.Module):
    """The residual network of IMPALA (Espeholt et al. 2018, fig. 3, right): (..., width).

    A section for each of `channels`: a 3×3 convolution, max-pooling 3×3 with stride 2, and `blocks`
    residual blocks; then a ReLU. Takes images of any size. The fully connected layer of 256 that
    follows in the paper is no part of it.
    """

    def __init__(
        self,
        images: AnyImages,
        channels: Sequence[int] = (16, 32, 32),
        *,
        blocks: int = 2,
        spectral: bool = False,
        init: str = ORTHOGONAL,
    ) -> None:
        super().__init__()
        _require_channels(channels)
        self.images = as_images(images)
        dims = len(self.images.size)
        make = Make(dims, init=init, spectral=spectral)
        same = Window((3,) * dims, (1,) * dims, (1,) * dims)
        halving = Window((3,) * dims, (2,) * dims, (1,) * dims)
        layers: list[nn.Module] = []
        width, size = self.images.channels, self.images.size
        for c in channels:
            layers += [make.conv(width, c, same, 1.0), pool_layer("max", halving)]
            layers += [ImpalaBlock(make, c, same) for _ in range(blocks)]
            width, size = c, halving.size(size)
        self.layers = nn.Sequential(*layers, Activation(make.activation), nn.Flatten())
        self.width = width * math.prod(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.images.through(self.layers, x)


def nature(images: AnyImages, init: str = ORTHOGONAL) -> Cnn:
    """The convolutions of DQN (Mnih et al. 2015, Methods, "Model architecture").

    32 of 8×8 with stride 4, 64 of 4×4 with stride 2, 64 of 3×3, each with a ReLU. The fully
    connected layer of 512 that follows in the paper is no part of it. Raises UsageError for images
    smaller than 36×36.
    """
    images, kernel, stride = as_images(images), (8, 4, 3), (4, 2, 1)
    size_after(
        images,
        _windows(len(images.size), len(kernel), kernel, stride, 0),
        "the trunk 'nature'",
        "take the trunk 'cnn', or resize them (gymnasium.wrappers.ResizeObservation)",
    )
    return Cnn(images, (32, 64, 64), kernel, stride=stride, padding=0, init=init)


def small(images: AnyImages, init: str = ORTHOGONAL, first: int = 16) -> Cnn:
    """Kernels of 3 with ReLU, for images, windows and clips of any size.

    A layer of `first` channels at full size, as MinAtar's authors had (Young & Tian 2019, §3), and
    layers of 32, one at least, each of which halves the axes that are longer than 6. Axes longer
    than 36 are halved in the first layer too.
    """
    images = as_images(images)
    strides = [tuple(2 if n > LARGE_SIDE else 1 for n in images.size)]
    size = tuple(-(-n // s) for n, s in zip(images.size, strides[0], strict=True))
    while len(strides) == 1 or max(size) > SMALL_SIDE:
        strides.append(tuple(2 if n > SMALL_SIDE else 1 for n in size))
        size = tuple(-(-n // s) for n, s in zip(size, strides[-1], strict=True))
    return Cnn(images, (first, *[32] * (len(strides) - 1)), stride=strides, init=init)


def conv1d(images: AnyImages, init: str = ORTHOGONAL) -> Cnn:
    """`small` over windows (T, F): convolutions along time, with 32 channels from the first on."""
    images = images if isinstance(images, Images) else Images(images, "TF")
    return small(images, init, first=32)


def _impala(images: Images, init: str) -> Impala:
    return Impala(images, init=init)


def _vin(images: Images, init: str) -> Planner:
    return Planner(images)  # a model of rewards and transitions, which starts as one


TRUNKS: dict[str, tuple[Callable[[Images, str], Cnn | Impala | Planner], tuple[int, ...], str]] = {
    # by name: what makes it, for observations of how many axes, which are
    "nature": (nature, (2, 3), "images (H, W), (H, W, C) or (C, H, W)"),
    "impala": (_impala, (2, 3), "images (H, W), (H, W, C) or (C, H, W)"),
    "cnn": (small, (2, 3), "images (H, W), (H, W, C) or (C, H, W)"),
    "vin": (_vin, (3,), "images (H, W, C) or (C, H, W) of a map and, last, the agent's cell"),
    "conv1d": (conv1d, (2,), "windows (T, F)"),
    "conv3d": (small, (4,), "clips (T, H, W, C) or (T, C, H, W)"),
}


def trunk_for(
    space: spaces.Box, name: str = AUTO, init: str = ORTHOGONAL
) -> Cnn | Impala | Planner:
    """The trunk of that name for observations of a Box: a module with `.width`.

    Convolutions start as `init` says; "vin", a model of the map, as it always does.

    With "auto", four axes are a clip: "conv3d". Two axes are a window, "conv1d", unless they are
    bytes or bits, which are an image. Images are for "nature" where both sides have 36 pixels or
    more, else for "cnn". Images and clips are scaled to [0, 1] by the bounds of the Box, windows
    only where they are integers.

    Raises UsageError for unknown names, and where the observations are not what the trunk takes.
    """
    if name not in (AUTO, *TRUNKS):
        raise unknown("trunk", name, (AUTO, *TRUNKS))
    if math.prod(space.shape) == 0:
        raise UsageError(f"the observation space {space} is empty: there is nothing to learn from")
    name = _auto(space) if name == AUTO else name
    trunk, axes, taken = TRUNKS[name]
    if len(space.shape) not in axes:
        raise UsageError(
            f"the trunk {name!r} takes {taken}; the observations have shape {space.shape}; take "
            f"{'an MLP for a vector' if len(space.shape) < 2 else 'another trunk, or reshape them'}"
        )
    is_real = np.issubdtype(space.dtype, np.floating)
    bounds = None if name == "conv1d" and is_real else (space.low, space.high)
    return trunk(Images(space.shape, "TF" if name == "conv1d" else AUTO, bounds), init)


def _auto(space: spaces.Box) -> str:
    """The name of the trunk that fits the space; "cnn" for those that none does."""
    if len(space.shape) == 4:
        return "conv3d"
    if len(space.shape) == 2 and space.dtype not in (np.uint8, np.bool_):
        return "conv1d"
    is_image = len(space.shape) in (2, 3)
    return "nature" if is_image and min(Images(space.shape).size) >= NATURE_LEAST else "cnn"


def _require_channels(channels: Sequence[int]) -> None:
    if not channels or min(channels) < 1:
        raise UsageError(f"channels is {channels}; allowed: one layer or more, each of at least 1")


def _dropouts(p: float) -> list[nn.Module]:
    return [nn.Dropout(p)] if p > 0 else []


def _convolutions(
    images: Images,
    make: Make,
    each: Sequence[tuple[int, Window, str | None]],
    pool_size: int,
    residual: bool,
) -> tuple[list[nn.Module], int]:
    """The layers for `each` of (channels, window, pool), and the width of what they give."""
    pooled = Window((pool_size,) * make.dims, (pool_size,) * make.dims, (0,) * make.dims)
    layers: list[nn.Module] = []
    windows: list[Window] = []
    width = images.channels
    for channels, window, kind in each:
        block = [BasicBlock(make, width, channels, window)] if residual else None
        layers += block or make.activated_conv(width, channels, window)
        windows.append(window)
        if kind is not None:
            layers.append(pool_layer(kind, pooled))
            windows.append(pooled)
        width = channels
    advice = "take fewer layers, less pooling or stride, or more padding"
    return layers, width * math.prod(size_after(images, windows, "this Cnn", advice))


def _windows(
    dims: int, n: int, kernel: PerLayer, stride: PerLayer, padding: PerLayer | None
) -> list[Window]:
    """The kernels of n layers, from what was given for all, for each, or for each axis of each."""
    kernels = [_axes("kernel", k, dims, 1) for k in _layers("kernel", kernel, n)]
    strides = [_axes("stride", s, dims, 1) for s in _layers("stride", stride, n)]
    paddings = [tuple(k // 2 for k in axes) for axes in kernels]
    if padding is not None:
        paddings = [_axes("padding", p, dims, 0) for p in _layers("padding", padding, n)]
    return [Window(*each) for each in zip(kernels, strides, paddings, strict=True)]


def _layers(name: str, value: PerLayer, n: int) -> Sequence[int | Axes]:
    return [value] * n if isinstance(value, int) else _each(name, value, n)


def _each(name: str, values: Sequence[T], n: int) -> Sequence[T]:
    if len(values) != n:
        raise UsageError(
            f"{name} has {len(values)} entries for {n} layers; allowed: one for all, or one for "
            "each of the channels"
        )
    return values


def _axes(name: str, value: int | Axes, dims: int, least: int) -> Axes:
    axes = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(axes) != dims or min(axes) < least:
        raise UsageError(
            f"{name} of a layer is {value}; allowed: a number of at least {least}, or one for each "
            f"of the {dims} axes"
        )
    return axes
