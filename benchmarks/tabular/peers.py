"""Other solvers of finite MDPs, each run by the interpreter that has it; see solvers.py.

    PYTHON peers.py quantecon MODEL.npz GAMMA ROUNDS
    PYTHON peers.py storm MODEL.drn GAMMA ROUNDS

Prints a JSON object: for each method seconds of process time, the least of the rounds after a first
call, and of that call; the values are in MODEL.METHOD, as float64. Storm takes costs
until the label "end", so that its models are undiscounted, discounts being chances to end.
"""

from __future__ import annotations

import json
import math
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

TOL = 1e-6
_LONG = 3.0  # seconds; what takes as long is run once
_MOST_WORK = 2e9  # transitions that value iteration may read; more takes many seconds
_FACTORISED = 3_000  # states up to which a sparse factorisation for each policy is tried
_MOST_POLICIES = 200  # quantecon's policy iteration does not stop on ties


def timed(
    run: Callable[..., Any], rounds: int, make: Callable[[], tuple[Any, ...]] = tuple
) -> tuple[Any, float, float]:
    """What `run` returns, the least time of the rounds after a first call, and that call's.

    make: makes what `run` is given, anew for each call; not timed.
    """
    given = make()
    since = time.process_time()
    found = run(*given)
    first = time.process_time() - since
    if first > _LONG or not rounds:
        return found, first, first
    least = math.inf
    for _ in range(rounds):
        given = make()
        since = time.process_time()
        run(*given)
        least = min(least, time.process_time() - since)
    return found, least, first


def save(path: str, method: str, values: Iterable[float]) -> None:
    Path(f"{path}.{method}").write_bytes(array("d", values).tobytes())


def quantecon(path: str, gamma: float, rounds: int) -> dict[str, Any]:
    """Modified policy iteration, policy iteration and value iteration, where they suit the size."""
    import numpy as np
    from quantecon.markov import DiscreteDP
    from scipy.sparse import csr_matrix

    model = np.load(path)
    S = model["offsets"].size - 1
    counts = np.diff(model["offsets"])
    ends = np.flatnonzero(counts == 0)  # there each state must have an action: stay for nothing
    L = model["r"].size
    P = csr_matrix(
        (
            np.append(model["data"], np.ones(ends.size)),
            np.append(model["indices"], ends),
            np.append(model["indptr"], model["indptr"][-1] + 1 + np.arange(ends.size)),
        ),
        shape=(L + ends.size, S),
    )
    states = np.append(np.repeat(np.arange(S), counts), ends)
    actions = np.append(np.arange(L) - np.repeat(model["offsets"][:-1], counts), 0 * ends)
    order = np.argsort(states, kind="stable")
    r = np.append(model["r"], np.zeros(ends.size))
    problem = DiscreteDP(r[order], P[order], gamma, states[order], actions[order])
    methods = {"modified_policy_iteration": 10**6}
    if S <= _FACTORISED:
        methods["policy_iteration"] = _MOST_POLICIES
    if P.nnz * math.log(1e-8) / math.log(gamma) <= _MOST_WORK:
        methods["value_iteration"] = 10**6
    found = {}
    for method, limit in methods.items():

        def run(method: str = method, limit: int = limit) -> Any:
            return problem.solve(method, epsilon=2 * TOL, max_iter=limit)

        result, least, first = timed(run, rounds)
        save(path, method, result.v)
        found[method] = {"least": least, "first": first}
    return found


def storm(path: str, gamma: float, rounds: int) -> dict[str, Any]:
    """Value iteration with guarantees: optimistic, and sound."""
    import stormpy

    model = stormpy.build_model_from_drn(path)
    (wanted,) = stormpy.parse_properties('R{"reward"}min=? [F "end"]')
    found = {}
    for method in ("OPTIMISTIC_VALUE_ITERATION", "SOUND_VALUE_ITERATION"):
        environment = stormpy.environments.sound()
        solver = environment.solver().min_max()
        solver.method = stormpy.environments.MinMaxMethod.__members__[method]
        solver.precision = stormpy.Rational(TOL)
        solver.relative_termination_criterion = False

        def run(environment: Any = environment) -> Any:
            return stormpy.model_checking(model, wanted, environment=environment)

        try:
            result, least, first = timed(run, rounds)
        except Exception as error:
            print(f"{method}: {error}", file=sys.stderr)
            continue
        save(path, method, (-cost for cost in result.get_value_vector()))
        found[method] = {"least": least, "first": first}
    return found


if __name__ == "__main__":
    name, path, gamma, rounds = sys.argv[1:]
    print(
        json.dumps({"quantecon": quantecon, "storm": storm}[name](path, float(gamma), int(rounds)))
    )
