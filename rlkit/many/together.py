"""Many seeds in one process: `rlkit sweep --together`, by `rlkit.population`; imports torch.

What comes of each seed is a run like any other, to be evaluated, compared or resumed by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlkit.envs.vector import Envs
from rlkit.errors import UsageError
from rlkit.experience.placing import require_there
from rlkit.footprint import member_bytes
from rlkit.many.batch import DONE, FAILED, STOPPED, Ledger, Record, in_words
from rlkit.many.board import Board, Row
from rlkit.many.child import Training, interrupted
from rlkit.many.jobs import Job
from rlkit.networks.distributions import policy_for
from rlkit.networks.features import NO_CORE
from rlkit.population import Population
from rlkit.run.checkpoint import load_checkpoint
from rlkit.run.folder import RunFolder
from rlkit.run.lock import locked
from rlkit.run.metrics import EVALUATED
from rlkit.run.signals import StopSignals
from rlkit.training import build
from rlkit.training.options import RunOptions
from rlkit.training.trainer import Trainer

ABLE = ("ppo",)  # agents whose updates are functions of tensors
UNABLE = ("compile", "bf16", "encoder_from", "eval_every", "save_every")  # options
MOST = 1024  # seeds at once, unless --jobs says otherwise
NAN_LOSS = "the loss overflowed; scale the rewards down or lower the learning rate"


@dataclass
class Member:
    """A seed: its job, and its run as a trainer that is left to save and to evaluate."""

    job: Job
    trainer: Trainer
    mean_return: float | None = None  # of the episodes that ended last
    alive: bool = True


def check_together(
    training: Training, grid: Sequence[Mapping[str, Any]], seeds: int, at_once: int | None
) -> None:
    """Raise UsageError, before anything starts, for what can't be trained together.

    Args: how many `seeds` each setting of the grid has; `at_once`: see `run_together`.
    """
    agent, env = training.agent, training.env
    if agent not in ABLE:
        raise UsageError(
            f"{agent} can't be trained with --together; allowed: {', '.join(ABLE)}; leave it out"
        )
    for changes in grid:
        told = build.choose_recipe(build.agent_class(agent), env, changes).to_json()
        for name, off in (("core", NO_CORE), ("target_kl", 0.0)):
            if told[name] != off:
                raise UsageError(
                    f"{name} (--set {name}) is {told[name]}, which --together can't do; allowed: "
                    f"{off}; or leave --together out"
                )
    options, usual = RunOptions(**training.options), RunOptions()
    for name in UNABLE:
        if (value := getattr(options, name)) != getattr(usual, name):
            raise UsageError(
                f"{name} (--{name.replace('_', '-')}) is {value}, which --together can't do; leave "
                "one of them out"
            )
    with build.open_envs(env, 1, None, options, training.env_options, "device") as envs:
        if any(True for _ in policy_for(envs.action_space).parameters()):
            raise UsageError(
                f"--together can't do the actions {envs.action_space} of {envs.id}; allowed: "
                "Discrete, MultiDiscrete, MultiBinary; leave it out"
            )
        for changes in grid:
            _require_room(training, changes, options, envs, min(seeds, at_once or MOST))


def _require_room(
    training: Training, changes: Mapping[str, Any], options: RunOptions, envs: Envs, n: int
) -> None:
    """Raise UsageError where `n` seeds of a setting don't fit into the device's memory."""
    agent_type = build.agent_class(training.agent)
    recipe = build.choose_recipe(agent_type, training.env, changes)
    one: Any = build.make_agent(agent_type, recipe, envs, options)
    shown: Any = envs
    each = member_bytes(one, shown.obs, shown.mask) + recipe.envs * shown.bytes_each
    require_there(
        n * each,
        shown.device,
        f"{n:,} seeds learn at a time (--jobs)",
        "their weights, rollouts and minibatches",
        lambda free: f"{int(free // each):,}",
    )


def run_together(
    home: Path,
    jobs: Sequence[Job],
    at_once: int | None,
    ledger: Ledger,
    board: Board,
    stop: StopSignals,
) -> None:
    """Train the jobs, whose runs lie in `home`, those of one recipe together; `stop` has them save.

    `at_once`: the most seeds that learn together.
    """
    done = 0
    for group in _groups(jobs, at_once or MOST):
        if stop.received:
            return
        with _members(home, group) as members:
            seconds = _fit(members, board, stop)
            for member, share in zip(members, seconds, strict=True):
                record = _finished(member, share, stop)
                ledger.put(member.job.name, record)
                done += 1
                board.event(f"{member.job.name}: {in_words(record)}  ({done} of {len(jobs)})")


def _groups(jobs: Sequence[Job], most: int) -> Iterator[Sequence[Job]]:
    """Jobs of one recipe, at most so many of them."""
    by_recipe: dict[str, list[Job]] = {}
    for job in jobs:
        by_recipe.setdefault(str(job.document["recipe"]), []).append(job)
    for group in by_recipe.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


@contextmanager
def _members(home: Path, group: Sequence[Job]) -> Iterator[Sequence[Member]]:
    """The group's runs, new or to be gone on with; nobody else trains them meanwhile."""
    with ExitStack() as open_for_all:
        members = [Member(job, _trainer(home, job, open_for_all)) for job in group]
        yield members


