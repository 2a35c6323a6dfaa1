"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.arrays import Array
from rlkit.networks.activations import ACTIVATIONS, before
from rlkit.networks.initialization import ORTHOGONAL, gain_before, initialize, orthogonal
from rlkit.networks.layers import ON_TENSORS, Weights, arithmetic_of, is_autocast
from rlkit.networks.vjp import Pull
from rlkit.registry import unknown

__all__ = ["ACTIVATIONS", "MLP", "NORMS", "NORM_EPS", "NO_NORM", "layer_norm_vjp", "orthogonal"]

NO_NORM = "none"
NORMS = (NO_NORM, "layer")
NORM_EPS = 1e-5  # added to the variance

PullNorm = Callable[[Tensor], Tensor]  # ∂L/∂(norm's output) → ∂L/∂(its input)


def _no_layer(*_: Array) -> Array:
    raise AssertionError("a layer without an activation")


class MLP(nn.Module):
    """Linear layers with an activation after each: (..., width_in) → (..., width).

    `hidden` are the widths after the activation, which for GLU are half its layer's outputs. With
    `norm` "layer", LayerNorm (Ba et al. 2016) stands between each linear layer and its activation,
    as PQN has it (Gallici et al. 2024). `init` is one of `rlkit.networks.initialization.INITS`.
    Raises UsageError for names that are not known.
    """

    def __init__(
        self,
        width_in: int,
        hidden: Sequence[int],
        activation: str,
        norm: str = NO_NORM,
        init: str = ORTHOGONAL,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise unknown("norm", norm, NORMS)
        widths = (width_in, *hidden)
        outputs = [before(activation, width) for width in hidden]
        gain = gain_before(activation, init)
        linears = [
            initialize(nn.Linear(fan_in, fan_out), init, gain)
            for fan_in, fan_out in zip(widths, outputs, strict=False)
        ]
        self.linears = nn.ModuleList(linears)
        norms = [nn.LayerNorm(n, NORM_EPS) for n in outputs if norm == "layer"]
        self.norms = nn.ModuleList(norms)
        # nn.Module looks parameters up by name, layer by layer; small networks would notice.
        scales: Sequence[tuple[Tensor, Tensor] | None] = [(n.weight, n.bias) for n in norms]
        self._scales = scales or [None] * len(linears)
        self._layers = [Weights(layer) for layer in linears]
        self._activation = ACTIVATIONS[activation]
        self.activation = activation
        self.width = widths[-1]
        by_hand = not linears or activation in ON_TENSORS.activate
        self._by_hand = by_hand
        self.takes_arrays = by_hand and not norms  # `forward` and `vjp` do, besides tensors

    def forward(self, x: Array) -> Array:
        if self._by_hand and not torch.is_grad_enabled() and not is_autocast(x):
            y = self._outputs(x if x.ndim == 2 else x.reshape(-1, x.shape[-1]))[0][-1]
            return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self.width)
        for layer, scale in zip(self._layers, self._scales, strict=True):
            W, b = layer.tensors
            x = F.linear(x, W, b)
            if scale is not None:
                x = torch.layer_norm(x, b.shape, *scale, NORM_EPS)
            x = self._activation(x)
        return x  # (..., width)

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """`rlkit.networks.vjp.vjp` by hand for ReLU and tanh, through autograd for the others."""
        if not self._by_hand or is_autocast(x):
            with torch.enable_grad():
                y = self(x)
            return y.detach(), lambda g: torch.autograd.backward(y, g)
        arithmetic = arithmetic_of(x)
        derivative = arithmetic.derivative.get(self.activation, _no_layer)
        with torch.no_grad():
            outputs, pull_norms = self._outputs(x.reshape(-1, x.shape[-1]))

        def pull(g: Array) -> None:
            g = g.reshape(-1, self.width)
            with torch.no_grad():
                for i in reversed(range(len(self._layers))):
                    layer = self._layers[i]
                    g = derivative(g, outputs[i + 1])  # (B, width)
                    if (pull_norm := pull_norms[i]) is not None:
                        g = pull_norm(g)  # ∂L/∂(W·h + b)
                    arithmetic.add_gradient(*layer.grads(x), g, outputs[i])
                    if i > 0:
                        g = arithmetic.product(g, layer.values(x)[0])

        return outputs[-1].reshape(*x.shape[:-1], self.width), pull

    def _outputs(self, x: Array) -> tuple[list[Array], list[PullNorm | None]]:
        """The input and each layer's output, and the ways back through the norms."""
        arithmetic = arithmetic_of(x)
        activate = arithmetic.activate.get(self.activation, _no_layer)
        outputs: list[Array] = [x]
        pull_norms: list[PullNorm | None] = []
        for layer, scale in zip(self._layers, self._scales, strict=True):
            h, pull_norm = arithmetic.affine(outputs[-1], *layer.values(x)), None
            if scale is not None:
                h, pull_norm = layer_norm_vjp(h, *scale)
            pull_norms.append(pull_norm)
            outputs.append(activate(h))
        return outputs, pull_norms


def layer_norm_vjp(
    h: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """LayerNorm of h (B, width), and the way back to h, scale and shift, (width,) each."""
    shape = list(shift.shape)
    y, mean, rstd = torch.native_layer_norm(h, shape, scale, shift, NORM_EPS)

    def pull(g: Tensor) -> Tensor:
        assert scale.grad is not None
        assert shift.grad is not None
        g_h, g_scale, g_shift = torch.ops.aten.native_layer_norm_backward(
            g, h, shape, mean, rstd, scale, shift, [True, True, True]
        )
        scale.grad.add_(g_scale)
        shift.grad.add_(g_shift)
        return cast(Tensor, g_h)

    return y, pull
