"""Which process something belongs to, so that others can tell whether it still lives."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path


def owner() -> dict[str, str | int]:
    """This process, as JSON values."""
    return {"host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}


def is_gone(told: object) -> bool:
    """Whether the process that `owner` told of has ended; of other machines' it isn't known."""
    if not isinstance(told, dict) or told.get("host") != _host():
        return False
    pid = told.get("pid")
    if type(pid) is not int or pid < 1:
        return False
    with suppress(PermissionError):  # it is somebody else's, and there
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
    return told.get("started") != _started(pid)  # its number may have been given anew


def _host() -> str:
    """The machine since it was started, and the container: where process numbers mean the same."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str:
    """When the process was started, in the kernel's ticks; "" where that is not told."""
    try:
        # the name before it, in brackets, may hold spaces
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
