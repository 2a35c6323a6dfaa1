"""Running code that rlkit did not write: its logger kept quiet, its failures put on one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from gymnasium import logger


@contextmanager
def quiet_gymnasium() -> Iterator[None]:
    """Silence what Gymnasium says through its own logger; warnings of anybody else still show."""
    level = logger.min_level
    logger.min_level = logger.ERROR + 1
    try:
        yield
    finally:
        logger.min_level = level


def describe(error: BaseException) -> str:
    """`error` on one line: its type, the first line of its text, and where it was raised."""
    text = next(iter(str(error).splitlines()), "")
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen ")  # the import system's own
    ]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"
