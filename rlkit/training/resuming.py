"""Going on with a run: `rlkit.resume`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

from rlkit.agent import Agent
from rlkit.envs.foreign import describe
from rlkit.errors import CheckpointError, RlkitError, UsageError
from rlkit.ranks import Ranks
from rlkit.recipe import Recipe
from rlkit.run.folder import CONFIG, RunFolder
from rlkit.run.lock import locked
from rlkit.run.metrics import EVALUATED, METRICS, read_tail
from rlkit.training import build
from rlkit.training.build import EnvLike
from rlkit.training.parallel import Council, Start, equalize, newest, own_folder, placed
from rlkit.training.running import Trained, counted, fit, training_envs
from rlkit.training.trainer import Trainer, about

if TYPE_CHECKING:
    from rich.console import Console


def resume(
    run: str | Path,
    steps: int | None = None,
    *,
    device: str | None = None,
    env: EnvLike | None = None,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> Trained:
    """Go on with a run from its newest checkpoint, to `steps` environment steps in all.

    By default to where the run was going, and on its device; schedules stretch to a new end. A run
    on an environment from a file or a module names code outside the run: repeat it as `env`.

    `ranks`: as of `train`; the run may have been of another number of ranks, or of one process.
    Then all episodes start afresh, and a rank that there was not takes over the weights and a copy
    of the memory of another.

    Raises UsageError where the run is still being trained, or is complete.
    """
    folder = RunFolder.open(run)
    if ranks is None:
        with locked(folder.path):
            return _resume(folder, steps, device, env, console, None)
    with ranks.telling(), locked(own_folder(folder.path, folder.config, ranks.rank).path):
        return _resume(folder, steps, device, env, console, ranks)


def _resume(
    folder: RunFolder,
    steps: int | None,
    device: str | None,
    env: EnvLike | None,
    console: Console | None,
    ranks: Ranks | None,
) -> Trained:
    told = build.settings(folder)
    recipe, options = told.recipe, replace(told.options, device=device or told.options.device)
    options = placed(options, ranks)
    env = build.consented(env, folder)
    start = newest(folder.path, ranks)
    checkpoint = start.checkpoint
    with training_envs(env, recipe, options, told.env_options, ranks, checkpoint.step) as envs:
        learner = build.make_agent(told.agent_type, recipe, envs, options, ranks)
        checkpoint.expect(about(learner))
        size = 1 if ranks is None else ranks.size
        total = _end(start, recipe, steps, learner, size)
        if checkpoint.step > total or (
            checkpoint.step == total and _is_evaluated(folder, env, total)
        ):
            raise UsageError(
                f"{folder.path} is complete at {checkpoint.step} steps; "
                "to go on, give --steps a number above that"
            )
        learner.memory.allocate()
        own = folder if ranks is None else own_folder(folder.path, folder.config, ranks.rank)
        council = None if ranks is None else Council(ranks)
        trainer = build.make_trainer(
            learner, envs, total, own, env, options, told.env_options, checkpoint.step, council
        )
        try:
            episodes_go_on = _restore(trainer, start)
        except BaseException as error:
            trainer.metrics.close()
            if isinstance(error, RlkitError) or not isinstance(error, Exception):
                raise
            raise CheckpointError(
                f"{checkpoint.path}: what it holds is not of the run that {CONFIG} describes "
                f"({describe(error)}); undo what was changed in either"
            ) from error
        if console:
            what = f"from step {checkpoint.step:,} to {total:,}"
            if checkpoint.step == total:
                what = "with its last evaluation, which is missing"
            on = "" if ranks is None else f" on {counted(ranks.size)}"
            console.print(f"going on with {folder.path} {what}{on}")
            if not start.goes_on:
                console.print("not every rank has a part in what was saved: episodes start afresh")
            elif not episodes_go_on:
                console.print(f"{envs.id} can't save its state: its episodes start afresh")
        return fit(trainer, console)


def _end(start: Start, recipe: Recipe, steps: int | None, agent: Agent, size: int) -> int:
    """The step that a run goes on to, or the next one on which so many ranks can end."""
    checkpoint, quantum = start.checkpoint, size * agent.memory.quantum
    total: Any = checkpoint.tree.get("total")
    if steps is not None:
        total = recipe.but({"steps": steps}).steps
    elif type(total) is not int:
        raise CheckpointError(
            f"{checkpoint.path}: does not say how far the run was going; give --steps"
        )
    if start.goes_on:
        return total if steps is None else build.round_up(total, quantum)
    return checkpoint.step + build.round_up(total - checkpoint.step, quantum)


def _restore(trainer: Trainer, start: Start) -> bool:
    """Put the trainer where it goes on from; returns whether the episodes go on too."""
    agent, tree = trainer.agent, start.checkpoint.tree
    drawn = agent.generator.get_state()
    episodes_go_on = trainer.set_state(tree if start.goes_on else {**tree, "envs": None})
    if start.is_new:  # it shall not draw what the rank draws whose part it took
        agent.generator.set_state(drawn)
    equalize(agent, None if trainer.council is None else trainer.council.ranks)
    return episodes_go_on


def _is_evaluated(folder: RunFolder, env: EnvLike, total: int) -> bool:
    """Whether the evaluation at a run's end is on record; a kill may have come before it."""
    if isinstance(env, VectorEnv):  # of which there is none
        return True
    path = folder.path / METRICS
    lines = read_tail(path) if path.is_file() else []
    return any(line.get("step") == total and EVALUATED in line for line in lines)
