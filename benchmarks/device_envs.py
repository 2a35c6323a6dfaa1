"""Environments on a device: environment steps per second of each, 65,536 of them side by side.

    .venv/bin/python benchmarks/device_envs.py              # on the CPU, and on a GPU where one is
    .venv/bin/python benchmarks/device_envs.py --n 4096 CartPole FrozenLake

On the CPU they are held against the compiled environments, which are what trains there; on a GPU
each step is launched as it is, and captured as a CUDA graph. Actions are random, the same ones for
all. Dead reset steps count, as they take as long. Prints a table in markdown, with the device, the
version of PyTorch and the date. Quote ratios: machines are noisy.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from rlkit.device.graphs import Graphed
from rlkit.envs.device.vector import DeviceEnvs
from rlkit.envs.make import make_envs
from rlkit.envs.vector import Envs

# How each is stepped on the host, and the options that it is made with.
ENVS: dict[str, tuple[Any, dict[str, Any]]] = {
    "CartPole": ("compiled", {}),
    "Acrobot": ("compiled", {}),
    "MountainCar": ("compiled", {}),
    "Pendulum": ("compiled", {}),
    "catch": ("native", {}),
    "memory-corridor": ("native", {}),
    "repeat-first": ("native", {}),
    "cartpole-hidden": ("native", {}),
    "FrozenLake": ("model", {}),
    "garnet": ("native", {"states": 20_000}),
}
SECONDS = 0.5  # of each measurement
BATCH = 4  # steps between two looks at the clock


def rate(step: Callable[[], object], n: int, wait: Callable[[], None]) -> float:
    """Million environment steps per second; `wait` returns when all that was asked for is done."""
    for _ in range(BATCH):  # what is slow once: compiling, loading, capturing
        step()
    wait()
    steps = 0
    since = time.perf_counter()
    while time.perf_counter() - since < SECONDS:
        for _ in range(BATCH):
            step()
        wait()
        steps += BATCH * n
    return steps / (time.perf_counter() - since) / 1e6


def made(name: str, n: int, vectorization: Any, device: str = "cpu") -> Envs:
    _, options = ENVS[name]
    wanted = {"source": name, **options} if name == "garnet" else options
    envs = make_envs(
        "model" if name == "garnet" else name, n, 0, vectorization, options=wanted, device=device
    )
    envs.reset()
    return envs


def actions(envs: Envs) -> np.ndarray:
    envs.action_space.seed(0)
    return np.array([envs.action_space.sample() for _ in range(envs.n)])


def on_host(name: str, n: int) -> float:
    envs = made(name, n, ENVS[name][0])
    action = actions(envs)
    return rate(lambda: envs.step(action), n, lambda: None)


def on_device(name: str, n: int, device: str, graph: bool = False) -> float:
    envs: Any = made(name, n, "device", device)
    assert isinstance(envs, DeviceEnvs)
    action = torch.from_numpy(actions(envs)).to(device)
    step: Callable[[Any], object] = envs.step
    if graph:
        step = Graphed(envs.step, envs.device, True, [envs.generator])
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return rate(lambda: step(action), n, wait)


def row(name: str, n: int, rounds: int, cuda: bool) -> str:
    """The medians of a table's row; the ratio's range over the rounds too."""
    pairs = [(on_device(name, n, "cpu"), on_host(name, n)) for _ in range(rounds)]
    ratios = [device / host for device, host in pairs]
    device, host = (statistics.median(each) for each in zip(*pairs, strict=True))
    cells = [
        name,
        f"{host:.1f} ({ENVS[name][0]})",
        f"{device:.1f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
    ]
    if cuda:
        for graph in (False, True):
            rates = [on_device(name, n, "cuda", graph) for _ in range(rounds)]
            cells.append(f"{statistics.median(rates):.0f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("envs", nargs="*", default=list(ENVS), help=", ".join(ENVS))
    parser.add_argument("--n", type=int, default=65_536, help="environments side by side")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else "no GPU"
    print(
        f"{args.n:,} environments; {where}; torch {torch.__version__}, {args.threads} threads; "
        f"{datetime.now(timezone.utc):%Y-%m-%d}\n"
    )
    columns = ["environment", "host, M steps/s", "device cpu, M steps/s", "device cpu / host"]
    columns += ["cuda, eager", "cuda, captured"] if cuda else []
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in args.envs:
        print(row(name, args.n, args.rounds, cuda), flush=True)


if __name__ == "__main__":
    main()
