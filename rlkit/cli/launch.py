"""Whether this process is one of several that a launcher started; imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Iterable

import click

from rlkit.errors import UsageError

# Told by torchrun alone: clusters set RANK and WORLD_SIZE for other reasons, too.
_TORCHRUN = "TORCHELASTIC_RUN_ID"


def rank_options() -> list[click.Option]:
    """`--distributed` and `--rank-timeout`, of commands that several ranks may do together."""
    return [
        click.Option(
            ["--distributed"],
            is_flag=True,
            help="Be one of several ranks; without it, too, where torchrun started more than one.",
        ),
        click.Option(
            ["--rank-timeout"],
            type=float,
            metavar="S",
            help="As one of several ranks: seconds to wait for the others.  [default: 300]",
        ),
    ]


def several(distributed: bool) -> bool:
    """Whether a command is to be one of several ranks: it was asked for, or torchrun started more
    than this one."""
    if not (distributed or _among_several()):
        return False
    # torch would write a page for what becomes one line here
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return True


def refuse_several(command: str) -> None:
    """Raise UsageError where torchrun has started several processes of a command for one."""
    if _among_several():
        raise UsageError(
            f"torchrun has started {os.environ['WORLD_SIZE']} processes of 'rlkit {command}', "
            "which is for one; several train, resume and solve: start this without torchrun"
        )


def refuse_together(options: Iterable[str]) -> None:
    """Raise UsageError for the first of the options, which are for one process, if there is one."""
    for option in options:
        raise UsageError(
            f"{option} is for one process, and torchrun has started {os.environ['WORLD_SIZE']}, "
            f"which solve together on their CPUs; start this without torchrun, or leave {option} "
            "out"
        )


def _among_several() -> bool:
    return _TORCHRUN in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
