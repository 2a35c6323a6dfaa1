"""What many runs are doing: a live table on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlkit.run.progress import REFRESH_SECONDS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

ROWS = 20  # at most, of the live table


@dataclass(frozen=True)
class Row:
    """A run under way; None stands for what it has not told yet."""

    name: str
    step: int | None
    total: int | None
    mean_return: float | None
    seconds: float


class Board:
    """Shows on `console`, or nowhere if that is None; use it as a context manager."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._live: Live | None = None
        self._shown_at = 0.0

    def __enter__(self) -> Board:
        if self._console is not None and self._console.is_terminal:
            from rich.live import Live

            # refreshed by hand: its own thread would hold up the signals' handlers
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def event(self, text: str, minor: bool = False) -> None:
        """Print a line that stays; a minor one only where the table does not show as much."""
        if self._console is not None and not (minor and self._live):
            self._console.print(text)

    def show(self, summary: str, rows: Sequence[Row]) -> None:
        """Show how far the runs are, under a summary; may be called as often as is handy."""
        now = time.monotonic()
        if self._live is not None and now - self._shown_at >= REFRESH_SECONDS:
            self._shown_at = now
            self._live.update(_table(summary, rows), refresh=True)


def _table(summary: str, rows: Sequence[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    more = f", {len(rows) - ROWS} of them not shown" if len(rows) > ROWS else ""
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        caption=summary + more,
        caption_justify="left",
    )
    table.add_column("run", overflow="ellipsis", no_wrap=True)
    for column in ("done", "steps", "return", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows[:ROWS]:
        table.add_row(Text(row.name), *_cells(row))
    return table


def _cells(row: Row) -> tuple[str, str, str, str]:
    minutes, seconds = divmod(int(row.seconds), 60)
    if row.step is None or row.total is None:
        return "", "starting", "", f"{minutes}:{seconds:02d}"
    reached = "" if row.mean_return is None else f"{row.mean_return:.1f}"
    share = f"{min(100, 100 * row.step // max(1, row.total))} %"
    return share, f"{row.step:,}", reached, f"{minutes}:{seconds:02d}"
