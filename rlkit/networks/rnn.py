"""Recurrent cores: simple RNN, GRU and LSTM over segments in which episodes begin anywhere.

A segment of T steps of B environments is the sequence of episodes that it holds, one after the
other in each environment. A fused call over time is several times as fast as a loop over the steps,
but knows no resets. Two plans give each episode a fresh carry between fused calls:

- cut time wherever any environment resets, with one call for each stretch between the cuts;
- put episodes of similar lengths side by side, with one call for each such rectangle. Their number
  grows with the logarithm of T, however many episodes there are, and at most half a rectangle is
  padding.

The first wastes no step; the second needs fewer calls where resets are many. The one that costs
less, counted in steps, is taken; benchmarks/recurrence.py measures what it comes to.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkit.device.graphs import shapes_are_static
from rlkit.registry import unknown

RecurrentCarry = tuple[Tensor, ...]  # (h,) or (h, c), each (B, layers, width)
State = tuple[Tensor, ...]  # the same of one layer: (h,) or (h, c), each (B, width)

LONGEST_START = 99.0  # u / (1 + u), what a unit keeps of a step, is then 0.99
SURE = 1e4  # σ(±SURE) is exactly 1 and 0


@dataclass(frozen=True)
class Kind:
    """A recurrence: torch's cell, which holds the weights, and its functions on them."""

    cell: Callable[[int, int], nn.RNNCell | nn.GRUCell | nn.LSTMCell]
    states: int  # tensors in a state
    call: float  # what a fused call costs besides its steps, in steps: measured on the CPU
    step: Callable[[Tensor, State, list[Tensor]], State]  # x (B, width_in), state, weights
    # x (T, B, width_in), state, weights → y (T, B, width), state
    over_time: Callable[[Tensor, State, list[Tensor]], tuple[Tensor, State]]


