"""The command line: one file per command, imported when it is called for."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Any, NoReturn

import click

import rlkit
from rlkit.cli.launch import refuse_several
from rlkit.cli.streams import enduring, printable
from rlkit.errors import RlkitError
from rlkit.registry import unknown
from rlkit.run.signals import Terminated, terminable

COMMANDS = {
    "solve": "Solve a finite MDP exactly, with certified bounds.",
    "train": "Train an agent on an environment.",
    "sweep": "Train over many settings and seeds, each run a process.",
    "tune": "Search for a better recipe, with Optuna.",
    "resume": "Go on with a run from its newest checkpoint.",
    "evaluate": "Play a run's policy greedily and report its returns.",
    "compare": "Compare runs over their seeds, as a table and as curves.",
    "check": "Try an environment out, and report what is wrong with it.",
    "export": "Write a run's policy to a file that runs without rlkit.",
    "list": "List agents, solvers, models, environments or runs.",
}


ON_RANKS = ("solve", "train", "resume")  # that several processes may do together


class LazyCommands(click.Group):
    """`rlkit NAME` lives in rlkit/cli/NAME.py as `command`; help lists names without importing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]  # `list` is rlkit/cli/list.py here, once that is imported

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        if name not in ON_RANKS:
            refuse_several(name)
        module = importlib.import_module(f"rlkit.cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rlkit.__version__, prog_name="rlkit")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Exact and deep reinforcement learning under one roof."""


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a run failed, 2 bad usage, 130 or 143 stopped."""
    args = sys.argv[1:] if args is None else args
    debug = args[:1] == ["--debug"]
    warnings.showwarning = _show_warning
    _draw_without_screen()
    try:
        with terminable():
            status = cli.main(args, prog_name="rlkit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:
        told = str(stop.__cause__ or stop)  # click turns a KeyboardInterrupt into an Abort
        _fail(f"stopped: {told}" if told else "stopped", 130)
    except Terminated:
        _fail("stopped", 143)
    except RlkitError as error:
        if debug:
            raise
        _fail(str(error), error.exit_status)
    except Exception as error:
        if debug:
            raise
        name = type(error).__name__
        _fail(f"{name}: {error} ('rlkit --debug ...' shows where it came from)", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _draw_without_screen() -> None:
    """Where there is no screen, SDL writes an error for each environment that looks for one."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(map(os.environ.get, screens)):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _fail(message: str, status: int) -> NoReturn:
    _say(f"Error: {_one_line(message)}")
    sys.exit(status)


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    _say(f"Warning: {_one_line(str(message))}")


def _say(line: str) -> None:
    """A line on standard error, which may be closed or full: the run, and its status, matter."""
    if sys.stderr is not None:
        click.echo(line, file=enduring(sys.stderr))


def _one_line(message: str) -> str:
    """What others wrote, such as a space of many dimensions, may run over several lines."""
    return printable(" ".join(message.split()))
