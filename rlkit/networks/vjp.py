"""Backpropagation as agents ask for it: a network's output, and the way back.

``y, pull = vjp(network, x)`` gives y = f(x; θ) and a function: ``pull(g)`` with g = ∂L/∂y adds
∂L/∂θ = gᵀ·∂y/∂θ to every parameter's `.grad` (a vector–Jacobian product). An agent's update then
says ∂L/∂y itself, which for policy gradients and TD errors is the equation in the paper.

Any nn.Module goes through autograd. A module with a `vjp` method of its own (a plain MLP, whose way
back is four lines) skips it: at the batch sizes of classic control, autograd's bookkeeping costs
several times the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlkit.arrays import Array

Pull = Callable[[Array], Array | None]  # ∂L/∂y → ∂L/∂x, or None where nobody needs it


def vjp(module: nn.Module, x: Array) -> tuple[Array, Pull]:
    """f(x), and the function that adds ∂L/∂θ to the parameters' `.grad`, given ∂L/∂f(x).

    `x` are observations: no gradient flows back to them. Every parameter must have its `.grad`
    allocated (FlatParameters does it).
    """
    by_hand: Callable[[Array], tuple[Array, Pull]] | None = getattr(module, "vjp", None)
    if by_hand is not None:
        return by_hand(x)
    with torch.enable_grad():
        y: Tensor = module(x)

    def pull(g: Tensor) -> None:
        torch.autograd.backward(y, g)

    return y.detach(), pull
