"""When a run saves: after so many steps, or after so much time."""

from __future__ import annotations

import time

from rlkit.interval import Interval


class SaveTimes:
    """Says after each step whether a checkpoint is due.

    Steps are counted from the run's beginning, so a resumed run goes on in the same rhythm. Time
    runs from the last save, or from when this was made: no more of it than the interval, and the
    step under way, is ever lost.
    """

    def __init__(self, every: Interval, step: int) -> None:
        self._every = every
        self.saved(step)

    @property
    def by_clock(self) -> bool:
        return self._every.seconds is not None

    def saved(self, step: int) -> None:
        """A checkpoint of `step` has been saved."""
        if self._every.seconds is None:
            count = int(self._every.amount)
            self._at = (step // count + 1) * float(count)
        else:
            self._at = time.monotonic() + self._every.seconds

    def due(self, step: int) -> bool:
        return (step if self._every.seconds is None else time.monotonic()) >= self._at
