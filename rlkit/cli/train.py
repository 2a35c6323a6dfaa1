"""`rlkit train AGENT ENV`: one sub-command per agent, its options read from the agent's recipe."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlkit.cli.exact import exact_json, exact_line
from rlkit.cli.launch import rank_options, several
from rlkit.cli.output import console, emit_json, json_option
from rlkit.errors import UsageError
from rlkit.recipe import Option, options, read_options
from rlkit.registry import AGENTS, unknown
from rlkit.training.options import RunOptions

if TYPE_CHECKING:
    from rich.console import Console

    from rlkit.ranks import Ranks
    from rlkit.training.api import Trained

ENV_HELP = "a name (see 'rlkit list envs'), an id, module:EnvId, module:Class or file.py:Class"


def whole(text: str) -> int:
    """A whole number, also as 1e5; raises ValueError for other text."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not value.is_integer():
            raise
        return int(value)


READERS: dict[str, tuple[str, Callable[[str], Any]]] = {  # by type: how help calls it, a reader
    "int": ("integer", whole),
    "float": ("float", float),
    "str": ("text", str),
    "Schedule": ("schedule", str),
    "Interval": ("steps|time", str),
    "tuple[int, ...]": ("widths", lambda text: tuple(map(int, text.split(",")))),
}


class FieldValue(click.ParamType[Any]):
    """The value of a recipe's field: what is no such value is refused in the field's words."""

    def __init__(self, option: Option) -> None:
        self.option = option
        name, self._read = READERS[option.type]
        self.name = name

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            read = self._read(value)
        except ValueError:
            read = value
        return self.option.check(read)


def as_click(option: Option) -> click.Option:
    """A recipe's field as a command-line option; absent where it is not given."""
    shown = ",".join(map(str, option.default)) if type(option.default) is tuple else option.default
    allowed = "" if option.choices or option.type == "bool" else f"; {option.allowed}"
    help = f"{option.help}  [default: {'none' if shown == '' else shown}{allowed}]"
    if option.type == "bool":
        no = f"{option.flag}/--no-{option.flag[2:]}"
        return click.Option([no, option.name], default=None, help=help)
    metavar = "|".join(option.choices) if option.choices else None
    return click.Option(
        [option.flag, option.name], type=FieldValue(option), metavar=metavar, help=help
    )


