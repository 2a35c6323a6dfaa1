"""Models for several ranks; run as a rank, this solves all of them: see test_distributed_solve.py.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python distributed_cases.py FOLDER
"""

import json
import sys
import tracemalloc
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rlkit.envs.models import make_model, model_in_parts
from rlkit.errors import RlkitError
from rlkit.mdp.generate import Generated

METHODS = ("value-iteration", "modified-policy-iteration")


def random_model(seed):
    """Ends, missing mass, pairs that do not exist, terminal states, and states that are far."""
    rng = np.random.default_rng(seed)
    S, A, K = int(rng.integers(5, 40)), 3, 4
    successors = rng.integers(-1, S, size=(S, A, K))
    p = rng.dirichlet(np.ones(K + 1), size=(S, A))[..., :K]
    rewards = rng.normal(size=(S, A, K))
    admissible = rng.random((S, A)) < 0.6
    if seed % 2:  # nothing ends
        successors[successors < 0] = 0
        p /= p.sum(axis=2, keepdims=True)
        admissible[:, 0] = True
    start = (1, S - 1)
    return Generated(lambda s: (successors[s], p[s], rewards[s], admissible[s]), S, start, block=7)


def starts(seed, n_states, ranks):
    """Any partition."""
    rng = np.random.default_rng([seed, ranks])
    return np.sort(
        [0, n_states, *rng.choice(np.arange(1, n_states), size=ranks - 1, replace=False)]
    )


def named(name, gamma=None, **options):
    return lambda: model_in_parts(name, gamma, options)


def cases():
    """name: (function that makes the model and its discount, arguments of solve_distributed)."""
    found = {}
    for seed in range(8):
        exchange = ("auto", "halo", "all-gather")[seed % 3]
        gamma = 1.0 if seed in (0, 2) else 0.8
        found[f"random {seed}"] = (
            lambda seed=seed, gamma=gamma: (random_model(seed), gamma),
            {"method": METHODS[seed // 2 % 2], "exchange": exchange},
        )
    for name, make in {
        "queues": named("two-queues", 0.8, capacity=30),
        "garnet": named("garnet", 0.8, states=60, actions=3, branching=4),
        "lake": named("frozen-lake", 0.8, size=12),
        "maze": named("maze", 1.0, size=4),
        "chain": named("chain", 0.8, length=9),
        "forest": named("forest", 0.8, ages=11),
        "whole": lambda: (make_model("cliff").mdp, None),
    }.items():
        found[name] = (make, {"method": METHODS[len(name) % 2]})
    return found


def broken():
    """A model that is wrong in its last state, which is the last rank's."""
    rewards = np.zeros((50, 1))
    rewards[49] = np.nan
    return Generated(lambda s: (s[:, None, None], 0.5, rewards[s]), 50)


def memory():
    """Bytes at most while a rank makes and solves its part of 62,500 states."""
    from rlkit.mdp.distributed.solve import solve_distributed

    model, gamma = named("two-queues", 0.1, capacity=249)()
    model = Generated(model.function, model.n_states, model.start, block=500)
    tracemalloc.start()
    solve_distributed(model, gamma, tol=1.0, ranks=RANKS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def errors():
    """What each of two bad calls raises on this rank."""
    from rlkit.mdp.distributed.solve import solve_distributed

    def said(model, gamma):
        try:
            solve_distributed(model, gamma, ranks=RANKS)
        except RlkitError as error:
            return f"{type(error).__name__}: {error}"
        return ""

    return [said(broken(), 0.9), said(*named("chain", 0.5, length=2)())]


def work(folder):
    from rlkit.mdp.distributed.solve import solve_distributed

    facts = {}
    for number, (name, (make, options)) in enumerate(cases().items()):
        model, gamma = make()
        cuts = starts(number, model.n_states, RANKS.size)
        part = solve_distributed(model, gamma, ranks=RANKS, starts=cuts, **options)
        facts[name] = {**asdict(part.facts), "first": part.first, "values": part.values.size}
        whole = part.gather(RANKS)
        if whole is not None:
            whole.save(folder / f"{RANKS.size}-{number}.npz")
        if name == "queues":
            part.save(folder / f"part-{RANKS.rank}-of-{RANKS.size}.npz")
    report = {"facts": facts, "errors": errors(), "memory": memory()}
    (folder / f"{RANKS.rank}-of-{RANKS.size}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    from rlkit.distributed import join

    warnings.simplefilter("error")
    RANKS = join(60.0)
    work(Path(sys.argv[1]))
    RANKS.leave()
