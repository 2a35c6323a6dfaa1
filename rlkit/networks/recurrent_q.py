"""A Q-network with a memory."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from torch import Tensor, nn

from rlkit.carry import Carry
from rlkit.networks.features import Body, Features
from rlkit.networks.heads import Head, head_for


class RecurrentQ(nn.Module):
    """Consecutive observations (T, B, *obs), a carry and resets (T, B) → Q (T, B, actions)."""

    def __init__(self, space: spaces.Space[Any], actions: int, body: Body, head: Head) -> None:
        super().__init__()
        self.features = Features(space, body)
        self.head = head_for(head, self.features.width, (actions,), body.activation, 1.0)

    def forward(self, obs: Tensor, carry: Carry, reset: Tensor) -> Tensor:
        y, _ = self.features(obs, carry, reset)
        q: Tensor = self.head(y)
        return q

    def step(self, obs: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Q (N, actions) of one observation (N, *obs) each, and the carry after it."""
        y, carry = self.features.step(obs, carry)
        return self.head(y), carry
