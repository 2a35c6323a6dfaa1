"""A training as it runs: its environments, its course, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from threadpoolctl import threadpool_limits

from rlkit.agent import Agent
from rlkit.envs.vector import Envs
from rlkit.ranks import Ranks
from rlkit.recipe import Recipe
from rlkit.run.progress import Progress
from rlkit.training import build
from rlkit.training.build import EnvLike
from rlkit.training.evaluation import Evaluation
from rlkit.training.exact import Measured
from rlkit.training.options import RunOptions
from rlkit.training.trainer import Trainer

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Trained:
    """What `train` and `resume` give back."""

    run: Path
    agent: Agent = field(repr=False)
    env: str
    steps: int  # environment steps in all
    seconds: float  # this call spent in training, evaluations on the way included
    evaluation: Evaluation | None  # greedy, at the end; None where there was none
    reward_threshold: float | None  # the return at which the environment counts as solved
    exit_status: int  # 0, or 128 + the signal that stopped the run
    complete: bool  # trained to the end, whether or not a signal broke off the last evaluation
    saved_step: int | None  # of the newest checkpoint
    resume_command: str
    exact: Measured | None = None  # by the environment's model, at the end
    exact_problem: str | None = None  # why there is none, where there is a model


@contextmanager
def training_envs(
    env: EnvLike,
    recipe: Recipe,
    options: RunOptions,
    env_options: Mapping[str, Any],
    ranks: Ranks | None,
    start: int = 0,
) -> Iterator[Envs]:
    """A run's environments, and its number of threads for as long as they are open."""
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    blas = threadpool_limits(options.threads, user_api="blas")  # NumPy's
    seed = build.env_seed(options.seed, start, 0 if ranks is None else ranks.rank)
    try:
        with build.open_envs(
            env, recipe.envs, seed, options, env_options, options.vectorization
        ) as envs:
            yield envs
    finally:
        torch.set_num_threads(threads)
        blas.restore_original_limits()


def fit(trainer: Trainer, console: Console | None) -> Trained:
    """Train to the end, evaluate what came out, and close the run's files."""
    since = time.perf_counter()
    try:
        with trainer.watched():
            if console:
                with Progress(console, trainer.plan.total, trainer.steps) as progress:
                    status = trainer.fit(progress)
            else:
                status = trainer.fit()
            seconds = time.perf_counter() - since
            evaluation = trainer.evaluate_now() if status == 0 else None
            if trainer.council is not None:
                trainer.council.assemble()  # torchrun ends all soon after one
    finally:
        trainer.metrics.close()
    return Trained(
        trainer.home.path,
        trainer.agent,
        trainer.envs.id,
        trainer.steps,
        seconds,
        evaluation,
        trainer.envs.reward_threshold,
        trainer.signals.exit_status,
        trainer.steps >= trainer.plan.total,
        trainer.saved_step,
        trainer.resume_command,
        trainer.exact.found_at(trainer.steps) if trainer.exact else None,
        trainer.exact.problem if trainer.exact else None,
    )


def counted(ranks: int) -> str:
    return f"{ranks} rank{'s' if ranks > 1 else ''}"
