"""Jacobi sweeps against the read bandwidth of one core, and two threads against one.

    python benchmarks/tabular/bandwidth.py [--models grid-1000 ...] [--threads 2]

The bandwidth is that of a compiled sum over 320 MB in the same process; before and after, since
other processes share it. A sweep has to read the transitions (probabilities and successors), the
rewards, where each state's pairs and each pair's transitions begin, V, and TV, which it writes; the
gathers of V are not counted again. Shares are of that, as CSR has it, also where rows are laid out
with a fixed number of successors, which needs less of it or, filled up, more.

Process time but for threads, whose times are of the wall: they say nothing where others compete for
the cores, and the load is printed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial

os.environ["NUMBA_NUM_THREADS"] = "1"

import models as m
import numba
import numpy as np

from rlkit.mdp import ell
from rlkit.mdp.compact import Compact
from rlkit.mdp.parallel import NO_POLICY, NO_Q, Sweeps

CASES = {
    "grid-1000": lambda: m.grid(1000),
    "queues-700": lambda: m.queues(700),
    "layered-50x2k": lambda: m.layered(50, 2000),
    "garnet-5k-10-10": lambda: m.garnet(5000, 10, 10),
    "garnet-20k-20-20": lambda: m.garnet(20_000, 20, 20),
    "garnet-5k-10-100": lambda: m.garnet(5000, 10, 100),
    "garnet-2k-8-1000": lambda: m.garnet(2000, 8, 1000),
    "garnet-1M-4-5": lambda: m.garnet(1_000_000, 4, 5),
    "inventory-300": lambda: m.inventory(300),
}


@numba.njit(fastmath={"reassoc"})
def total(x: np.ndarray) -> float:
    found = 0.0
    for i in range(x.size):
        found += x[i]
    return found


def least(
    run: Callable[[], object], rounds: int, clock: Callable[[], float] = time.process_time
) -> float:
    run()
    best = np.inf
    for _ in range(rounds):
        since = clock()
        run()
        best = min(best, clock() - since)
    return best


def bandwidth(rounds: int) -> float:
    x = np.random.default_rng(0).random(40_000_000)
    return x.nbytes / least(lambda: total(x), rounds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="*", default=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    for name in options.models:
        speed = bandwidth(options.rounds)
        print(f"{name}: one core reads {speed / 1e9:.0f} GB/s, load {os.getloadavg()[0]:.1f}")
        measure(Compact.of(CASES[name]().mdp(0.99)), speed, options)


def measure(model: Compact, speed: float, options: argparse.Namespace) -> None:
    V = np.random.default_rng(1).random(model.off.size - 1)
    TV = np.empty_like(V)
    needed = sum(x.nbytes for x in (*model.arrays, V, TV))

    def report(label: str, seconds: float) -> None:
        entry = seconds / model.idx.size
        share = needed / seconds / speed
        print(f"    {label:28}{seconds * 1e3:8.2f} ms {entry * 1e9:6.2f} ns/entry {share:6.0%}")

    plain = partial(ell.sweep_for(0), *model.arrays, 0.99, V, NO_Q, TV, NO_POLICY, 0, V.size)
    report("plain CSR", least(lambda: plain(False, np.uint64(0)), options.rounds))
    csr, often = Sweeps(model, 0.99), Sweeps.often(model, 0.99)
    report("CSR", least(lambda: csr(V, TV), options.rounds))
    if often.model is not model:
        report("a fixed number of successors", least(lambda: often(V, TV), options.rounds))
    several = Sweeps.often(model, 0.99, options.threads)
    one = least(lambda: often(V, TV), options.rounds, time.perf_counter)
    more = least(lambda: several(V, TV), options.rounds, time.perf_counter)
    print(f"    {options.threads} threads: {one / more:.2f} times as fast by the wall")


if __name__ == "__main__":
    main()
