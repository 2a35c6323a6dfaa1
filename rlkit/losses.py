"""Losses and targets: one pure function per equation.

A loss gives the loss of each sample, and its gradient with respect to the network's output: an
update weighs the gradient and pulls it back (see rlkit/networks/vjp.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit.arrays import Array, namespace


def greedy(q: Array, mask: Array | None = None) -> Array:
    """argmax_a Q(s, a) over the actions that `mask` allows, all without one.

    Args: q (..., A); mask, bool (..., A). Returns int64 (...,); 0 where no action is allowed, as in
    terminal states, whose values are never used.
    """
    if mask is not None:
        q = namespace(q).where(mask, q, -float("inf"))
    return q.argmax(-1)


def squared(q: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """½·(q − y)² and its gradient q − y, both shaped like q: (...,)."""
    td = q - y
    return 0.5 * td * td, td


def huber(q: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The Huber loss of q − y with κ = 1, and its gradient: the error clipped to [−1, 1].

    Mnih et al. 2015, "Training algorithm". Both are shaped like q: (...,).
    """
    td = q - y
    clipped = td.clamp(-1, 1)
    # ½·td² within [−1, 1] and |td| − ½ outside are one expression in the clipped error.
    return clipped * (td - 0.5 * clipped), clipped


def project(r: Tensor, discount: Tensor, p_next: Tensor, z: Tensor) -> Tensor:
    """The distribution of r + discount·Z', projected onto the support z of Z' (C51's Φ·T).

    The mass at each r + discount·z_j, clipped to [z_0, z_{K−1}], goes to its two neighbours on the
    support in proportion to its nearness (Bellemare et al. 2017, eq. 7 and algorithm 1; mass that
    falls on an atom stays there, which the algorithm as printed loses).

    Args: r, discount (B,); p_next (B, K), probabilities; z (K,), rising, evenly spaced, K ≥ 2.
    Returns m, (B, K).
    """
    last = z.shape[0] - 1
    step = (z[-1] - z[0]) / last  # Δz
    Tz = r.unsqueeze(-1) + discount.unsqueeze(-1) * z  # (B, K)
    b = ((Tz - z[0]) / step).clamp_(0, last)  # in [0, K − 1]
    return _hats(p_next, b) if b.is_cuda else _split(p_next, b)


def _split(p: Tensor, b: Tensor) -> Tensor:
    """Mass p (B, K) at the positions b (B, K) split between the atoms below and above."""
    below = b.floor().clamp_(max=b.shape[-1] - 2)  # so that there is one above
    p_above = p * (b - below)
    l = below.long()  # noqa: E741 (the paper's name)
    return torch.zeros_like(p).scatter_add_(-1, l, p - p_above).scatter_add_(-1, l + 1, p_above)


def _hats(p: Tensor, b: Tensor) -> Tensor:
    """`_split` as eq. 7: m_i = Σ_j max(0, 1 − |b_j − i|)·p_j. K times the work, and the same bits
    in every run, where a GPU's scatter adds in any order."""
    i = torch.arange(b.shape[-1], device=b.device).unsqueeze(-1)
    hat = (1 - (b.unsqueeze(-2) - i).abs()).clamp_(min=0)  # (B, K, K)
    return (hat * p.unsqueeze(-2)).sum(-1)


def cross_entropy(logits: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """−Σ_i m_i·log softmax(logits)_i, (B,), and its gradient softmax(logits) − m, (B, K).

    Args: logits, m (B, K), with Σ_i m_i = 1. C51's loss (Bellemare et al. 2017, algorithm 1).
    """
    log_p = logits.log_softmax(-1)
    return -(m * log_p).sum(-1), log_p.exp() - m


def quantile_huber(theta: Tensor, target: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Quantile regression's loss, smoothed with κ = 1 (Dabney et al. 2018, eq. 10), and gradient.

        Σ_i E_j[ρ_τᵢ(θ'_j − θ_i)],  ρ_τ(u) = |τ − 1{u < 0}|·Huber(u)

    Args: theta (B, N), the quantiles at tau (N,); target θ' (B, N'), samples of equal weight.
    Returns the loss (B,) and the gradient (B, N).
    """
    u = target.unsqueeze(-2) - theta.unsqueeze(-1)  # (B, N, N')
    clipped = u.clamp(-1, 1)
    below = clipped.clamp(max=0)
    rest = u.sub_(clipped, alpha=0.5)  # Huber(u) = clipped·rest, as in `huber`
    # The weight |τ − 1{u < 0}| is τ plus, where u < 0, 1 − 2τ: it needs no (B, N, N') of its own.
    n, more = target.shape[-1], 1 - 2 * tau
    dot = torch.linalg.vecdot
    rho = (tau * dot(clipped, rest) + more * dot(below, rest)) / n  # E_j[ρ_τᵢ], (B, N)
    return rho.sum(-1), -(tau * clipped.mean(-1) + more * below.mean(-1))
