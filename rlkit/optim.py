"""Optimisers over one flat vector.

A small network has a dozen small parameters, and an optimiser that visits each of them spends its
time on calls. Here all parameters are views of one vector and their gradients of another: a step
is a handful of operations whatever the network. (Constructing a torch.optim optimiser also imports
torch._dynamo: over a second of every process's start.) The arithmetic is torch.optim's, to which
the tests hold it.

With a `Health` (rlkit/device/health.py) nothing is read back from the device: learning rates and
counts of steps are tensors there, and a step after a number that was not finite changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from rlkit.arrays import Array
from rlkit.device.health import NORM, WEIGHTS, Health, norm_error, weights_error
from rlkit.peers import Peers

Rate: TypeAlias = float | Tensor  # a learning rate: with a Health a tensor () on the device


class FlatParameters:
    """The trained parameters of a module as one vector, and their gradients as another.

    `values` and `grad` are (n,); each parameter and its `.grad` become views of them, in place, so
    create it once the module is on its device and before anything keeps a reference to
    `parameter.data`. Frozen parameters, which don't require a gradient, are left as they are, so
    that no optimiser, target net or clipping knows of them.

    `health`: where what is not finite is noted; None: it is looked for and raised at once. With
    `peers`, `clip_grad` makes the gradient that of all ranks' rows.
    """

    def __init__(
        self, module: nn.Module, health: Health | None = None, peers: Peers | None = None
    ) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.parameters = parameters
        self.health = health
        self.values = torch.cat([p.detach().flatten() for p in parameters])
        self.peers = peers
        self.grad = torch.zeros_like(self.values)
        if peers is not None:
            # Two places more: how many rows it is the mean of, and the mean of one thing more. Not
            # one memory with `grad`: torch.compile takes no views of what it can't see.
            self._exchanged = self.values.new_zeros(self.values.numel() + 2)
        sizes = [p.numel() for p in parameters]
        for p, value, grad in zip(
            parameters, torch.split(self.values, sizes), torch.split(self.grad, sizes), strict=True
        ):
            p.data = value.view_as(p)
            p.grad = grad.view_as(p)

    def average(self, rows: Array | float, beside: Array | float = 0.0) -> Array | float:
        """With peers, make the gradient, the mean over so many rows, the mean over all ranks' rows.

        `beside`: a mean () over the same rows; returned as that over all ranks', which takes no
        exchange of its own.
        """
        if self.peers is None:
            return beside
        count, mean = (x if isinstance(x, Tensor) else float(x) for x in (rows, beside))
        told = self._exchanged
        torch.mul(self.grad, count, out=told[:-2])
        told[-2] = count
        told[-1] = mean * count
        self.peers.add_up(told)
        total = told[-2].clamp(min=1)
        torch.div(told[:-2], total, out=self.grad)
        return told[-1] / total

    def clip_grad(self, max_norm: float, rows: Array | float | None = 1.0) -> Rate:
        """Scale the gradient to a Euclidean norm of at most `max_norm`; returns the norm before.

        `rows`: see `average`, which goes before; None: that has been done. Raises RunError where
        the norm is not finite: the weights have not been touched.
        """
        if rows is not None:
            self.average(rows)
        if self.health is not None:
            norm_there: Tensor = torch.linalg.vector_norm(self.grad)
            self.health.watch(NORM, norm_there)
            self.grad.mul_((max_norm / (norm_there + 1e-6)).clamp(max=1))
            return norm_there
        norm = float(torch.linalg.vector_norm(self.grad))
        if not norm < float("inf"):  # also catches NaN
            raise norm_error(norm)
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
            raise weights_error(lr)

    def look(self, lr: float) -> None:
        """At the end of an update with learning rate `lr`: see `Health.look`."""
        if self.health is not None:
            self.health.watch(WEIGHTS, self.values.sum())
            self.health.look(lr)

    def settle(self) -> None:
        """Before the weights are kept: raise what no update has come to raise yet."""
        if self.health is not None:
            self.health.settle()

    def moved(self, old: Tensor, new: Tensor) -> None:
        """old ← new, unless something was not finite before."""
        health = self.health
        assert health is not None
        old.copy_(torch.where(health.halted != 0, old, new))


class Optimizer(Protocol):
    """Descends the gradient that lies in a FlatParameters.

    A step raises RunError where it leaves weights that are not finite.
    """

    def step(self, lr: Rate) -> None: ...

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

    def step(self, lr: Rate) -> None:
        flat = self.flat
        if isinstance(lr, Tensor):
            flat.moved(self.b, self.momentum * self.b + flat.grad)
            flat.moved(flat.values, flat.values - lr * self.b)
            return
        self.b.mul_(self.momentum).add_(flat.grad)
        flat.values.add_(self.b, alpha=-lr)
        flat.require_finite(lr)

    def get_state(self) -> dict[str, Any]:
        self.flat.settle()
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

    def step(self, lr: Rate) -> None:
        flat, g = self.flat, self.flat.grad
        if isinstance(lr, Tensor):
            flat.moved(self.s, self.ALPHA * self.s + (1 - self.ALPHA) * g * g)
            flat.moved(flat.values, flat.values - lr * g / (self.s.sqrt() + self.eps))
            return
        self.s.mul_(self.ALPHA).addcmul_(g, g, value=1 - self.ALPHA)
        flat.values.addcdiv_(g, self.s.sqrt().add_(self.eps), value=-lr)
        flat.require_finite(lr)

    def get_state(self) -> dict[str, Any]:
        self.flat.settle()
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
        # steps done: on the host a number; with a Health a tensor, as a replayed graph counts it
        self.t: int | Tensor = 0
        if flat.health is not None:
            self.t = torch.zeros((), device=flat.values.device)

    def step(self, lr: Rate) -> None:
        if isinstance(lr, Tensor):
            self._step_ahead(lr)
            return
        self.t += 1
        if self.weight_decay:
            self.flat.values.mul_(1 - lr * self.weight_decay)
        if HAS_FUSED_ADAM:
            self._fused_step(lr, torch.tensor(float(self.t), device=self.m.device), None)
        else:
            self._plain_step(lr)
        self.flat.require_finite(lr)

    def _step_ahead(self, lr: Tensor) -> None:
        flat, health, t = self.flat, self.flat.health, self.t
        assert health is not None
        assert isinstance(t, Tensor)
        t.add_(1 - health.halted)
        if self.weight_decay:
            flat.moved(flat.values, flat.values * (1 - lr * self.weight_decay))
        # Where only shapes are asked for, and where a compiler fuses what it sees, plainly.
        if HAS_FUSED_ADAM and not t.is_meta and not torch.compiler.is_compiling():
            self._fused_step(lr, t, health.halted)
            return
        g = flat.grad
        flat.moved(self.m, self.BETA1 * self.m + (1 - self.BETA1) * g)
        flat.moved(self.v, self.BETA2 * self.v + (1 - self.BETA2) * g * g)
        root = self.v.sqrt() / (1 - self.BETA2**t).sqrt() + self.eps
        flat.moved(flat.values, flat.values - lr / (1 - self.BETA1**t) * self.m / root)

    def _fused_step(self, lr: Rate, t: Tensor, halted: Tensor | None) -> None:
        torch._fused_adam_(
            [self.flat.values],
            [self.flat.grad],
            [self.m],
            [self.v],
            [],
            [t],
            lr=lr,
            beta1=self.BETA1,
            beta2=self.BETA2,
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            found_inf=halted,
        )

    def _plain_step(self, lr: float) -> None:
        g = self.flat.grad
        assert not isinstance(self.t, Tensor)
        self.m.lerp_(g, 1 - self.BETA1)
        self.v.mul_(self.BETA2).addcmul_(g, g, value=1 - self.BETA2)
        unbias1, unbias2 = 1 - self.BETA1**self.t, 1 - self.BETA2**self.t
        root = self.v.sqrt().div_(unbias2**0.5).add_(self.eps)
        self.flat.values.addcdiv_(self.m, root, value=-lr / unbias1)

    def get_state(self) -> dict[str, Any]:
        self.flat.settle()
        return {"m": self.m, "v": self.v, "t": int(self.t)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.m.copy_(state["m"])
        self.v.copy_(state["v"])
        if isinstance(self.t, Tensor):
            self.t.fill_(state["t"])
        else:
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
