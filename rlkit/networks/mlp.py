"""Multilayer perceptrons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.networks.vjp import Pull

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": F.elu,
    "gelu": F.gelu,
    "mish": F.mish,
    "relu": torch.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}

# The same, written over their argument, which nobody needs afterwards where there is no graph.
_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": torch.tanh_}

# ∂L/∂input of an activation from ∂L/∂output and the output y, where y alone tells the derivative.
_DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda g, y: torch.ops.aten.threshold_backward(g, y, 0),
    "tanh": torch.ops.aten.tanh_backward,
}


def _no_layer(g: Tensor, y: Tensor) -> Tensor:
    return g


# A product with so few columns takes half the time the other way round (MKL, wide layers).
NARROW = 8


def orthogonal(layer: nn.Linear, gain: float) -> nn.Linear:
    """Orthogonal weights and zero bias (Saxe et al. 2014), in place."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """Linear layers with an activation after each: (..., width_in) → (..., width).

    Orthogonal initialisation with gain √2, as actor-critic baselines use it (Andrychowicz et al.
    2021, §3.2).
    """

    def __init__(self, width_in: int, hidden: Sequence[int], activation: str) -> None:
        super().__init__()
        widths = (width_in, *hidden)
        linears = [
            orthogonal(nn.Linear(fan_in, fan_out), math.sqrt(2))
            for fan_in, fan_out in zip(widths, hidden, strict=False)
        ]
        self.linears = nn.ModuleList(linears)
        # nn.Module looks parameters up by name, layer by layer; small networks would notice.
        self._layers = tuple((layer.weight, layer.bias) for layer in linears)
        self.activation = activation
        self._activation = ACTIVATIONS[activation]
        self._in_place = _IN_PLACE.get(activation, self._activation)
        self.width = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        activation = self._activation if torch.is_grad_enabled() else self._in_place
        for W, b in self._layers:
            x = activation(F.linear(x, W, b))
        return x  # (..., width)

    def vjp(self, x: Tensor) -> tuple[Tensor, Pull]:
        """`rlkit.networks.vjp.vjp` by hand for ReLU and tanh, through autograd for the others."""
        if self._layers and self.activation not in _DERIVATIVES:
            with torch.enable_grad():
                y = self(x)
            return y.detach(), lambda g: torch.autograd.backward(y, g)
        derivative = _DERIVATIVES.get(self.activation, _no_layer)
        outputs = [x.reshape(-1, x.shape[-1])]  # of each layer, (B, width)
        with torch.no_grad():
            for W, b in self._layers:
                outputs.append(self._in_place(torch.addmm(b, outputs[-1], W.t())))

        def pull(g: Tensor) -> None:
            g = g.reshape(-1, self.width)
            with torch.no_grad():
                for i in reversed(range(len(self._layers))):
                    W, b = self._layers[i]
                    g = derivative(g, outputs[i + 1])  # ∂L/∂(W·h + b), (B, width)
                    add_linear_gradient(W, b, g, outputs[i])
                    if i > 0:
                        g = g @ W

        return outputs[-1].view(*x.shape[:-1], self.width), pull


def add_linear_gradient(W: Tensor, b: Tensor, g: Tensor, x: Tensor) -> None:
    """∂L/∂W += gᵀ·x and ∂L/∂b += Σ g, for y = W·x + b with g = ∂L/∂y: g (B, out), x (B, in)."""
    assert W.grad is not None
    assert b.grad is not None
    if x.shape[1] <= NARROW < g.shape[1]:
        W.grad.add_((x.t() @ g).t())
    else:
        W.grad.addmm_(g.t(), x)
    b.grad.add_(g.sum(0))
