"""What a Q-network's output says about the return of each action, and how it is fitted.

A network gives `atoms` numbers for each action, or one: its output is (..., A, K) or (..., A). An
update reads the same for all of them::

    a_star = greedy(values.expected(select))       # (B,)
    y = values.target(r, discount, take(out_next, a_star))
    loss, g = values.loss(take(out, action), y)    # (B,); (B,) or (B, K)
    pull(put(weight * g, action, out))             # weight (B,) or (B, 1)

`r` and `discount` (B,) are those of the return over n steps: discount is γⁿ, and 0 where the
episode terminated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from rlkit.errors import UsageError
from rlkit.losses import cross_entropy, huber, project, quantile_huber, squared


class Values(Protocol):
    """A model of the return of one action."""

    atoms: int | None  # outputs per action; None: one, without an axis of its own

    def expected(self, out: Tensor) -> Tensor:
        """Q(s, ·), (..., A), of a network's output."""

    def target(self, r: Tensor, discount: Tensor, out_next: Tensor) -> Tensor:
        """What `loss` fits to: from the output at (s', a*), shaped like `out_next`."""

    def loss(self, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss (B,) of the output at (s, a), and its gradient, shaped like `out`."""

    def surprise(self, out: Tensor, target: Tensor, loss: Tensor) -> Tensor:
        """What prioritised replay asks for, (B,): |δ|, or the loss of a distribution (Hessel et
        al. 2018 take its KL divergence, which is less by the target's entropy)."""


LOSSES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "huber": huber,
    "squared": squared,
}


class ScalarValues:
    """The expected return itself (Mnih et al. 2015); `loss` is "huber" or "squared"."""

    atoms: int | None = None

    def __init__(self, loss: str) -> None:
        self._loss = LOSSES[loss]

    def expected(self, out: Tensor) -> Tensor:
        return out

    def target(self, r: Tensor, discount: Tensor, out_next: Tensor) -> Tensor:
        return r + discount * out_next

    def loss(self, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return self._loss(out, target)

    def surprise(self, out: Tensor, target: Tensor, loss: Tensor) -> Tensor:
        return (out - target).abs()


class CategoricalValues:
    """Probabilities of `atoms` returns, evenly spaced from `v_min` to `v_max`; outputs are logits.

    C51 (Bellemare et al. 2017). Raises UsageError where they are no support.
    """

    def __init__(self, atoms: int, v_min: float, v_max: float, device: torch.device) -> None:
        if not (v_min < v_max and v_max - v_min < float("inf")):
            raise UsageError(
                f"v_min is {v_min} and v_max is {v_max}; allowed: finite numbers, v_min < v_max; "
                "take them from the least and greatest return to expect"
            )
        if atoms < 2:
            raise UsageError(f"atoms is {atoms}; allowed: at least 2, the ends of the support")
        self.atoms: int | None = atoms
        self.z = torch.linspace(v_min, v_max, atoms, device=device)

    def expected(self, out: Tensor) -> Tensor:
        return out.softmax(-1) @ self.z  # Σ_i p_i·z_i

    def target(self, r: Tensor, discount: Tensor, out_next: Tensor) -> Tensor:
        return project(r, discount, out_next.softmax(-1), self.z)

    def loss(self, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy(out, target)

    def surprise(self, out: Tensor, target: Tensor, loss: Tensor) -> Tensor:
        return loss


class QuantileValues:
    """The return's quantiles at the midpoints τ̂_i = (2i − 1)/2N of N = `atoms` equal shares.

    QR-DQN (Dabney et al. 2018, lemma 2). Raises UsageError for less than one.
    """

    def __init__(self, atoms: int, device: torch.device) -> None:
        if atoms < 1:
            raise UsageError(f"atoms is {atoms}; allowed: at least 1 quantile")
        self.atoms: int | None = atoms
        self.tau = (torch.arange(atoms, device=device) + 0.5) / atoms

    def expected(self, out: Tensor) -> Tensor:
        return out.mean(-1)

    def target(self, r: Tensor, discount: Tensor, out_next: Tensor) -> Tensor:
        return r.unsqueeze(-1) + discount.unsqueeze(-1) * out_next

    def loss(self, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return quantile_huber(out, target, self.tau)

    def surprise(self, out: Tensor, target: Tensor, loss: Tensor) -> Tensor:
        return loss


def values_for(
    name: str, atoms: int, v_min: float, v_max: float, device: torch.device
) -> ScalarValues | CategoricalValues | QuantileValues:
    """The model of that name: "mean", "c51" or "quantiles"; the rest is for those that have it."""
    if name == "c51":
        return CategoricalValues(atoms, v_min, v_max, device)
    return QuantileValues(atoms, device) if name == "quantiles" else ScalarValues("huber")


def take(out: Tensor, action: Tensor) -> Tensor:
    """The output at the actions: out (..., A) or (..., A, K), action int64 (...,) → (...[, K])."""
    return out.gather(action.ndim, _index(out, action)).squeeze(action.ndim)


def put(g: Tensor, action: Tensor, out: Tensor) -> Tensor:
    """The way back of `take`: g (...[, K]) at the actions, and 0 at those not taken; like `out`."""
    at = action.ndim
    return torch.zeros_like(out).scatter_(at, _index(out, action), g.unsqueeze(at))


def _index(out: Tensor, action: Tensor) -> Tensor:
    index = action.unsqueeze(-1)
    if out.ndim > index.ndim:
        index = index.unsqueeze(-1).expand(*index.shape, out.shape[-1])
    return index
