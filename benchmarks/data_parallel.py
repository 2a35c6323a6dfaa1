"""How fast ranks train together: environment steps a second by the number of ranks, and what an
exchange costs.

    python benchmarks/data_parallel.py [--agents a2c,ppo] [--ranks 1,2] [--rounds 3]

All ranks are on this machine, each with the environments of CartPole's recipe, SAC of Pendulum's;
1 rank is one process without any exchange. Of the rounds the best is told: whatever else the
machine does makes ranks wait for one another.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

STEPS = {"a2c": 60_000, "ppo": 12_000, "pqn": 60_000, "dqn": 8_000, "sac": 3_000}
NUMBERS = 10_000  # in an exchange that is timed: as many as the weights of a small network


def rank(agent: str, folder: str) -> None:
    """Train as one rank; rank 0 prints a JSON object."""
    import torch

    from rlkit.distributed import join
    from rlkit.training.api import train

    size = int(os.environ["WORLD_SIZE"])
    ranks = join() if size > 1 else None
    steps, env = STEPS[agent], "Pendulum" if agent == "sac" else "CartPole"
    told: dict[str, Any] = {"run_dir": folder, "eval_episodes": 1, "eval_every": 10 * steps}
    told |= {"exact": False, "save_every": str(10 * steps)}
    done = train(agent, env, {"steps": steps}, told, ranks=ranks)
    found: dict[str, Any] = {"agent": agent, "ranks": size, "steps/s": done.steps / done.seconds}
    if ranks is not None:
        numbers, times = torch.zeros(NUMBERS), []
        for _ in range(200):
            since = time.perf_counter()
            ranks.add_up(numbers)
            times.append(time.perf_counter() - since)
        found["exchange, ms"] = 1000 * min(times)
        ranks.leave()
    if ranks is None or ranks.rank == 0:
        print(json.dumps(found), flush=True)


def job(agent: str, size: int) -> dict[str, Any]:
    """What rank 0 of a job of so many ranks prints."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        free.close()
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--rank", agent, "--folder", folder],
                env={**os.environ, **place, "RANK": str(number), "WORLD_SIZE": str(size)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(size)
        ]
        printed = [process.communicate()[0] for process in processes]
    found: dict[str, Any] = json.loads(printed[0].splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", default="a2c,ppo,pqn,dqn")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.rank:
        rank(told.rank, told.folder)
        return
    for agent in told.agents.split(","):
        best: dict[int, dict[str, Any]] = {}
        for _ in range(told.rounds):  # in turn, so that what else goes on meets all alike
            for size in map(int, told.ranks.split(",")):
                found = job(agent, size)
                if size not in best or found["steps/s"] > best[size]["steps/s"]:
                    best[size] = found
        for found in best.values():
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
