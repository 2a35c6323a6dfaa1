"""Room for steps on a device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.errors import UsageError
from rlkit.packing import space_array, stored
from rlkit.system import require_memory


def space_tensor(
    space: spaces.Space[Any], leading: tuple[int, ...], device: torch.device
) -> Tensor:
    """Zeros for `leading` many values of a space, made on the device."""
    shape, _ = stored(space)
    dtype = torch.from_numpy(space_array(space, (0,))).dtype
    return torch.zeros((*leading, *shape), dtype=dtype, device=device)


def free_on(device: torch.device) -> float:
    """Bytes that can be allocated there: on CUDA what no process has, and what torch holds unused.

    Infinite where nothing runs out that is not looked at elsewhere.
    """
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused


def no_room(
    need: float, free: float, device: torch.device, asked: str, holder: str, fits: object
) -> UsageError:
    """What is said where `holder` (what `asked` asks for) has no room on the device."""
    return UsageError(
        f"{asked}: {holder} would take {need / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are "
        f"free on {device}; allowed: up to {fits}"
    )


def require_room(
    need: float, device: torch.device, asked: str, holder: str, fits: Callable[[float], object]
) -> None:
    """As `rlkit.system.require_memory`, of the device's memory. Raises UsageError."""
    free = free_on(device)
    if need > free:
        raise no_room(need, free, device, asked, holder, fits(free))


def require_there(
    need: float, device: torch.device, asked: str, holder: str, fits: Callable[[float], object]
) -> None:
    """As `require_room`, or of the host's memory where the device is the CPU. Raises UsageError."""
    if device.type == "cpu":
        require_memory(int(need), asked, holder, fits)
    else:
        require_room(need, device, asked, holder, fits)
