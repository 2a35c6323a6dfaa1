"""What the machine offers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rlkit.errors import UsageError


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, within the container's limit; None: unknown."""
    limits = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    cgroup = Path("/sys/fs/cgroup")
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = (cgroup / "memory.current").read_text().strip()
        if limit != "max":
            limits.append(int(limit) - int(used))
    except OSError:
        pass
    return min(limits, default=None)


def require_memory(need: int, asked: str, holder: str, fits: Callable[[int], object]) -> None:
    """Refuse what doesn't fit before it is made: Linux would grant it now and kill the run later.

    Args: `need` in bytes; `asked` names the option and its value ("n_steps (--n-steps) is 9"),
    `holder` what would take the bytes ("the rollout"), `fits` the largest value that so many bytes
    have room for. Raises UsageError; where it is unknown how much is free, nothing is refused.
    """
    free = available_memory()
    if free is not None and need > free:
        raise UsageError(
            f"{asked}: {holder} would take {need / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are "
            f"free; allowed: up to {fits(free)}"
        )
