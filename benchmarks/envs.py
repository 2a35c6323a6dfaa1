"""The compiled environments against Gymnasium's fastest mode: environment steps per second.

    .venv/bin/python benchmarks/envs.py                  # all four, 8 and 512 of each, five rounds

Both step through the same actions in turn, in one process, on one thread; the peer is Gymnasium's
own vector environment where there is one, else its `SyncVectorEnv`. Compiling is not counted.
Prints a table in markdown. Quote the ratio: machines are noisy.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from rlkit.envs.classic import ClassicVectorEnv

ENVS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1")
SECONDS = 0.5  # of each measurement
BATCHES = 64  # of actions, over and over


def rate(venv: VectorEnv[Any, Any, Any], actions: list[Any]) -> float:
    """Environment steps per second, dead reset steps included, from a reset on."""
    venv.reset(seed=0)
    steps = 0
    since = time.perf_counter()
    while (seconds := time.perf_counter() - since) < SECONDS:
        for action in actions:
            venv.step(action)
        steps += len(actions) * venv.num_envs
    return steps / seconds


def compare(name: str, n: int, rounds: int) -> str:
    """A row of the table: the median rates, and the ratio's median and range."""
    spec = gym.spec(name)
    mode = "sync" if spec.vector_entry_point is None else "vector_entry_point"
    ours, theirs = ClassicVectorEnv(spec, n), gym.make_vec(name, n, vectorization_mode=mode)
    theirs.action_space.seed(0)
    actions = [theirs.action_space.sample() for _ in range(BATCHES)]
    pairs = [(rate(ours, actions), rate(theirs, actions)) for _ in range(rounds)]
    ratios = [mine / other for mine, other in pairs]
    mine, other = (statistics.median(each) for each in zip(*pairs, strict=True))
    return (
        f"| {name} | {n} | {mine / 1e6:.2f} | {other / 1e6:.3f} ({type(theirs).__name__}) "
        f"| {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("envs", nargs="*", default=ENVS, help=", ".join(ENVS))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("| environment | how many | rlkit, M steps/s | Gymnasium, M steps/s | ratio (range) |")
    print("|---|---|---|---|---|")
    for name in args.envs:
        for n in (8, 512):
            print(compare(name, n, args.rounds), flush=True)


if __name__ == "__main__":
    main()
