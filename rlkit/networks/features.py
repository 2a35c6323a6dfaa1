"""What an agent sees and remembers: an encoder, and a memory on it where one is asked for."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.carry import Carry
from rlkit.networks.cores import core_for
from rlkit.networks.encoder import encoder_for

NO_CORE = "none"


class Body(Protocol):
    """What a recipe says of what stands between observations and heads."""

    @property
    def hidden(self) -> tuple[int, ...]: ...
    @property
    def activation(self) -> str: ...
    @property
    def init(self) -> str: ...
    @property
    def encoder(self) -> str: ...
    @property
    def core(self) -> str: ...
    @property
    def core_width(self) -> int: ...


class Features(nn.Module):
    """Observations, and with a memory what came before them → (..., width).

    With a memory, observations are consecutive, (T, B, *obs), and `reset` (T, B) bool says which of
    them begin an episode; without one the leading axes are any, and carry and reset None.
    """

    def __init__(self, space: spaces.Space[Any], body: Body) -> None:
        super().__init__()
        self.encoder = encoder_for(
            space, body.encoder, body.hidden, body.activation, init=body.init
        )
        width = self.encoder.width
        self.core = None if body.core == NO_CORE else core_for(body.core, width, body.core_width)
        self.width = width if self.core is None else self.core.width

    def initial_carry(self, n: int) -> Carry:
        """The carry of n episodes that are about to start."""
        return None if self.core is None else self.core.initial_carry(n)

    def forward(
        self, obs: Tensor, carry: Carry = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Carry]:
        """The features, and the carry after the last observation."""
        x = self.encoder(obs)
        if self.core is None:
            return x, carry
        y, carry = self.core(x, carry, reset)
        return y, carry

    def step(self, obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """The features (N, width) of one observation (N, *obs) each, and the carry after it."""
        x = self.encoder(obs)
        if self.core is None:
            return x, carry
        going_on = torch.zeros((1, x.shape[0]), dtype=torch.bool, device=x.device)
        y, carry = self.core(x[None], carry, going_on)
        return y[0], carry
