"""Schedules: a hyperparameter that changes over the training.

Written as one value: ``1e-3`` is constant, ``1e-3:0`` falls linearly, ``1e-3:0:cosine`` along a
cosine, and ``1:0.05@0.2`` gets there in the first fifth of the training and stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SHAPES = ("linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """From `start` to `end` along `shape` over the first `share` of the training, then `end`.

    Without an end it is constant.
    """

    start: float
    end: float | None = None
    shape: str = "linear"
    share: float = 1.0

    def __call__(self, progress: float) -> float:
        """The value once the share `progress` of the training is done, in [0, 1]."""
        if self.end is None:
            return self.start
        x = min(1.0, progress / self.share)
        if self.shape == "cosine":  # half a period (Loshchilov & Hutter 2017, eq. 5)
            x = 0.5 * (1 - math.cos(math.pi * x))
        return self.start + x * (self.end - self.start)

    def __str__(self) -> str:
        """As `schedule` reads it; numbers keep all their digits."""
        if self.end is None:
            return _number(self.start)
        ends = f"{_number(self.start)}:{_number(self.end)}"
        shape = "" if self.shape == "linear" else f":{self.shape}"
        return ends + shape + ("" if self.share == 1 else f"@{_number(self.share)}")


def schedule(value: object) -> Schedule | None:
    """The schedule that a number, a text or a Schedule stands for; None where it stands for none.

    A text is START, START:END or START:END:SHAPE, the latter two with @SHARE or without.
    """
    if isinstance(value, Schedule):
        return value if value.shape in SHAPES and 0 < value.share <= 1 else None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text, at, share = str(value).partition("@")
    start, *rest = text.split(":")
    end, shape = [*rest, "linear"][:2] if rest else (None, "linear")
    if len(rest) > 2 or (at and not rest):
        return None
    try:
        return schedule(
            Schedule(
                float(start),
                None if end is None else float(end),
                shape,
                float(share) if at else 1.0,
            )
        )
    except ValueError:
        return None


def _number(x: float) -> str:
    return str(int(x)) if x == int(x) else repr(x)
