"""When a solver will be done, judged by how its certified error has fallen so far."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rlkit.mdp.goal import Reached

_LEAST = 6  # points
_ALIKE = 2.0  # how much faster than before the error may fall and still be foreseen


def seconds_left(course: Iterable[Reached], tol: float) -> float | None:
    """Seconds until the error is `tol`, if it goes on falling as it does; None where that is open.

    Sweeps are contractions: the logarithm of the error falls along a line. It is extended where the
    later half of the course falls about as fast as the earlier one. course: in the order of time.
    """
    known = [reached for reached in course if 0 < reached.error < math.inf]
    if len(known) < _LEAST:
        return None
    first, middle, last = known[0], known[len(known) // 2], known[-1]
    earlier, later = _rate(first, middle), _rate(middle, last)
    if not (earlier > 0 and 1 / _ALIKE <= later / earlier <= _ALIKE):
        return None
    return max(0.0, math.log(last.error / tol) / later)


def _rate(since: Reached, until: Reached) -> float:
    """By how many natural logarithms the error falls in a second."""
    seconds = until.seconds - since.seconds
    return math.log(since.error / until.error) / seconds if seconds > 0 else 0.0
