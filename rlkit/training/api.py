"""Training as a library: `rlkit.train`, `rlkit.resume`, `rlkit.load`, `rlkit.evaluate`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gymnasium.vector import VectorEnv
from threadpoolctl import threadpool_limits

from rlkit.agent import Agent
from rlkit.envs.foreign import describe
from rlkit.envs.make import evaluation_options
from rlkit.envs.names import short_name
from rlkit.envs.vector import Envs
from rlkit.errors import CheckpointError, RlkitError, UsageError
from rlkit.recipe import Recipe
from rlkit.run.checkpoint import load_checkpoint
from rlkit.run.folder import CONFIG, RunFolder, run_name
from rlkit.run.lock import locked
from rlkit.run.metrics import EVALUATED, METRICS, read_tail
from rlkit.run.progress import Progress
from rlkit.training import build
from rlkit.training.build import EnvLike
from rlkit.training.evaluation import Evaluation, play
from rlkit.training.exact import Measured
from rlkit.training.options import RunOptions, run_options
from rlkit.training.policy import Policy
from rlkit.training.trainer import Trainer, about
from rlkit.training.transfer import take_encoder

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


def train(
    agent: str,
    env: EnvLike,
    recipe: Recipe | Mapping[str, Any] | None = None,
    options: RunOptions | Mapping[str, Any] | None = None,
    *,
    env_options: Mapping[str, Any] | None = None,
    name: str | None = None,
    console: Console | None = None,
) -> Trained:
    """Train an agent and keep the run in a folder of its own.

    Args:
        agent: a name in the registry ("a2c", "dqn").
        env: a name (see rlkit.envs.names), a function that makes one environment, or a
            gymnasium VectorEnv (which is closed at the end, and not evaluated on).
        recipe: the agent's recipe, or changes to the one tuned for `env`, by field. By default
            that recipe, or the agent's defaults where none was tuned.
        options: seed, device, run_dir and the like (see RunOptions), by name.
        env_options: arguments of the environment's constructor.
        name: of the run's folder, which gets a number; None: agent and environment.
        console: where progress is shown; None: nowhere.

    Raises UsageError before anything starts, RunError where training had to stop.
    """
    options = options if isinstance(options, RunOptions) else run_options(options or {})
    env_options = env_options or {}
    agent_type = build.agent_class(agent)
    recipe = build.choose_recipe(agent_type, build.env_id(env), recipe)
    if isinstance(env, VectorEnv):
        recipe = recipe.but({"envs": env.num_envs})
    with _training_envs(env, recipe, options, env_options) as envs:
        learner = build.make_agent(agent_type, recipe, envs, options)
        taken = take_encoder(learner, recipe, options) if options.encoder_from else ""
        total = build.round_up(recipe.steps, learner.memory.quantum)
        learner.memory.allocate()
        if options.video:
            build.filmed_envs(env, options, env_options).close()
        config = {"agent": agent, "env": envs.id, "env_options": dict(env_options)}
        config["env_given"] = "name" if isinstance(env, str) else "object"
        config |= {**options.to_json(), "recipe": recipe.to_json()}
        name = run_name(agent, short_name(envs.id)) if name is None else name
        folder = RunFolder.create(Path(options.run_dir), name, config, envs.spec_json)
        if console:
            _announce(console, folder, learner, recipe, total, taken)
        with locked(folder.path):
            trainer = build.make_trainer(learner, envs, total, folder, env, options, env_options)
            trainer.metrics.text("config", _as_markdown(config))
            named = {key: config[key] for key in ("agent", "env", "seed")}
            trainer.metrics.hparams(named | recipe.to_json(), [EVALUATED])
            return _fit(trainer, console)


def resume(
    run: str | Path,
    steps: int | None = None,
    *,
    device: str | None = None,
    env: EnvLike | None = None,
    console: Console | None = None,
) -> Trained:
    """Go on with a run from its newest checkpoint, to `steps` environment steps in all.

    By default to where the run was going, and on its device; schedules stretch to a new end. A run
    on an environment from a file or a module names code outside the run: repeat it as `env`.

    Raises UsageError where the run is still being trained, or is complete.
    """
    folder = RunFolder.open(run)
    with locked(folder.path):
        return _resume(folder, steps, device, env, console)


def _resume(
    folder: RunFolder,
    steps: int | None,
    device: str | None,
    env: EnvLike | None,
    console: Console | None,
) -> Trained:
    told = build.settings(folder)
    recipe, options = told.recipe, replace(told.options, device=device or told.options.device)
    env = build.consented(env, folder)
    checkpoint = load_checkpoint(folder.path)
    with _training_envs(env, recipe, options, told.env_options, checkpoint.step) as envs:
        learner = build.make_agent(told.agent_type, recipe, envs, options)
        checkpoint.expect(about(learner))
        total: Any = checkpoint.tree.get("total")
        if steps is None and type(total) is not int:
            raise CheckpointError(
                f"{checkpoint.path}: does not say how far the run was going; give --steps"
            )
        if steps is not None:
            total = build.round_up(recipe.but({"steps": steps}).steps, learner.memory.quantum)
        if checkpoint.step > total or (
            checkpoint.step == total and _is_evaluated(folder, env, total)
        ):
            raise UsageError(
                f"{folder.path} is complete at {checkpoint.step} steps; "
                "to go on, give --steps a number above that"
            )
        learner.memory.allocate()
        trainer = build.make_trainer(
            learner, envs, total, folder, env, options, told.env_options, checkpoint.step
        )
        try:
            episodes_go_on = trainer.set_state(checkpoint.tree)
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
            console.print(f"going on with {folder.path} {what}")
            if not episodes_go_on:
                console.print(f"{envs.id} can't save its state: its episodes start afresh")
        return _fit(trainer, console)


def _is_evaluated(folder: RunFolder, env: EnvLike, total: int) -> bool:
    """Whether the evaluation at a run's end is on record; a kill may have come before it."""
    if isinstance(env, VectorEnv):  # of which there is none
        return True
    path = folder.path / METRICS
    lines = read_tail(path) if path.is_file() else []
    return any(line.get("step") == total and EVALUATED in line for line in lines)


