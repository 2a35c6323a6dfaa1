"""A command as one of several processes that work as one.

This module imports torch; commands import it only where there are ranks.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import click

from rlkit.distributed import TIMEOUT, join
from rlkit.errors import RlkitError
from rlkit.ranks import LostRankError, MissingRankError, Ranks
from rlkit.run.signals import Terminated


def on_ranks(work: Callable[[Ranks], int], rank_timeout: float | None) -> int:
    """Do the work as this rank of the job that the environment variables name; the exit status.

    One rank tells what ends all of them: rank 0, unless that is what is lost.
    """
    try:
        ranks = join(TIMEOUT if rank_timeout is None else rank_timeout)
    except MissingRankError as error:
        if os.environ["RANK"] != "0" and 0 not in error.ranks:
            return error.exit_status
        raise
    try:
        with ranks.telling():
            return work(ranks)
    except RlkitError as error:
        _outlive_torchrun()
        speaks, told = ranks.speaks_after(error)
        if speaks:
            raise told from error
        return error.exit_status
    except KeyboardInterrupt:
        if ranks.rank == 0:
            raise
        return 130
    except Terminated as stop:
        _outlive_torchrun()
        speaks, told = ranks.speaks_after(_loss_before(stop))
        if speaks:
            click.echo(f"Error: {told}", err=True)
        return 143
    finally:
        ranks.leave()


def _loss_before(stop: BaseException) -> LostRankError:
    """The loss that was being told as SIGTERM came: torchrun sends it when one rank is lost."""
    earlier = stop.__context__
    while earlier is not None and not isinstance(earlier, LostRankError):
        earlier = earlier.__context__
    words = "stopped by SIGTERM, which torchrun sends to all ranks when one of them is lost"
    return earlier or LostRankError(words)


def _outlive_torchrun() -> None:
    """torchrun ends all ranks when one is lost; why they end has to be told first."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
