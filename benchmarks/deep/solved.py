"""Time and environment steps until CartPole-v1 is solved, each library at its own best settings.

    python benchmarks/deep/solved.py
    python benchmarks/deep/solved.py "rlkit a2c" "sb3 a2c"

rlkit trains with its tuned recipes, stable-baselines3 with RL Zoo's settings, tianshou with its
examples'. Every 5,000 environment steps the greedy policy plays 20 episodes; the first mean return
of 475 or more counts as solved. The same code plays all of them, and its time is not counted.
"Training" begins when everything is imported; "process" when the process starts. Each run is a
process of its own, on one thread.

The first time solved is not a policy that stays good: see benchmarks/recipes.py for that.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import gymnasium as gym
import numpy as np
from libraries import ENV, Act, library
from rounds import alternating, answer_job, in_own_process, table, versions

EVERY, EPISODES, ENOUGH = 5_000, 20, 475
SEEDS = {
    "rlkit a2c": 10,
    "rlkit ppo": 10,
    "rlkit dqn": 10,
    "sb3 a2c": 5,
    "sb3 ppo": 5,
    "sb3 dqn": 3,
    "tianshou ppo": 3,
    "tianshou dqn": 3,
}
FIRST_SEED = 5000  # no recipe was chosen on these


class Solved(Exception):  # noqa: N818 (not an error)
    """Ends a training."""


def greedy_mean(act: Act, seed: int) -> float:
    """The mean return of the first episode of each of 20 environments: one a step."""
    envs = gym.make_vec(ENV, EPISODES, vectorization_mode="vector_entry_point")
    obs, _ = envs.reset(seed=seed)
    playing = np.ones(EPISODES, dtype=np.bool_)
    total = 0
    while playing.any():
        total += int(np.count_nonzero(playing))
        obs, _, terminated, truncated, _ = envs.step(act(obs))
        playing &= ~(terminated | truncated)
    return total / EPISODES


def solve(name: str, agent: str, seed: int, steps: int, started: float) -> dict[str, Any]:
    """In a process of its own: train until solved, for at most `steps` (0: as the settings say)."""
    module = library(name)
    since = time.time()
    playing = 0.0
    answer: dict[str, Any] = {"best": 0.0, "steps": None}

    def probe(at: int, act: Act) -> None:
        nonlocal playing
        asked = time.time()
        mean = greedy_mean(act, seed + at)
        playing += time.time() - asked
        answer["best"] = max(answer["best"], mean)
        if mean >= ENOUGH:
            answer["steps"] = at
            raise Solved

    try:
        module.train_tuned(agent, steps, seed, EVERY, probe)
    except Solved:
        now = time.time() - playing
        answer |= {"training": now - since, "process": now - started}
    return answer


def row(name: str, found: list[dict[str, Any]]) -> list[str]:
    """A row of the table. Where a seed was not solved, the worst is so."""
    solved = [one for one in found if one["steps"] is not None]
    cells = [name, f"{len(solved)}/{len(found)}"]
    for key, form in (("steps", ",.0f"), ("training", ".2f"), ("process", ".2f")):
        if not solved:
            cells.append("–")
            continue
        values = [one[key] for one in solved]
        worst = f"{max(values):{form}}" if len(solved) == len(found) else "unsolved"
        cells.append(f"{statistics.median(values):{form}} / {worst}")
    return cells


def main() -> None:
    answer_job(solve)
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=list(SEEDS), help=", ".join(SEEDS))
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--quick", action="store_true", help="try it out: a seed, 10,000 steps")
    args = parser.parse_args()
    if strangers := set(args.what) - set(SEEDS):
        parser.error(f"no {', '.join(sorted(strangers))}; there are {', '.join(SEEDS)}")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in args.what}
    for number, name in alternating(args.what, 1 if args.quick else max(SEEDS.values())):
        if number < SEEDS[name]:
            library_name, agent = name.split()
            seed, steps = args.first_seed + number, 10_000 if args.quick else 0
            job = {"name": library_name, "agent": agent, "seed": seed, "steps": steps}
            found[name].append(in_own_process(__file__, **job))
    print(f"seeds from {args.first_seed}; {versions(['rlkit', 'sb3', 'tianshou'])}\n")
    head = ["", "solved", "env-steps", "training, s", "process, s"]
    table(
        [*head[:2], *(f"{name}: median / worst" for name in head[2:])],
        (row(*x) for x in found.items()),
    )
    best = {name: [round(one["best"]) for one in runs] for name, runs in found.items()}
    print("best mean return on the way, by seed: " + "; ".join(f"{k} {v}" for k, v in best.items()))


if __name__ == "__main__":
    main()
