"""Every fault, caused for real in rlkit and in stable-baselines3: what each of them does.

    python benchmarks/faults/both.py              # all, some ten minutes
    python benchmarks/faults/both.py 1 14 37      # these rows

Each side of each fault runs in a process of its own, in an empty folder, and is killed after two
minutes. Needs benchmarks/faults/requirements.txt; Linux.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from causes import Fault

HERE = Path(__file__).parent
MODULES = ("environment", "told", "runs", "models")
SECONDS = 120
RAISED = re.compile(r"[\w.]*(Error|Exception|Interrupt|NotFound)\b")  # the line with the error


def faults() -> list[Fault]:
    return [fault for name in MODULES for fault in importlib.import_module(name).FAULTS]


def cause(number: int, side: str) -> str:
    """What the `side` of the fault at that place of the list came to, in one line."""
    here = [sys.executable, "-W", "ignore", str(Path(__file__).resolve())]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*here, "--cause", side, str(number)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"still running after {SECONDS} s"
    if process.returncode == 0:
        return (out.strip().splitlines() or ["nothing"])[-1]
    if process.returncode < 0:
        return f"ended by signal {-process.returncode}"
    return next((line for line in err.splitlines()[::-1] if RAISED.match(line)), "no reason given")


def main() -> None:
    if sys.argv[1:2] == ["--cause"]:
        side, number = sys.argv[2], int(sys.argv[3])
        function = getattr(faults()[number], side)
        function()
        return
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", type=int, help="numbers of faults; all by default")
    rows = parser.parse_args().rows
    print("| # | fault | rlkit | stable-baselines3 |\n|---|---|---|---|")
    for place, fault in enumerate(faults()):
        if rows and fault.number not in rows:
            continue
        ours = cause(place, "rlkit")
        theirs = cause(place, "sb3") if fault.sb3 else "–"
        cells = (str(fault.number), fault.name, ours, theirs)
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