class AgentCommands(click.Group):
    """One sub-command for each agent of the registry; lists them without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(AGENTS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return agent_command(name) if name in AGENTS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in AGENTS and not args[0].startswith("-"):
            error = unknown("agent", args[0], AGENTS)
            raise UsageError(f"{error}; the agent comes first: rlkit train a2c CartPole")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Agents"):
            formatter.write_dl([(name, entry.summary) for name, entry in AGENTS.items()])


@click.group(cls=AgentCommands, subcommand_metavar="AGENT ENV [OPTIONS]")
def command() -> None:
    """Train an agent on an environment.

    \b
    rlkit train a2c CartPole
    rlkit train dqn CartPole --steps 60000 --seed 1
    rlkit train a2c --help         every hyperparameter, with its default
    """


def agent_command(agent: str) -> click.Command:
    recipe_options = read_options(AGENTS[agent].target)
    names = {option.name for option in recipe_options}

    def run(
        env: str,
        config: Path | None,
        env_option: Any,
        distributed: bool,
        rank_timeout: float | None,
        as_json: bool,
        **given: Any,
    ) -> int:
        changed = {name: value for name, value in given.items() if value is not None}
        recipe = {name: value for name, value in changed.items() if name in names}
        run_options = {name: value for name, value in changed.items() if name not in names}
        checked = RunOptions(**run_options)
        env_options = dict(env_option)
        if several(distributed):
            from rlkit.cli.ranks import on_ranks  # imports torch

            return on_ranks(
                lambda ranks: _train(
                    agent, env, config, recipe, checked, env_options, as_json, ranks
                ),
                rank_timeout,
            )
        return _train(agent, env, config, recipe, checked, env_options, as_json, None)

    recipe_parameters = [as_click(option) for option in recipe_options]
    return json_option(
        click.Command(
            agent,
            callback=run,
            help=f"Train {agent} ({AGENTS[agent].summary}) on ENV: {ENV_HELP}.\n\nWithout options, "
            "an environment with a tuned recipe gets that one; the defaults below are for others.",
            params=[
                click.Argument(["env"]),
                *recipe_parameters,
                *map(as_click, options(RunOptions)),
                click.Option(
                    ["--config"],
                    type=click.Path(path_type=Path),
                    help="JSON file of hyperparameters, or a run's config.json; options win",
                ),
                click.Option(
                    ["--env-option"],
                    multiple=True,
                    type=EnvOption(),
                    help="argument of the environment's constructor, such as size=5 (repeatable)",
                ),
                *rank_options(),
            ],
        )
    )


class EnvOption(click.ParamType[Any]):
    """NAME=VALUE with a Python literal as value; never evaluated."""

    name = "name=value"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
        name, equals, text = value.partition("=")
        if not (name.isidentifier() and equals):
            self.fail(f"{value!r}: give NAME=VALUE, such as size=5")
        try:
            return name, ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return name, text  # a word stands for itself
        except (MemoryError, RecursionError):
            self.fail(f"{value[:40]!r}...: the value is nested too deeply")


def _train(
    agent: str,
    env: str,
    config: Path | None,
    recipe: dict[str, Any],
    options: RunOptions,
    env_options: dict[str, Any],
    as_json: bool,
    ranks: Ranks | None,
) -> int:
    out = console(as_json, endures=True)
    from rlkit.training.api import train  # imports torch
    from rlkit.training.build import read_config

    fields = read_config(config, read_options(AGENTS[agent].target)) if config else {}
    done = train(
        agent,
        env,
        fields | recipe,
        options,
        env_options=env_options,
        console=out if leads(ranks) else None,
        ranks=ranks,
    )
    return report(done, out, as_json) if leads(ranks) else done.exit_status


def leads(ranks: Ranks | None) -> bool:
    """Whether it is for this process to speak."""
    return ranks is None or ranks.rank == 0


def report(done: Trained, out: Console, as_json: bool) -> int:
    """Say what came of a training; the exit status, which is a signal's if one came."""
    evaluation = done.evaluation
    rate = f"{done.steps:,} steps, {done.seconds:.1f} s of training"
    if evaluation:
        threshold = done.reward_threshold
        verdict = ""
        if threshold is not None:
            solved = "solved" if evaluation.mean >= threshold else "not solved"
            verdict = f": {solved} (threshold {threshold:g})"
        out.print(
            f"greedy return {evaluation.mean:.2f} ± {evaluation.std:.2f} over "
            f"{len(evaluation.returns)} fresh episodes{verdict}"
        )
        if done.saved_step == done.steps:
            out.print(f"{rate}; look at it: {_evaluate(done)}")
        else:
            kept = "nothing" if done.saved_step is None else f"step {done.saved_step:,}"
            out.print(f"{rate}; the last of them could not be saved: {kept} is")
    elif done.exit_status:
        _report_stop(done, out)
    else:
        out.print(f"{rate}, saved in {done.run}")
    _report_exact(done, out)
    if as_json:
        emit_json(
            {
                "run": str(done.run),
                "agent": done.agent.name,
                "env": done.env,
                "steps": done.steps,
                "seconds": done.seconds,
                "final_return": evaluation.mean if evaluation else None,
                **({"exact": exact_json(done.exact)} if done.exact else {}),
            }
        )
    return done.exit_status


def _evaluate(done: Trained) -> str:
    from rlkit.run.folder import RunFolder
    from rlkit.training.resumption import command

    return command("evaluate", RunFolder.open(done.run))


def _report_exact(done: Trained, out: Console) -> None:
    if done.exact:
        out.print(f"{exact_line(done.exact)}; all of it: {_evaluate(done)} --exact")
    elif done.exact_problem:
        out.print(f"exact value: {done.exact_problem}")


def _report_stop(done: Trained, out: Console) -> None:
    if done.saved_step != done.steps:
        kept = "nothing" if done.saved_step is None else f"step {done.saved_step:,}"
        out.print(f"stopped at step {done.steps:,}, which could not be saved: {kept} is")
    elif done.complete:
        out.print(f"stopped in the evaluation of a complete run: {_evaluate(done)}")
    else:
        out.print(f"stopped at step {done.steps:,} and saved; go on with: {done.resume_command}")
