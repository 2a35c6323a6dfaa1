"""Positional encodings: how attention, which sees a set, learns of order in time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlkit.errors import UsageError
from rlkit.registry import unknown

BASE = 10_000.0  # the longest wavelength is 2π times this (Vaswani et al. 2017, §3.5)

SINUSOIDAL, LEARNED, ROTARY, NO_POSITIONS = "sinusoidal", "learned", "rotary", "none"
POSITIONS = (SINUSOIDAL, LEARNED, ROTARY, NO_POSITIONS)


def _angles(position: Tensor, width: int) -> Tensor:
    """position · BASE^(−2i/width), i = 0 … width/2 − 1: (...) → (..., width/2) float32."""
    if width % 2:
        raise UsageError(f"the width of a positional encoding is {width}; allowed: an even number")
    i = torch.arange(0, width, 2, device=position.device)
    return position[..., None] * BASE ** (-i / width)


def sinusoids(position: Tensor, width: int) -> Tensor:
    """Vaswani et al. 2017, §3.5: (...) numbers → (..., width) float32, sines before cosines.

    (The paper has them in turns: an order of the columns, which no layer above can tell.) Raises
    UsageError for an odd width.
    """
    angle = _angles(position, width)
    return torch.cat([angle.sin(), angle.cos()], -1)


def rotated(x: Tensor, position: Tensor) -> Tensor:
    """Rotary encoding (Su et al. 2021, §3.4.2): x (..., T, width), position (T,) → like x.

    Entries i and i + width/2 of a query or key turn together by position·BASE^(−2i/width), so that
    the product of a query with a key depends on the difference of their positions alone.
    Raises UsageError for an odd width.
    """
    angle = _angles(position, x.shape[-1])
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)  # (T, width/2)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Sinusoids(nn.Module):
    """x (T, B, width) plus the sinusoids of steps `start` … `start` + T − 1."""

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        position = torch.arange(start, start + len(x), device=x.device)
        return x + sinusoids(position, x.shape[-1]).to(x.dtype)[:, None]


class LearnedPositions(nn.Module):
    """x (T, B, width) plus a learned vector for each step (Gehring et al. 2017, §3.1).

    Starts normal with deviation 0.02, as BERT does (Devlin et al. 2019). Raises UsageError for
    sequences that reach beyond `length` steps.
    """

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(length, width))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        if start + len(x) > len(self.table):
            raise UsageError(
                f"a sequence reaches step {start + len(x)}; learned positions were made for "
                f"{len(self.table)}; make them with a greater length"
            )
        return x + self.table[start : start + len(x), None]


def positions_for(name: str, length: int, width: int) -> nn.Module:
    """What is added to the input of a stack: nothing for "rotary" (attention's own) and "none".

    `length`: the longest sequence that learned positions serve. Raises UsageError for other names.
    """
    if name not in POSITIONS:
        raise unknown("positional encoding", name, POSITIONS)
    if name == LEARNED:
        return LearnedPositions(length, width)
    return Sinusoids() if name == SINUSOIDAL else nn.Identity()
