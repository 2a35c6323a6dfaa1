"""A transformer as memory: GTrXL, the gated Transformer-XL (Parisotto et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rlkit.networks.attention import RelativeAttention
from rlkit.networks.transformer import FeedForward

GTrXLCarry = tuple[Tensor, Tensor]  # the cache (B, layers, length, width), valid (B, length) bool


class Gate(nn.Module):
    """Where a residual connection would add: GRU-type gating (Parisotto et al. 2020, §3.2).

        r = σ(W_r y + U_r x),  z = σ(W_z y + U_z x − b),  ĥ = tanh(W_g y + U_g(r⊙x))
        g(x, y) = (1 − z)⊙x + z⊙ĥ

    b starts at 2, so that a layer begins close to the identity, a policy without memory.
    """

    def __init__(self, width: int, bias: float = 2.0) -> None:
        super().__init__()
        self.W = nn.Linear(width, 3 * width, bias=False)  # r, z, g
        self.U = nn.Linear(width, 2 * width, bias=False)  # r, z
        self.U_g = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.full((width,), bias))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        r_y, z_y, g_y = self.W(y).chunk(3, -1)
        r_x, z_x = self.U(x).chunk(2, -1)
        r = torch.sigmoid(r_y + r_x)
        z = torch.sigmoid(z_y + z_x - self.bias)
        h = torch.tanh(g_y + self.U_g(r * x))
        return torch.lerp(x.to(z.dtype), h.to(z.dtype), z)  # under autocast z alone is float32


class GTrXLBlock(nn.Module):
    """E (T, B, width), [M, E] (length + T, B, width) and a mask → (T, B, width) (ibid.).

    Y = g(E, ReLU(RelativeAttention(LayerNorm([M, E]))))
    E' = g(Y, ReLU(MLP(LayerNorm(Y))))

    `mask` (B, T, length + 1): see `rlkit.networks.attention.RelativeAttention`.
    """

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = RelativeAttention(width, heads, length=length)
        self.gate_attention = Gate(width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, "relu")
        self.gate_feed_forward = Gate(width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        h = self.norm_attention(memory)
        y = self.gate_attention(x, torch.relu(self.attention(h[-len(x) :], h, mask)))
        e = self.feed_forward(self.norm_feed_forward(y))
        return self.gate_feed_forward.forward(y, torch.relu(e))


class GTrXL(nn.Module):
    """A core: (T, B, width_in), carry, reset (T, B) bool → (T, B, width), carry.

    Each step attends to itself and to the `length` steps before it, of its own episode only, in
    every layer; so it sees up to layers·length steps back, and what it puts out does not depend on
    how a sequence was cut into segments: step by step or all at once, it is the same.

    The carry is the cache, (B, layers, length, width) float32, of the inputs of each layer at the
    last `length` steps, and which of them belong to the running episode, (B, length) bool; zeros
    are an empty cache. Gradients flow into the carry that is given; one without a graph, as agents
    store it, is the paper's StopGrad(M). Raises UsageError where `width` is no multiple of `heads`.
    """

    def __init__(
        self, width_in: int, width: int, layers: int = 2, heads: int = 4, length: int = 64
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(width_in, width)
        self.blocks = nn.ModuleList(GTrXLBlock(width, heads, length) for _ in range(layers))
        self.width = width
        self.length = length

    def initial_carry(self, B: int) -> GTrXLCarry:
        like = self.embed.weight
        cache = like.new_zeros(B, len(self.blocks), self.length, self.width)
        return cache, like.new_zeros(B, self.length, dtype=torch.bool)

    def forward(self, x: Tensor, carry: GTrXLCarry, reset: Tensor) -> tuple[Tensor, GTrXLCarry]:
        cache, valid = carry
        seen, valid = self._sight(valid, reset)
        mask = torch.zeros_like(seen, dtype=cache.dtype).masked_fill_(~seen, -math.inf)
        h, kept = self.embed(x), []
        for block, past in zip(self.blocks, cache.unbind(1), strict=True):
            memory = torch.cat([past.transpose(0, 1), h])  # (length + T, B, width)
            kept.append(memory[-self.length :].transpose(0, 1))
            h = block(h, memory, mask)
        return h, (torch.stack(kept, 1), valid)

    def _sight(self, valid: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the `length` steps before it and itself each new step sees, and new `valid`.

        (B, T, length + 1) bool. Episodes are numbered from 0, the one that the cache is of.
        """
        new = reset.t().cumsum(1)  # (B, T)
        episode = torch.cat([valid.long() - 1, new], 1)  # (B, length + T); −1: of none
        seen = episode.unfold(1, self.length + 1, 1) == new[:, :, None]
        return seen, episode[:, -self.length :] == new[:, -1:]
