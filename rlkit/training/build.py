"""From names, recipes and options to the parts of a run: environments, agent, trainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from rlkit.agent import Agent, Setting
from rlkit.device.engine import Engine
from rlkit.device.names import device_for
from rlkit.envs.make import evaluation_options, make_envs, rendering_options
from rlkit.envs.names import resolve, runs_code
from rlkit.envs.pixels import Pixels
from rlkit.envs.vector import Envs
from rlkit.envs.workers import WorkerLimits
from rlkit.errors import RlkitWarning, RunError, UsageError
from rlkit.interval import Interval
from rlkit.networks.convs import warn_of_batch_norm
from rlkit.ranks import Ranks
from rlkit.recipe import Option, Recipe
from rlkit.registry import AGENTS, unknown
from rlkit.registry import load as load_target
from rlkit.run.files import read_json
from rlkit.run.folder import CONFIG, CONFIG_LIMIT, RunFolder
from rlkit.training.evaluation import Evaluation, play
from rlkit.training.exact_meter import Meter, ruler_for
from rlkit.training.options import RunOptions
from rlkit.training.parallel import Council
from rlkit.training.trainer import Plan, Trainer
from rlkit.training.transfer import encoders_frozen
from rlkit.training.video import FOLDER as VIDEOS
from rlkit.training.video import record, require_encoder

EnvLike = str | Callable[[], gym.Env[Any, Any]] | VectorEnv[Any, Any, Any]

EVALS_PER_RUN, CHECKPOINTS_PER_RUN = 5, 10
EVAL_ENVS = 100  # that play side by side, at most
FRAMES = 4  # that learning from pixels sees at once
EPISODES_ON_THE_WAY = 20  # of an evaluation before the last one


def agent_class(name: str) -> type[Agent]:
    """The class behind an agent's name; raises UsageError with the nearest names."""
    if name not in AGENTS:
        raise unknown("agent", name, AGENTS)
    loaded: type[Agent] = load_target(AGENTS[name].target)
    return loaded


def choose_recipe(
    agent_type: type[Agent], env_id: str, given: Recipe | Mapping[str, Any] | None
) -> Recipe:
    """The recipe given, or the one tuned for the environment (else the defaults) with changes."""
    if isinstance(given, Recipe):
        if not isinstance(given, agent_type.recipe_type):
            raise UsageError(
                f"the recipe is a {type(given).__name__}; {agent_type.name} takes "
                f"{agent_type.recipe_type.__name__}"
            )
        return given
    tuned = agent_type.recipes.get(env_id)
    recipe = tuned.recipe if tuned else defaults(agent_type)
    return recipe.but(given or {})


def defaults(agent_type: type[Agent]) -> Recipe:
    """The agent's recipe with every field at its default."""
    # Every field of a recipe has a default; the base class, which declares two, has none.
    recipe_type: Callable[[], Recipe] = agent_type.recipe_type
    return recipe_type()


def read_config(path: Path, allowed: Sequence[Option]) -> dict[str, Any]:
    """Recipe fields from a JSON file: an object of them, or a run's config.json.

    Raises UsageError for anything else, and for what is not `allowed`; executes nothing.
    """
    found = read_json(path, UsageError, CONFIG_LIMIT)
    recipe = found.get("recipe", found)
    if not isinstance(recipe, dict):
        raise UsageError(f"{path}: recipe is a {type(recipe).__name__}; allowed: an object")
    by_name = {option.name: option for option in allowed}
    try:
        for name, value in recipe.items():
            if name not in by_name:
                raise unknown("option", name, by_name)
            by_name[name].check(value)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return recipe


@dataclass(frozen=True)
class Settings:
    """What a run was told."""

    agent_type: type[Agent]
    recipe: Recipe
    options: RunOptions
    env_options: Mapping[str, Any]


def settings(folder: RunFolder) -> Settings:
    """What a run was told, by its config.json; raises UsageError where that doesn't say it."""
    config = folder.config
    options = {
        field.name: config[field.name] for field in fields(RunOptions) if field.name in config
    }
    try:
        agent_type = agent_class(str(config["agent"]))
        recipe = defaults(agent_type).but(config["recipe"])
        return Settings(agent_type, recipe, RunOptions(**options), dict(config["env_options"]))
    except UsageError as error:
        raise UsageError(f"{folder.path / CONFIG}: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{folder.path / CONFIG}: not as a run's config is written ({error!r}); undo what was "
            "changed in it"
        ) from None


