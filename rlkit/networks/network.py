"""A network: an encoder and a head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from rlkit.arrays import Array, as_tensor, like
from rlkit.networks.encoder import encoder_for
from rlkit.networks.heads import Head, LinearHead, head_for
from rlkit.networks.initialization import ORTHOGONAL
from rlkit.networks.mlp import NO_NORM
from rlkit.networks.noisy import NoisyLinear, resample
from rlkit.networks.vjp import Pull, vjp

LINEAR = Head()


class Network(nn.Module):
    """Observations → `outputs` numbers, or `atoms` for each: (..., *obs) → (..., outputs[, atoms]).

    `noise=False` takes noisy layers at their means; it changes nothing where there are none. `init`
    is the encoder's, see `encoder_for`; the head's are its own.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        hidden: tuple[int, ...],
        activation: str,
        outputs: int,
        head_gain: float,
        *,
        atoms: int | None = None,
        head: Head = LINEAR,
        norm: str = NO_NORM,
        encoder: str = "auto",
        init: str = ORTHOGONAL,
    ) -> None:
        super().__init__()
        self.encoder = encoder_for(space, encoder, hidden, activation, norm, init)
        shape = (outputs,) if atoms is None else (outputs, atoms)
        self.head = head_for(head, self.encoder.width, shape, activation, head_gain)
        # Past nn.Module's hooks and look-ups: acting comes by every step.
        self._encode, self._decode = self.encoder.forward, self.head.forward
        self._decode_vjp = self.head.vjp
        self._takes_arrays = self.encoder.takes_arrays and isinstance(self.head, LinearHead)
        self._noisy = [m for m in self.head.modules() if isinstance(m, NoisyLinear)]
        self._parameters_of_head = tuple(self.head.parameters())
        self._encoder_learns = any(p.requires_grad for p in self.encoder.parameters())

    def forward(self, obs: Array, noise: bool = True) -> Array:
        return self._decode(self._encode(obs), noise)

    def infer(self, obs: Array, noise: bool = True) -> Array:
        """`forward` without a graph, on arrays or tensors: the output is of the kind of `obs`."""
        with torch.no_grad():
            return _as_float32(like(obs, self.forward(self._native(obs), noise)))

    def vjp(self, obs: Array) -> tuple[Array, Callable[[Array], None]]:
        """`rlkit.networks.vjp.vjp` on arrays or tensors: all are of the kind of `obs`."""
        features, pull_features = self._features_vjp(self._native(obs))
        y, pull_head = self._decode_vjp(features)

        def pull(g: Array) -> None:
            pull_features(pull_head(self._native(g)))

        return _as_float32(like(obs, y)), pull

    def _features_vjp(self, x: Array) -> tuple[Array, Pull]:
        if self._encoder_learns:
            return vjp(self.encoder, x)
        with torch.no_grad():  # a frozen encoder's gradient is not computed
            return self._encode(x), lambda g: None

    def _native(self, x: Array) -> Array:
        """`x` as what the modules take: arrays where they do and live in the same memory."""
        device = self._parameters_of_head[0].device
        if self._takes_arrays and device.type == "cpu":
            return x
        return as_tensor(x, device)

    def resample(self, generator: torch.Generator | None) -> None:
        """Draw the noise of the noisy layers anew; draws nothing without any."""
        resample(self._noisy, generator)


def _as_float32(y: Array) -> Array:
    """Outputs in bfloat16 as float32, which losses and targets are computed in."""
    return y.float() if y.dtype is torch.bfloat16 else y