@contextmanager
def _without_advice() -> Iterator[None]:
    """cuDNN copies the weights to one block at each call, little beside the call, and says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="RNN module weights are not part of single")
        yield


def _over_time(run: Any) -> Callable[[Tensor, State, list[Tensor]], tuple[Tensor, State]]:
    def call(x: Tensor, state: State, weights: list[Tensor]) -> tuple[Tensor, State]:
        hx = tuple(s[None] for s in state)
        # biases, one layer, no dropout, with a way back or not, one way through time, time first
        how = True, 1, 0.0, torch.is_grad_enabled(), False, False
        with _without_advice() if x.is_cuda else nullcontext():
            y, *states = run(x, hx if len(hx) > 1 else hx[0], weights, *how)
        return y, tuple(s[0] for s in states)

    return call


KINDS: Mapping[str, Kind] = {
    "rnn": Kind(
        *(nn.RNNCell, 1, 1.0),
        lambda x, state, weights: (torch.rnn_tanh_cell(x, state[0], *weights),),
        _over_time(torch.rnn_tanh),
    ),
    "gru": Kind(
        *(nn.GRUCell, 1, 1.0),
        lambda x, state, weights: (torch.gru_cell(x, state[0], *weights),),
        _over_time(torch.gru),
    ),
    "lstm": Kind(
        *(nn.LSTMCell, 2, 8.0),
        lambda x, state, weights: torch.lstm_cell(x, state, *weights),
        _over_time(torch.lstm),
    ),
}


class Recurrent(nn.Module):
    """A recurrent core: (T, B, width_in), carry, reset (T, B) bool → (T, B, width), carry.

    `kind`: "rnn" (Elman 1990, tanh), "gru" (Cho et al. 2014; the reset gate after the product, as
    cuDNN has it) or "lstm" (Hochreiter & Schmidhuber 1997, with the forget gates of Gers et al.
    2000). Where `reset[t, b]`, step t is the first of an episode: the carry is zeroed before it,
    and no gradient passes. The carry is (h,), an LSTM's (h, c): (B, layers, width) float32 each.
    Gradients flow into the carry that is given; a carry without a graph truncates them there
    (truncated backpropagation through time, Williams & Peng 1990). What is given back may share
    memory with each other: write over none of it.

    Weights start Xavier-uniform, recurrent ones orthogonal, gate by gate, for a product of many of
    them neither vanishes nor explodes (Saxe et al. 2014). The gates that keep what was, the LSTM's
    forget and the GRU's update gates, start with biases log(u), u uniform in [1, 99]: units then
    forget over 2 to 100 steps from the start (Tallec & Ollivier 2018, §2, "chrono"; their input
    gates are left at 0, for a cue that is seen once must be written at once). Other biases are 0.
    Raises UsageError for an unknown kind.
    """

    def __init__(self, kind: str, width_in: int, width: int, layers: int = 1) -> None:
        super().__init__()
        if kind not in KINDS:
            raise unknown("recurrent core", kind, KINDS)
        self.kind = kind
        widths = [width_in] + [width] * (layers - 1)
        cells = [KINDS[kind].cell(fan_in, width) for fan_in in widths]
        self.cells = nn.ModuleList(cells)
        self.width = width
        self._cells = cells  # with their types
        for cell in cells:
            self._initialize(*_weights(cell))

    def _initialize(self, W: Tensor, U: Tensor, b: Tensor, b_hidden: Tensor) -> None:
        for gate in torch.split(W, self.width):
            nn.init.xavier_uniform_(gate)
        for gate in torch.split(U, self.width):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(b)
        nn.init.zeros_(b_hidden)
        if len(b) > self.width:  # gates are in the order i, f, g, o, and r, z, n: both keep second
            keep = b[self.width : 2 * self.width]
            nn.init.uniform_(keep, 1, LONGEST_START)
            keep.data.log_()

    def initial_carry(self, B: int) -> RecurrentCarry:
        like, shape = self._cells[0].weight_ih, (B, len(self._cells), self.width)
        return tuple(like.new_zeros(shape) for _ in range(KINDS[self.kind].states))

    def forward(
        self, x: Tensor, carry: RecurrentCarry, reset: Tensor
    ) -> tuple[Tensor, RecurrentCarry]:
        layers = [tuple(s[:, layer] for s in carry) for layer in range(len(self._cells))]
        if len(x) == 1 or shapes_are_static():  # then nothing may hang on what `reset` holds
            y, layers = self._stepwise(x, layers, reset)
        else:
            y, layers = self._fused(x, layers, reset)
        return y, tuple(_stacked(states, 1) for states in zip(*layers, strict=True))

    def _stepwise(
        self, x: Tensor, layers: list[State], reset: Tensor
    ) -> tuple[Tensor, list[State]]:
        y, cells = [], [_weights(cell) for cell in self._cells]
        for x_t, reset_t in zip(x.unbind(), reset.unbind(), strict=True):
            h = x_t
            for i, weights in enumerate(cells):
                layers[i] = KINDS[self.kind].step(h, _zeroed(layers[i], reset_t), weights)
                h = layers[i][0]
            y.append(h)
        return _stacked(y, 0), layers

    def _fused(self, x: Tensor, layers: list[State], reset: Tensor) -> tuple[Tensor, list[State]]:
        times = _stretches(reset)
        rectangles = _rectangles(reset) if len(times) > 2 else None
        if rectangles and not self._pays(rectangles, times):
            rectangles = None
        for i, cell in enumerate(self._cells):
            state, weights = _zeroed(layers[i], reset[0]), _weights(cell)
            if rectangles:
                x, layers[i] = self._side_by_side(x, state, weights, rectangles)
            else:
                x, layers[i] = self._stretch_by_stretch(x, state, weights, reset, times)
        return x, layers

    def _pays(self, rectangles: Rectangles, times: list[int]) -> bool:
        """Whether the rectangles' steps and calls cost less than the stretches'."""
        lengths, call = [len(index) for index in rectangles.index], KINDS[self.kind].call
        return sum(lengths) + call * len(lengths) < times[-1] + call * (len(times) - 1)

    def _stretch_by_stretch(
        self, x: Tensor, state: State, weights: list[Tensor], reset: Tensor, times: list[int]
    ) -> tuple[Tensor, State]:
        y = []
        for begin, end in pairwise(times):
            state = _zeroed(state, reset[begin])
            y_stretch, state = KINDS[self.kind].over_time(x[begin:end], state, weights)
            y.append(y_stretch)
        return torch.cat(y), state

    def _side_by_side(
        self, x: Tensor, state: State, weights: list[Tensor], rectangles: Rectangles
    ) -> tuple[Tensor, State]:
        """One call for each rectangle, and every step's output from where it stands in them."""
        rows = F.pad(x.flatten(0, 1), (0, 0, 0, 1))  # (T·B + 1, width_in): the last is padding
        if KINDS[self.kind].states == 2:
            rows, weights = _held(rows, weights)
        fresh = [F.pad(s, (0, 0, 0, 1)) for s in state]  # (B + 1, width): the last is zeros
        y, ends = [], []
        for index, env in zip(rectangles.index, rectangles.env, strict=True):
            inputs = rows.index_select(0, index.flatten()).view(*index.shape, -1)
            begins = tuple(s.index_select(0, env) for s in fresh)
            y_rectangle, end = KINDS[self.kind].over_time(inputs, begins, weights)
            y.append(y_rectangle.flatten(0, 1))
            ends.append(end)
        out = torch.cat(y).index_select(0, rectangles.where).view(*x.shape[:2], self.width)
        memories = (torch.cat(s)[rectangles.last] for s in list(zip(*ends, strict=True))[1:])
        return out, (out[-1], *memories)


