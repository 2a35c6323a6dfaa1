"""Finite MDPs that step by compiled sampling against Gymnasium's FrozenLake: steps per second.

    .venv/bin/python benchmarks/model_env.py             # 1, 8, 512 and 4096 of them, five rounds
    .venv/bin/python benchmarks/model_env.py --learn     # and with Q-learning on top

The peer is Gymnasium's `SyncVectorEnv` of FrozenLake, which has no vector form of its own; both
step through the same actions in turn, in one process, on one thread. Compiling is not counted. With
--learn, agents act, step and learn as in the training loop, without logs and evaluations. Prints a
table in markdown. Quote the ratio: machines are noisy.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np

import rlkit
from rlkit.envs.make import make_envs
from rlkit.envs.model_env import ModelVectorEnv
from rlkit.training import build
from rlkit.training.options import RunOptions

ENV = "FrozenLake-v1"
SIZES = (1, 8, 512, 4096)
SECONDS = 0.5  # of each measurement
BATCHES = 16  # steps between two looks at the clock
AGENTS = ("q-learning", "sarsa", "monte-carlo")


def rate(step: Callable[[int], object], n: int) -> float:
    """Environment steps per second, dead reset steps included; `step` takes the k-th step."""
    steps = 0
    since = time.perf_counter()
    while (seconds := time.perf_counter() - since) < SECONDS:
        for k in range(BATCHES):
            step(k)
        steps += BATCHES * n
    return steps / seconds


def compare(n: int, rounds: int) -> str:
    """A row of the table: the median rates, and the ratio's median and range."""
    spec = gym.spec(ENV)
    mdp = rlkit.MDP.from_gymnasium(gym.make(ENV), 1.0)
    ours = ModelVectorEnv(mdp, n, max_episode_steps=spec.max_episode_steps)
    theirs = gym.make_vec(ENV, n, vectorization_mode="sync")
    actions = np.random.default_rng(0).integers(4, size=(BATCHES, n))
    pairs = []
    for _ in range(rounds):
        ours.reset(seed=0)
        theirs.reset(seed=0)
        mine = rate(lambda k: ours.step(actions[k]), n)
        pairs.append((mine, rate(lambda k: theirs.step(actions[k]), n)))
    ratios = [mine / other for mine, other in pairs]
    mine, other = (statistics.median(each) for each in zip(*pairs, strict=True))
    return (
        f"| {n} | {mine / 1e6:.2f} | {other / 1e6:.3f} "
        f"| {statistics.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f}) |"
    )


def learning(name: str, n: int, rounds: int) -> float:
    """Steps per second of an agent that acts, steps and learns: the median."""
    agent_type = build.agent_class(name)
    envs = make_envs(ENV, n, 0, "model")
    recipe = build.defaults(agent_type).but({"envs": n})
    agent = build.make_agent(agent_type, recipe, envs, RunOptions(device="cpu"))
    agent.memory.allocate()
    agent.clock.progress = 0.5
    obs = envs.reset()

    def step(k: int) -> None:
        nonlocal obs
        action, _ = agent.act(obs, None, mask=envs.mask)
        taken = envs.step(action)
        agent.memory.add(taken)
        obs = taken.next_obs
        for batch in agent.memory.batches():
            agent.update(batch)

    return statistics.median(rate(step, n) for _ in range(rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--learn", action="store_true")
    args = parser.parse_args()
    print("| how many | rlkit, M steps/s | Gymnasium's SyncVectorEnv, M steps/s | ratio (range) |")
    print("|---|---|---|---|")
    for n in SIZES:
        print(compare(n, args.rounds), flush=True)
    if args.learn:
        print(f"\n| M steps/s | {' | '.join(map(str, SIZES))} |\n|---|{'---|' * len(SIZES)}")
        for name in AGENTS:
            rates = [learning(name, n, args.rounds) / 1e6 for n in SIZES]
            print(f"| {name} | {' | '.join(f'{each:.2f}' for each in rates)} |", flush=True)


if __name__ == "__main__":
    main()
