"""A worker process of `rlkit.envs.workers`: what it does, which is Gymnasium's part, and its end.

The terminal's Ctrl-C and a cluster's SIGTERM go to every process of a run, so workers ignore both:
the parent finishes its step, saves, and then ends them.
"""

from __future__ import annotations

import atexit
import ctypes
import inspect
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from gymnasium.vector.async_vector_env import _async_worker

from rlkit.envs.foreign import describe
from rlkit.errors import EnvError, RlkitError

PATIENCE = 5.0  # seconds for the kernel to end what was killed
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
# A semaphore, in newer versions of Gymnasium: None.
_MORE = (None,) * (len(inspect.signature(_async_worker).parameters) - 7)

running: set[BaseProcess] = set()  # that this process has started


def work(
    index: int,
    make: Callable[[], gym.Env[Any, Any]],
    pipe: Connection,
    parent_pipe: Connection,
    *_: object,
    buffer: Any,
    tied: bool,
) -> None:
    """Make environment `index` and do with it what the parent asks for, until one of them ends.

    Answers go to `pipe`, an error as (error, False); observations to `buffer`, or along with the
    answer where it is None. A parent that dies takes a `tied` worker with it even in a step that
    never returns (Linux); others end when they come back from the step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not SIG_IGN: it would be handed on to programs that the environment starts, and ends so.
    signal.signal(signal.SIGTERM, lambda *_: None)
    if tied:
        _die_with_parent()
    answers = _Answers(pipe)
    with suppress(EOFError, OSError):  # the parent is gone
        try:
            env = make()
        except BaseException as error:
            answers.put((index, type(error), error, traceback.format_exc()))
            return
        # Resets are the parent's to ask for: it knows of those that a new worker owes.
        mode = AutoresetMode.DISABLED
        _async_worker(index, lambda: env, answers, parent_pipe, buffer, answers, mode, *_MORE)  # type: ignore[arg-type]


class _Answers:
    """The way back, for Gymnasium's worker: its pipe, and in the place of its queue of errors."""

    def __init__(self, pipe: Connection) -> None:
        self.recv, self.send = pipe.recv, pipe.send

    def put(self, failure: tuple[int, object, BaseException, str]) -> None:
        """Send an error, as one of rlkit's: its parent may not know, or be able to read, others."""
        index, _, error, trace = failure
        if not isinstance(error, RlkitError):
            error = EnvError(f"env {index} failed in its worker: {describe(error)}")
            error.__notes__ = [trace]
        self.send((error, False))


def _die_with_parent() -> None:
    """Have the kernel kill this process with its parent, whatever it is doing then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it was too late to ask
        os._exit(1)


def end(process: BaseProcess) -> None:
    """Kill a process and wait until it is gone, which the kernel may delay."""
    process.kill()
    process.join(PATIENCE)
    running.discard(process)


def cause(code: int | None) -> str:
    """How a process with an exit code, as multiprocessing gives it, came to its end."""
    if code is None:
        return "closed its pipe"
    if code >= 0:
        return f"died (exit status {code})"
    name = next((known.name for known in signal.Signals if known == -code), "unnamed")
    often = "; often the memory ran out" if name == "SIGKILL" else ""
    return f"died (signal {-code}, {name}{often})"


@atexit.register
def _kill_running() -> None:
    # multiprocessing, whose turn comes later, asks with SIGTERM, which they ignore, and waits.
    for process in running:
        process.kill()


if hasattr(os, "register_at_fork"):  # a copy of this process has no workers
    os.register_at_fork(after_in_child=running.clear)
