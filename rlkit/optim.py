"""Optimisers over one flat vector.

A small network has a dozen small parameters, and an optimiser that visits each of them spends its
time on calls. Here all parameters are views of one vector and their gradients of another: a step
is a handful of operations whatever the network. (Constructing a torch.optim optimiser also imports
torch._dynamo: over a second of every process's start.) The arithmetic is torch.optim's, to which
the tests hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from rlkit.errors import RunError


class FlatParameters:
    """The trained parameters of a module as one vector, and their gradients as another.

    `values` and `grad` are (n,); each parameter and its `.grad` become views of them, in place, so
    create it once the module is on its device and before anything keeps a reference to
    `parameter.data`. Frozen parameters, which don't require a gradient, are left as they are, so
    that no optimiser, target net or clipping knows of them.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.parameters = parameters
        self.values = torch.cat([p.detach().flatten() for p in parameters])
        self.grad = torch.zeros_like(self.values)
        sizes = [p.numel() for p in parameters]
        for p, value, grad in zip(
            parameters, torch.split(self.values, sizes), torch.split(self.grad, sizes), strict=True
        ):
            p.data = value.view_as(p)
            p.grad = grad.view_as(p)

    def clip_grad(self, max_norm: float) -> float:
        """Scale the gradient to a Euclidean norm of at most `max_norm`; returns the norm before.

        Raises RunError where the norm is not finite: the weights have not been touched.
        """
        norm = float(torch.linalg.vector_norm(self.grad))
        if not norm < float("inf"):  # also catches NaN
            raise RunError(
                f"the gradient's norm is {norm}: the loss overflowed; the weights are as they were "
                "before this step; scale the rewards down or lower the learning rate"
            )
        if norm > max_norm:
            self.grad.mul_(max_norm / (norm + 1e-6))
        return norm

    def require_finite(self, lr: float) -> None:
        """Raise RunError where a step of size `lr` has left weights that are not finite.

        So nothing acts, learns or is saved by them. A sum is not finite where a term is not; that
        of finite terms is not either where they come to more than a float holds, which no network
        survives.
        """
        if not math.isfinite(self.values.sum().item()):
            raise RunError(
                f"a step with learning rate {lr:g} left weights that are not finite; lower the "
                "learning rate"
            )


class Optimizer(Protocol):
    """Descends the gradient that lies in a FlatParameters.

    A step raises RunError where it leaves weights that are not finite.
    """

    def step(self, lr: float) -> None: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


class SGD:
    """Gradient descent, with momentum µ where it is not 0 (torch.optim.SGD's arithmetic).

    b ← µ·b + g;  θ ← θ − lr·b
    """

    def __init__(self, flat: FlatParameters, momentum: float) -> None:
        self.flat = flat
        self.momentum = momentum
        self.b = torch.zeros_like(flat.values)

    def step(self, lr: float) -> None:
        self.b.mul_(self.momentum).add_(self.flat.grad)
        self.flat.values.add_(self.b, alpha=-lr)
        self.flat.require_finite(lr)

    def get_state(self) -> dict[str, Any]:
        return {"b": self.b}

    def set_state(self, state: dict[str, Any]) -> None:
        self.b.copy_(state["b"])


class RMSprop:
    """RMSprop (Tieleman & Hinton 2012), with torch.optim.RMSprop's arithmetic.

    s ← α·s + (1 − α)·g²;  θ ← θ − lr·g / (√s + eps)
    """

    ALPHA = 0.99

    def __init__(self, flat: FlatParameters, eps: float) -> None:
        self.flat = flat
        self.eps = eps
        self.s = torch.zeros_like(flat.values)

    def step(self, lr: float) -> None:
        g = self.flat.grad
        self.s.mul_(self.ALPHA).addcmul_(g, g, value=1 - self.ALPHA)
        self.flat.values.addcdiv_(g, self.s.sqrt().add_(self.eps), value=-lr)
        self.flat.require_finite(lr)

    def get_state(self) -> dict[str, Any]:
        return {"s": self.s}

    def set_state(self, state: dict[str, Any]) -> None:
        self.s.copy_(state["s"])


# What torch.optim.Adam(fused=True) calls: one pass over the vector instead of five. It is not
# public, so where torch no longer has it, the plain operations do the same.
HAS_FUSED_ADAM = hasattr(torch, "_fused_adam_")


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1), with torch.optim.Adam's arithmetic.

    m ← β₁·m + (1 − β₁)·g;  v ← β₂·v + (1 − β₂)·g²
    θ ← θ − lr·m̂ / (√v̂ + eps),  m̂ = m/(1 − β₁ᵗ),  v̂ = v/(1 − β₂ᵗ)

    With `weight_decay` w, AdamW (Loshchilov & Hutter 2019): first θ ← θ − lr·w·θ.
    """

    BETA1, BETA2 = 0.9, 0.999

    def __init__(self, flat: FlatParameters, eps: float, weight_decay: float = 0.0) -> None:
        self.flat = flat
        self.eps = eps
        self.weight_decay = weight_decay
        self.m = torch.zeros_like(flat.values)
        self.v = torch.zeros_like(flat.values)
        self.t = 0

    def step(self, lr: float) -> None:
        self.t += 1
        if self.weight_decay:
            self.flat.values.mul_(1 - lr * self.weight_decay)
        if HAS_FUSED_ADAM:
            self._fused_step(lr)
        else:
            self._plain_step(lr)
        self.flat.require_finite(lr)

    def _fused_step(self, lr: float) -> None:
        torch._fused_adam_(
            [self.flat.values],
            [self.flat.grad],
            [self.m],
            [self.v],
            [],
            [torch.tensor(float(self.t), device=self.m.device)],
            lr=lr,
            beta1=self.BETA1,
            beta2=self.BETA2,
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def _plain_step(self, lr: float) -> None:
        g = self.flat.grad
        self.m.lerp_(g, 1 - self.BETA1)
        self.v.mul_(self.BETA2).addcmul_(g, g, value=1 - self.BETA2)
        unbias1, unbias2 = 1 - self.BETA1**self.t, 1 - self.BETA2**self.t
        root = self.v.sqrt().div_(unbias2**0.5).add_(self.eps)
        self.flat.values.addcdiv_(self.m, root, value=-lr / unbias1)

    def get_state(self) -> dict[str, Any]:
        return {"m": self.m, "v": self.v, "t": self.t}

    def set_state(self, state: dict[str, Any]) -> None:
        self.m.copy_(state["m"])
        self.v.copy_(state["v"])
        self.t = state["t"]


OPTIMIZERS: Mapping[str, Callable[[FlatParameters, float], Optimizer]] = {
    "sgd": lambda flat, eps: SGD(flat, momentum=0.0),
    "momentum": lambda flat, eps: SGD(flat, momentum=0.9),
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": lambda flat, eps: Adam(flat, eps, weight_decay=0.01),
}


def optimizer_for(name: str, flat: FlatParameters, eps: float) -> Optimizer:
    """The optimiser of that name, with torch.optim's defaults; `eps` is in the denominator of
    those that have one."""
    return OPTIMIZERS[name](flat, eps)
