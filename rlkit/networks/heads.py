"""A network: an encoder and a linear head."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.networks.encoder import encoder_for
from rlkit.networks.mlp import add_linear_gradient, orthogonal
from rlkit.networks.vjp import Pull, vjp


class Network(nn.Module):
    """Observations → `outputs` numbers: (..., *obs) → (..., outputs)."""

    def __init__(
        self,
        space: spaces.Space[Any],
        hidden: tuple[int, ...],
        activation: str,
        outputs: int,
        head_gain: float,
    ) -> None:
        super().__init__()
        self.encoder = encoder_for(space, hidden, activation)
        self.head = orthogonal(nn.Linear(self.encoder.width, outputs), head_gain)
        self._encode = self.encoder.forward  # past nn.Module's hooks: acting calls it every step
        self._head = (self.head.weight, self.head.bias)

    def forward(self, obs: Tensor) -> Tensor:
        return F.linear(self._encode(obs), *self._head)

    def vjp(self, obs: Tensor) -> tuple[Tensor, Pull]:
        features, pull_features = vjp(self.encoder, obs)
        W, b = self._head
        with torch.no_grad():
            y = F.linear(features, W, b)

        def pull(g: Tensor) -> None:
            rows = g.reshape(-1, g.shape[-1])  # (B, outputs)
            add_linear_gradient(W, b, rows, features.reshape(-1, features.shape[-1]))
            pull_features(g @ W.detach())

        return y, pull