def _trainer(home: Path, job: Job, open_for_all: ExitStack) -> Trainer:
    told: Mapping[str, Any] = job.document
    agent_type, env = build.agent_class(told["agent"]), told["env"]
    recipe = build.choose_recipe(agent_type, env, told["recipe"])
    options, env_options = RunOptions(**told["options"]), told["env_options"]
    run = interrupted(home, {**told, "recipe": recipe.to_json()})
    checkpoint = None if run is None else load_checkpoint(run.path)
    start = None if checkpoint is None else checkpoint.step
    seed = build.env_seed(options.seed, start or 0)
    envs = open_for_all.enter_context(
        build.open_envs(env, recipe.envs, seed, options, env_options, options.vectorization)
    )
    learner = build.make_agent(agent_type, recipe, envs, options)
    total = build.round_up(recipe.steps, learner.memory.quantum)
    learner.memory.allocate()
    if run is None:
        config = build.run_config(told["agent"], env, envs.id, env_options, options, recipe)
        run = RunFolder.create(home, told["name"], config, envs.spec_json)
    open_for_all.enter_context(locked(run.path))
    trainer = build.make_trainer(learner, envs, total, run, env, options, env_options, start)
    open_for_all.callback(trainer.metrics.close)
    if checkpoint is None:
        named = {name: told[name] for name in ("agent", "env")} | {"seed": options.seed}
        trainer.metrics.hparams(named | recipe.to_json(), [EVALUATED])
    else:
        trainer.set_state(checkpoint.tree)
    return trainer


def _fit(members: Sequence[Member], board: Board, stop: StopSignals) -> Sequence[float]:
    """Train the members to the end, or as far as `stop` lets them; each one's seconds."""
    seconds = dict.fromkeys((member.job.name for member in members), 0.0)
    for step in sorted({member.trainer.steps for member in members}):
        level = [member for member in members if member.trainer.steps == step]
        since = time.perf_counter()
        _train_level(level, board, stop)
        share = (time.perf_counter() - since) / len(level)
        seconds |= {member.job.name: share for member in level}
    return [seconds[member.job.name] for member in members]


def _train_level(members: Sequence[Member], board: Board, stop: StopSignals) -> None:
    """Train members that are all at one step."""
    first = members[0].trainer
    total, every, options = first.plan.total, first.plan.log_every, _options(members[0])
    if first.steps >= total:
        return
    agents: Sequence[Any] = [member.trainer.agent for member in members]
    seed = build.env_seed(_options(members[0]).seed, first.steps)
    told = members[0].job.document
    with (
        _one_thread(options),
        build.open_envs(
            *(told["env"], first.envs.n * len(members), seed, options, told["env_options"]),
            options.vectorization,
        ) as envs,
    ):
        envs.reset()
        population = Population(agents, envs, options.graphs)  # type: ignore[arg-type]
        since, log_at = time.perf_counter(), first.steps
        while first.steps < total and not stop.received:
            losses = population.iterate(first.steps / total)
            for member in members:
                member.trainer.steps += population.quantum
            if first.steps >= log_at or first.steps >= total:
                log_at = first.steps + every
                fps = first.steps / (time.perf_counter() - since)
                _log(members, population, losses, fps)
                rows = [_row(member, time.perf_counter() - since) for member in members]
                board.show(f"{len(members)} runs together", rows)
        population.store()
        for member, alive in zip(members, population.alive.tolist(), strict=True):
            member.alive = alive


def _log(
    members: Sequence[Member],
    population: Population,
    losses: Mapping[str, torch.Tensor],
    fps: float,
) -> None:
    """Write down where all members are, by the episodes that have ended since the last time."""
    count, returns, lengths = population.stats.tolist()
    population.stats.zero_()
    told = {name: values.tolist() for name, values in losses.items()}
    for i, member in enumerate(members):
        scalars = {f"train/{name}": values[i] for name, values in told.items()}
        scalars["time/fps"] = fps  # of each of them, while all go on together
        if count[i]:
            member.mean_return = returns[i] / count[i]
            scalars["rollout/ep_rew_mean"] = member.mean_return
            scalars["rollout/ep_len_mean"] = lengths[i] / count[i]
            member.trainer.metrics.episode(
                member.trainer.steps, member.mean_return, lengths[i] / count[i]
            )
        member.trainer.metrics.scalars(member.trainer.steps, scalars)


def _row(member: Member, seconds: float) -> Row:
    trainer = member.trainer
    return Row(member.job.name, trainer.steps, trainer.plan.total, member.mean_return, seconds)


def _finished(member: Member, seconds: float, stop: StopSignals) -> Record:
    """Save the member's run, and evaluate it where it is at its end."""
    trainer, run = member.trainer, str(member.trainer.folder.path)
    if not member.alive:
        return Record(FAILED, run, trainer.steps, seconds, error=NAN_LOSS)
    trainer.agent.clock.progress = trainer.steps / trainer.plan.total
    trainer.save()
    if trainer.steps < trainer.plan.total or stop.received:
        return Record(STOPPED, run, trainer.steps, seconds)
    evaluation = trainer.evaluate_now()
    final = None if evaluation is None else evaluation.mean
    return Record(DONE, run, trainer.steps, seconds, final)


def _options(member: Member) -> RunOptions:
    return RunOptions(**member.job.document["options"])


@contextmanager
def _one_thread(options: RunOptions) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
