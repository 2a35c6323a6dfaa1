"""Training throughput at equal settings: environment steps per second.

    python benchmarks/deep/throughput.py               # all cases
    python benchmarks/deep/throughput.py a2c ppo --rounds 3

The libraries run in turn, each measurement in a process of its own, on one thread, after a warm-up.
Building environments and agent is not counted, nor are steps that only reset. Quote the ratios:
machines are noisy. What each library can't match stands in its file in libraries/.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from libraries import CASES, library
from rounds import alternating, answer_job, in_own_process, spread, table, versions

# Steps that take each library some seconds: a rate needs no equal numbers of steps, but DQN's ε
# falls over the length of the training, so there they are equal.
STEPS: dict[str, dict[str, int]] = {
    "a2c": {"rlkit": 160_000, "sb3": 40_000, "tianshou": 20_000, "skrl": 40_000, "torchrl": 12_000},
    "a2c-64": {"rlkit": 640_000, "sb3": 160_000},
    "a2c-512": {"rlkit": 1_024_000, "sb3": 256_000},
    "ppo": {"rlkit": 40_960, "sb3": 30_720},
    "dqn": {"rlkit": 12_800, "sb3": 12_800},
    "recurrent": {"rlkit": 16_384, "sb3": 4_096},
    "pong": {"rlkit": 8_192, "sb3": 8_192},
}
WARM_UP = 8  # the share of the steps that is run first: one in so many


def rate(case: str, name: str, steps: int, started: float) -> dict[str, Any]:
    """In a process of its own: steps per second."""
    train = library(name).train
    train(case, steps // WARM_UP, 1)
    done = train(case, steps, 2)
    return {"rate": done.transitions / done.seconds}


def compare(case: str, rounds: int, quick: bool) -> list[list[str]]:
    """Rows of the table, one a library."""
    rates: dict[str, list[float]] = {name: [] for name in STEPS[case]}
    for _, name in alternating(STEPS[case], rounds):
        steps = STEPS[case][name] // (8 if quick else 1)
        rates[name].append(in_own_process(__file__, case=case, name=name, steps=steps)["rate"])
    rows = []
    for name, mine in rates.items():
        ratios = [a / b for a, b in zip(mine, rates["sb3"], strict=True)]
        ratio = spread(ratios, ".2f") if name != "sb3" else "1"
        rows.append([CASES[case].about, name, f"{statistics.median(mine):,.0f}", ratio])
    return rows


def main() -> None:
    answer_job(rate)
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", default=list(STEPS), help=", ".join(STEPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="try it out: an eighth of the steps")
    args = parser.parse_args()
    if strangers := set(args.cases) - set(STEPS):
        parser.error(f"no case {', '.join(sorted(strangers))}; there are {', '.join(STEPS)}")
    rows = [row for case in args.cases for row in compare(case, args.rounds, args.quick)]
    print(f"{args.rounds} rounds; {versions(STEPS['a2c'])}\n")
    table(["case", "library", "env-steps/s, median", "× SB3, median (range)"], rows)


if __name__ == "__main__":
    main()
