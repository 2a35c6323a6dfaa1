"""Random kills: a training that is killed again and again, and resumed, ends as if it never was.

    python benchmarks/faults/kills.py                  # 200 kills, some twenty minutes
    python benchmarks/faults/kills.py --kills 5 a2c

For each agent one run goes through undisturbed. Then the same run is killed (SIGKILL) at random
moments, most of them in training, and each time `rlkit resume` goes on with it; when it is
complete, the next one begins, until the kills are used up. Printed for each agent: how many steps a
kill cost at most, against the steps between two checkpoints, and whether weights, optimisers,
memories and measurements at the end equal the undisturbed run's bit for bit. Exit status 1 where
they don't.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVERY = 2000  # steps between two checkpoints
SMALL = ("--hidden", "16", "--envs", "4", "--eval-episodes", "4", "--seed", "5")
AGENTS = {
    "a2c": (*SMALL, "--steps", "60000"),
    "ppo": (*SMALL, "--steps", "30000", "--core", "gru", "--core-width", "8"),
    "dqn": (*SMALL, "--steps", "20000", "--buffer-size", "5000"),
}
LONGEST = 1.5  # seconds to a kill, at most,
TRAINING = 0.8  # of the kills: from the first new measurement on; else from the process's start
UNTIMED = ("time", "time/fps")


@dataclass
class Tally:
    """What the kills of one agent's runs came to."""

    kills: int = 0
    worst_loss: int = 0
    runs: int = 0
    unequal: int = 0


def measured(run: Path) -> list[dict[str, Any]]:
    """The run's measurements, but for those of time; a line that a kill has cut is none."""
    lines = []
    file = run / "metrics.jsonl"
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        kept = {name: value for name, value in line.items() if name not in UNTIMED}
        if kept.keys() != {"step"}:
            lines.append(kept)
    return lines


def result(run: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """A complete run's weights, optimiser, memory and generators, and its measurements."""
    newest = max(path for path in (run / "checkpoints").iterdir() if path.is_dir())
    files = (path for path in sorted(newest.rglob("*")) if path.is_file())
    told = [path.read_bytes() for path in files if path.name != "manifest.json"]
    return b"".join(told), measured(run)


def saved(run: Path) -> int:
    """The step of the newest checkpoint; 0 without one."""
    names = (path.name for path in (run / "checkpoints").glob("[0-9]*"))
    return max((int(name.partition("-")[0]) for name in names), default=0)


def start(home: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rlkit", *args],
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def go_through(agent: str, home: Path) -> Path:
    """One run that nobody disturbs; its folder."""
    process = start(home, *train(agent))
    _, err = process.communicate()
    if process.returncode:
        sys.exit(f"{agent}: {err}")
    return next((home / "runs").iterdir())


def train(agent: str) -> tuple[str, ...]:
    return ("train", agent, "CartPole", *AGENTS[agent], "--save-every", str(EVERY))


def wait_for_progress(process: subprocess.Popen[str], home: Path, lines: int) -> None:
    """Wait until the newest run has more than so many measurements, or the process has ended."""
    while process.poll() is None:
        if any(len(measured(run)) > lines for run in (home / "runs").glob("*")):
            return
        time.sleep(0.02)


def be_killed(agent: str, home: Path, kills: int, draw: random.Random, tally: Tally) -> Path | None:
    """Kill one run until it is complete or the kills are used up; its folder if it is complete."""
    run: Path | None = None
    while True:
        going_on = run is not None and saved(run) > 0
        process = start(home, *(("resume", str(run)) if going_on else train(agent)))
        if tally.kills < kills:
            try:
                before = len(measured(run)) if run else 0
                if draw.random() < TRAINING:  # else it may not have begun to train
                    wait_for_progress(process, home, before)
                process.wait(draw.uniform(0, LONGEST))
            except subprocess.TimeoutExpired:
                process.kill()
                tally.kills += 1
        _, err = process.communicate()
        complete = process.returncode == 0 or " is complete at " in err
        if process.returncode != -9 and not complete:
            sys.exit(f"{agent}: exit {process.returncode} after {tally.kills} kills: {err}")
        runs = sorted((home / "runs").glob("*"), key=lambda path: path.stat().st_ctime)
        run = runs[-1] if runs else None
        if complete:  # the last kill may have come after all was done
            return run
        if run is not None:
            reached = max((line["step"] for line in measured(run)), default=0)
            tally.worst_loss = max(tally.worst_loss, reached - saved(run))


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("agents", nargs="*", default=list(AGENTS), help=", ".join(AGENTS))
    parser.add_argument("--kills", type=int, default=200, help="how many, of all agents together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args()
    print("| agent | kills | runs | steps lost at most | of | equal to the undisturbed |")
    print("|---|---|---|---|---|---|", flush=True)
    draw, good = random.Random(args.seed), True
    for agent in args.agents:
        tally, kills = Tally(), args.kills // len(args.agents)
        with tempfile.TemporaryDirectory() as folder:
            expected = result(go_through(agent, Path(folder)))
        while tally.kills < kills:
            with tempfile.TemporaryDirectory() as folder:
                run = be_killed(agent, Path(folder), kills, draw, tally)
                tally.runs += 1
                tally.unequal += run is None or result(run) != expected
        ok = tally.unequal == 0 and tally.worst_loss <= EVERY
        good &= ok
        equal = f"{tally.runs - tally.unequal} of {tally.runs}"
        print(
            f"| {agent} | {tally.kills} | {tally.runs} | {tally.worst_loss} | {EVERY} | {equal} |"
        )
    sys.exit(not good)


if __name__ == "__main__":
    main()
