"""A plain layer's arithmetic, forth and back: on tensors, and on NumPy arrays.

What a small network computes on the CPU for a handful of rows is dominated by the cost of calls,
and a NumPy call costs a third of a torch call (its tanh is several times as fast on top). Both are
given the same weights: the arrays are views of the tensors' memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.arrays import Array


@dataclass(frozen=True)
class Arithmetic:
    """The operations of a layer, on one kind of array."""

    # x (B, in), W (out, in), b (out,) → W·x + b, (B, out)
    affine: Callable[[Any, Any, Any], Any]
    # g (B, out), W (out, in) → g·W, (B, in)
    product: Callable[[Any, Any], Any]
    # by name: f(h), written over h, which nobody needs afterwards where there is no graph
    activate: Mapping[str, Callable[[Any], Any]]
    # by name: ∂L/∂h from ∂L/∂y and y = f(h), where y alone tells the derivative
    derivative: Mapping[str, Callable[[Any, Any], Any]]
    # ∂L/∂W += gᵀ·x and ∂L/∂b += Σ g, for y = W·x + b with g = ∂L/∂y (B, out): (W', b', g, x)
    add_gradient: Callable[[Any, Any, Any, Any], None]


# A product with so few columns takes half the time the other way round (MKL, wide layers).
NARROW = 8


def _add_gradient_tensor(W_grad: Tensor, b_grad: Tensor, g: Tensor, x: Tensor) -> None:
    if x.shape[1] <= NARROW < g.shape[1]:
        W_grad.add_((x.t() @ g).t())
    else:
        W_grad.addmm_(g.t(), x)
    b_grad.add_(g.sum(0))


def _affine_array(x: Array, W: Array, b: Array) -> Array:
    y = x @ W.T
    y += b
    return y


def _tanh_backward_array(g: Array, y: Array) -> Array:
    d = y * y  # 1 − y² in one new array: of large ones, making them is what costs
    np.subtract(1, d, out=d)
    d *= g
    return d


def _add_gradient_array(W_grad: Array, b_grad: Array, g: Array, x: Array) -> None:
    W_grad += g.T @ x
    b_grad += np.ones(len(g), g.dtype) @ g  # Σ g: a fifth of the time of g.sum(0)


ON_TENSORS = Arithmetic(
    affine=F.linear,
    product=torch.matmul,
    activate={"relu": torch.relu_, "tanh": torch.tanh_},
    derivative={
        "relu": lambda g, y: torch.ops.aten.threshold_backward(g, y, 0),
        "tanh": torch.ops.aten.tanh_backward,
    },
    add_gradient=_add_gradient_tensor,
)
ON_ARRAYS = Arithmetic(
    affine=_affine_array,
    product=np.dot,  # where out is 1, as a critic's is, `@` takes ten times as long
    activate={
        "relu": lambda h: np.maximum(h, 0, out=h),
        "tanh": lambda h: np.tanh(h, out=h),
    },
    derivative={
        "relu": lambda g, y: g * (y > 0),
        "tanh": _tanh_backward_array,
    },
    add_gradient=_add_gradient_array,
)


def arithmetic_of(x: Array) -> Arithmetic:
    """The arithmetic for the kind of `x`."""
    return ON_ARRAYS if isinstance(x, np.ndarray) else ON_TENSORS


def is_autocast(x: Array) -> bool:
    """Whether products on `x` are in another precision now: their ways back are autograd's."""
    if isinstance(x, np.ndarray) or x.is_meta:
        return False
    return torch.is_autocast_enabled(x.device.type)


class Weights:
    """The weight and bias of a linear layer, and their gradients, of either kind.

    Looked up past nn.Module's search by name, which small networks would notice, and anew each
    time: torch.func.functional_call puts others in their place.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self._of: dict[str, Any] = layer._parameters
        self._values: tuple[int, Any] = 0, None
        self._grads: tuple[int, Any] = 0, None

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        return self._of["weight"], self._of["bias"]

    def values(self, x: Array) -> tuple[Any, Any]:
        """W (out, in) and b (out,), of the kind of `x`."""
        W, b = self.tensors
        if not isinstance(x, np.ndarray):
            return W, b
        if self._values[0] != W.data_ptr():  # the parameters have moved, as FlatParameters does
            self._values = W.data_ptr(), (W.detach().numpy(), b.detach().numpy())
        views: tuple[Any, Any] = self._values[1]
        return views

    def grads(self, x: Array) -> tuple[Any, Any]:
        """∂L/∂W and ∂L/∂b, to be added to, of the kind of `x`."""
        W, b = self.tensors
        assert W.grad is not None
        assert b.grad is not None
        if not isinstance(x, np.ndarray):
            return W.grad, b.grad
        if self._grads[0] != W.grad.data_ptr():
            self._grads = W.grad.data_ptr(), (W.grad.numpy(), b.grad.numpy())
        views: tuple[Any, Any] = self._grads[1]
        return views
