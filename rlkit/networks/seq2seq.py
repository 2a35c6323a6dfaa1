"""From one sequence to another, and both ways through time: for recorded trajectories.

A bidirectional network's features at step t are made of what came after t too. Of a recorded
trajectory that is known; while an agent acts it is not, so `rlkit.networks.cores` refuses it.

The sequence-to-sequence models read a source (S, B, width_in) and then write a target step by step
from what was written before: in training from the recorded one (teacher forcing, `forward`), later
from their own outputs (`decode`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rlkit.networks.attention import padding_mask
from rlkit.networks.rnn import Recurrent, RecurrentCarry
from rlkit.networks.transformer import DEFAULT, Blocks, Transformer


def reversed_in_time(x: Tensor, length: Tensor) -> Tensor:
    """x (T, B, ...) with the first `length` (B,) steps of each sequence in reverse order."""
    t = torch.arange(len(x), device=x.device)[:, None]
    index = torch.where(t < length, length - 1 - t, t)  # (T, B)
    return x[index, torch.arange(x.shape[1], device=x.device)]


def _lengths(x: Tensor, length: Tensor | None) -> Tensor:
    return x.new_full(x.shape[1:2], len(x), dtype=torch.int64) if length is None else length


class Bidirectional(nn.Module):
    """Two recurrent networks, one for each way through time (Schuster & Paliwal 1997).

    x (T, B, width_in) → (T, B, 2·width): forward features, then backward ones. `length` (B,) int64:
    how many steps of each sequence count; the others are padding, and what is put out there means
    nothing. `kind`: see `rlkit.networks.rnn.Recurrent`.
    """

    def __init__(self, kind: str, width_in: int, width: int, layers: int = 1) -> None:
        super().__init__()
        self.onward = Recurrent(kind, width_in, width, layers)
        self.back = Recurrent(kind, width_in, width, layers)
        self.width = 2 * width

    def forward(self, x: Tensor, length: Tensor | None = None) -> Tensor:
        length = _lengths(x, length)
        reset = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        carry = self.onward.initial_carry(x.shape[1])
        y, _ = self.onward(x, carry, reset)
        y_back, _ = self.back(reversed_in_time(x, length), carry, reset)
        return torch.cat([y, reversed_in_time(y_back, length)], -1)


class Seq2Seq(Protocol):
    """What `decode` asks of a model."""

    def start(self, source: Tensor, length: Tensor | None = None) -> Any:
        """What the decoder knows before its first step."""

    def step(self, y: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The last step written (B, width_target) and the state → (B, outputs) and the next."""


def decode(
    model: Seq2Seq,
    source: Tensor,
    first: Tensor,
    steps: int,
    feed: Callable[[Tensor], Tensor] = lambda output: output,
    length: Tensor | None = None,
) -> Tensor:
    """Write `steps` steps, each from the model's own last one → (steps, B, outputs).

    `first` (B, width_target) is what the decoder is fed at its first step; then it is
    ``feed(output)``: by default the output itself, for tokens the one-hot of the greatest (greedy
    decoding).
    """
    state, y, written = model.start(source, length), first, []
    for _ in range(steps):
        output, state = model.step(y, state)
        y = feed(output)
        written.append(output)
    return torch.stack(written)


class RecurrentSeq2Seq(nn.Module):
    """A recurrent encoder whose last carry is the decoder's first (Sutskever et al. 2014).

    `forward`: source (S, B, width_in) and the decoder's inputs (T, B, width_target), the target one
    step late → (T, B, outputs). `length` (B,): how many steps of each source count, at least one.
    """

    def __init__(
        self,
        kind: str,
        width_in: int,
        width_target: int,
        outputs: int,
        width: int,
        layers: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = Recurrent(kind, width_in, width, layers)
        self.decoder = Recurrent(kind, width_target, width, layers)
        self.head = nn.Linear(width, outputs)

    def forward(self, source: Tensor, target: Tensor, length: Tensor | None = None) -> Tensor:
        reset = torch.zeros(target.shape[:2], dtype=torch.bool, device=target.device)
        y, _ = self.decoder(target, self.start(source, length), reset)
        return self.head.forward(y)

    def start(self, source: Tensor, length: Tensor | None = None) -> RecurrentCarry:
        S, B = source.shape[:2]
        # Sources end together where the padding is put before them, and dropped by a reset.
        ahead = S - _lengths(source, length)
        t = torch.arange(S, device=source.device)[:, None]
        source = source[(t - ahead) % S, torch.arange(B, device=source.device)]
        carry: RecurrentCarry = self.encoder(source, self.encoder.initial_carry(B), t == ahead)[1]
        return carry

    def step(self, y: Tensor, state: RecurrentCarry) -> tuple[Tensor, RecurrentCarry]:
        reset = torch.zeros(1, len(y), dtype=torch.bool, device=y.device)
        h, state = self.decoder(y[None], state, reset)
        return self.head.forward(h[0]), state


Written = tuple[Tensor, Tensor | None, Tensor]  # memory, its mask, decoder inputs (t, B, width)


class TransformerSeq2Seq(nn.Module):
    """Encoder and decoder with cross-attention (Vaswani et al. 2017, §3.1), pre-norm.

    `forward`: source (S, B, width_in) and the decoder's inputs (T, B, width_target), the target one
    step late → (T, B, outputs). `length` (B,): how many steps of each source count, at least one.
    """

    def __init__(
        self,
        width_in: int,
        width_target: int,
        outputs: int,
        width: int,
        layers: int = 2,
        *,
        blocks: Blocks = DEFAULT,
    ) -> None:
        super().__init__()
        self.encoder = Transformer(width_in, width, layers, blocks=blocks)
        self.decoder = Transformer(
            width_target, width, layers, causal=True, cross=True, blocks=blocks
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, source: Tensor, target: Tensor, length: Tensor | None = None) -> Tensor:
        memory, mask = self._encoded(source, length)
        return self.head.forward(self.decoder(target, memory=memory, memory_mask=mask))

    def start(self, source: Tensor, length: Tensor | None = None) -> Written:
        nothing = source.new_zeros(0, source.shape[1], self.decoder.embed.in_features)
        return *self._encoded(source, length), nothing

    def step(self, y: Tensor, state: Written) -> tuple[Tensor, Written]:
        memory, mask, written = state
        written = torch.cat([written, y[None]])
        h = self.decoder(written, memory=memory, memory_mask=mask)
        return self.head.forward(h[-1]), (memory, mask, written)

    def _encoded(self, source: Tensor, length: Tensor | None) -> tuple[Tensor, Tensor | None]:
        mask = None if length is None else padding_mask(length, len(source))
        return self.encoder(source, mask), mask