def env_id(env: EnvLike) -> str:
    """What tuned recipes are looked up by."""
    if isinstance(env, str):
        return resolve(env).name
    spec = getattr(env, "spec", None)
    return spec.id if spec is not None else ""


def consented(env: EnvLike | None, folder: RunFolder) -> EnvLike:
    """The environment to use for a run: the one given, or the one the run names.

    A run may come from a stranger, so code that it names outside the registry is not imported
    unless the caller names it too.
    """
    if env is not None:
        return env
    name = str(folder.config.get("env"))
    if folder.config.get("env_given") != "name":
        raise UsageError(
            f"{folder.path} was trained on an environment that your own code made ({name}); "
            "pass it again as env"
        )
    if runs_code(name):
        raise UsageError(
            f"{folder.path} was trained on {name}, which is code outside the run; "
            f"repeat it to load it: --env {name}"
        )
    try:
        return resolve(name).name
    except UsageError:
        raise UsageError(
            f"{folder.path} was trained on {name}, which is no registered environment; "
            "pass the environment it was trained on as env (--env)"
        ) from None


def seeds(seed: int, rank: int = 0) -> dict[str, int]:
    """Independent seeds for the parts of a run; all but the weights' are a rank's own."""
    drawn = _entropy(seed, rank).generate_state(3)
    own = dict(zip(("weights", "agent", "envs"), map(int, drawn), strict=True))
    return own if rank == 0 else own | {"weights": seeds(seed)["weights"]}


def env_seed(seed: int, start: int, rank: int = 0) -> int:
    """The seed of a rank's environments in a run that begins, or is resumed, at step `start`.

    Environments that can't be restored would else begin with the same episodes once more.
    """
    if start == 0:
        return seeds(seed, rank)["envs"]
    return int(_entropy([seed, start, 2], rank).generate_state(1)[0])


def _entropy(told: int | list[int], rank: int) -> np.random.SeedSequence:
    """Each rank's own; rank 0's is that of a process that trains alone."""
    return np.random.SeedSequence(told, spawn_key=(rank,) if rank else ())


def eval_seed(seed: int, step: int) -> int:
    """The seed of the environments of an evaluation: never one that training has used."""
    return int(np.random.SeedSequence([seed, step, 1]).generate_state(1)[0])


def open_envs(
    env: EnvLike,
    n: int,
    seed: int | None,
    options: RunOptions,
    env_options: Mapping[str, Any],
    vectorization: Any = "auto",
) -> Envs:
    """`n` environments as a run was told to see them."""
    pixels, stack = None, options.frame_stack
    if options.pixels:
        pixels, stack = Pixels(frame_stack=stack or FRAMES), 1
    limits = WorkerLimits(options.env_timeout, options.restart_workers)
    return make_envs(
        env,
        n,
        seed,
        vectorization,
        options.strict,
        env_options,
        pixels,
        max(1, stack),
        limits,
        options.device,
    )


def make_agent(
    agent_type: type[Agent],
    recipe: Recipe,
    envs: Envs,
    options: RunOptions,
    ranks: Ranks | None = None,
) -> Agent:
    """A new agent for these environments, its weights drawn from the run's seed."""
    if envs.device is not None and AGENTS[agent_type.name].tabular:
        raise UsageError(
            f"vectorization (--vectorization) is device, and {agent_type.name} keeps its table on "
            "the host; use model, or auto"
        )
    for name, on in (("compile", options.compile), ("bf16", options.bf16)):
        if on and not agent_type.is_compiled:
            raise UsageError(
                f"{name} (--{name}) is on, and {agent_type.name} does not go by it; leave it out"
            )
    parts = seeds(options.seed, 0 if ranks is None else ranks.rank)
    setting = Setting(
        envs.obs_space,
        envs.action_space,
        envs.n,
        device_for(options.device),
        parts["agent"],
        envs.frame_stack,
        ranks,
        Engine(options.graphs, options.compile, options.bf16),
    )
    # the caller's random stream stays as it is
    with torch.random.fork_rng(devices=[]), encoders_frozen(options.freeze_encoder):
        torch.default_generator.manual_seed(parts["weights"])
        build: Callable[[Setting, Recipe], Agent] = agent_type
        agent = build(setting, recipe)
    warn_of_batch_norm(agent)
    return agent


