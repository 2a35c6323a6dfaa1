"""Child processes that do one job each: some at a time, stopped together, and none left behind.

A child is told its job as one line of JSON on standard input, which stays open: its end means that
the parent is gone, however that ended, and then the child stops too (`serve`). What comes of the
job goes back as one line of JSON on the child's standard output; all that it prints goes into a
log. Neither the terminal's Ctrl-C nor its end reaches a child but through the parent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlkit.errors import RlkitError, UsageError
from rlkit.run.signals import Terminated, terminable

PATIENCE = 120.0  # seconds that a child whose parent is gone has for its step and its checkpoint


@dataclass(frozen=True)
class Job:
    """`document` is what the child is told, as JSON values; `log` is where its words go."""

    name: str
    document: Mapping[str, Any]
    log: Path


@dataclass(frozen=True)
class Ended:
    """How a job ended: the child's exit status (negative: the signal) and its answer, if any."""

    name: str
    code: int
    answer: Mapping[str, Any] | None


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    slot: int
    since: float


class Jobs:
    """The children that run ``python -m MODULE``, one in each slot; use it as a context manager.

    `slots`: the environment variables that a child in each slot gets besides the parent's. On
    leaving, children that still run are killed.
    """

    def __init__(self, module: str, slots: Sequence[Mapping[str, str]]) -> None:
        self._command = [sys.executable, "-m", module]
        self._slots = slots
        self._children: dict[str, _Child] = {}

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *exception: object) -> None:
        for child in self._children.values():
            child.process.kill()
        for child in self._children.values():
            child.process.communicate()
        self._children.clear()

    @property
    def free(self) -> int:
        """How many more can start."""
        return len(self._slots) - len(self._children)

    @property
    def running(self) -> dict[str, float]:
        """The names of the jobs that run, and for how many seconds they have."""
        now = time.monotonic()
        return {name: now - child.since for name, child in self._children.items()}

    def start(self, job: Job) -> None:
        """Start a child in a free slot; raises UsageError where its log can't be written."""
        slot = min(set(range(len(self._slots))) - {c.slot for c in self._children.values()})
        try:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            log = job.log.open("ab")
        except OSError as error:
            raise UsageError(
                f"{error.filename} is not writable: {error.strerror}; choose another folder"
            ) from None
        with log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self._slots[slot]},
                start_new_session=True,  # the terminal's Ctrl-C would reach it twice
            )
        self._children[job.name] = _Child(process, slot, time.monotonic())
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has died already, which `ended` tells
            process.stdin.write(json.dumps(job.document).encode() + b"\n")
            process.stdin.flush()

    def ended(self) -> Sequence[Ended]:
        """The jobs that have ended since the last call."""
        over = [name for name, child in self._children.items() if child.process.poll() is not None]
        return [_ended(name, self._children.pop(name).process) for name in over]

    def stop(self, names: Iterable[str] | None = None) -> None:
        """Ask these children, or all, to save and end; they are waited for in `ended`."""
        for name in list(self._children if names is None else names):
            if name in self._children:
                self._children[name].process.terminate()


def _ended(name: str, process: subprocess.Popen[bytes]) -> Ended:
    output, _ = process.communicate()
    try:
        answer = json.loads(output)
    except ValueError:  # it was killed
        answer = None
    return Ended(name, process.returncode, answer if isinstance(answer, dict) else None)


def serve(work: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """A child's life: read the job, do `work` on it, answer, and exit.

    The exit status is the answer's "status". An error is answered as {"error": its line}, a
    SIGTERM before `work` listens to it as {}. SystemExit is raised in the end.
    """
    answers = _private_stdout()
    document = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    answer: Mapping[str, Any]
    try:
        with terminable():
            answer = work(document)
    except RlkitError as error:
        answer = {"error": " ".join(str(error).split()), "status": error.exit_status}
        print(f"Error: {answer['error']}", file=sys.stderr)
    except Terminated:
        answer = {"status": 128 + signal.SIGTERM}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}", "status": 1}
        sys.excepthook(type(error), error, error.__traceback__)
    with suppress(OSError), answers:  # the parent may be gone
        answers.write(json.dumps(answer))
    raise SystemExit(answer.get("status", 0))


def _private_stdout() -> IO[str]:
    """The way to the parent; what others print to standard output goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _stop_with_parent() -> None:
    """Wait until standard input ends, which the parent's death does; then save and end."""
    with suppress(OSError):
        while os.read(0, 1 << 10):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> Sequence[str]:
    """What CUDA_VISIBLE_DEVICES may name, found without CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def make_slots(jobs: int | None, device: str) -> Sequence[Mapping[str, str]]:
    """`jobs` slots for children, for `Jobs`; on GPUs, where `device` has them used, in turn.

    By default as many as there are GPUs to use, or cores. Raises UsageError for less than 1.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs (--jobs) is {jobs}; allowed: a whole number >= 1")
    gpus = visible_gpus() if device in ("auto", "cuda") else []
    if not gpus:
        return [{}] * (usable_cores() if jobs is None else jobs)
    count = len(gpus) if jobs is None else jobs
    return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(count)]
