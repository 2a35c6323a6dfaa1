"""Exact solvers: ms to a true error of 1e-6, and µs per state, on classes of finite MDPs.

    python benchmarks/tabular/solvers.py                       rlkit's own methods and SciPy
    python benchmarks/tabular/solvers.py --peer PYTHON         and quantecon, in that interpreter
    python benchmarks/tabular/solvers.py --models grid-1000    some of the classes (a prefix)

Times are of the process, not of the wall, so that a busy machine spoils them less; of each the
least of some rounds. Building the model and compiling are left out and printed beside. Each result
is compared with rlkit's certified bounds: a peer's error is at least what it lies outside of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402 - after the numbers of threads

TOL = 1e-6


def timed(run: Callable[[], Any], rounds: int) -> tuple[Any, float, float]:
    """What `run` returns, the least time of the rounds after a first call, and that call's."""
    since = time.process_time()
    found = run()
    first = time.process_time() - since
    least = np.inf
    for _ in range(rounds):
        since = time.process_time()
        run()
        least = min(least, time.process_time() - since)
    return found, least, first


def quantecon(path: str, gamma: float, rounds: int) -> None:
    """Solve the saved model by quantecon's modified policy iteration; prints JSON, saves values."""
    from quantecon.markov import DiscreteDP
    from scipy.sparse import csr_matrix

    model = np.load(path)
    S = model["offsets"].size - 1
    counts = np.diff(model["offsets"])
    ends = np.flatnonzero(counts == 0)  # there each state must have an action: stay for nothing
    L = model["r"].size
    P = csr_matrix(
        (
            np.append(model["data"], np.ones(ends.size)),
            np.append(model["indices"], ends),
            np.append(model["indptr"], model["indptr"][-1] + 1 + np.arange(ends.size)),
        ),
        shape=(L + ends.size, S),
    )
    states = np.append(np.repeat(np.arange(S), counts), ends)
    actions = np.append(np.arange(L) - np.repeat(model["offsets"][:-1], counts), 0 * ends)
    order = np.argsort(states, kind="stable")
    r = np.append(model["r"], np.zeros(ends.size))
    problem = DiscreteDP(r[order], P[order], gamma, states[order], actions[order])
    found, least, first = timed(
        lambda: problem.solve("modified_policy_iteration", epsilon=2 * TOL, max_iter=10**6), rounds
    )
    np.save(path + ".npy", found.v)
    print(json.dumps({"least": least, "first": first}))


def scipy_iteration(mdp: Any) -> np.ndarray:
    """Value iteration by SciPy's product, with MacQueen's bounds."""
    V, live = np.zeros(mdp.n_states), mdp.live
    firsts = mdp.offsets[live]
    closed = live.size == mdp.n_states and not mdp.ends.any()
    while True:
        TV = np.zeros(mdp.n_states)
        TV[live] = np.maximum.reduceat(mdp.r + mdp.gamma * (mdp.P @ V), firsts)
        change = (TV - V)[live]
        low, high = change.min(), change.max()
        if not closed:
            low, high = min(low, 0.0), max(high, 0.0)
        scale = mdp.gamma / (1 - mdp.gamma)
        if closed and scale * (high - low) <= 2 * TOL:
            return TV + scale * (low + high) / 2
        if scale * max(high, -low) <= TOL:
            return TV
        V = TV


def cases() -> dict[str, tuple[Callable[[], Any], tuple[float, ...]]]:
    import models as m

    return {
        "grid-100": (lambda: m.grid(100), (0.99, 0.999, 1.0)),
        "maze-100": (lambda: m.maze(100), (0.999, 1.0)),
        "garnet-1k-10-10": (lambda: m.garnet(1000, 10, 10), (0.99,)),
        "garnet-5k-10-10": (lambda: m.garnet(5000, 10, 10), (0.999,)),
        "garnet-5k-10-100": (lambda: m.garnet(5000, 10, 100), (0.99,)),
        "chain-2k": (lambda: m.chain(2000), (0.999,)),
        "chain-20k": (lambda: m.chain(20_000), (0.999,)),
        "forest-10k": (lambda: m.forest(10_000), (0.99,)),
        "inventory-300": (lambda: m.inventory(300), (0.99,)),
        "queues-200": (lambda: m.queues(200), (0.999,)),
        "layered-50x2k": (lambda: m.layered(50, 2000), (0.99,)),
        "goals-200": (lambda: m.grid(200, goals=100), (0.999,)),
        "grid-300": (lambda: m.grid(300), (0.99, 0.999, 1.0)),
        "shuffled-300": (lambda: m.shuffled(m.grid(300)), (0.999, 1.0)),
        "slippery-300": (lambda: m.grid(300, slip=0.6), (1.0,)),
        "maze-500": (lambda: m.maze(500), (0.999, 1.0)),
        "queues-700": (lambda: m.queues(700), (0.999,)),
        "goals-1000": (lambda: m.grid(1000, goals=2500), (0.999,)),
        "grid-1000": (lambda: m.grid(1000), (0.99, 0.999, 1.0)),
        "shuffled-1000": (lambda: m.shuffled(m.grid(1000)), (0.999, 1.0)),
        "grid-2000": (lambda: m.grid(2000), (0.99, 0.999, 1.0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", help="a Python interpreter that has quantecon")
    parser.add_argument("--models", nargs="*", default=[""], help="names, or how they begin")
    parser.add_argument("--methods", nargs="*", default=["auto"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scipy", action="store_true", help="time SciPy's value iteration, too")
    options = parser.parse_args()
    from rlkit import solve

    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, (make, gammas) in cases().items():
        if not name.startswith(tuple(options.models)):
            continue
        pairs = make()
        for gamma in gammas:
            since = time.process_time()
            mdp = pairs.mdp(gamma)
            building = time.process_time() - since
            print(f"{name} gamma {gamma:g}: {mdp.n_states:,} states, built in {building:.2f} s")
            for method in options.methods:
                found, least, first = timed(partial(solve, mdp, method), options.rounds)
                label = found.method if method == "auto" else method
                report(f"rlkit {label}", least, first, mdp, f"error <= {found.error_bound:.1g}")
            if options.scipy and gamma < 1:
                values, least, first = timed(partial(scipy_iteration, mdp), 1)
                report("SciPy VI", least, first, mdp, outside(values, found))
            if options.peer and gamma < 1:
                peer(options.peer, pairs, mdp, gamma, options.rounds, found)


def report(label: str, least: float, first: float, mdp: Any, more: str) -> None:
    print(
        f"    {label:32} {least * 1e3:10.1f} ms {least / mdp.n_states * 1e6:8.2f} us per state,"
        f" first call {first:.2f} s, {more}",
        flush=True,
    )


def outside(values: np.ndarray, found: Any) -> str:
    error = max(float((values - found.upper).max()), float((found.lower - values).max()), 0.0)
    return f"error >= {error:.1g}"


def peer(python: str, pairs: Any, mdp: Any, gamma: float, rounds: int, found: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.npz")
        P = mdp.P
        np.savez(
            path, data=P.data, indices=P.indices, indptr=P.indptr, r=mdp.r, offsets=mdp.offsets
        )
        done = subprocess.run(
            [python, __file__, "--quantecon", path, str(gamma), str(rounds)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            print("    quantecon failed:", done.stderr.strip().splitlines()[-1])
            return
        times = json.loads(done.stdout.splitlines()[-1])
        values = np.load(path + ".npy")
    report("quantecon MPI", times["least"], times["first"], mdp, outside(values, found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--quantecon"]:
        quantecon(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
