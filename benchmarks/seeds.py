"""Rows of a table, each a setting trained on several seeds: what the other scripts here share."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

EPISODES = 100
HEADER = """\
| | seeds | env-steps | s | mean | worst seed | each seed |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Setting:
    """One row: what is trained on what, and how."""

    name: str
    agent: str
    env: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    env_options: Mapping[str, Any] = field(default_factory=dict)


def one_seed(setting: Setting, seed: int) -> tuple[float, int, float]:
    """The final greedy policy's mean return, environment steps, and seconds of training."""
    import rlkit

    with tempfile.TemporaryDirectory() as folder:
        options = {"seed": seed, "run_dir": folder, "eval_episodes": EPISODES, **setting.options}
        done = rlkit.train(
            setting.agent, setting.env, setting.recipe, options, env_options=setting.env_options
        )
    assert done.evaluation is not None
    return done.evaluation.mean, done.steps, done.seconds


def table(settings: Sequence[Setting], description: str) -> None:
    """Train each setting on the seeds that the command line asks for, and print its row."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("only", nargs="*", help="rows whose names hold one of these words")
    parser.add_argument("--first", type=int, default=8000, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--processes", type=int, default=1, help="seeds that train side by side")
    args = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded by the processes
    print(HEADER, flush=True)
    with ProcessPoolExecutor(args.processes) as pool:
        for setting in settings:
            if args.only and not any(word in setting.name for word in args.only):
                continue
            seeds = range(args.first, args.first + args.seeds)
            means, steps, seconds = zip(*pool.map(partial(one_seed, setting), seeds), strict=True)
            print(
                f"| {setting.name} | {seeds[0]}–{seeds[-1]} | {steps[0]:,} | "
                f"{statistics.median(seconds):.1f} | {statistics.mean(means):.2f} | "
                f"{min(means):.2f} | {' '.join(f'{mean:.2f}' for mean in means)} |",
                flush=True,
            )
