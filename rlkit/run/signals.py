"""Being asked to stop: a run finishes its step and saves; asked twice, it stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn


class Terminated(BaseException):
    """A SIGTERM came where there is nothing to save: as KeyboardInterrupt is for SIGINT."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within, a SIGTERM raises Terminated, so that what is open is closed; see StopSignals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if earlier is None else earlier)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


class StopSignals:
    """While entered, the first SIGINT or SIGTERM only sets `received`; the loop looks and ends.

    A SIGINT after that raises KeyboardInterrupt, for whoever can't wait. A second SIGTERM changes
    nothing: a cluster that preempts may send several. On exit the earlier handlers are back.
    Outside the main thread, where Python takes no signals, this does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._earlier[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._earlier.items():
            # None: a handler that was not set from Python, and can't be set back from it
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._earlier.clear()

    @property
    def exit_status(self) -> int:
        """What the process exits with: 128 + the signal (130, 143), or 0 if none came."""
        return 0 if self.received is None else 128 + self.received

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
