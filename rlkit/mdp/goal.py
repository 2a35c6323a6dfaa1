"""What a solver is asked for, how far it got, and when it has to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from rlkit.mdp.model import FloatArray


class OutOfTimeError(Exception):
    """The time allowed is over."""


@dataclass(frozen=True)
class Reached:
    """How far a solver has got.

    Fields:
        sweeps: how many it has made; see `Solution`.
        seconds: its time until then.
        error: a certified bound on ‖values − V*‖∞, in units of reward; inf where none is proven.
    """

    sweeps: float
    seconds: float
    error: float


@dataclass(frozen=True)
class Watch:
    """Someone who wants to know how far a solver has got.

    Fields:
        tell: called again and again while it solves, in its thread; what it raises ends the solve.
        after: seconds in which nothing is told.
        share: many algorithms prove bounds on their way. Where one does not, they are worked out
            for the watcher: this is what that may cost, as a share of the solving time, beside
            which it is not counted. A single look may overdraw it.
    """

    tell: Callable[[Reached], None]
    after: float = 0.0
    share: float = 1.0


class Goal:
    """An error of at most `tol` in at most `max_seconds`; kept up to date by the algorithm.

    Attributes:
        tol: the largest error that a value may have.
        threads: how many may share a Jacobi sweep.
        sweeps: how many have been made.
        notes: what a user should know of the way that was taken.
        latest: gives the latest values (S,); bounds on them are what is left after an interruption.
        measure: gives the error certified for values (S,), for a watcher; None: it takes too long.
    """

    def __init__(
        self, tol: float, max_seconds: float, watch: Watch | None = None, threads: int = 1
    ) -> None:
        self.tol = tol
        self.threads = threads
        self.max_seconds = max_seconds
        self.sweeps = 0.0
        self.notes: list[str] = []
        self.latest: Callable[[], FloatArray] | None = None
        self.measure: Callable[[FloatArray], float] | None = None
        self._watch = watch
        self._watched = 0.0  # seconds for the watcher
        self._begun = perf_counter()

    @property
    def seconds(self) -> float:
        """How long it has taken so far, without what was done for the watcher alone."""
        return perf_counter() - self._begun - self._watched

    def note(self, V: FloatArray) -> None:
        """Take V (S,) for the latest values; raise OutOfTimeError where the time is over."""
        self.latest = lambda: V
        self.check_time()

    def check_time(self) -> None:
        """Raise OutOfTimeError where the time is over."""
        if self._watch is not None:
            self._look(self._watch)
        if self.seconds > self.max_seconds:
            raise OutOfTimeError

    def keep(self, V: FloatArray) -> None:
        """As `note`, where `report` follows."""
        self.latest = lambda: V
        if self.seconds > self.max_seconds:
            raise OutOfTimeError

    def report(self, error: float) -> None:
        """Say that `error` is certified for the latest values."""
        if self._watch is not None:
            self._tell(self._watch, lambda: error)

    def _look(self, watch: Watch) -> None:
        if self.latest is None or self._watched > watch.share * self.seconds:
            return
        latest, measure = self.latest, self.measure
        self._tell(watch, lambda: math.inf if measure is None else measure(latest()))

    def _tell(self, watch: Watch, error: Callable[[], float]) -> None:
        seconds = self.seconds
        if seconds < watch.after:
            return
        since = perf_counter()
        watch.tell(Reached(self.sweeps, seconds, error()))
        self._watched += perf_counter() - since
