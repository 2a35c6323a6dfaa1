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

    Queries (T, B, width) are the last T of the S steps of `memory` (S, B, width) → (T, B, width).
    `mask` must hide the keys after each query: a distance d < 0 has no score. Raises UsageError
    where `width` is no multiple of `heads`, or odd.
    """

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        per_head = head_width(width, heads)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.position = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.u = nn.Parameter(torch.zeros(heads, 1, per_head))
        self.v = nn.Parameter(torch.zeros(heads, 1, per_head))
        self.heads = heads
        projections = (self.query, self.position, self.output)
        for W in (*(p.weight for p in projections), *self.key_value.weight.chunk(2)):
            nn.init.xavier_uniform_(W)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        q = to_heads(self.query(x), self.heads)  # (B, heads, T, width/heads)
        k, v = (to_heads(part, self.heads) for part in self.key_value(memory).chunk(2, -1))
        distance = torch.arange(len(memory) - 1, -1, -1, device=x.device)
        r = self.position(sinusoids(distance, x.shape[-1]).to(x.dtype))  # (S, width)
        r = to_heads(r[:, None], self.heads)  # (1, heads, S, width/heads)
        scores = _by_key((q + self.v) @ r.transpose(-1, -2)) / math.sqrt(q.shape[-1])
        scores = torch.where(mask[:, None], scores, -math.inf)
        y = F.scaled_dot_product_attention(q + self.u, k, v, scores)
        return self.output.forward(from_heads(y))


def _by_key(scores: Tensor) -> Tensor:
    """Scores by distance, S − 1 … 0, to scores by key: (B, heads, T, S) → the same shape.

    Query i stands at key S − T + i, so its row has to move T − 1 − i columns to the left. Padded by
    one column, each row starts one entry later in memory than the last; read at the old width from
    entry T on, that is the shift (Dai et al. 2019, appendix B). What comes in from the right is for
    keys after the query, which are masked.
    """
    B, heads, T, S = scores.shape
    return F.pad(scores, (1, 0)).view(B, heads, S + 1, T)[:, :, 1:].reshape(B, heads, T, S)
