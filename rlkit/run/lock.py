"""One process at a time trains a run: two would mix their checkpoints and cut each other's curves.

The lock is the operating system's, on a file of the run's folder that says nothing: it goes with
the process however that ends, and is not handed on to worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlkit.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within, no other process trains the run in `folder`; raises UsageError where one does.

    Where a file can't be locked, as on some networks' disks and on Windows, nothing is done.
    """
    descriptor = None
    if fcntl is not None:
        with suppress(OSError):  # read-only: nothing can be saved either, which is said elsewhere
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(folder / LOCK, flags, 0o644)
    if descriptor is None:
        yield
        return
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise UsageError(
                f"{folder} is being trained by another process; wait for its end, or stop it with "
                "SIGTERM, which saves"
            ) from None
        except OSError:  # no locks on this disk
            pass
        yield
    finally:
        os.close(descriptor)
