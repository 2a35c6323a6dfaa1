"""What the tuned recipes reach, seed by seed: the tables of docs/recipes.md.

    .venv/bin/python benchmarks/recipes.py                         # every recipe, 10 seeds each
    .venv/bin/python benchmarks/recipes.py a2c CartPole --seeds 20
    .venv/bin/python benchmarks/recipes.py dqn --first 2000 --processes 2

Each seed is one run of `rlkit.train` with nothing changed, then 100 greedy episodes on environments
seeded afresh: the policy as it is at the end, not the best on the way. The seeds must not be those
that a recipe was chosen on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

EPISODES = 100
Row = tuple[int, float, float, int, float]


def one_seed(agent: str, env: str, seed: int) -> Row:
    """Seed, mean and worst return of the final policy, steps, seconds of training."""
    import rlkit
    from rlkit.training.options import RunOptions

    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(seed=seed, run_dir=folder, eval_episodes=EPISODES)
        done = rlkit.train(agent, env, options=options)
    assert done.evaluation is not None
    returns = done.evaluation.returns
    return seed, done.evaluation.mean, min(returns), done.steps, done.seconds


def recipes(agent: str | None, env: str | None) -> Iterator[tuple[str, str]]:
    """The tuned recipes of that agent and environment, of all unless given."""
    from rlkit.envs.names import resolve
    from rlkit.registry import AGENTS, load

    for name, entry in AGENTS.items():
        for tuned in load(entry.target).recipes:
            if agent in (None, name) and (env is None or resolve(env).name == tuned):
                yield name, tuned


def report(agent: str, env: str, rows: list[Row]) -> None:
    means = [row[1] for row in rows]
    seconds = statistics.median(row[4] for row in rows)
    print(f"\n### {agent} on {env}\n\n| seed | mean return | worst episode |\n|---|---|---|")
    for seed, mean, worst, _, _ in rows:
        print(f"| {seed} | {mean:.1f} | {worst:.0f} |")
    print(
        f"\n{len(rows)} seeds: mean {statistics.mean(means):.1f}, worst seed {min(means):.1f}; "
        f"{rows[0][3]:,} steps, median {seconds:.1f} s of training",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("agent", nargs="?")
    parser.add_argument("env", nargs="?")
    parser.add_argument("--first", type=int, default=5000, help="the first seed")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--processes", type=int, default=1, help="seeds that train side by side")
    args = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded by the processes
    with ProcessPoolExecutor(args.processes) as pool:
        for agent, env in list(recipes(args.agent, args.env)):
            seeds = range(args.first, args.first + args.seeds)
            report(agent, env, list(pool.map(partial(one_seed, agent, env), seeds)))


if __name__ == "__main__":
    main()
