"""What a tuned recipe reaches, seed by seed: the tables of docs/recipes.md.

    .venv/bin/python benchmarks/recipes.py a2c CartPole
    .venv/bin/python benchmarks/recipes.py dqn CartPole --first 1000 --seeds 20

Each seed is one run of `rlkit.train` with nothing changed, then 100 greedy episodes on environments
seeded afresh: the policy as it is at the end, not the best on the way. The seeds must not be those
that a recipe was chosen on.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial

EPISODES = 100


def one_seed(agent: str, env: str, seed: int) -> tuple[int, float, float, int, float]:
    """Seed, mean and worst return of the final policy, steps, seconds of training."""
    import rlkit
    from rlkit.training.options import RunOptions

    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(seed=seed, run_dir=folder, eval_episodes=EPISODES)
        done = rlkit.train(agent, env, options=options)
    assert done.evaluation is not None
    returns = done.evaluation.returns
    return seed, done.evaluation.mean, min(returns), done.steps, done.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("agent")
    parser.add_argument("env")
    parser.add_argument("--first", type=int, default=1000, help="the first seed")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--processes", type=int, default=1, help="seeds that train side by side")
    args = parser.parse_args()
    print("| seed | mean return | worst episode | steps | training, s |\n|---|---|---|---|---|")
    rows = []
    with ProcessPoolExecutor(args.processes) as pool:
        seeds = range(args.first, args.first + args.seeds)
        for row in pool.map(partial(one_seed, args.agent, args.env), seeds):
            seed, mean, worst, steps, seconds = row
            print(f"| {seed} | {mean:.1f} | {worst:.0f} | {steps:,} | {seconds:.1f} |", flush=True)
            rows.append(row)
    means = [row[1] for row in rows]
    print(
        f"\n{len(rows)} seeds: mean {statistics.mean(means):.1f}, worst seed {min(means):.1f}, "
        f"median {statistics.median(row[4] for row in rows):.1f} s of training"
    )


if __name__ == "__main__":
    main()
