"""Whether memory stays flat: the resident size of a training process over many steps (Linux).

    python benchmarks/deep/memory.py                   # A2C over 10⁷ steps, PPO and DQN over fewer

rlkit's tuned CartPole recipes, stretched to that length. The size is read twenty times on the way;
growth is counted from the first fifth on, where DQN's replay memory is full.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from libraries import Act, library
from rounds import answer_job, in_own_process, table, versions

STEPS = {"a2c": 10_000_000, "ppo": 1_000_000, "dqn": 300_000}
SAMPLES = 20


def resident() -> float:
    """The resident size of this process, in MiB."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def watch(agent: str, steps: int, started: float) -> dict[str, Any]:
    """In a process of its own: (steps, MiB) along a training."""
    samples: list[tuple[int, float]] = []

    def probe(at: int, act: Act) -> None:
        samples.append((at, resident()))

    library("rlkit").train_tuned(agent, steps, 7000, steps // SAMPLES, probe)
    return {"samples": samples}


def main() -> None:
    answer_job(watch)
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("agents", nargs="*", default=list(STEPS), help=", ".join(STEPS))
    parser.add_argument("--quick", action="store_true", help="try it out: a hundredth of the steps")
    args = parser.parse_args()
    if strangers := set(args.agents) - set(STEPS):
        parser.error(f"no agent {', '.join(sorted(strangers))}; there are {', '.join(STEPS)}")
    print(versions(["rlkit"]) + "\n")
    for agent in args.agents:
        steps = STEPS[agent] // (100 if args.quick else 1)
        samples = in_own_process(__file__, agent=agent, steps=steps)["samples"]
        table(
            [f"{agent}: env-steps", "resident, MiB"], ((f"{at:,}", f"{m:.1f}") for at, m in samples)
        )
        (since, before), (until, after) = samples[SAMPLES // 5 - 1], samples[-1]
        print(
            f"{agent}: {after - before:+.1f} MiB from step {since:,} to {until:,}, "
            f"{(after - before) / (until - since) * 1e6:+.2f} MiB per million steps\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
