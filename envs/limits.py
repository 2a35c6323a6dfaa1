"""What the options of a model may be: one line that names the option where one is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rlkit.errors import UsageError


def whole(low: int, **options: Any) -> None:
    """Refuse options that are no whole numbers, or lower than `low`."""
    for name, value in options.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < low:
            raise UsageError(f"{name} is {value!r}; allowed: a whole number, {low} or more")


def finite(low: float = -math.inf, **options: Any) -> None:
    """Refuse options that are no finite numbers, or lower than `low`."""
    allowed = "a finite number" if math.isinf(low) else f"a finite number, {low:g} or more"
    for name, value in options.items():
        if not (_is_number(value) and math.isfinite(value) and value >= low):
            raise UsageError(f"{name} is {value!r}; allowed: {allowed}")


def probabilities(**options: Any) -> None:
    """Refuse options that are no probabilities."""
    for name, value in options.items():
        if not (_is_number(value) and 0.0 <= value <= 1.0):
            raise UsageError(f"{name} is {value!r}; allowed: a probability, 0 to 1")


def flags(**options: Any) -> None:
    """Refuse options that are neither True nor False."""
    for name, value in options.items():
        if not isinstance(value, (bool, np.bool_)):
            raise UsageError(f"{name} is {value!r}; allowed: True or False")


def _is_number(value: object) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating))
    return number and not isinstance(value, bool)
