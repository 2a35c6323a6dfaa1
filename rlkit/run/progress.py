"""How far training is: a live bar on a terminal, plain lines where the output is read later."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

REFRESH_SECONDS = 0.1
LINE_SECONDS = 2.0  # at least between two lines, and
LINE_FRACTION = 0.02  # as much of the whole, or
QUIET_SECONDS = 60.0


class Progress:
    """The progress of a training of `total` environment steps, on `console`.

    `start`: the step that a resumed run goes on from. Use it as a context manager.
    """

    def __init__(self, console: Console, total: int, start: int = 0) -> None:
        self._console = console
        self._total = total
        self._start = start
        self._bar: Bar | None = None
        self._shown_step = start
        self._shown_at = 0.0

    def __enter__(self) -> Progress:
        self._shown_at = time.monotonic()
        if self._console.is_terminal:
            self._bar = _bar(self._console)
            self._bar.add_task("", total=self._total, completed=self._start, told="")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.refresh()
            self._bar.stop()
            self._bar = None

    def update(
        self, step: int, mean_return: float | None, mean_length: float | None, fps: float
    ) -> None:
        """Show that `step` is reached, at `fps` steps a second; None before an episode has ended.

        May be called as often as is handy: what comes too soon after the last showing is dropped,
        save the end.
        """
        told = _told(mean_return, mean_length, fps, self._total - step)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, told=told)
        if not self._due(step):
            return
        self._shown_step, self._shown_at = step, time.monotonic()
        if self._bar:
            self._bar.refresh()
        else:
            percent = 100 * step // self._total
            self._print(f"{percent:3d} %  step {step:,} of {self._total:,}  {told}")

    def note(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        self._print(text)

    def _due(self, step: int) -> bool:
        waited = time.monotonic() - self._shown_at
        if step >= self._total:
            return True
        if self._bar:
            return waited >= REFRESH_SECONDS
        advanced = (step - self._shown_step) / self._total
        return waited >= LINE_SECONDS and (advanced >= LINE_FRACTION or waited >= QUIET_SECONDS)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _told(mean_return: float | None, mean_length: float | None, fps: float, steps_left: int) -> str:
    parts = []
    if mean_return is not None:
        parts.append(f"return {mean_return:.1f}")
    if mean_length is not None:
        parts.append(f"length {mean_length:.0f}")
    parts.append(f"{fps:,.0f} steps/s")
    if fps > 0 and steps_left > 0:
        minutes, seconds = divmod(round(steps_left / fps), 60)
        hours, minutes = divmod(minutes, 60)
        parts.append(f"{hours}:{minutes:02d}:{seconds:02d} left")
    return "  ".join(parts)


def _bar(console: Console) -> Bar:
    from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    # refreshed by hand: rich's own thread would take the interpreter from the training
    return Bar(
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}", markup=False),
        console=console,
        auto_refresh=False,
    )
