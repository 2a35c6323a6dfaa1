"""Exact solvers: ms to a true error of 1e-6, and µs per state, on classes of finite MDPs.

    python benchmarks/tabular/solvers.py                       rlkit's own methods
    python benchmarks/tabular/solvers.py --peer scipy          and SciPy's: value iteration, HiGHS
    python benchmarks/tabular/solvers.py --peer quantecon=PYTHON --peer storm=PYTHON
                                                               and these, in those interpreters
    python benchmarks/tabular/solvers.py --models grid-1000    some of the classes (a prefix)

Times are of the process, not of the wall, so that a busy machine spoils them less; of each the
least of some rounds. Building the model and compiling are left out and printed beside; rlkit gets
the model anew in each round, since it keeps what it has found out about one. Each result
is compared with rlkit's certified bounds: a peer's error is at least what it lies outside of them.
At the end, where rlkit falls short of what docs/exact.md promises beside the best peer that came
within twice the error asked for: never slower where that takes 5 ms or more; five times as fast on
grids of 300 x 300, ten times on those of 1000 x 1000, mazes, chains and queues.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np  # noqa: E402 - after the numbers of threads
from peers import TOL, timed  # noqa: E402

_PATIENCE = 1_200  # seconds that a peer's methods on one model may take
_PROGRAMMED = 3_000  # states up to which HiGHS is tried
_SMALLEST = 5e-3  # seconds from which on no peer may be faster
_LEAD = {"grid-300": 5, "grid-1000": 10, "maze": 10, "chain": 10, "queues": 10}


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


def highs(mdp: Any) -> np.ndarray:
    """V* as the least V with V(s) >= r + gamma P V for all pairs (Puterman 1994, §6.9)."""
    from scipy.optimize import linprog
    from scipy.sparse import csr_array

    here = csr_array((np.ones(mdp.n_pairs), (np.arange(mdp.n_pairs), mdp.pair_state)), mdp.P.shape)
    limits = [(0, 0) if end else (None, None) for end in mdp.terminal]
    A = mdp.gamma * mdp.P - here
    return linprog(np.ones(mdp.n_states), A_ub=A, b_ub=-mdp.r, bounds=limits, method="highs").x


class Rivals:
    """What was measured on one model."""

    def __init__(self, mdp: Any) -> None:
        self.mdp = mdp
        self.ours, self.best, self.name = np.inf, np.inf, "none"

    def rlkit(self, label: str, least: float, first: float, found: Any) -> None:
        self.ours = min(self.ours, least)
        self._report(f"rlkit {label}", least, first, f"error <= {found.error_bound:.1g}")

    def peer(self, label: str, least: float, first: float, values: Any, found: Any) -> None:
        """A peer counts where it is as accurate as was asked for, or nearly so."""
        values = np.asarray(values)[: self.mdp.n_states]
        error = max(float((values - found.upper).max()), float((found.lower - values).max()), 0.0)
        if error <= 2 * TOL and least < self.best:
            self.best, self.name = least, label
        more = f"error >= {error:.1g}" + (", MISSED" if error > 2 * TOL else "")
        self._report(label, least, first, more)

    def verdict(self, name: str) -> str | None:
        """What is printed below; the failure, if it is one."""
        ratio = self.best / self.ours
        if self.best == np.inf:
            return None
        print(f"    {ratio:.2f} times as fast as {self.name}", flush=True)
        wanted = next((lead for begin, lead in _LEAD.items() if name.startswith(begin)), 1)
        if self.best < _SMALLEST or ratio >= wanted:
            return None
        return f"{name} gamma {self.mdp.gamma:g}: {ratio:.2f} times {self.name}, wanted {wanted}"

    def _report(self, label: str, least: float, first: float, more: str) -> None:
        print(
            f"    {label:40} {least * 1e3:10.1f} ms {least / self.mdp.n_states * 1e6:8.2f} us per "
            f"state, first call {first:.2f} s, {more}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--peer", action="append", default=[], help="scipy, quantecon=PYTHON or storm=PYTHON"
    )
    parser.add_argument("--models", nargs="*", default=[""], help="names, or how they begin")
    parser.add_argument("--methods", nargs="*", default=["auto"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    peers = dict(peer.partition("=")[::2] for peer in options.peer)
    failures = []
    known = cases()
    for name, (make, gammas) in known.items():
        if any(
            name == asked or (name.startswith(asked) and asked not in known)
            for asked in options.models
        ):
            pairs = make()
            run = partial(compare, methods=options.methods, peers=peers, rounds=options.rounds)
            failures += [run(name, pairs, gamma) for gamma in gammas]
    if peers:
        print("\n".join(filter(None, failures)) or "all promises are kept")


def compare(
    name: str, pairs: Any, gamma: float, methods: list[str], peers: dict[str, str], rounds: int
) -> str | None:
    from rlkit import solve

    since = time.process_time()
    mdp = pairs.mdp(gamma)
    building = time.process_time() - since
    print(
        f"{name} gamma {gamma:g}: {mdp.n_states:,} states, built in {building:.2f} s, "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    rivals = Rivals(mdp)
    for method in methods:
        found, least, first = timed(
            partial(solve, method=method), rounds, lambda: (pairs.mdp(gamma),)
        )
        rivals.rlkit(found.method, least, first, found)
    if "scipy" in peers:
        if gamma < 1:
            values, least, first = timed(partial(scipy_iteration, mdp), rounds)
            rivals.peer("SciPy value iteration", least, first, values, found)
        if mdp.n_states <= _PROGRAMMED and mdp.P.nnz <= 50 * _PROGRAMMED:
            values, least, first = timed(partial(highs, mdp), rounds)
            rivals.peer("SciPy HiGHS", least, first, values, found)
    with tempfile.TemporaryDirectory() as folder:
        if "quantecon" in peers and gamma < 1:
            path = Path(folder) / "model.npz"
            P = mdp.P
            np.savez(
                path, data=P.data, indices=P.indices, indptr=P.indptr, r=mdp.r, offsets=mdp.offsets
            )
            elsewhere(peers["quantecon"], "quantecon", path, gamma, rounds, rivals, found)
        if "storm" in peers and mdp.r.max() <= 0 and can_end(mdp):
            path = Path(folder) / "model.drn"
            # Storm minimises costs to an end; a discount is the chance of another one.
            pairs.discounted(gamma).save(path)
            elsewhere(peers["storm"], "storm", path, 1.0, rounds, rivals, found)
    return rivals.verdict(name)


def can_end(mdp: Any) -> bool:
    return bool(mdp.gamma < 1 or mdp.terminal.any())


def elsewhere(
    python: str, name: str, path: Path, gamma: float, rounds: int, rivals: Rivals, found: Any
) -> None:
    command = [python, str(Path(__file__).with_name("peers.py")), name, str(path), str(gamma)]
    try:
        done = subprocess.run(
            [*command, str(rounds)], capture_output=True, text=True, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        print(f"    {name}: more than {_PATIENCE} s")
        return
    if done.returncode:
        print(f"    {name} failed: {done.stderr.strip().splitlines()[-1]}")
        return
    for method, times in json.loads(done.stdout.splitlines()[-1]).items():
        values = np.fromfile(f"{path}.{method}")
        label = f"{name} {method.lower().replace('_', ' ')}"
        rivals.peer(label, times["least"], times["first"], values, found)


if __name__ == "__main__":
    main()