def load(
    run: str | Path, *, best: bool = False, device: str = "cpu", env: EnvLike | None = None
) -> Policy:
    """A run's policy: from its newest checkpoint, or from the one that evaluated best.

    A run on an environment from a file or a module names code outside the run: repeat it as `env`.
    """
    folder = RunFolder.open(run)
    with restored(folder, 1, best, device, env) as (agent, envs):
        return Policy(agent, folder.config["env"], envs.obs_port, envs.action_port)


def evaluate(
    run: str | Path,
    episodes: int = 100,
    seed: int = 0,
    *,
    best: bool = False,
    device: str = "cpu",
    env: EnvLike | None = None,
    video: str | Path | None = None,
) -> Evaluation:
    """Play `episodes` greedy episodes with a run's policy, on environments seeded afresh.

    `video`: an MP4 file to be made of one more.
    """
    for name, value, low in (("episodes", episodes, 1), ("seed", seed, 0)):
        if value < low:
            raise UsageError(f"{name} (--{name}) is {value}; allowed: a whole number >= {low}")
    if video is not None and Path(video).suffix.lower() != ".mp4":
        raise UsageError(f"video (--video) is {str(video)!r}; allowed: a file name in .mp4")
    folder = RunFolder.open(run)
    env_seed = build.eval_seed(seed, 0)
    with restored(folder, min(episodes, build.EVAL_ENVS), best, device, env) as (agent, envs):
        if video is not None:
            told, on = build.settings(folder), build.consented(env, folder)
            env_options = evaluation_options(on, told.env_options)
            build.film(agent, on, told.options, env_options, env_seed, Path(video))
        return play(agent, envs, episodes, env_seed)


@contextmanager
def _training_envs(
    env: EnvLike,
    recipe: Recipe,
    options: RunOptions,
    env_options: Mapping[str, Any],
    start: int = 0,
) -> Iterator[Envs]:
    """A run's environments, and its number of threads for as long as they are open."""
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    blas = threadpool_limits(options.threads, user_api="blas")  # NumPy's
    seed = build.env_seed(options.seed, start)
    try:
        with build.open_envs(
            env, recipe.envs, seed, options, env_options, options.vectorization
        ) as envs:
            yield envs
    finally:
        torch.set_num_threads(threads)
        blas.restore_original_limits()


@contextmanager
def restored(
    folder: RunFolder, n: int, best: bool, device: str, env: EnvLike | None
) -> Iterator[tuple[Agent, Envs]]:
    """A run's agent with the weights of a checkpoint, and `n` environments to use it on."""
    told = build.settings(folder)
    env = build.consented(env, folder)
    checkpoint = load_checkpoint(folder.path, best=best, part=("agent", "weights"))
    env_options = evaluation_options(env, told.env_options)
    with build.open_envs(env, n, None, told.options, env_options) as envs:
        agent = build.make_agent(told.agent_type, told.recipe, envs, RunOptions(device=device))
        checkpoint.expect(about(agent))
        agent.load_weights(checkpoint.tree)
        yield agent, envs


def _fit(trainer: Trainer, console: Console | None) -> Trained:
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
    finally:
        trainer.metrics.close()
    return Trained(
        trainer.folder.path,
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


def _announce(
    console: Console, folder: RunFolder, agent: Agent, recipe: Recipe, total: int, taken: str
) -> None:
    quantum, env = agent.memory.quantum, folder.config["env"]
    usual = build.choose_recipe(type(agent), env, None).to_json()
    changed = {k: v for k, v in recipe.to_json().items() if v != usual[k] and k != "steps"}
    kind = "the recipe tuned for" if env in agent.recipes else "the default recipe on"
    but = " but " + ", ".join(f"{k} = {v}" for k, v in changed.items()) if changed else ""
    console.print(
        f"{agent.name} with {kind} {env}{but}: {total:,} steps on {recipe.envs} "
        f"environments, {agent.setting.device}"
    )
    if total != recipe.steps:
        console.print(
            f"{recipe.steps:,} steps were asked for; training goes in units of {quantum:,} steps, "
            f"so it takes {total:,}"
        )
    if taken:
        console.print(f"with {taken}")
    console.print(f"run folder: {folder.path}  (tensorboard --logdir {folder.path.parent})")


def _as_markdown(config: Mapping[str, Any]) -> str:
    rows = [(name, value) for name, value in config.items() if name != "recipe"]
    rows += [(f"recipe.{name}", value) for name, value in config["recipe"].items()]
    return "\n".join(["| option | value |", "|---|---|", *(f"| {n} | {v} |" for n, v in rows)])
