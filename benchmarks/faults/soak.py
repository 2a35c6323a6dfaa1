"""Long runs: whether memory and file descriptors stay flat over 10⁷ steps (Linux).

    python benchmarks/faults/soak.py                       # all, hours
    python benchmarks/faults/soak.py a2c --steps 1000000   # one of them, shorter

Each case is the command that is printed, in a process of its own, looked at from outside forty
times: the resident memory and the open descriptors of the process and its children. Growth is
counted from the first quarter on, where replay memories are full and caches warm.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STEPS = 10_000_000
SAMPLES = 40
SMALL = ("--hidden", "32", "--eval-episodes", "8")
CASES = {
    "a2c": ("a2c", "CartPole", *SMALL),
    "dqn": (
        *("dqn", "CartPole", *SMALL, "--buffer-size", "50000"),
        *("--train-every", "256", "--gradient-steps", "1"),
    ),
    "async": ("a2c", "CartPole", *SMALL, "--envs", "4", "--vectorization", "async"),
    "video": ("a2c", "CartPole", *SMALL, "--video"),
}


@dataclass(frozen=True)
class Sample:
    """What a run holds at a step, all its processes together."""

    step: int
    resident: float  # MiB
    descriptors: int


def family(pid: int) -> Iterator[Path]:
    """The folders in /proc of a process and all its descendants."""
    yield Path(f"/proc/{pid}")
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in thread.read_text().split():
            yield from family(int(child))


def look(pid: int, step: int) -> Sample:
    kib, descriptors = 0, 0
    for process in family(pid):
        status = (process / "status").read_text().splitlines()
        kib += sum(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
        descriptors += sum(1 for _ in (process / "fd").iterdir())
    return Sample(step, kib / 1024, descriptors)


def reached(run_dir: Path) -> int:
    """The step of the newest measurement."""
    for file in run_dir.glob("*/metrics.jsonl"):
        with file.open("rb") as lines:
            lines.seek(max(0, file.stat().st_size - 4096))
            whole = [line for line in lines.read().splitlines() if line.endswith(b"}")]
            return int(json.loads(whole[-1])["step"]) if whole else 0
    return 0


def soak(name: str, steps: int) -> list[Sample]:
    """Train and watch; the samples, evenly spread, the last one well before the run ends."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as home:
        command = ["train", *CASES[name], "--steps", str(steps), "--run-dir", f"{home}/runs"]
        print("rlkit " + " ".join(command[:-2]), flush=True)
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "rlkit", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while process.poll() is None:
            time.sleep(0.2)
            step = reached(Path(home, "runs"))
            if step >= (len(samples) + 1) * steps // (SAMPLES + 1):
                try:
                    sample = look(process.pid, step)
                except (FileNotFoundError, ProcessLookupError):
                    continue  # one of them ended between two looks
                if process.poll() is None:  # else it was looked at as it ended
                    samples.append(sample)
        if process.returncode:
            assert process.stderr is not None
            sys.exit(f"{name}: exit {process.returncode}: {process.stderr.read()}")
    return samples


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    rows = [
        "| case | steps | resident, MiB, at a quarter, half, end | descriptors |",
        "|---|---|---|---|",
    ]
    for name in args.cases:
        samples = soak(name, args.steps)
        shown = [samples[len(samples) // 4], samples[len(samples) // 2], samples[-1]]
        memory = ", ".join(f"{sample.resident:.1f}" for sample in shown)
        descriptors = ", ".join(str(sample.descriptors) for sample in shown)
        rows.append(f"| {name} | {samples[-1].step:,} | {memory} | {descriptors} |")
    print("\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
