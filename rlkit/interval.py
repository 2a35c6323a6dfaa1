"""How often something happens: every so many steps, or every so much time.

Written as one value: ``50000`` or ``5e4`` are steps, ``30s``, ``10min`` and ``2h`` are times.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}  # in seconds

_TEXT = re.compile(r"([\d.]+(?:e\+?\d+)?)\s*(s|min|h)?", re.IGNORECASE)


@dataclass(frozen=True)
class Interval:
    """Every `amount` steps, or where `unit` is not "" every so much time; 0 steps: unsaid."""

    amount: float
    unit: str = ""

    @property
    def seconds(self) -> float | None:
        """The time between two; None where steps are counted."""
        return self.amount * UNITS[self.unit] if self.unit else None

    def __str__(self) -> str:
        """As `interval` reads it; numbers keep all their digits."""
        amount = int(self.amount) if self.amount == int(self.amount) else repr(self.amount)
        return f"{amount}{self.unit}"


def interval(value: object) -> Interval | None:
    """The interval that a whole number, a text or an Interval stands for; None where for none."""
    if isinstance(value, Interval):
        return value if _is_allowed(value) else None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    match = _TEXT.fullmatch(str(value).strip())
    if match is None:
        return None
    try:
        return interval(Interval(float(match[1]), (match[2] or "").lower()))
    except ValueError:
        return None


def _is_allowed(value: Interval) -> bool:
    if not math.isfinite(value.amount) or value.unit not in ("", *UNITS):
        return False
    if value.unit:
        return value.amount > 0
    return value.amount >= 0 and value.amount == int(value.amount)
