"""What a solver is asked for, how far it got, and when it has to stop."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from rlkit.mdp.model import FloatArray


class OutOfTimeError(Exception):
    """The time allowed is over."""


class Goal:
    """An error of at most `tol` in at most `max_seconds`; kept up to date by the algorithm.

    Attributes:
        tol: the largest error that a value may have.
        sweeps: how many have been made.
        notes: what a user should know of the way that was taken.
        latest: gives the latest values (S,); bounds on them are what is left after an interruption.
    """

    def __init__(self, tol: float, max_seconds: float) -> None:
        self.tol = tol
        self.max_seconds = max_seconds
        self.sweeps = 0.0
        self.notes: list[str] = []
        self.latest: Callable[[], FloatArray] | None = None
        self._begun = perf_counter()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return perf_counter() - self._begun

    def note(self, V: FloatArray) -> None:
        """Take V (S,) for the latest values; raise OutOfTimeError where the time is over."""
        self.latest = lambda: V
        self.check_time()

    def check_time(self) -> None:
        """Raise OutOfTimeError where the time is over."""
        if self.seconds > self.max_seconds:
            raise OutOfTimeError
