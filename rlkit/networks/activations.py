"""Activations, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.registry import unknown

GLU = "glu"

# On (..., width); each keeps the shape of its input, except that GLU halves the last axis.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,  # Clevert et al. 2016
    "gelu": F.gelu,  # Hendrycks & Gimpel 2016
    GLU: F.glu,  # a·σ(b) of the halves a and b (Dauphin et al. 2017, eq. 1)
    "leaky-relu": F.leaky_relu,  # Maas et al. 2013
    "mish": F.mish,  # Misra 2020
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,  # Elfwing et al. 2018
    "swish": F.silu,  # its other name (Ramachandran et al. 2017)
    "tanh": torch.tanh,
}


def before(activation: str, width: int) -> int:
    """How many outputs a layer needs for `width` to be left after the activation.

    Raises UsageError for an unknown activation.
    """
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    return 2 * width if activation == GLU else width


class Activation(nn.Module):
    """An activation on (N, width, ...): GLU halves axis 1, where convolutions have their channels.

    ReLU writes over its input, which must be a layer's output that nobody else needs: of large
    images, making another array of that size is what costs. Raises UsageError for unknown names.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        before(name, 1)
        self.name = name
        instead: dict[str, Callable[[Tensor], Tensor]] = {
            GLU: partial(F.glu, dim=1),
            "relu": torch.relu_,
        }
        self._function = instead.get(name, ACTIVATIONS[name])

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)

    def extra_repr(self) -> str:
        return self.name
