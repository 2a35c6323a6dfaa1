"""Exact solving over ranks: rates of sweeps, what is sent, what a rank holds, and whole solves.

    python benchmarks/distributed_solve.py                      1, 2 and 3 ranks on this machine
    torchrun ... benchmarks/distributed_solve.py --rank         a rank of a job over machines

The model is two-queues with (capacity + 1)² states. Sweeps are timed by the processor time of their
rank, so that other work on the machine does not count; exchanges by the clock. Of each the least of
some rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ROUNDS = 15
GAMMA, TOL = 0.99, 1e-6


def least(call: Callable[[], object], clock: Callable[[], float]) -> float:
    found = []
    for _ in range(ROUNDS):
        since = clock()
        call()
        found.append(clock() - since)
    return min(found)


def rank(capacity: int, solve: bool) -> None:
    """Measure as one rank; rank 0 prints a JSON object a line."""
    from rlkit.distributed import join
    from rlkit.mdp.distributed.solve import METHODS, solve_distributed

    ranks = join()
    results = [rates(ranks, capacity, exchange) for exchange in ("halo", "all-gather")]
    results += needs_everything(ranks)
    for method in METHODS if solve else ():
        before = peak()
        since = time.process_time()
        facts = solve_distributed(model(capacity), GAMMA, method, TOL, ranks=ranks).facts
        own = {"processor seconds": time.process_time() - since, "MiB more": peak() - before}
        results.append({**vars(facts), **own})
    if ranks.rank == 0:
        print(*map(json.dumps, results), sep="\n", flush=True)
    ranks.leave()


def model(capacity: int) -> Any:
    from rlkit.envs.models import model_in_parts

    found = model_in_parts("two-queues", GAMMA, {"capacity": capacity})
    assert found is not None
    return found[0]


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rates(ranks: Any, capacity: int, exchange: str) -> dict[str, Any]:
    from rlkit.mdp.distributed.partition import even
    from rlkit.mdp.distributed.solve import sweeps_of

    queues = model(capacity)
    since = time.process_time()
    sweeps = sweeps_of(queues, GAMMA, ranks, even(queues.n_states, ranks.size), exchange)
    build = time.process_time() - since
    V, TV = sweeps.values(), sweeps.values()
    n, rows = sweeps.n, sweeps.rows
    sweeps.backup(V, TV)
    backup = least(lambda: sweeps.backup(V, TV), time.process_time)
    follow = least(lambda: sweeps.follow(V, TV), time.process_time)
    return {
        "ranks": ranks.size,
        "exchange": exchange,
        "states of a rank": n,
        "million states/s generated": n / build / 1e6,
        "million states/s backup": n / backup / 1e6,
        "million states/s follow": n / follow / 1e6,
        "ns per transition, backup": backup / rows.p.size * 1e9,
        "ms exchange": 1e3 * least(lambda: sweeps.refresh(V), time.perf_counter),
        "ms reduce": 1e3 * least(lambda: sweeps.largest(1.0, 1.0), time.perf_counter),
        "bytes sent per sweep": sweeps.exchange.bytes_sent,
        "bytes per state, rows": rows.nbytes / n,
        "bytes per state, with values": (rows.nbytes + 20 * n) / n,
    }


def needs_everything(ranks: Any, states: int = 200_000) -> list[dict[str, Any]]:
    """Both exchanges where successors are drawn at random, by how much of the others is needed."""
    from rlkit.mdp.distributed.exchange import AllGather, Halo
    from rlkit.mdp.distributed.partition import even

    cuts = even(states, ranks.size)
    first, last = cuts[ranks.rank], cuts[ranks.rank + 1]
    others = np.setdiff1d(np.arange(states), np.arange(first, last))
    found = []
    for share in (0.25, 0.5, 0.75, 1.0) if ranks.size > 1 else ():
        rng = np.random.default_rng(ranks.rank)
        halo = np.sort(rng.choice(others, size=int(share * others.size), replace=False))
        ms = {}
        for exchange in (Halo(ranks, cuts, halo), AllGather(ranks, cuts)):
            V = np.zeros(last - first + exchange.width)
            ms[exchange.name] = 1e3 * least(lambda e=exchange, V=V: e.refresh(V), time.perf_counter)
        found.append({"ranks": ranks.size, "share needed": share, "ms": ms})
    return found


def launch(size: int, arguments: list[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(number)}
            | {name: str(value) for name, value in place.items()},
        )
        for number in range(size)
    ]
    for process in processes:
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--capacity", type=int, default=1000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--solve", action="store_true", help="and solve it, which takes longer")
    parser.add_argument("--rank", action="store_true", help="be one rank of a job")
    options = parser.parse_args()
    if options.rank:
        rank(options.capacity, options.solve)
        return
    given = ["--capacity", str(options.capacity), *(["--solve"] if options.solve else [])]
    for size in options.ranks:
        launch(size, given)


if __name__ == "__main__":
    main()
