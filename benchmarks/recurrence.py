"""Recurrent cores over a segment in which episodes end: ms forward and backward, and µs to act.

    python benchmarks/recurrence.py                       LSTM, T 128, N 16, H 256
    python benchmarks/recurrence.py --kind gru --width 64 --envs 8

A step loop with torch's cell, the episodes split and padded to the longest, rlkit, and torch's
fused layer as if there were no resets (the bound), in turns: of each the median over the rounds and
the least, for several mean lengths of episodes. One thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlkit.networks.rnn import KINDS, Recurrent

EPISODES = (10, 50, 200, 1000)  # mean steps
LAYERS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
ACTING_ENVS, CALLS = 8, 500

Run = Callable[[Tensor, Tensor], Tensor]


def layer_of(core: Recurrent, kind: str) -> nn.RNNBase:
    """torch's layer with the core's weights."""
    cell = core.cells[0]
    layer = LAYERS[kind](cell.input_size, cell.hidden_size)
    layer.load_state_dict({f"{name}_l0": p for name, p in cell.state_dict().items()})
    return layer


def loop(core: Recurrent) -> Run:
    cell = core.cells[0]

    def run(x: Tensor, reset: Tensor) -> Tensor:
        state = tuple(s[:, 0] for s in core.initial_carry(x.shape[1]))
        keep, y = (~reset).float()[..., None], []
        for t in range(len(x)):
            state = tuple(s * keep[t] for s in state)
            out = cell(x[t], state if len(state) > 1 else state[0])
            state = out if isinstance(out, tuple) else (out,)
            y.append(state[0])
        return torch.stack(y)

    return run


def split_and_pad(layer: nn.RNNBase) -> Run:
    def run(x: Tensor, reset: Tensor) -> Tensor:
        T, B = reset.shape
        begins = reset.t().clone()
        begins[:, 0] = True
        start = begins.flatten().nonzero().flatten()
        length = torch.diff(start, append=torch.tensor([T * B]))
        t = torch.arange(int(length.max()))[:, None]
        flat = x.transpose(0, 1).flatten(0, 1)
        rows = (start + t).clamp(max=T * B - 1)
        y = layer(flat.index_select(0, rows.flatten()).view(*rows.shape, -1))[0]
        kept = y.transpose(0, 1)[t.t() < length[:, None]]
        return kept.view(B, T, -1).transpose(0, 1)

    return run


def rlkits(core: Recurrent) -> Run:
    return lambda x, reset: core(x, core.initial_carry(x.shape[1]), reset)[0]


def bound(layer: nn.RNNBase) -> Run:
    return lambda x, reset: layer(x)[0]


def milliseconds(run: Run, x: Tensor, reset: Tensor, g: Tensor) -> float:
    since = time.perf_counter()
    run(x, reset).backward(g)
    return (time.perf_counter() - since) * 1e3


def learning(kind: str, T: int, B: int, width: int, rounds: int) -> None:
    core = Recurrent(kind, width, width)
    layer = layer_of(core, kind)
    ways = {
        "step loop": loop(core),
        "split and pad": split_and_pad(layer),
        "rlkit": rlkits(core),
        "no resets (bound)": bound(layer),
    }
    x, g = torch.randn(T, B, width, requires_grad=True), torch.randn(T, B, width)
    print(f"{kind}, T {T}, N {B}, H {width}: ms forward + backward, median (least)")
    print(f"{'steps per episode':>20}" + "".join(f"{way:>22}" for way in ways))
    for mean in EPISODES:
        reset = torch.rand(T, B) < 1 / mean
        expected = ways["step loop"](x, reset)
        for way in ("split and pad", "rlkit"):
            torch.testing.assert_close(ways[way](x, reset), expected, rtol=1e-3, atol=1e-4)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, run in ways.items():
                taken[way].append(milliseconds(run, x, reset, g))
        cells = [f"{statistics.median(ms):.1f} ({min(ms):.1f})" for ms in taken.values()]
        print(f"{mean:>20}" + "".join(f"{cell:>22}" for cell in cells))


@torch.no_grad()
def acting(kind: str, width: int, rounds: int) -> None:
    core = Recurrent(kind, width, width)
    layer = layer_of(core, kind)
    x, reset = torch.randn(1, ACTING_ENVS, width), torch.zeros(1, ACTING_ENVS, dtype=torch.bool)
    carry = core.initial_carry(ACTING_ENVS)
    states = tuple(s.transpose(0, 1).contiguous() for s in carry)
    hx = states if len(states) > 1 else states[0]
    ways: dict[str, Callable[[], object]] = {
        "rlkit": lambda: core(x, carry, reset),
        f"nn.{kind.upper()}, which never resets": lambda: layer(x, hx),
    }
    print(f"one step of {ACTING_ENVS} environments: µs, median (least)")
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            since = time.perf_counter()
            for _ in range(CALLS):
                run()
            taken[way].append((time.perf_counter() - since) / CALLS * 1e6)
    for way, us in taken.items():
        print(f"{way:>32} {statistics.median(us):8.1f} ({min(us):.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, default="lstm")
    parser.add_argument("--steps", type=int, default=128, metavar="T")
    parser.add_argument("--envs", type=int, default=16, metavar="N")
    parser.add_argument("--width", type=int, default=256, metavar="H")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    learning(args.kind, args.steps, args.envs, args.width, args.rounds)
    acting(args.kind, args.width, args.rounds)


if __name__ == "__main__":
    main()
