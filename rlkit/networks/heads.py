"""A network: an encoder and a linear head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.arrays import Array, as_tensor, like
from rlkit.networks.encoder import encoder_for
from rlkit.networks.mlp import add_linear_gradient, orthogonal
from rlkit.networks.vjp import vjp


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

    def infer(self, obs: Array) -> Array:
        """`forward` without a graph, on arrays or tensors: the output is of the kind of `obs`."""
        with torch.no_grad():
            return like(obs, self.forward(as_tensor(obs, self._head[0].device)))

    def vjp(self, obs: Array) -> tuple[Array, Callable[[Array], None]]:
        """`rlkit.networks.vjp.vjp` on arrays or tensors: all are of the kind of `obs`."""
        W, b = self._head
        features, pull_features = vjp(self.encoder, as_tensor(obs, W.device))
        with torch.no_grad():
            y = F.linear(features, W, b)

        def pull(g: Array) -> None:
            rows = as_tensor(g, W.device).reshape(-1, W.shape[0])  # (B, outputs)
            with torch.no_grad():
                add_linear_gradient(W, b, rows, features.reshape(-1, W.shape[1]))
                pull_features((rows @ W).view_as(features))

        return like(obs, y), pull
