"""Images, windows and clips, as convolutions take them: channels first, bytes in [0, 1].

A layout has one letter for each axis of an observation. C, or F in a window, are its channels; the
other axes, in their order, are those that convolutions slide along: H and W, and T, time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from rlkit.errors import UsageError
from rlkit.registry import unknown

AUTO = "auto"
LAYOUTS = ("HW", "HWC", "CHW", "TF", "THWC", "TCHW")
CHANNEL_LETTERS = "CF"

FEW_CHANNELS = 4  # grey, grey and alpha, RGB, RGBA, or four frames
# Bounds beyond these are ways to say that there is none, as a float's largest number is.
LARGEST_BOUND = 1e6
LARGEST_BYTE = 255

MEMORY_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}  # by axes slid along


def image_layout(shape: Sequence[int]) -> str:
    """The layout of images (2 or 3 axes), or of clips of them (4), by their shape.

    Two axes are an image of one channel. Of three the channels are the last, as Gymnasium's
    environments have them, where there are at most 4 of those. More are those beside a square, or,
    without one, the last if they are no more than there are along the first axis, else the first.
    Clips have time before that. Raises UsageError for other shapes.
    """
    if len(shape) not in (2, 3, 4):
        raise UsageError(
            f"observations of shape {tuple(shape)} are no images; allowed: 2 axes (height, width), "
            "3 with channels last or first, 4 with time before them; flatten or reshape them"
        )
    if len(shape) == 2:
        return "HW"
    first, middle, last = shape[-3:]
    is_beside_square = (first == middle) != (middle == last)
    is_last = last <= FEW_CHANNELS or (first == middle if is_beside_square else last <= first)
    return ("T" if len(shape) == 4 else "") + ("HWC" if is_last else "CHW")


class Images(nn.Module):
    """Observations as convolutions take them: (..., *shape) → float (N, channels, *size).

    N is the product of the leading axes, of which there may be any number.

    Args:
        shape: of one observation.
        layout: one of LAYOUTS; "auto" is `image_layout`'s.
        bounds: the least and greatest values, scalars or of `shape`: values are scaled from them to
            [0, 1], whatever their dtype, and left as they are where a bound is missing (infinite,
            or beyond ±10⁶). Without any, uint8 is divided by 255 and the rest left as it is.
        channels_last: lay the result out with its channels side by side in memory, which
            convolutions on the CPU take up to twice as fast; the values are the same.

    Raises UsageError for layouts that are unknown or do not fit the shape.
    """

    low: Tensor
    scale: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        layout: str = AUTO,
        bounds: tuple[ArrayLike, ArrayLike] | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.layout = image_layout(shape) if layout == AUTO else layout
        if self.layout not in LAYOUTS:
            raise unknown("layout", layout, (AUTO, *LAYOUTS))
        if len(self.layout) != len(self.shape):
            raise UsageError(
                f"the layout {layout!r} does not fit observations of shape {self.shape}; allowed: "
                f"one letter for each axis; known: {', '.join(LAYOUTS)}"
            )
        channel = [i for i, letter in enumerate(self.layout) if letter in CHANNEL_LETTERS]
        slid = [i for i in range(len(self.shape)) if i not in channel]
        self.channels = self.shape[channel[0]] if channel else 1
        self.size = tuple(self.shape[i] for i in slid)
        self._order = [*channel, *slid]
        self.memory_format = torch.contiguous_format
        if channels_last:
            self.memory_format = MEMORY_FORMATS.get(len(slid), torch.contiguous_format)
        low, scale = self._bounds(bounds)
        self._is_bounded = bounds is not None
        self._is_shifted = bool(low.any())
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32), persistent=False)
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, *self.shape).permute(0, *(1 + i for i in self._order))
        x = x if len(self._order) > len(self.size) else x.unsqueeze(1)
        x = x.contiguous(memory_format=self.memory_format)  # before each has four bytes
        if not (self._is_bounded or x.dtype == torch.uint8):
            return x.to(self.scale.dtype)
        return (x - self.low if self._is_shifted else x) * self.scale

    def through(self, layers: nn.Module, x: Tensor) -> Tensor:
        """Layers from (N, channels, *size) to (N, width), on (..., *shape): (..., width)."""
        y: Tensor = layers(self(x))
        return y.reshape(*x.shape[: x.ndim - len(self.shape)], y.shape[-1])

    def _bounds(self, bounds: tuple[ArrayLike, ArrayLike] | None) -> tuple[Any, Any]:
        """What to subtract and then to multiply with: scalars, or (channels, *size)."""
        if bounds is None:
            return np.zeros(()), np.asarray(1 / LARGEST_BYTE)
        low, high = (np.asarray(bound, dtype=np.float64) for bound in bounds)
        if not (abs(low) <= LARGEST_BOUND).all() or not (abs(high) <= LARGEST_BOUND).all():
            return np.zeros(()), np.ones(())
        span = np.where(high > low, high - low, 1.0)  # a constant stays 0
        return self._as_planes(low), self._as_planes(1 / span)

    def _as_planes(self, values: Any) -> Any:
        if (values == values.flat[0]).all():
            return values.flat[0]
        return np.broadcast_to(values, self.shape).transpose(self._order)


AnyImages: TypeAlias = Images | Sequence[int]  # or the shape of images of the default kind


def as_images(images: AnyImages) -> Images:
    return images if isinstance(images, Images) else Images(images)
