"""Whether the libraries do equal work in throughput.py: what is optimised, by what, how often.

    python benchmarks/deep/equal.py

Rows of a case must agree in all but the transitions: rlkit and skrl count the steps that only reset
as steps of training, so they learn from a few transitions fewer, with as many updates. The cases of
throughput.py whose networks are only alike, recurrent PPO's and Pong's, are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from libraries import CASES, library
from rounds import answer_job, in_own_process, table, versions
from throughput import STEPS

ALIKE = ("recurrent", "pong")
LENGTH = 7680  # steps: a whole number of rollouts, and of DQN's bursts, in every case


def count(case: str, name: str, started: float) -> dict[str, Any]:
    """In a process of its own: the updates of a short training."""
    train = library(name).train
    updates: list[tuple[str, int, float]] = []
    (_watch_rlkit if name == "rlkit" else _watch_torch)(lambda *update: updates.append(update))
    done = train(case, LENGTH, 0)
    (kind, parameters), *others = {update[:2] for update in updates}
    assert not others, f"several optimisers: {others}"
    first, last = updates[0][2], updates[-1][2]
    row = [kind, f"{parameters:,}", f"{len(updates):,}", f"{first:.2e} to {last:.2e}"]
    return {"row": [*row, f"{done.transitions:,}"]}


def _watch_torch(tell: Callable[[str, int, float], None]) -> None:
    from torch.optim import Optimizer
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        (group,) = optimizer.param_groups
        tell(type(optimizer).__name__, sum(p.numel() for p in group["params"]), group["lr"])

    register_optimizer_step_post_hook(hook)


def _watch_rlkit(tell: Callable[[str, int, float], None]) -> None:
    from rlkit import optim

    def watch(kind: type[optim.RMSprop] | type[optim.Adam]) -> None:
        inner: Any = kind.step

        def step(self: Any, lr: float) -> None:
            tell(kind.__name__, self.flat.values.numel(), lr)
            inner(self, lr)

        setattr(kind, "step", step)  # noqa: B010 (mypy allows no assignment to a method)

    watch(optim.RMSprop)
    watch(optim.Adam)


def main() -> None:
    answer_job(count)
    assert __doc__ is not None
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"{LENGTH:,} steps; {versions(STEPS['a2c'])}\n")
    rows = [
        [CASES[case].about, name, *in_own_process(__file__, case=case, name=name)["row"]]
        for case, names in STEPS.items()
        if case not in ALIKE
        for name in names
    ]
    head = ["case", "library", "optimiser", "parameters", "updates", "learning rate", "transitions"]
    table(head, rows)


if __name__ == "__main__":
    main()
