"""Transformers on (T, B, width): encoder, decoder, and decoder with attention to an encoder.

Blocks are pre-norm, x + f(LayerNorm(x)), which trains without a warm-up (Xiong et al. 2020); stacks
end in a LayerNorm. They are for sequences that lie before them whole, as recorded trajectories do;
the memory that an agent carries from step to step is `rlkit.networks.gtrxl.GTrXL`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from rlkit.networks.activations import ACTIVATIONS, before
from rlkit.networks.attention import Attention
from rlkit.networks.positions import ROTARY, SINUSOIDAL, positions_for

HIDDEN_PER_WIDTH = 4  # of the feed-forward layers (Vaswani et al. 2017, §3.3: 2048 for 512)


@dataclass(frozen=True)
class Blocks:
    """What the blocks of a stack have in common.

    `dropout`, in training alone, is on each layer's output, on the attention and within the
    feed-forward layer. `positions`: "sinusoidal", "learned" (for up to `length` steps), "rotary" or
    "none"; all but "rotary" are the stack's, not the blocks'.
    """

    heads: int = 4
    activation: str = "gelu"
    dropout: float = 0.0
    positions: str = SINUSOIDAL
    length: int = 512


DEFAULT = Blocks()


class FeedForward(nn.Module):
    """Two linear layers with an activation between them: (..., width) → (..., width)."""

    def __init__(self, width: int, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = HIDDEN_PER_WIDTH * width
        self.widen = nn.Linear(width, before(activation, hidden))
        self.narrow = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self._activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        h = self._activation(self.widen(x))
        return self.narrow.forward(self.dropout(h))


class Block(nn.Module):
    """Self-attention, then attention to `memory` where `cross`, then a feed-forward layer.

    x (T, B, width) → (T, B, width), memory (S, B, width). `causal`: no step sees those after it.
    `mask` is over x, `memory_mask` over the memory: see `rlkit.networks.attention`.
    """

    def __init__(self, width: int, blocks: Blocks = DEFAULT, cross: bool = False) -> None:
        super().__init__()
        rotary, dropout = blocks.positions == ROTARY, blocks.dropout
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, blocks.heads, rotary=rotary, dropout=dropout)
        if cross:
            self.norm_cross = nn.LayerNorm(width)
            # Not rotary: there is no distance between the steps of different sequences.
            self.cross = Attention(width, blocks.heads, dropout=dropout)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, blocks.activation, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        h = self.norm_attention(x)
        x = x + self.dropout(self.attention(h, mask=mask, causal=causal))
        if memory is not None:
            x = x + self.dropout(self.cross(self.norm_cross(x), memory, memory_mask))
        h = self.feed_forward(self.norm_feed_forward(x))
        return x + self.dropout.forward(h)


class Transformer(nn.Module):
    """A stack of blocks: (T, B, width_in) → (T, B, width).

    As it is, an encoder, where each step sees all; `causal`: a decoder, where each sees the past.
    With `cross`, `forward` takes an encoder's output too, `memory` (S, B, width).
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        layers: int = 2,
        *,
        causal: bool = False,
        cross: bool = False,
        blocks: Blocks = DEFAULT,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(width_in, width)
        self.positions = positions_for(blocks.positions, blocks.length, width)
        self.blocks = nn.ModuleList(Block(width, blocks, cross) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.causal = causal
        self.width = width

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        h: Tensor = self.positions(self.embed(x))
        for block in self.blocks:
            h = block(h, mask, self.causal, memory, memory_mask)
        return self.norm.forward(h)
