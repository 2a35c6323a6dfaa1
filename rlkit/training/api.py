"""Training as a library: `rlkit.train`, `rlkit.resume`, `rlkit.load`, `rlkit.evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

from rlkit.agent import Agent
from rlkit.envs.make import evaluation_options
from rlkit.envs.names import short_name
from rlkit.envs.vector import Envs
from rlkit.errors import UsageError
from rlkit.ranks import Ranks
from rlkit.recipe import Recipe
from rlkit.run.checkpoint import load_checkpoint
from rlkit.run.folder import RunFolder, run_name
from rlkit.run.lock import locked
from rlkit.run.metrics import EVALUATED
from rlkit.training import build
from rlkit.training.build import EnvLike
from rlkit.training.evaluation import Evaluation, play
from rlkit.training.options import RunOptions, run_options
from rlkit.training.parallel import (
    RUN,
    Council,
    check_agent,
    check_alike,
    equalize,
    own_folder,
    placed,
)
from rlkit.training.policy import Policy
from rlkit.training.resuming import resume as resume
from rlkit.training.running import Trained as Trained
from rlkit.training.running import counted, fit, training_envs
from rlkit.training.trainer import about
from rlkit.training.transfer import take_encoder

if TYPE_CHECKING:
    from rich.console import Console


def train(
    agent: str,
    env: EnvLike,
    recipe: Recipe | Mapping[str, Any] | None = None,
    options: RunOptions | Mapping[str, Any] | None = None,
    *,
    env_options: Mapping[str, Any] | None = None,
    name: str | None = None,
    console: Console | None = None,
    ranks: Ranks | None = None,
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
        ranks: the processes that train together, of `rlkit.distributed.join`; each of them makes
            this call, and only rank 0 shows progress and evaluates. Where torchrun has started
            them anew, they go on with the run that they had begun. None: this process alone.

    Raises UsageError before anything starts, RunError where training had to stop.
    """
    options = options if isinstance(options, RunOptions) else run_options(options or {})
    asked = _Asked(agent, env, options, env_options or {}, name)
    if ranks is None:
        return _train(asked, recipe, console, None)
    with ranks.telling():
        if run := ranks.recalled(RUN):
            return resume(run, env=env, console=console, ranks=ranks)
        return _train(asked, recipe, console, ranks)


@dataclass(frozen=True)
class _Asked:
    agent: str
    env: EnvLike
    options: RunOptions
    env_options: Mapping[str, Any]
    name: str | None


def _train(
    asked: _Asked,
    recipe: Recipe | Mapping[str, Any] | None,
    console: Console | None,
    ranks: Ranks | None,
) -> Trained:
    agent, env, env_options = asked.agent, asked.env, asked.env_options
    options = placed(asked.options, ranks)
    agent_type = build.agent_class(agent)
    if ranks is not None:
        check_agent(agent, ranks)
    recipe = build.choose_recipe(agent_type, build.env_id(env), recipe)
    if isinstance(env, VectorEnv):
        recipe = recipe.but({"envs": env.num_envs})
    with training_envs(env, recipe, options, env_options, ranks) as envs:
        learner = build.make_agent(agent_type, recipe, envs, options, ranks)
        taken = take_encoder(learner, recipe, options) if options.encoder_from else ""
        equalize(learner, ranks)
        size = 1 if ranks is None else ranks.size
        total = build.round_up(recipe.steps, size * learner.memory.quantum)
        learner.memory.allocate()
        if options.video:
            build.filmed_envs(env, options, env_options).close()
        config = build.run_config(agent, env, envs.id, env_options, asked.options, recipe)
        name = run_name(agent, short_name(envs.id)) if asked.name is None else asked.name
        folder = _new_folder(Path(options.run_dir), name, config, envs.spec_json, ranks)
        if console:
            _announce(console, folder, learner, recipe, total, taken, size)
        council = None if ranks is None else Council(ranks)
        with locked(folder.path):
            trainer = build.make_trainer(
                learner, envs, total, folder, env, options, env_options, None, council
            )
            trainer.metrics.text("config", _as_markdown(config))
            named = {key: config[key] for key in ("agent", "env", "seed")}
            trainer.metrics.hparams(named | recipe.to_json(), [EVALUATED])
            return fit(trainer, console)


def _new_folder(
    run_dir: Path, name: str, config: dict[str, Any], spec: str | None, ranks: Ranks | None
) -> RunFolder:
    """A new run's folder or, for ranks but the first, the rank's own in it."""
    if ranks is None:
        return RunFolder.create(run_dir, name, config, spec)
    config["ranks"] = ranks.size
    check_alike(config, ranks)
    if ranks.rank == 0:
        folder = RunFolder.create(run_dir, name, config, spec)
        ranks.first_text(str(folder.path))
        return folder
    return own_folder(Path(ranks.first_text("")), config, ranks.rank)


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


def _announce(
    console: Console,
    folder: RunFolder,
    agent: Agent,
    recipe: Recipe,
    total: int,
    taken: str,
    size: int,
) -> None:
    quantum, env = size * agent.memory.quantum, folder.config["env"]
    usual = build.choose_recipe(type(agent), env, None).to_json()
    changed = {k: v for k, v in recipe.to_json().items() if v != usual[k] and k != "steps"}
    on = f" of each of {counted(size)}" if size > 1 else ""
    kind = "the recipe tuned for" if env in agent.recipes else "the default recipe on"
    but = " but " + ", ".join(f"{k} = {v}" for k, v in changed.items()) if changed else ""
    console.print(
        f"{agent.name} with {kind} {env}{but}: {total:,} steps on {recipe.envs} "
        f"environments{on}, {agent.setting.device}"
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
