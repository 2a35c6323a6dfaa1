"""A training step of the image encoders on the CPU: memory formats and precisions.

    .venv/bin/python benchmarks/cnn.py
    .venv/bin/python benchmarks/cnn.py --batch 256 --rounds 9

Forward and backward of a batch of uint8 84×84×4 observations through an encoder with one layer of
512, on one thread, in turn; medians of the rounds, and ratios to float32 with channels first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn

from rlkit.networks.cnn import Impala, nature
from rlkit.networks.images import Images

SHAPE = (4, 84, 84)
TRUNKS = {"nature": nature, "impala": Impala}
WAYS = {
    "float32, channels first": (False, False),
    "float32, channels last": (True, False),
    "bfloat16, channels first": (False, True),
    "bfloat16, channels last": (True, True),
}


def step(name: str, batch: int, channels_last: bool, bfloat16: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    trunk = TRUNKS[name](Images(SHAPE, channels_last=channels_last))
    encoder = nn.Sequential(trunk, nn.Linear(trunk.width, 512), nn.ReLU())
    obs = torch.randint(0, 256, (batch, *SHAPE), dtype=torch.uint8)

    def run() -> None:
        cast = torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()
        with cast:
            y = encoder(obs)
        y.float().sum().backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"batch {args.batch}, torch {torch.__version__}\n")
    print("| encoder | way | ms | × |\n|---|---|---|---|")
    for name in TRUNKS:
        steps = {way: step(name, args.batch, *how) for way, how in WAYS.items()}
        times: dict[str, list[float]] = {way: [] for way in steps}
        for number in range(args.rounds + 1):
            for way, run in steps.items():
                since = time.perf_counter()
                run()
                if number:  # the first warms up
                    times[way].append(time.perf_counter() - since)
        slowest = statistics.median(times["float32, channels first"])
        for way, seconds in times.items():
            median = statistics.median(seconds)
            print(f"| {name} | {way} | {1000 * median:.1f} | {slowest / median:.2f} |")


if __name__ == "__main__":
    main()
