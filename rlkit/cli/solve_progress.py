"""How far a long solve is: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

from rlkit.mdp.forecast import seconds_left
from rlkit.mdp.goal import Reached, Watch
from rlkit.run.progress import LINE_SECONDS, REFRESH_SECONDS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

INTERRUPTED = 130  # exit status after Ctrl-C, as of a shell
_QUIET_SECONDS = 1.0  # what takes no longer is done before anybody wonders
_SHARE = 0.02  # of the time, at most, for bounds that only the user wants to see
_POINTS, _POINT_SECONDS = 40, 0.25  # that the time left is judged by, and between two of them
_SLOWER, _LONGEST_SECONDS = 1.2, 60.0  # each line waits longer than the one before, up to this


class SolveProgress:
    """The progress of solves to an error of at most `tol`, on `console`; nothing of short ones.

    Use it as a context manager, and its `watch` as the solver's; or call `update`. steps: how many
    sweeps will do, where that is known.
    """

    def __init__(self, console: Console, tol: float, steps: int | None = None) -> None:
        self.watch = Watch(self.update, _QUIET_SECONDS, _SHARE)
        self._console = console
        self._tol, self._steps = tol, steps
        self._method = ""
        self._course: deque[Reached] = deque(maxlen=_POINTS)
        self._first_error = math.inf
        self._bar: Bar | None = None
        self._shown_at = -math.inf
        self._wait = REFRESH_SECONDS if console.is_terminal else LINE_SECONDS

    def __enter__(self) -> SolveProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def update(self, reached: Reached, method: str = "") -> None:
        """Show what is reached; of several methods in turn, by `method`. Call it at any rate."""
        if method != self._method:
            self._method, self._first_error = method, math.inf
            self._course.clear()
        if reached.seconds < _QUIET_SECONDS:
            return
        if not self._course or reached.seconds - self._course[-1].seconds >= _POINT_SECONDS:
            self._course.append(reached)
        now = time.monotonic()
        if now - self._shown_at < self._wait:
            return
        self._shown_at = now
        if self._steps is not None:
            done: float | None = reached.sweeps / self._steps
            text = _counted(reached, self._steps)
        else:
            done = self._share(reached.error)
            text = _told(reached, self._tol, seconds_left(self._course, self._tol))
        text = f"{method}: {text}" if method else text
        if self._console.is_terminal:
            self._show(done, text)
        else:
            self._wait = min(self._wait * _SLOWER, _LONGEST_SECONDS)
            self._console.print(text)

    def _share(self, error: float) -> float | None:
        """What is done, which grows with the logarithm of the error; None without a known error."""
        if math.isinf(self._first_error):
            self._first_error = error
        if not (0 < error < math.inf and self._first_error > self._tol):
            return None
        done = math.log(self._first_error / error) / math.log(self._first_error / self._tol)
        return min(max(done, 0.0), 1.0)

    def _show(self, done: float | None, text: str) -> None:
        """The bar for a share that is done; for None it has no end."""
        if self._bar is None:
            self._bar = _bar(self._console)
            self._bar.add_task("", total=None, told="")
            self._bar.start()
        (task,) = self._bar.task_ids
        if done is None:
            self._bar.update(task, total=None)
        else:
            self._bar.update(task, total=1.0, completed=done)
        self._bar.update(task, told=text)
        self._bar.refresh()


def _told(reached: Reached, tol: float, left: float | None) -> str:
    error = f"{reached.error:.1e}" if reached.error < math.inf else "not known yet"
    parts = [
        f"certified error {error} (asked: {tol:g})",
        f"{reached.sweeps:,.0f} sweeps",
        _duration(reached.seconds),
    ]
    if left is not None:
        parts.append(f"about {_duration(left)} left")
    return "  ".join(parts)


def _counted(reached: Reached, steps: int) -> str:
    left = reached.seconds * (steps / reached.sweeps - 1)
    parts = [f"step {reached.sweeps:,.0f} of {steps:,}", _duration(reached.seconds)]
    return "  ".join([*parts, f"about {_duration(left)} left"])


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def _bar(console: Console) -> Bar:
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    # refreshed by hand: rich's own thread would take the interpreter from the solver
    return Bar(
        BarColumn(bar_width=12),
        TextColumn("{task.fields[told]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
    )
