"""What the scripts share: processes of their own, rounds that alternate, medians, tables."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
ENVIRONMENT = os.environ | ONE_THREAD | {"CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}


def answer_job(work: Callable[..., dict[str, Any]]) -> None:
    """In a process that `in_own_process` started: do the job and end; elsewhere do nothing."""
    if len(sys.argv) == 3 and sys.argv[1] == "--job":
        out = os.dup(1)  # libraries that print may do so, but not into the answer
        os.dup2(2, 1)
        answer = json.dumps(work(**json.loads(sys.argv[2])))
        os.write(out, answer.encode())
        sys.exit()


def in_own_process(script: str, **job: Any) -> dict[str, Any]:
    """The answer of `answer_job` of that script, run afresh on one thread.

    The job also gets `started`, the time.time() at which its process began. What goes wrong there
    ends this process with its last lines.
    """
    started = {"started": time.time()}
    command = [sys.executable, str(Path(script).resolve()), "--job", json.dumps(job | started)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    if done.returncode:
        sys.exit(f"{job} failed:\n" + "\n".join(done.stderr.splitlines()[-15:]))
    return dict(json.loads(done.stdout))


def alternating(names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Each name in turn, round after round, so that a noisy spell hits all of them.

    Every second round goes backwards: none is always the one after another.
    """
    names = list(names)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            yield number, name


def spread(values: Sequence[float], form: str) -> str:
    """Median, and the range in brackets."""
    low, high = format(min(values), form), format(max(values), form)
    return f"{statistics.median(values):{form}} ({low}–{high})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def versions(libraries: Iterable[str]) -> str:
    """What was measured, and on what, in one line."""
    from importlib.metadata import version

    distributions = {"rlkit": "rlkit-toolkit", "sb3": "stable-baselines3"}
    names = [*libraries, "torch", "gymnasium", "numpy"]
    found = [f"{name} {version(distributions.get(name, name))}" for name in names]
    return f"Python {sys.version.split()[0]}, " + ", ".join(found) + f"; {os.cpu_count()} cores"
