"""How much of a device's memory is free, and the refusal of what would not fit."""

from __future__ import annotations

import torch

from rlkit.errors import UsageError
from rlkit.system import available_memory


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on the device; None where that is unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept  # what torch has cached it takes again
    return available_memory() if device.type == "cpu" else None


def require_device_memory(per_state: float, n_states: int, device: torch.device) -> None:
    """Refuse a model of so many states, each of which takes so many bytes, before it is made.

    Raises UsageError with the states, the GiB needed, the GiB free and how many states would fit.
    """
    free, need = free_memory(device), per_state * n_states
    if free is not None and need > free:
        raise UsageError(
            f"{n_states:,} states on {device}: the model and its sweeps would take "
            f"{need / 2**30:,.1f} GiB and {free / 2**30:,.1f} GiB are free there; allowed: up to "
            f"about {int(free / per_state):,} states like these; free some, or use device cpu"
        )
