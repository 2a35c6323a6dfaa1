"""What Python and the C library do behind a training's back, and what keeps them from it."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
KEPT = 256 << 20  # bytes
LARGEST = 32 << 20  # bytes; glibc refuses more


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector off torch's own objects, and freed memory with the process."""
    _keep_freed_memory()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _keep_freed_memory() -> None:
    """Have malloc keep up to 256 MiB that was freed, instead of handing it back to the system.

    An update makes and drops the same arrays each time; handed back, each of their pages is zeroed
    and mapped anew, which took a quarter of an A2C update of 2,560 steps. glibc's alone does this
    and can be told not to; it can't be asked what it was told before, so it stays so.
    """
    if sys.platform != "linux" or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, KEPT)
