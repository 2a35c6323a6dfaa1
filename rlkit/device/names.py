"""Names of devices, and what is said where there is no such device. Imports torch."""

from __future__ import annotations

import torch

from rlkit.errors import UsageError


def device_for(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA where there is one. Raises UsageError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"device (--device) is {name!r}; allowed: auto, cpu, cuda, cuda:I")
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= found:
            raise UsageError(
                f"device (--device) is {name}, and torch {torch.__version__} sees {found} CUDA "
                "devices here; use --device cpu or auto, or install a torch built for CUDA"
            )
    return device
