"""Progress: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import io
import subprocess
import sys
import time

import pytest
from rich.console import Console

from rlkit.run.progress import Progress


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def lines_of(
    monkeypatch: pytest.MonkeyPatch, seconds_per_update: float, total: int, updates: int
) -> list[str]:
    clock = Clock(monkeypatch)
    console = Console(file=io.StringIO(), width=100)
    with Progress(console, total) as shown:
        for i in range(1, updates + 1):
            clock.now += seconds_per_update
            shown.update(total * i // updates, 20.0, 20.0, 1000.0)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_plain_lines_say_what_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = lines_of(monkeypatch, 5.0, total=8000, updates=4)
    assert lines[0] == (
        " 25 %  step 2,000 of 8,000  return 20.0  length 20  1,000 steps/s  0:00:06 left"
    )
    assert lines[-1] == "100 %  step 8,000 of 8,000  return 20.0  length 20  1,000 steps/s"
    assert len(lines) == 4


def test_a_short_run_says_little(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = lines_of(monkeypatch, 0.01, total=50_000, updates=300)  # three seconds
    assert len(lines) == 2
    assert lines[1].startswith("100 %")


def test_a_long_run_says_enough_and_not_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = lines_of(monkeypatch, 1.0, total=10**8, updates=36_000)  # ten hours
    assert 60 <= len(lines) <= 700


def test_before_an_episode_has_ended_there_is_no_return() -> None:
    console = Console(file=io.StringIO(), width=100)
    with Progress(console, 10) as shown:
        shown.update(10, None, None, 0.0)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "100 %  step 10 of 10  0 steps/s\n"


def test_a_terminal_shows_a_bar_that_is_drawn_ten_times_a_second_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    clock = Clock(monkeypatch)
    console = Console(file=io.StringIO(), width=120, force_terminal=True, force_interactive=True)
    with Progress(console, 1000, start=500) as shown:
        bar = shown._bar
        assert bar
        refresh = bar.refresh
        monkeypatch.setattr(bar, "refresh", lambda: (drawn.append(clock.now), refresh()))
        for step in range(500, 1000):
            clock.now += 0.002
            shown.update(step, 20.0, 200.0, 500.0)
        shown.note("saved [bold]here")
    assert isinstance(console.file, io.StringIO)
    output = console.file.getvalue()
    assert 8 <= len(drawn) <= 13
    assert "return 20.0" in output
    assert "999/1000" in output
    assert "saved [bold]here" in output


def test_importing_progress_does_not_import_rich() -> None:
    script = "import sys, rlkit.run.progress; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n"