def run_config(
    agent: str,
    env: EnvLike,
    env_id: str,
    env_options: Mapping[str, Any],
    options: RunOptions,
    recipe: Recipe,
) -> dict[str, Any]:
    """What a run was told, for its config.json: `settings` reads it back."""
    return {
        "agent": agent,
        "env": env_id,
        "env_options": dict(env_options),
        "env_given": "name" if isinstance(env, str) else "object",
        **options.to_json(),
        "recipe": recipe.to_json(),
    }


def plan(total: int, quantum: int, options: RunOptions) -> Plan:
    every = options.save_every
    return Plan(
        total,
        eval_every=options.eval_every or -(-total // EVALS_PER_RUN),
        save_every=every if every.amount else Interval(-(-total // CHECKPOINTS_PER_RUN)),
        quantum=quantum,
    )


def round_up(steps: int, quantum: int) -> int:
    """The least multiple of `quantum` that is not below `steps`."""
    return -(-steps // quantum) * quantum


def make_trainer(
    agent: Agent,
    envs: Envs,
    total: int,
    folder: RunFolder,
    env: EnvLike,
    options: RunOptions,
    env_options: Mapping[str, Any],
    start: int | None = None,
    council: Council | None = None,
) -> Trainer:
    """The trainer of a run; it evaluates on environments of its own, where they can be made.

    `start`: the step that it is resumed from; None: it is new.
    """

    def evaluate(step: int, look_up: Callable[[], None]) -> Evaluation:
        episodes = options.eval_episodes
        if step < total:
            episodes = min(episodes, EPISODES_ON_THE_WAY)
        seed = eval_seed(options.seed, step)
        n, vectorization = min(episodes, EVAL_ENVS), _eval_vectorization(options)
        told = evaluation_options(env, env_options)
        with open_envs(env, n, seed, options, told, vectorization) as envs:
            evaluation = play(agent, envs, episodes, seed, look_up)
        if options.video:
            path = folder.path / VIDEOS / f"step-{step:012d}.mp4"
            try:
                if path.parent.is_symlink():
                    raise RunError(f"{path.parent} is a link: no video is written through it")
                film(agent, env, options, told, seed, path, look_up)
            except RunError as error:  # a full disk stops no training
                warnings.warn(str(error), RlkitWarning, stacklevel=2)
        return evaluation

    can_evaluate = not isinstance(env, VectorEnv)
    ranks = 1 if council is None else council.ranks.size
    how_far, exact = plan(total, ranks * agent.memory.quantum, options), None
    if options.exact and (council is None or council.leads):
        make = partial(ruler_for, agent, env, options, env_options)
        exact = Meter(make, agent, ranks * envs.n, total, how_far.log_every)
    judge = evaluate if can_evaluate else None
    return Trainer(agent, envs, how_far, folder, judge, start, exact, council)


def film(
    agent: Agent,
    env: EnvLike,
    options: RunOptions,
    env_options: Mapping[str, Any],
    seed: int,
    path: Path,
    look_up: Callable[[], None] = lambda: None,
) -> None:
    """Play one greedy episode into an MP4 file.

    Raises UsageError where that can't be, RunError where the file can't be written.
    """
    with filmed_envs(env, options, env_options) as envs:
        record(agent, envs, seed, path, look_up)


def filmed_envs(env: EnvLike, options: RunOptions, env_options: Mapping[str, Any]) -> Envs:
    """One environment that draws; raises UsageError where it doesn't, or nothing can encode it."""
    require_encoder()
    if isinstance(env, VectorEnv):
        raise UsageError("a vector environment of your own can't be filmed; leave --video out")
    envs = open_envs(env, 1, None, options, rendering_options(env, env_options), "sync")
    if not envs.draws:
        envs.close()
        raise UsageError(
            f"env {envs.id} draws nothing to record; make it with render_mode='rgb_array', or "
            "leave --video out"
        )
    return envs


def _eval_vectorization(options: RunOptions) -> Any:
    """Evaluation plays in this process: a hundred workers for a hundred episodes are too many.

    What was learned on a device shows itself on the environment as everybody has it.
    """
    instead = {"async": "sync", "device": "auto"}
    return instead.get(options.vectorization, options.vectorization)
