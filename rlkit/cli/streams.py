"""Standard output and error where they are closed, full, or shown what strangers wrote."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import IO, Any, cast


class Enduring:
    """A standard stream for what must go on without it: a closed pipe or a full disk is no error.

    What can't be written is lost, and all that follows; where that is standard output, a line on
    standard error says so.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._go_on_without(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._go_on_without(error)

    def _go_on_without(self, error: OSError) -> None:
        with suppress(OSError):  # what is buffered, and Python's own flush at the end, go there too
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self._stream is sys.stdout:
            enduring(sys.stderr).write(
                f"Warning: standard output can't be written any more: {error.strerror}; the run "
                "goes on without\n"
            )


def enduring(stream: IO[str]) -> IO[str]:
    """`stream` as an `Enduring`."""
    return cast(IO[str], Enduring(stream))


def printable(text: str) -> str:
    """`text`, which others may have written, with what steers a terminal or is no text escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
