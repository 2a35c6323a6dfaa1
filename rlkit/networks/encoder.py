"""Encoders: from an observation space to a vector of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from rlkit.arrays import Array
from rlkit.errors import UsageError
from rlkit.networks.initialization import ORTHOGONAL
from rlkit.networks.mlp import MLP, NO_NORM
from rlkit.networks.numbers import Flat, Numbers, is_seen, numbers_for
from rlkit.networks.vjp import Pull
from rlkit.registry import unknown

ENCODERS = ("auto", "mlp", "nature", "impala", "cnn", "vin", "conv1d", "conv3d")


class Encoder(nn.Module):
    """A space's values as numbers, then an MLP: (..., *obs) → (..., width)."""

    def __init__(self, numbers: Numbers, mlp: MLP) -> None:
        super().__init__()
        self.numbers = numbers
        self.mlp = mlp
        self.width = mlp.width
        self.takes_arrays = isinstance(numbers, Flat) and mlp.takes_arrays
        self._learns_numbers = isinstance(numbers, nn.Module) and any(
            True for _ in numbers.parameters()
        )

    def forward(self, obs: Array) -> Array:
        return self.mlp.forward(self.numbers.forward(obs))

    def vjp(self, obs: Array) -> tuple[Array, Pull]:
        if not self._learns_numbers:
            return self.mlp.vjp(self.numbers.forward(obs))
        with torch.enable_grad():
            y = self(obs)
        return y.detach(), lambda g: torch.autograd.backward(y, g)


def encoder_for(
    space: spaces.Space[Any],
    name: str = "auto",
    hidden: Sequence[int] = (64, 64),
    activation: str = "tanh",
    norm: str = NO_NORM,
    init: str = ORTHOGONAL,
) -> Encoder:
    """The encoder of an observation space: its values as numbers, then an MLP.

    Discrete values become one-hot, or learned vectors where they are many; images, windows of
    signals and clips go through convolutions (`name`: "auto" chooses by the space; "mlp" takes them
    as they are); texts are learned words; the parts of a Dict or Tuple are put side by side.

    Args: `hidden` (widths of the layers after that), `activation` and `norm` are the MLP's. `init`
    is how its weights and those of convolutions start, see `rlkit.networks.initialization.INITS`.
    Raises UsageError for spaces that have no encoder.
    """
    if name not in ENCODERS:
        raise unknown("encoder", name, ENCODERS)
    if name not in ("auto", "mlp") and not is_seen(space):
        raise UsageError(
            f"encoder (--encoder) is {name}, and the observations {space} hold no images, windows "
            "or clips; allowed: auto or mlp"
        )
    numbers = numbers_for(space, name, init)
    return Encoder(numbers, MLP(numbers.width, hidden, activation, norm, init))
