"""Exact solvers on a GPU, side by side with the compiled ones on one core of the CPU.

    python benchmarks/tabular/device.py [--device cuda] [--sizes 300 1000 3000 10000]
        [--gamma 0.99] [--largest-on-cpu 3000]

Grids are random maps of rlkit.envs.gridmap (slip .2, a tenth walls), made on the device, and on
the CPU by GridWorld; layered and random models are made on the host and copied. Seconds are of the
wall, to a certified error of 1e-6; on the device without making or copying the model. Values of the
two are checked against each other's bounds.

A sweep has to read each successor, probability and reward once, and V, and to write TV; its share
is of the speed, bytes read and written, at which the device copies 1 GiB in the same run. Both ways
to sweep are timed: by a Triton kernel, where there is one, and by torch's operations. Without a GPU
nothing is measured, but with --device cpu on tensors there, in one thread: small sizes alone.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import models as m
import numpy as np
import torch

import rlkit
from rlkit.device.names import device_for
from rlkit.envs.gridmap import random_map
from rlkit.envs.gridworld import GridWorld
from rlkit.errors import RlkitWarning, UsageError
from rlkit.mdp.device.grids import gridworld
from rlkit.mdp.device.model import DeviceMDP
from rlkit.mdp.device.solve import solve
from rlkit.mdp.device.sweep import backup, fused
from rlkit.mdp.device.upload import on_device

OTHERS = {
    "layered 50 x 20k": lambda: m.layered(50, 20_000),
    "garnet 1M x 4 x 5": lambda: m.garnet(1_000_000, 4, 5),
    "garnet 5k x 10 x 100": lambda: m.garnet(5_000, 10, 100),
    "two queues 700^2": lambda: m.queues(700),
}


def seconds(run: Callable[[], object], device: torch.device, rounds: int = 20) -> float:
    """The median of so many runs, after one to warm up."""

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    found = []
    for _ in range(rounds + 1):
        finish()
        since = time.perf_counter()
        run()
        finish()
        found.append(time.perf_counter() - since)
    return statistics.median(found[1:])


def copy_speed(device: torch.device) -> float:
    """Bytes read and written in a second by a copy of 1 GiB (on a CPU, of an eighth of it)."""
    size = 2**30 if device.type == "cuda" else 2**27
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device)


def grid(size: int, gamma: float, device: torch.device) -> DeviceMDP:
    """What GridWorld(size=size).mdp(gamma) is on the host."""
    usual = GridWorld(size=2)
    drawn = random_map(size, seed=0)
    goal = drawn.where("G")
    return gridworld(
        drawn.where("#"),
        goal,
        goal * 1.0,
        gamma,
        device,
        slip=usual.slip,
        step_cost=usual.step_cost,
        starts=drawn.where("S"),
    )


def sweep_bytes(model: DeviceMDP) -> int:
    """What a sweep has to read and write."""
    rows = model.rows
    arrays = [
        rows.successors,
        rows.r,
        *(getattr(rows, n) for n in ("off", "ptr") if hasattr(rows, n)),
    ]
    own = sum(x.nbytes for x in arrays) + rows.p.untyped_storage().nbytes()
    return own + 16 * model.n_states


def report(
    name: str, model: DeviceMDP, speed: float, on_cpu: Callable[[], rlkit.MDP] | None
) -> None:
    device = model.device
    V = torch.rand(model.n_states + 1, dtype=torch.float64, device=device)
    TV = torch.zeros_like(V)
    ways = {"torch": partial(model.rows.backup, V, TV)}
    if fused(device):
        ways["Triton"] = partial(backup, model.rows, V, TV)
    print(f"{name}: {model.n_states:,} states, {model.rows.name}")
    for way, run in ways.items():
        taken = seconds(run, device)
        share = sweep_bytes(model) / taken / speed
        print(f"    a sweep by {way:7} {taken * 1e3:9.3f} ms  {share:6.1%} of the copy's speed")
    del V, TV
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RlkitWarning)
        solve(model, max_seconds=0.1)  # loads what has to be loaded
    found = solve(model)
    each = found.seconds / model.n_states * 1e6
    print(
        f"    {found.method:40} {found.seconds:9.3f} s  {each:8.4f} us/state  "
        f"{found.sweeps:,} sweeps  error <= {found.error_bound:.1e}"
    )
    if on_cpu is None:
        print("    cpu: not run at this size (--largest-on-cpu)")
        return
    mdp = on_cpu()
    referee = rlkit.solve(mdp)
    each = referee.seconds / mdp.n_states * 1e6
    print(
        f"    {referee.method + ', compiled, one core':40} {referee.seconds:9.3f} s  "
        f"{each:8.4f} us/state  {referee.sweeps:,} sweeps  error <= {referee.error_bound:.1e}"
    )
    apart = float(np.abs(found.values.cpu().numpy() - referee.values).max())
    allowed = found.error_bound + referee.error_bound
    if not apart <= allowed:
        raise SystemExit(f"the two differ by {apart:.2g}, and their bounds allow {allowed:.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="*", default=[300, 1000, 3000, 10_000])
    parser.add_argument("--gamma", type=float, default=0.99)
    parser.add_argument("--largest-on-cpu", type=int, default=3000)
    parser.add_argument("--no-others", action="store_true", help="grids alone")
    options = parser.parse_args()
    try:
        device = device_for(options.device)
    except UsageError as error:
        print(f"nothing is measured: {error}")
        return
    if device.type == "cpu":
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU tensors"
    triton = "Triton" if importlib.util.find_spec("triton") else "no Triton"
    print(f"{name}, torch {torch.__version__}, {triton}, {datetime.date.today()}")
    speed = copy_speed(device)
    print(f"copies at {speed / 1e9:,.0f} GB/s, read and written\n")
    rlkit.solve(m.grid(100).mdp(options.gamma), "upwind-gauss-seidel")  # loads compiled kernels
    for size in options.sizes:
        small = size <= options.largest_on_cpu
        on_cpu = partial(GridWorld(size=size).mdp, options.gamma) if small else None
        report(f"grid {size}^2", grid(size, options.gamma, device), speed, on_cpu)
    for name, made in {} if options.no_others else OTHERS.items():
        mdp = made().mdp(options.gamma)
        report(name, on_device(mdp, device), speed, lambda mdp=mdp: mdp)


if __name__ == "__main__":
    main()
