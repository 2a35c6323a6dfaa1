"""PPO on CartPole on a device, rollout and update in one piece: one seed, and many as one batch.

    .venv/bin/python benchmarks/deep/together.py                    # where there is a GPU
    .venv/bin/python benchmarks/deep/together.py --device cpu --rounds 1 --envs 8 --seeds 1 8

Environment steps per second in training, over all seeds, each measured in every round in turn, with
and without a CUDA graph; the median and the range of the rounds. Prints a table in markdown, with
the device, the version of PyTorch and the date. Quote ratios: machines are noisy.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone

import torch

from rlkit.agents.ppo import PPORecipe
from rlkit.envs.make import make_envs
from rlkit.population import Population
from rlkit.training import build
from rlkit.training.options import RunOptions

ENV = "CartPole-v1"
ITERATIONS = 4  # of a measurement
WARM_UPS = 5  # in the last of which a graph is captured


def population(seeds: int, envs: int, device: torch.device, graphs: bool) -> Population:
    """`seeds` PPO agents with `envs` environments each, 32 steps a rollout, 4 epochs of 4 parts."""
    recipe = PPORecipe(envs=envs, n_steps=32, minibatch_size=8 * envs, gamma=0.98)
    agents = []
    for seed in range(seeds):
        with make_envs(ENV, envs, seed, "device", device=device) as own:
            options = RunOptions(seed=seed, device=str(device))
            agents.append(build.make_agent(build.agent_class("ppo"), recipe, own, options))
    shared = make_envs(ENV, seeds * envs, 0, "device", device=device)
    shared.reset()
    return Population(agents, shared, graphs)


def rate(found: Population, wait: Callable[[], None]) -> float:
    """Million environment steps per second."""
    wait()
    since = time.perf_counter()
    for _ in range(ITERATIONS):
        found.iterate(0.5)
    wait()
    return ITERATIONS * found.quantum * found.P / (time.perf_counter() - since) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--envs", type=int, nargs="+", default=[64, 2048, 16384])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 8, 32, 128])
    told = parser.parse_args()
    device = torch.device(told.device)
    on_gpu = device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print("no GPU here: nothing measured; --device cpu measures the CPU")
        return
    wait: Callable[[], None] = torch.cuda.synchronize if on_gpu else (lambda: None)
    name = torch.cuda.get_device_name(device) if on_gpu else "CPU"
    today = datetime.now(timezone.utc).date()
    print(f"{name}, torch {torch.__version__}, {today}, {told.rounds} rounds\n")
    print("| seeds | envs each | graph | M steps/s | range |\n|---|---|---|---|---|")
    for envs in told.envs:
        kinds = [
            (n, graph) for n in told.seeds for graph in ((True, False) if on_gpu else (False,))
        ]
        found = {kind: population(kind[0], envs, device, kind[1]) for kind in kinds}
        for each in found.values():
            for _ in range(WARM_UPS):
                each.iterate(0.5)
        rates = {kind: [rate(found[kind], wait) for _ in range(told.rounds)] for kind in kinds}
        for (seeds, graph), measured in rates.items():
            print(
                f"| {seeds} | {envs} | {'yes' if graph else 'no'} | "
                f"{statistics.median(measured):.3g} | {min(measured):.3g}–{max(measured):.3g} |"
            )


if __name__ == "__main__":
    main()
