"""Two critics side by side, for agents that learn from the lesser of two values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.networks.activations import ACTIVATIONS, before
from rlkit.networks.encoder import encoder_for
from rlkit.networks.initialization import INITS, ORTHOGONAL, gain_before


class TwinQ(nn.Module):
    """Two independent Q-networks over observations and actions: (B, *obs), (B, n) → (2, B).

    Each layer is one batched product for both, half the calls of two networks. The hidden layers
    start as `init` says, as in `rlkit.networks.mlp`, the last one orthogonal with gain 1.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        n: int,
        hidden: Sequence[int],
        activation: str,
        encoder: str = "auto",
        init: str = ORTHOGONAL,
    ) -> None:
        super().__init__()
        self.numbers = encoder_for(space, encoder, (), activation, init=init)
        widths = (self.numbers.width + n, *hidden)
        outputs = [*(before(activation, width) for width in hidden), 1]
        starts = [(init, gain_before(activation, init))] * len(hidden) + [(ORTHOGONAL, 1.0)]
        fans = zip(widths, outputs, strict=True)
        pairs = [_pair(*fan, *start) for fan, start in zip(fans, starts, strict=True)]
        self.weights = nn.ParameterList(pairs)
        self.biases = nn.ParameterList([torch.zeros(2, 1, width) for width in outputs])
        self._activation = ACTIVATIONS[activation]

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([self.numbers(obs), action], -1).expand(2, -1, -1)  # (2, B, width)
        *hidden, (W_out, b_out) = zip(self.weights, self.biases, strict=True)
        for W, b in hidden:
            x = self._activation(torch.baddbmm(b, x, W))
        return torch.baddbmm(b_out, x, W_out).squeeze(-1)


def _pair(fan_in: int, fan_out: int, init: str, gain: float) -> Tensor:
    """The weights of two independent layers, (2, fan_in, fan_out)."""
    weights = torch.empty(2, fan_in, fan_out)
    for W in weights:  # orthogonal either way round; the others tell inputs from outputs
        INITS[init](W if init == ORTHOGONAL else W.t(), gain)
    return weights
