"""What the guards against bad data cost.

    .venv/bin/python benchmarks/guards.py            # every case, 15 short runs each
    .venv/bin/python benchmarks/guards.py sac --runs 30

In a run, a stopwatch goes at each of these: whether observations are finite and within their space,
whether rewards are finite (with their conversion to float32), whether losses and weights are, and
keeping the last steps. (That a gradient is finite costs nothing: its norm is needed to clip it.)
Prints the share of the training's time in the fastest run, which a busy machine disturbed least,
less what the stopwatch itself takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import rlkit
from rlkit.agents import dqn
from rlkit.envs.arrays import _Limits
from rlkit.envs.vector import Envs
from rlkit.experience.step import Step
from rlkit.optim import FlatParameters
from rlkit.training import black_box
from rlkit.training.trainer import Trainer

NEVER = 10**9
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "a2c, CartPole, compiled": ("a2c", "CartPole", {"steps": 16_000}, {}),
    "a2c, CartPole, sync": ("a2c", "CartPole", {"steps": 6_000}, {"vectorization": "sync"}),
    "ppo, CartPole, native": ("ppo", "CartPole", {"steps": 6_000}, {"vectorization": "native"}),
    "ppo, Pendulum, sync": ("ppo", "Pendulum", {"steps": 4_000}, {"vectorization": "sync"}),
    "dqn, CartPole, native": ("dqn", "CartPole", {"steps": 3_000}, {"vectorization": "native"}),
    "rainbow, CartPole, sync": ("rainbow", "CartPole", {"steps": 2_000}, {"vectorization": "sync"}),
    "sac, Pendulum, sync": ("sac", "Pendulum", {"steps": 800}, {"vectorization": "sync"}),
    "ppo, catch, native": ("ppo", "catch", {"steps": 2_048}, {}),
}


class Stopwatch:
    """Adds up the time that functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def on(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            since = time.perf_counter()
            try:
                return function(*args)
            finally:
                self.seconds += time.perf_counter() - since
                self.calls += 1

        return timed

    @contextmanager
    def on_guards(self) -> Iterator[None]:
        class Timed(deque[Step]):
            append = self.on(deque.append)

        with ExitStack() as stack:
            for owner, name in (
                (_Limits, "hold"),
                (Envs, "_rewards"),
                (FlatParameters, "require_finite"),
                (dqn, "_require_finite"),
            ):
                timed = self.on(getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
            stack.enter_context(mock.patch.object(black_box, "deque", Timed))
            yield


def own_seconds() -> float:
    """What a stopwatch adds to each call."""
    least = 1.0
    for _ in range(20):
        watch = Stopwatch()
        nothing = watch.on(lambda: None)
        for _ in range(1000):
            nothing()
        least = min(least, watch.seconds / watch.calls)
    return least


def guards(case: str) -> tuple[float, float]:
    """A run's training time in seconds, and the guards' part of it."""
    agent, env, recipe, options = CASES[case]
    watch = Stopwatch()
    how = {"eval_every": NEVER, "save_every": NEVER, "eval_episodes": 1, "device": "cpu"}
    with (
        tempfile.TemporaryDirectory() as folder,
        watch.on_guards(),
        mock.patch.object(Trainer, "evaluate_now", return_value=None),
    ):
        done = rlkit.train(agent, env, recipe, {**how, **options, "run_dir": folder})
    return done.seconds, watch.seconds - watch.calls * own_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="?", default="", help="words that a case's name holds")
    parser.add_argument("--runs", type=int, default=15)
    told = parser.parse_args()
    print("| run | guards' share of the time |\n|---|---|")
    for case in CASES:
        if told.case in case:
            guards(case)  # compiles and imports
            seconds, spent = min(guards(case) for _ in range(told.runs))
            print(f"| {case} | {100 * spent / seconds:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
