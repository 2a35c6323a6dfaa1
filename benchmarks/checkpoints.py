"""Checkpoints of a large replay memory: saving, saving again, loading, against the disk itself.

    python benchmarks/checkpoints.py --folder /on/the/disk/to/measure

A DQN's memory of 84×84 frames in stacks of four, random numbers all, 1 GiB in all. Each round
writes the same bytes to one file first (write and fsync, nothing else), so that the disk's speed
and the save's are of the same minute; the shares are medians over the rounds. A round before the
first is not counted: in it the system finds the pages for its cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlkit.experience.replay import Replay, Sampling
from rlkit.experience.step import Step
from rlkit.run.checkpoint import load_checkpoint, save_checkpoint

N, STACK, SIDE = 8, 4, 84


def memory_of(size: int) -> Replay:
    """A memory for `size` bytes of frames."""
    steps = size // (SIDE * SIDE)
    space = spaces.Box(0, 255, (STACK, SIDE, SIDE), np.uint8)
    sampling = Sampling(0, N, 1, 32, 3, 0.99)
    generator = torch.Generator().manual_seed(0)
    memory = Replay(
        *(steps, N, space, spaces.Discrete(6), sampling, torch.device("cpu"), generator, STACK)
    )
    memory.allocate()
    return memory


def feed(memory: Replay, steps: int, rng: np.random.Generator) -> None:
    """Steps of N environments in which every pixel is drawn anew."""
    stack = np.zeros((N, STACK, SIDE, SIDE), np.uint8)
    for _ in range(0, steps, N):
        frame = rng.integers(0, 256, (N, 1, SIDE, SIDE), dtype=np.uint8)
        following = np.concatenate([stack[:, 1:], frame], axis=1)
        flags = np.zeros(N, bool), np.zeros(N, bool), np.ones(N, bool)
        action = rng.integers(0, 6, N)
        memory.add(Step(stack, action, rng.random(N, np.float32), *flags, following))
        stack = following


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    since = time.perf_counter()
    value = call()
    return time.perf_counter() - since, value


def write_plainly(path: Path, memory: Replay) -> None:
    with path.open("wb", buffering=0) as file:
        for column in memory.get_state()["rows"].values():
            for block in column:
                file.write(block.numpy().data)
        os.fsync(file.fileno())


def written(folder: Path) -> int:
    """Bytes of the files in a checkpoint that it shares with no other."""
    return sum(f.stat().st_size for f in folder.iterdir() if f.stat().st_nlink == 1)


def anonymous() -> int:
    """Bytes of this process's memory that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def round_of(folder: Path, memory: Replay, rng: np.random.Generator, few: int) -> dict[str, float]:
    """One round in an empty folder; seconds and bytes by name."""
    times: dict[str, float] = {}
    times["plain"], _ = seconds(lambda: write_plainly(folder / "plain", memory))
    times["size"] = (folder / "plain").stat().st_size
    (folder / "plain").unlink()

    def save(step: int) -> Path:
        return save_checkpoint(folder, step, {"memory": memory.get_state()}, {})

    times["first"], _ = seconds(lambda: save(1))
    feed(memory, few, rng)
    times["second"], second = seconds(lambda: save(2))
    times["written"] = written(second)
    other = memory_of(memory.capacity * SIDE * SIDE)
    before = anonymous()
    times["load"], tree = seconds(lambda: load_checkpoint(folder).tree)
    times["held"] = anonymous() - before
    times["fill"], _ = seconds(lambda: other.set_state(tree["memory"]))
    times["grown"] = anonymous() - before
    frames, copied = (m.observations.arrays()["frames"] for m in (memory, other))
    assert torch.equal(frames, copied)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default=".", help="on the disk to measure")
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of frames")
    parser.add_argument("--few", type=int, default=1000, help="steps between the two saves")
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    rng = np.random.default_rng(0)
    memory = memory_of(told.size)
    feed(memory, memory.rows * N, rng)
    rounds = []
    for _ in range(1 + told.rounds):
        folder = Path(tempfile.mkdtemp(dir=told.folder))
        try:
            rounds.append(round_of(folder, memory, rng, told.few))
        finally:
            shutil.rmtree(folder)
        print({name: round(x, 2) if x < 1e4 else int(x) for name, x in rounds[-1].items()})
    show(rounds[1:])


def show(rounds: list[dict[str, float]]) -> None:
    def median(value: Callable[[dict[str, float]], float]) -> float:
        return statistics.median(map(value, rounds))

    size = rounds[0]["size"]
    for name in ("plain", "first", "second", "load", "fill"):
        taken = median(lambda times, name=name: times[name])
        print(f"{name:8} {taken:6.2f} s  {size / taken / 1e6:6.0f} MB/s")
    share = sorted(times["plain"] / times["first"] for times in rounds)
    print(f"first save: {statistics.median(share):.0%} of the disk's speed", end=" ")
    print(f"({share[0]:.0%} to {share[-1]:.0%})")
    print(
        f"second save: {median(lambda t: t['second'] / t['first']):.0%} of the first's time",
        end=" ",
    )
    print(f"for {median(lambda t: t['written'] / t['size']):.1%} of its bytes")
    print(f"memory: {median(lambda t: t['held'] / t['size']):.1%} of the size for what was loaded,")
    print(f"        {median(lambda t: t['grown'] / t['size']):.1%} with the ring filled from it")


if __name__ == "__main__":
    main()
