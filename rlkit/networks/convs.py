"""Convolutional layers: how large their outputs are, how they are made, and residual blocks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from rlkit.errors import RlkitWarning, UsageError
from rlkit.networks.activations import Activation, before
from rlkit.networks.images import Images
from rlkit.networks.initialization import ORTHOGONAL, AnyWeighted, gain_before, initialize
from rlkit.registry import unknown

CONVS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}
POOLS: dict[str, tuple[type[nn.Module], type[nn.Module], type[nn.Module]]] = {
    "avg": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    "max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
GROUPS = 8

Axes = tuple[int, ...]  # one number for each axis that a convolution slides along


@dataclass(frozen=True)
class Window:
    """What slides along the axes: a convolution's or a pool's kernel, its stride and padding."""

    kernel: Axes
    stride: Axes
    padding: Axes

    def size(self, size: Axes) -> Axes:
        """The size of what comes out."""
        each = zip(size, self.kernel, self.stride, self.padding, strict=True)
        return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in each)

    def least(self, size: Axes) -> Axes:
        """The least size of what goes in, for `size` to come out."""
        each = zip(size, self.kernel, self.stride, self.padding, strict=True)
        return tuple(max(1, (n - 1) * s + k - 2 * p) for n, k, s, p in each)


def size_after(images: Images, windows: Sequence[Window], trunk: str, instead: str) -> Axes:
    """What is left of images after one window after another.

    Raises UsageError where nothing is: it names `trunk` and what to use `instead`.
    """
    least: Axes = (1,) * len(images.size)
    for window in reversed(windows):
        least = window.least(least)
    if any(n < m for n, m in zip(images.size, least, strict=True)):
        found, allowed = ("×".join(map(str, size)) for size in (images.size, least))
        raise UsageError(
            f"observations of shape {images.shape} ({images.layout}: {found}) are too small for "
            f"{trunk}; allowed: {allowed} or more; {instead}"
        )
    size = images.size
    for window in windows:
        size = window.size(size)
    return size


def _batch_norm(channels: int, dims: int) -> nn.Module:
    return BATCH_NORMS[dims - 1](channels)


def _instance_norm(channels: int, dims: int) -> nn.Module:
    return INSTANCE_NORMS[dims - 1](channels, affine=True)


def _layer_norm(channels: int, dims: int) -> nn.Module:
    return nn.GroupNorm(1, channels)


def _group_norm(channels: int, dims: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


# Over (N, channels, *size), each with a scale and a shift for every channel.
NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "batch": _batch_norm,  # over N and size (Ioffe & Szegedy 2015)
    "group": _group_norm,  # over size and each of 8 groups of channels (Wu & He 2018)
    "instance": _instance_norm,  # over size (Ulyanov et al. 2016)
    "layer": _layer_norm,  # over channels and size (Ba et al. 2016)
}


@dataclass(frozen=True)
class Make:
    """How the layers of one network are made; raises UsageError for unknown names.

    `dims`: how many axes its convolutions slide along. `spectral`: weights are divided by their
    largest singular value (Miyato et al. 2018), which each forward in train mode estimates better
    by one step of power iteration, changing two buffers; none in eval mode does.
    """

    dims: int
    activation: str = "relu"
    norm: str | None = None
    init: str = ORTHOGONAL
    spectral: bool = False

    def __post_init__(self) -> None:
        if self.norm is not None and self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)

    def conv(self, channels_in: int, channels: int, window: Window, gain: float) -> nn.Module:
        """A convolution; its bias is left to the norm, where one follows."""
        layer = CONVS[self.dims](
            channels_in,
            channels,
            window.kernel,  # type: ignore[arg-type]  # a tuple of `dims` numbers
            window.stride,  # type: ignore[arg-type]
            window.padding,  # type: ignore[arg-type]
            bias=self.norm is None,
        )
        return self._finish(layer, gain)

    def linear(self, width_in: int, width: int, gain: float) -> nn.Module:
        return self._finish(nn.Linear(width_in, width), gain)

    def activated_conv(self, channels_in: int, channels: int, window: Window) -> list[nn.Module]:
        """A convolution, the norm if there is one, and the activation, for `channels` after it."""
        made = before(self.activation, channels)
        conv = self.conv(channels_in, made, window, self.gain)
        return [conv, *self.norms(made), Activation(self.activation)]

    def activated_linear(self, width_in: int, width: int) -> list[nn.Module]:
        made = before(self.activation, width)
        return [self.linear(width_in, made, self.gain), Activation(self.activation)]

    def norms(self, channels: int) -> list[nn.Module]:
        return [] if self.norm is None else [NORMS[self.norm](channels, self.dims)]

    @property
    def gain(self) -> float:
        return gain_before(self.activation, self.init)

    def _finish(self, layer: AnyWeighted, gain: float) -> nn.Module:
        initialize(layer, self.init, gain)
        return spectral_norm(layer) if self.spectral else layer


def pool_layer(kind: str, window: Window) -> nn.Module:
    """Pooling by name, "max" or "avg"; raises UsageError for others."""
    if kind not in POOLS:
        raise unknown("pool", kind, POOLS)
    return POOLS[kind][len(window.kernel) - 1](window.kernel, window.stride, window.padding)


class BasicBlock(nn.Module):
    """f(F(x) + x), F two convolutions with a norm each and the activation f between them.

    (He et al. 2016, fig. 2 and eq. 1.) Where F changes the shape, x goes through a convolution of
    one pixel and a norm (eq. 2). Raises UsageError for windows whose padding isn't half their
    kernel, and for GLU, which would halve the sum.
    """

    def __init__(self, make: Make, channels_in: int, channels: int, window: Window) -> None:
        super().__init__()
        if before(make.activation, channels) != channels:
            raise UsageError(
                f"activation is {make.activation!r} in a residual network; allowed: those that "
                "keep the width, since the sum has that of its input; take 'silu', or residual off"
            )
        if any(k % 2 == 0 or p != k // 2 for k, p in zip(window.kernel, window.padding)):  # noqa: B905
            raise UsageError(
                f"kernel is {window.kernel} and padding {window.padding} in a residual network; "
                "allowed: odd kernels and half of each as padding, so that both paths keep step"
            )
        ones = (1,) * make.dims
        again = Window(window.kernel, ones, window.padding)
        self.residual = nn.Sequential(
            *make.activated_conv(channels_in, channels, window),
            make.conv(channels, channels, again, 1.0),
            *make.norms(channels),
        )
        shortcut: list[nn.Module] = []
        if channels_in != channels or window.stride != ones:
            pixel = Window(ones, window.stride, (0,) * make.dims)
            shortcut = [make.conv(channels_in, channels, pixel, 1.0), *make.norms(channels)]
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = Activation(make.activation)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return y


class ImpalaBlock(nn.Module):
    """x + F(x), F twice a ReLU and a 3×3 convolution (Espeholt et al. 2018, fig. 3, right)."""

    def __init__(self, make: Make, channels: int, window: Window) -> None:
        super().__init__()
        self.first = make.conv(channels, channels, window, make.gain)
        self.second = make.conv(channels, channels, window, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(torch.relu(x))))
        return x + y


def warn_of_batch_norm(module: nn.Module) -> None:
    """Warn, once, where an agent that gathers its own experience has batch normalisation in it."""
    if any(isinstance(part, (*BATCH_NORMS, nn.SyncBatchNorm)) for part in module.modules()):
        warnings.warn(
            "the network has batch normalisation, whose statistics follow the policy: they are "
            "those of the batches it has just seen, and differ between acting and learning; "
            "norm 'layer' or 'group' has no such state",
            RlkitWarning,
            stacklevel=2,
        )
