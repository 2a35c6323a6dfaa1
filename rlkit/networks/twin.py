"""Two critics side by side, for agents that learn from the lesser of two values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.networks.activations import ACTIVATIONS, before
from rlkit.networks.encoder import encoder_for


class TwinQ(nn.Module):
    """Two independent Q-networks over observations and actions: (B, *obs), (B, n) → (2, B).

    Each layer is one batched product for both, half the calls of two networks. Orthogonal
    initialisation, with gain √2 in the hidden layers as in `rlkit.networks.mlp`.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        n: int,
        hidden: Sequence[int],
        activation: str,
        encoder: str = "auto",
    ) -> None:
        super().__init__()
        self.numbers = encoder_for(space, encoder, (), activation)
        widths = (self.numbers.width + n, *hidden)
        outputs = [*(before(activation, width) for width in hidden), 1]
        gains = [math.sqrt(2)] * len(hidden) + [1.0]
        fans = zip(widths, outputs, gains, strict=True)
        self.weights = nn.ParameterList([_orthogonal_pair(*fan) for fan in fans])
        self.biases = nn.ParameterList([torch.zeros(2, 1, width) for width in outputs])
        self._activation = ACTIVATIONS[activation]

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([self.numbers(obs), action], -1).expand(2, -1, -1)  # (2, B, width)
        *hidden, (W_out, b_out) = zip(self.weights, self.biases, strict=True)
        for W, b in hidden:
            x = self._activation(torch.baddbmm(b, x, W))
        return torch.baddbmm(b_out, x, W_out).squeeze(-1)


def _orthogonal_pair(fan_in: int, fan_out: int, gain: float) -> Tensor:
    """Two independent orthogonal matrices, (2, fan_in, fan_out) (Saxe et al. 2014)."""
    return torch.stack([nn.init.orthogonal_(torch.empty(fan_in, fan_out), gain) for _ in range(2)])