def _weights(cell: nn.RNNCellBase) -> list[Tensor]:
    """W (gates·width, width_in), U (gates·width, width) and the biases of both products."""
    return [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]


def _stacked(tensors: list[Tensor] | tuple[Tensor, ...], dim: int) -> Tensor:
    """`torch.stack`, without a copy where there is one alone, as at each step that is acted on."""
    return tensors[0].unsqueeze(dim) if len(tensors) == 1 else torch.stack(tensors, dim)


def _zeroed(state: State, reset: Tensor) -> State:
    """The state with zeros in the rows where `reset`, (B,) bool."""
    return tuple(s.masked_fill(reset[:, None], 0.0) for s in state)


def _held(rows: Tensor, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Rows and weights with one input more, which is 1 in the last row, padding.

    It shuts the input gates and opens the forget gates there: c' = 1·c + 0·g. So a shorter episode
    keeps its c to the end of the rectangle, where the fused call hands it out. (The h of its last
    step is among the outputs.)
    """
    W, *others = weights
    hold = W.new_tensor([-SURE, SURE, 0, 0]).repeat_interleave(len(W) // 4)  # i, f, g, o
    rows = F.pad(rows, (0, 1))
    rows[-1, -1] = 1
    return rows, [torch.cat([W, hold[:, None]], 1), *others]


def _stretches(reset: Tensor) -> list[int]:
    """Where time is cut: 0, each later step at which any environment resets, and T."""
    return [0, *(1 + reset[1:].any(1).nonzero().flatten()).tolist(), len(reset)]


@dataclass(frozen=True)
class Rectangles:
    """A segment's n episodes by length, those within a factor of two side by side."""

    index: list[Tensor]  # (L, m) of each: the row t·B + b of its steps, T·B where it is padding
    env: list[Tensor]  # (m,) of each: whose state an episode goes on with, B: it begins fresh
    where: Tensor  # (T·B,): the row in all rectangles' outputs, one after the other, of each step
    last: Tensor  # (B,): which of all episodes, in order of the rectangles, is the env's last


def _rectangles(reset: Tensor) -> Rectangles:
    T, B = reset.shape
    begins = reset.clone()
    begins[0] = True
    env, t = begins.t().nonzero(as_tuple=True)  # (n,) each, environment by environment
    length = torch.diff(env * T + t, append=env.new_tensor([T * B]))
    length, order = length.sort(descending=True, stable=True)
    env, t = env[order], t[order]
    fresh = env.masked_fill(t > 0, B)
    sizes = _sizes(length.tolist())
    parts = zip(torch.split(t * B + env, sizes), torch.split(length, sizes), strict=True)
    index = [_rows(first, long, T, B) for first, long in parts]
    flat = torch.cat([i.flatten() for i in index])
    where = flat.new_empty(T * B + 1)  # padding is sent to the last, and dropped
    where[flat] = torch.arange(len(flat), device=flat.device)
    last = (t + length == T).nonzero().flatten()
    return Rectangles(index, list(torch.split(fresh, sizes)), where[:-1], last[env[last].argsort()])


def _sizes(lengths: list[int]) -> list[int]:
    """How many episodes each rectangle takes, given all their lengths, longest first."""
    sizes, longest = [0], lengths[0]
    for n in lengths:
        if 2 * n <= longest:
            sizes.append(0)
            longest = n
        sizes[-1] += 1
    return sizes


def _rows(first: Tensor, length: Tensor, T: int, B: int) -> Tensor:
    """The rows of episodes (m,) whose first row and length are given, (L, m), longest first."""
    t = torch.arange(int(length[0]), device=first.device)[:, None]
    return (first + t * B).masked_fill(t >= length, T * B)
