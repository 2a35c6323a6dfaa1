"""Heads: from an encoder's features to a number, or several atoms, for each output."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.arrays import Array
from rlkit.networks.activations import ACTIVATIONS, before
from rlkit.networks.initialization import ORTHOGONAL, gain_before, initialize, orthogonal
from rlkit.networks.layers import Weights, arithmetic_of, is_autocast
from rlkit.networks.noisy import NoisyLinear

PullFeatures = Callable[[Array], Array]  # ∂L/∂(head's output) → ∂L/∂features


@dataclass(frozen=True)
class Head:
    """What stands on an encoder; as it is, one linear layer.

    `dueling`: a stream for the state's value and one for the advantages (Wang et al. 2016).
    `noisy`: the streams' layers are noisy (Fortunato et al. 2018). `hidden`: the widths of each
    stream's hidden layers (Rainbow, Hessel et al. 2018, has one, and the encoder none after its
    convolutions). `init`: how those start, where they are not noisy.
    """

    dueling: bool = False
    noisy: bool = False
    hidden: tuple[int, ...] = ()
    init: str = ORTHOGONAL


class LinearHead(nn.Linear):
    """(..., width) → (..., *shape): one linear layer, orthogonal with `gain`."""

    def __init__(self, width: int, shape: tuple[int, ...], gain: float) -> None:
        super().__init__(width, math.prod(shape))
        orthogonal(self, gain)
        self._weights = Weights(self)
        self._shape = shape
        self._has_atoms = len(shape) > 1

    def forward(self, x: Array, noise: bool = True) -> Array:
        y = arithmetic_of(x).affine(x, *self._weights.values(x))
        return y.reshape(*x.shape[:-1], *self._shape) if self._has_atoms else y

    def vjp(self, x: Array) -> tuple[Array, PullFeatures]:
        """The output, and the way back to the parameters and the features, by hand."""
        if is_autocast(x):
            return _through_autograd(self, x)
        weights, (W, _) = self._weights, self._weights.values(x)
        arithmetic = arithmetic_of(x)

        def pull(g: Array) -> Array:
            rows = g.reshape(-1, W.shape[0])  # (B, outputs)
            with torch.no_grad():
                columns = x.reshape(-1, W.shape[1])
                arithmetic.add_gradient(*weights.grads(x), rows, columns)
                return arithmetic.product(rows, W).reshape(x.shape)

        with torch.no_grad():
            return self.forward(x), pull


class Stream(nn.Module):
    """Linear layers, noisy or not, with an activation between them: (..., width) → (..., outputs).

    Noisy layers start as their paper has them, the hidden ones as `head.init` says, and the last
    one orthogonal with `gain`.
    """

    def __init__(self, width: int, outputs: int, head: Head, activation: str, gain: float) -> None:
        super().__init__()
        made = [before(activation, hidden) for hidden in head.hidden]
        fans = list(zip((width, *head.hidden), (*made, outputs), strict=True))
        self.noisy: list[NoisyLinear] = []
        if head.noisy:
            self.noisy = [NoisyLinear(*fan) for fan in fans]
            layers: list[NoisyLinear] | list[nn.Linear] = self.noisy
        else:
            hidden = head.init, gain_before(activation, head.init)
            starts = [hidden] * len(head.hidden) + [(ORTHOGONAL, gain)]
            layers = [initialize(nn.Linear(*f), *s) for f, s in zip(fans, starts, strict=True)]
        self.linears = nn.ModuleList(layers)
        self._means = [(layer.weight, layer.bias) for layer in layers]
        self._activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, noise: bool) -> Tensor:
        sampled = noise and self.noisy
        weights = [layer.sampled() for layer in self.noisy] if sampled else self._means
        for W, b in weights[:-1]:
            x = self._activation(F.linear(x, W, b))
        return F.linear(x, *weights[-1])


class StreamHead(nn.Module):
    """(..., width) → (..., *shape) through one stream."""

    def __init__(
        self, width: int, shape: tuple[int, ...], head: Head, activation: str, gain: float
    ) -> None:
        super().__init__()
        self.stream = Stream(width, math.prod(shape), head, activation, gain)
        self._shape = shape

    def forward(self, x: Tensor, noise: bool = True) -> Tensor:
        return self.stream.forward(x, noise).view(*x.shape[:-1], *self._shape)

    def vjp(self, x: Tensor) -> tuple[Tensor, PullFeatures]:
        return _through_autograd(self, x)


class DuelingHead(nn.Module):
    """Q(s, a) = V(s) + A(s, a) − mean_a' A(s, a'), for each atom (Wang et al. 2016, eq. 9)."""

    def __init__(
        self, width: int, shape: tuple[int, ...], head: Head, activation: str, gain: float
    ) -> None:
        super().__init__()
        atoms = math.prod(shape[1:])
        self.value = Stream(width, atoms, head, activation, gain)
        self.advantage = Stream(width, shape[0] * atoms, head, activation, gain)
        self._shape = shape  # (actions,) or (actions, atoms)

    def forward(self, x: Tensor, noise: bool = True) -> Tensor:
        shape = self._shape
        V = self.value.forward(x, noise).view(*x.shape[:-1], 1, *shape[1:])
        A = self.advantage.forward(x, noise).view(*x.shape[:-1], *shape)
        return V + A - A.mean(-len(shape), keepdim=True)

    def vjp(self, x: Tensor) -> tuple[Tensor, PullFeatures]:
        return _through_autograd(self, x)


def _through_autograd(
    head: LinearHead | StreamHead | DuelingHead, x: Tensor
) -> tuple[Tensor, PullFeatures]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        y: Tensor = head.forward(leaf).float()

    def pull(g: Tensor) -> Tensor:
        torch.autograd.backward(y, g)
        assert leaf.grad is not None
        return leaf.grad

    return y.detach(), pull


def head_for(
    head: Head, width: int, shape: tuple[int, ...], activation: str, gain: float
) -> LinearHead | StreamHead | DuelingHead:
    """The module for features (..., width) and outputs (..., *shape)."""
    if head.dueling:
        return DuelingHead(width, shape, head, activation, gain)
    if not (head.noisy or head.hidden):
        return LinearHead(width, shape, gain)
    return StreamHead(width, shape, head, activation, gain)
