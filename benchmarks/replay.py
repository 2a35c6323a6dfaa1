"""The replay memory: µs for draws, for changes of priorities and for whole batches.

    python benchmarks/replay.py                  rlkit alone
    python benchmarks/replay.py --peer PYTHON    and cpprb, in the environment of that interpreter

The peer is run in turns with rlkit's prioritised memory: of each figure the median and the least
over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

CELLS, BATCH, CALLS = 1_000_000, 128, 300


def microseconds(call: Callable[[], object], calls: int = CALLS) -> float:
    call()
    since = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - since) / calls * 1e6


def prioritized() -> dict[str, float]:
    """Indices and weights of 128 out of 10⁶, and new priorities for 128, with rlkit."""
    import numpy as np
    import torch

    from rlkit.experience.draws import Prioritized

    torch.set_num_threads(1)
    generator, n_envs = torch.Generator().manual_seed(0), 8
    rows = CELLS // n_envs
    draws = Prioritized(np.ones((rows, n_envs), dtype=bool), 0.6, 1e-6, generator)
    for row in range(rows):
        draws.admit(row)
    draws.update(torch.arange(CELLS), torch.rand(CELLS, generator=generator))
    cells = iter(torch.randint(CELLS, (CALLS + 1, BATCH), generator=generator))
    errors = torch.rand(BATCH, generator=generator)
    return {
        "rlkit, draw": microseconds(lambda: draws.draw((1, BATCH), 0, rows, 0.4)),
        "rlkit, update": microseconds(lambda: draws.update(next(cells), errors)),
    }


def cpprb() -> dict[str, float]:
    """The same with cpprb, whose draw copies a column of one float too."""
    import numpy as np
    from cpprb import PrioritizedReplayBuffer

    rng = np.random.default_rng(0)
    memory = PrioritizedReplayBuffer(CELLS, {"obs": {"shape": (1,)}}, alpha=0.6)
    for _ in range(100):
        block = CELLS // 100
        memory.add(obs=np.zeros((block, 1)), priorities=rng.random(block))
    cells = iter(rng.integers(0, CELLS, (CALLS + 1, BATCH)))
    errors = rng.random(BATCH)
    return {
        "cpprb, draw": microseconds(lambda: memory.sample(BATCH, beta=0.4)),
        "cpprb, update": microseconds(lambda: memory.update_priorities(next(cells), errors)),
    }


def batches() -> dict[str, float]:
    """Whole batches: of vectors, alone and in a burst, uniform and not, and of stacked frames."""
    import numpy as np
    import torch
    from gymnasium import spaces

    torch.set_num_threads(1)
    vector = spaces.Box(-1, 1, (4,))
    pixels = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    cases = [  # capacity, G, B, n, α, frame_stack
        ("4 floats, 1 x 128, 1 step", vector, (100_000, 1, 128, 1, 0.0, 1)),
        ("4 floats, 16 x 64, 3 steps", vector, (100_000, 16, 64, 3, 0.0, 1)),
        ("4 floats, 16 x 64, 3 steps, prioritised", vector, (100_000, 16, 64, 3, 0.6, 1)),
        ("84x84x4 kept once, 1 x 128, 1 step", pixels, (40_000, 1, 128, 1, 0.0, 4)),
        ("84x84x4 kept whole, 1 x 128, 1 step", pixels, (10_000, 1, 128, 1, 0.0, 1)),
    ]
    found = {}
    for name, space, how in cases:
        found |= {f"{name}, {what}": value for what, value in measure(space, *how).items()}
    return found


def measure(
    space: Any, capacity: int, groups: int, size: int, n_step: int, alpha: float, frame_stack: int
) -> dict[str, float]:
    """A full memory: microseconds to add a step of 8 environments, and to draw; bytes per step."""
    import numpy as np
    import torch
    from gymnasium import spaces

    from rlkit.experience.replay import Replay, Sampling

    sampling = Sampling(0, 1, groups, size, n_step, 0.99, alpha)
    generator = torch.Generator().manual_seed(0)
    memory = Replay(
        *(capacity, 8, space, spaces.Discrete(2), sampling),
        *(torch.device("cpu"), generator, frame_stack),
    )
    memory.allocate()
    steps = cycle(film(np.random.default_rng(0), space.shape, space.dtype))
    while memory.filled < memory.limit:
        memory.add(next(steps))
    held = sum(x.nbytes for column in memory.get_state()["rows"].values() for x in column)
    return {
        "add 8 steps": microseconds(lambda: memory.add(next(steps))),
        "sample": microseconds(memory.sample, 100),
        "bytes per step": held / capacity,
    }


def film(rng: Any, shape: tuple[int, ...], dtype: Any, n: int = 8, length: int = 200) -> list[Any]:
    """Steps of stacks of frames, episodes of about 50; the first can follow the last."""
    import numpy as np

    from rlkit.experience.step import Step

    first = rng.integers(0, 256, (n, 1, *shape[1:])).astype(dtype).repeat(shape[0], axis=1)
    obs, over, steps = first, np.zeros(n, dtype=bool), []
    for t in range(length):
        next_obs = np.roll(obs, -1, axis=1)
        next_obs[:, -1] = rng.integers(0, 256, next_obs[:, -1].shape)
        next_obs[over] = next_obs[over, -1:]
        next_obs = first if t == length - 1 else next_obs
        ended = ~over & (rng.random(n) < 0.02)
        action, reward = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.float32)
        steps.append(Step(obs, action, reward, ended, ended & False, ~over, next_obs))
        obs, over = next_obs, ended
    return steps


PARTS = {"prioritized": prioritized, "cpprb": cpprb, "batches": batches}


def in_process(python: str, part: str) -> dict[str, float]:
    command = [python, __file__, "--part", part]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has cpprb")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part]()))
        return
    runs = [(sys.executable, "prioritized"), (sys.executable, "batches")]
    if args.peer:
        runs.insert(1, (args.peer, "cpprb"))
    figures: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for python, part in runs:
            for name, value in in_process(python, part).items():
                figures.setdefault(name, []).append(value)
    for name, values in figures.items():
        print(f"{name:>60} {statistics.median(values):8.1f} (least {min(values):.1f})")


if __name__ == "__main__":
    main()
