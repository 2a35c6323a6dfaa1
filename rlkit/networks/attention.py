"""Multi-head attention over time, on (T, B, width): time first, as everywhere in rlkit.

Masks are bool, True where a query may attend to a key: (T, S), or (B, T, S) for masks that differ
between sequences; axes of size 1 are repeated. A query that may attend to nothing gets zeros.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.errors import UsageError
from rlkit.networks.positions import rotated, sinusoids


def causal_mask(T: int, S: int, device: torch.device) -> Tensor:
    """(T, S) bool: query i stands at step S − T + i of the keys, and sees none after it."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def padding_mask(length: Tensor, S: int) -> Tensor:
    """Lengths (B,) of sequences that were padded to S steps → (B, 1, S) bool."""
    return (torch.arange(S, device=length.device) < length[:, None])[:, None]


def episode_mask(reset: Tensor) -> Tensor:
    """reset (T, B), True at the first step of an episode → (B, T, T) bool: of one episode."""
    episode = reset.t().cumsum(1)
    return episode[:, :, None] == episode[:, None]


def head_width(width: int, heads: int) -> int:
    """Raises UsageError where the heads can't share the width evenly."""
    if heads < 1 or width % heads:
        raise UsageError(
            f"{heads} attention heads over a width of {width}; allowed: a width that is a "
            f"multiple of the heads; try {max(1, width // max(heads, 1)) * max(heads, 1)}"
        )
    return width // heads


def to_heads(x: Tensor, heads: int) -> Tensor:
    """(T, B, width) → (B, heads, T, width/heads)."""
    return x.view(*x.shape[:2], heads, -1).permute(1, 2, 0, 3)


def from_heads(x: Tensor) -> Tensor:
    """(B, heads, T, width/heads) → (T, B, width)."""
    return x.permute(2, 0, 1, 3).flatten(2)


class Attention(nn.Module):
    """Scaled dot-product attention of several heads (Vaswani et al. 2017, §3.2).

    Queries (T, B, width) look at `memory` (S, B, width), by default at themselves → (T, B, width).
    `rotary`: queries and keys are turned by their positions; the last query stands at the last key.
    Raises UsageError where `width` is no multiple of `heads`.
    """

    def __init__(
        self, width: int, heads: int = 4, *, rotary: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        head_width(width, heads)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.heads = heads
        self.rotary = rotary
        self.dropout = dropout
        for W in (self.query.weight, *self.key_value.weight.chunk(2), self.output.weight):
            nn.init.xavier_uniform_(W)
        for layer in (self.query, self.key_value, self.output):
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        memory = x if memory is None else memory
        T, S = len(x), len(memory)
        q = to_heads(self.query(x), self.heads)  # (B, heads, T, width/heads)
        k, v = (to_heads(part, self.heads) for part in self.key_value(memory).chunk(2, -1))
        if self.rotary:
            step = torch.arange(S, device=x.device)
            q, k = rotated(q, step[-T:]), rotated(k, step)
        if causal and (mask is not None or T != S):
            past = causal_mask(T, S, x.device)
            mask, causal = past if mask is None else mask & past, False
        if mask is not None and mask.ndim == 3:
            mask = mask[:, None]  # the same for all heads
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        return self.output.forward(from_heads(y))


class RelativeAttention(nn.Module):
    """Attention with relative positions, of Transformer-XL (Dai et al. 2019, §3.3).

    The score of query i for key j, d steps before it, is, with u and v learned per head,

        (q_i + u)·k_j + (q_i + v)·W r_d        over √(width/heads), r_d the sinusoids of d

    Queries (T, B, width) are the last T steps of `memory` (length + T, B, width) → (T, B, width).
    Each looks at itself and the `length` steps before it, the earliest first, with `mask` (B, T,
    length + 1) added to the scores: 0 or −∞, which hides a step. Raises UsageError where `width` is
    no multiple of `heads`, or odd.
    """

    def __init__(self, width: int, heads: int = 4, *, length: int) -> None:
        super().__init__()
        per_head = head_width(width, heads)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.position = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.u = nn.Parameter(torch.zeros(heads, 1, per_head))
        self.v = nn.Parameter(torch.zeros(heads, 1, per_head))
        self.heads = heads
        self.scale = 1 / math.sqrt(per_head)
        self.distances: Tensor  # (length + 1, width): r_d of the earliest step first
        distances = sinusoids(torch.arange(length, -1, -1), width)
        self.register_buffer("distances", distances, persistent=False)
        projections = (self.query, self.position, self.output)
        for W in (*(p.weight for p in projections), *self.key_value.weight.chunk(2)):
            nn.init.xavier_uniform_(W)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        q = self.query(x).view(*x.shape[:2], self.heads, -1)  # (T, B, heads, width/heads)
        r = self.position(self.distances).view(-1, self.heads, q.shape[-1])  # (D, heads, …)
        attend = self._one if len(x) == 1 else self._all
        q_u, q_v = ((q + bias[:, 0]) * self.scale for bias in (self.u, self.v))
        y = attend(q_u, q_v, r, memory, mask)
        return self.output.forward(y.view_as(x))

    def _all(self, q_u: Tensor, q_v: Tensor, r: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """What T queries (T, B, heads, width/heads) find: (T, B·heads, width/heads)."""
        (T, B), S, D = q_u.shape[:2], len(memory), len(r)
        W_k, W_v = self.key_value.weight.chunk(2)
        k, v, q_u, q_v = (
            a.view(len(a), B * self.heads, -1).transpose(0, 1)  # (B·heads, …, width/heads)
            for a in (F.linear(memory, W_k), F.linear(memory, W_v), q_u, q_v)
        )
        r = r.permute(1, 2, 0).repeat(B, 1, 1)  # (B·heads, width/heads, D)
        # Query i is at step length + i, so its D scores start in column i of a row: all rows' are a
        # band of diagonals. What is done to each score is done to those D of S columns alone.
        band = (B * self.heads, T, D), (T * S, S + 1, 1)
        scores = torch.bmm(q_u, k.transpose(1, 2)).as_strided(*band)
        p = self._shares(torch.baddbmm(scores, q_v, r), mask)
        p = torch.as_strided_scatter(p.new_zeros(B * self.heads, T, S), p, *band)
        return torch.bmm(p, v).transpose(0, 1).contiguous()

    def _one(self, q_u: Tensor, q_v: Tensor, r: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """What one query (1, B, heads, width/heads) finds, without any step's key or value.

        q·(W_k h_j) = (W_kᵀ q)·h_j and Σ_j p_j·W_v h_j = W_v Σ_j p_j h_j: for a query alone, that is
        a product with W_k and W_v each, not one for each step of the memory.
        """
        W_k, W_v = self.key_value.weight.view(2, self.heads, -1, memory.shape[-1])
        h = memory.transpose(0, 1)  # (B, S, width)
        q_h = torch.bmm(q_u[0].transpose(0, 1), W_k).transpose(0, 1)  # (B, heads, width)
        scores = torch.bmm(q_v[0].transpose(0, 1), r.permute(1, 2, 0)).transpose(0, 1)
        p = self._shares(torch.baddbmm(scores, q_h, h.transpose(1, 2)), mask)  # (B, heads, S)
        p_h = torch.bmm(p, h).transpose(0, 1)  # (heads, B, width)
        return torch.bmm(p_h, W_v.transpose(1, 2)).transpose(0, 1).contiguous()

    def _shares(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Scores of B·heads·T queries in that order → how much of each step goes into the sum."""
        B, T, D = mask.shape
        by_head = scores.view(B, self.heads, T, D) + mask[:, None]
        return by_head.softmax(-1).view_as(scores)
