"""A sweep over a model on a device: by a kernel of its own where there is Triton, else by torch."""

from __future__ import annotations

import importlib.util
import warnings
from functools import cache

import torch
from torch import Tensor

from rlkit.errors import RlkitWarning
from rlkit.mdp.device.rows import Ell, Rows


def backup(rows: Rows, V: Tensor, TV: Tensor, choice: Tensor | None = None) -> Tensor:
    """TV = T V and, if wanted, the first choice that attains it; see `Ell.backup`.

    Returns (2, n): the least and the largest TV − V of n parts of the states.
    """
    if fused(V.device):
        from rlkit.mdp.device import triton_kernels

        return triton_kernels.backup(rows, V, TV, choice)
    return rows.backup(V, TV, choice)[:, None]


def change(parts: Tensor) -> Tensor:
    """(2,) the least and the largest TV − V of all states."""
    return torch.stack([parts[0].amin(), parts[1].amax()])


@cache
def fused(device: torch.device) -> bool:
    """Whether sweeps there are single kernels. CUDA builds of torch bring Triton for Linux.

    Warns where Triton is there and its kernels can't be compiled, for want of a C compiler, say.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    from rlkit.mdp.device import triton_kernels

    try:
        V, TV = torch.zeros(2, 2, dtype=torch.float64, device=device)
        triton_kernels.backup(_smallest(device), V, TV)
        return bool(TV[0] == 1.0)
    except Exception as error:  # whatever a compiler, a linker or a driver raises
        warnings.warn(
            f"Triton's kernels can't be compiled on {device} ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}); "
            "sweeps go by torch's operations, which move several times as many bytes",
            RlkitWarning,
            stacklevel=2,
        )
        return False


def _smallest(device: torch.device) -> Ell:
    """A state that ends with reward 1."""
    return Ell(
        torch.ones(1, 1, 1, dtype=torch.int32, device=device),
        torch.zeros(1, 1, 1, dtype=torch.float64, device=device),
        torch.ones(1, 1, dtype=torch.float64, device=device),
        torch.ones((), dtype=torch.float64, device=device),
    )
