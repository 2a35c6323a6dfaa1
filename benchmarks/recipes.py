"""What the tuned recipes reach, seed by seed: the tables of docs/recipes.md.

    .venv/bin/python benchmarks/recipes.py                         # every recipe, 10 seeds each
    .venv/bin/python benchmarks/recipes.py a2c CartPole --seeds 20
    .venv/bin/python benchmarks/recipes.py dqn --first 2000 --processes 2

Each seed is one run of `rlkit.train` with nothing changed, then 100 greedy episodes on environments
seeded afresh: the policy as it is at the end, not the best on the way. The seeds must not be those
that a recipe was chosen on. Where the environment has a model, the greedy policy's exact value is
given too, in brackets: its share of the optimum that `rlkit.solve` certifies at the recipe's γ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

EPISODES = 100


@dataclass(frozen=True)
class Row:
    """A seed's final policy, and what it took."""

    seed: int
    mean: float
    worst: float
    steps: int
    seconds: float  # of training
    share: float | None  # V^π / V* at the start, exactly; None without a model


def one_seed(agent: str, env: str, seed: int) -> Row:
    import rlkit
    from rlkit.training.options import RunOptions

    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(seed=seed, run_dir=folder, eval_episodes=EPISODES)
        done = rlkit.train(agent, env, options=options)
    assert done.evaluation is not None
    returns, share = done.evaluation.returns, exact_share(done.agent, env)
    return Row(seed, done.evaluation.mean, min(returns), done.steps, done.seconds, share)


def exact_share(agent: Any, env: str) -> float | None:
    """V^π(s₀) / V*(s₀) of the greedy policy, episodes without a time limit."""
    import gymnasium
    import numpy as np

    import rlkit

    made = gymnasium.make(env)
    if not hasattr(made.unwrapped, "P"):
        return None
    mdp = rlkit.MDP.from_gymnasium(made, gamma=agent.recipe.gamma)
    states, mask = np.arange(mdp.n_states), None
    if hasattr(made.unwrapped, "action_mask"):  # Taxi's
        mask = np.stack([made.unwrapped.action_mask(state) for state in states]).astype(bool)
    policy, _ = agent.act(states, None, explore=False, mask=mask)
    values = rlkit.evaluate_policy(mdp, policy)
    return float(mdp.start @ values / (mdp.start @ rlkit.solve(mdp).values))


def recipes(agent: str | None, env: str | None) -> Iterator[tuple[str, str]]:
    """The tuned recipes of that agent and environment, of all unless given."""
    from rlkit.envs.names import resolve
    from rlkit.registry import AGENTS, load

    for name, entry in AGENTS.items():
        for tuned in load(entry.target).recipes:
            if agent in (None, name) and (env is None or resolve(env).name == tuned):
                yield name, tuned


HEADER = """\
| agent | environment | seeds | steps | s | mean | worst seed | worst episode | each seed |
|---|---|---|---|---|---|---|---|---|"""


def report(agent: str, env: str, rows: list[Row]) -> None:
    means, seconds = [row.mean for row in rows], statistics.median(row.seconds for row in rows)
    each = " ".join(
        f"{row.mean:.1f}" if row.share is None else f"{row.mean:.2f} ({row.share:.4f})"
        for row in rows
    )
    print(
        f"| {agent} | {env} | {rows[0].seed}–{rows[-1].seed} | {rows[0].steps:,} | {seconds:.1f} | "
        f"{statistics.mean(means):.1f} | {min(means):.1f} | {min(row.worst for row in rows):.0f} | "
        f"{each} |",
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
    print(HEADER, flush=True)
    with ProcessPoolExecutor(args.processes) as pool:
        for agent, env in list(recipes(args.agent, args.env)):
            seeds = range(args.first, args.first + args.seeds)
            report(agent, env, list(pool.map(partial(one_seed, agent, env), seeds)))


if __name__ == "__main__":
    main()
