"""Arithmetic that is written once and runs on NumPy arrays and on tensors.

What an update does between its networks (returns, advantages, gradients of the loss) are dozens of
operations on a few hundred numbers. On the CPU a NumPy call costs a quarter of a torch call, so
there the batches of on-policy agents are NumPy arrays; on other devices they are tensors. The
functions that take an `Array` use what both libraries spell alike, through `namespace`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Array: TypeAlias = Any  # np.ndarray on the CPU, Tensor on other devices (and wherever it is given)


def namespace(x: Array) -> Any:
    """The module whose functions work on x: numpy or torch."""
    return np if isinstance(x, np.ndarray) else torch


def as_tensor(x: Array, device: torch.device) -> Tensor:
    """`x` as a tensor on the device; on the CPU without a copy."""
    tensor = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
    return tensor if device.type == "cpu" else tensor.to(device)


def like(x: Array, y: Array) -> Array:
    """`y` as the kind of array that `x` is; on the CPU without a copy."""
    if not (isinstance(x, np.ndarray) and isinstance(y, Tensor)):
        return y
    # NumPy has no bfloat16
    return (y.float() if y.dtype == torch.bfloat16 else y).cpu().numpy()


def as_float(x: Array) -> Array:
    """Booleans or integers as float32."""
    xp = namespace(x)
    return xp.asarray(x, dtype=xp.float32)
