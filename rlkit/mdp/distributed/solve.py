"""`solve_distributed`: value iteration and modified policy iteration with states over ranks.

Each rank generates and keeps the rows of its own states alone. A sweep is that of
rlkit/mdp/kernels.py over them; after it the ranks send one another those values that the others'
rows lead to. MacQueen's bounds need no more than the least and the largest change of all ranks.

A state's backup is the same arithmetic wherever it is done: values, policy and bounds are equal, to
the last bit, on any number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from warnings import warn

import numpy as np

from rlkit.distributed import join
from rlkit.errors import RlkitError, RlkitWarning, UsageError
from rlkit.mdp import kernels
from rlkit.mdp.bellman import largest
from rlkit.mdp.checks import discount
from rlkit.mdp.distributed.exchange import exchange_for
from rlkit.mdp.distributed.part import Facts, PartSolution
from rlkit.mdp.distributed.partition import checked, even
from rlkit.mdp.distributed.proof import Certified, Proof
from rlkit.mdp.distributed.rows import Rows, check_rewards, halo_of, joined, part_of
from rlkit.mdp.distributed.sweeps import Sweeps
from rlkit.mdp.generate import Generated, Packed, starts_of
from rlkit.mdp.goal import Goal, Watch
from rlkit.mdp.model import MDP, FloatArray, IntArray
from rlkit.ranks import Ranks
from rlkit.registry import unknown

METHODS = ("modified-policy-iteration", "value-iteration")
EXCHANGES = ("auto", "halo", "all-gather")
_EVALUATION_SWEEPS = 20  # each is a fraction of a sweep over all actions, and an exchange


def solve_distributed(
    model: Generated | MDP,
    gamma: float | None = None,
    method: str = METHODS[0],
    tol: float = 1e-6,
    max_seconds: float = math.inf,
    *,
    ranks: Ranks | None = None,
    starts: Sequence[int] | IntArray | None = None,
    exchange: str = EXCHANGES[0],
    watch: Watch | None = None,
) -> PartSolution:
    """This rank's part of a finite MDP's solution, with bounds that hold for all of it.

    Every rank calls this with the same arguments, in a process of its own: see docs/distributed.md.

    Args:
        model: `Generated`, of which each rank makes its own states' rows alone; or a whole MDP, of
            which it keeps a part.
        gamma: discount per step, in [0, 1]; a whole MDP has its own.
        method: "modified-policy-iteration" or "value-iteration".
        tol: bound on the error of any state's value, in units of reward.
        max_seconds: when to stop, about.
        ranks: this job's processes, where they have met already; without it `join` is called.
        starts: (ranks + 1,) the first state of each rank, and the number of states; without it all
            hold as many. See rlkit/mdp/distributed/partition.py.
        exchange: what is sent: "halo", the values that others need; "all-gather", all of them;
            "auto", whichever is less work.
        watch: whom to tell how far it has got; see `rlkit.mdp.goal.Watch`.

    Raises:
        UsageError: see `rlkit.solve` and `join`; also more ranks than states.
        ModelError: what the function returns is no MDP.
        RunError: nothing can be certified; or a rank is lost (LostRankError).

    Warns:
        RlkitWarning: `tol` was not reached; why, and what was.
    """
    if method not in METHODS:
        raise UsageError(f"method is {method!r}; over ranks it may be {' or '.join(METHODS)}")
    if exchange not in EXCHANGES:
        raise unknown("exchange", exchange, EXCHANGES)
    for name, value in (("tol", tol), ("max_seconds", max_seconds)):
        if not value > 0 or (value == math.inf and name == "tol"):
            raise UsageError(f"{name}={value} is out of range; it must be a positive number")
    if isinstance(model, MDP):
        if gamma not in (None, model.gamma):
            raise UsageError(f"gamma={gamma} is given, and the model has its own, {model.gamma}")
        gamma = model.gamma
    elif gamma is None:
        raise UsageError("gamma is missing; a generated model has none of its own")
    discount(gamma)
    asked = _Asked(gamma, method, tol, max_seconds, watch)
    if ranks is not None:
        return _solve(model, asked, ranks, starts, exchange)
    ranks = join()
    try:
        return _solve(model, asked, ranks, starts, exchange)
    finally:
        ranks.leave()


@dataclass(frozen=True)
class _Asked:
    gamma: float
    method: str
    tol: float
    max_seconds: float
    watch: Watch | None


def _solve(
    model: Generated | MDP,
    asked: _Asked,
    ranks: Ranks,
    starts: Sequence[int] | IntArray | None,
    exchange: str,
) -> PartSolution:
    n_states = model.n_states
    cuts = even(n_states, ranks.size) if starts is None else checked(starts, n_states, ranks.size)
    since = perf_counter()
    sweeps = sweeps_of(model, asked.gamma, ranks, cuts, exchange)
    build_seconds = perf_counter() - since
    goal = Goal(asked.tol, asked.max_seconds, asked.watch)
    evaluations = _EVALUATION_SWEEPS if asked.method == "modified-policy-iteration" else 0
    certified = _iterate(sweeps, goal, evaluations)
    if certified.shortfall is not None:
        warn(
            f"{certified.shortfall}; values are certified to within {certified.error:.2g}",
            RlkitWarning,
            stacklevel=3,
        )
    seconds = goal.seconds
    solved = _greedy(sweeps, certified.bounds.values)
    facts = _facts(model, sweeps, certified, asked.method, goal.sweeps, (build_seconds, seconds))
    rows, bounds = sweeps.rows, certified.bounds
    return PartSolution(
        rows.first,
        rows.last,
        bounds.values,
        solved[0],
        bounds.lower,
        bounds.upper,
        *solved[1:],
        facts,
    )


def sweeps_of(
    model: Generated | MDP, gamma: float, ranks: Ranks, starts: IntArray, wanted: str
) -> Sweeps:
    """What this rank sweeps over; arguments as of `solve_distributed`.

    An error in one rank's rows is raised by all of them.
    """
    first, last = (int(state) for state in starts[ranks.rank : ranks.rank + 2])
    failure: RlkitError | None = None
    blocks: list[Packed] = []
    try:
        blocks = [*part_of(model, first, last)]
        check_rewards(blocks, first)
    except RlkitError as error:
        failure = error
    ranks.share_error(failure)
    exchange = exchange_for(ranks, starts, halo_of(blocks, first, last), wanted)
    rows: Rows | None = None
    try:
        rows = joined(blocks, first, last, exchange)
    except RlkitError as error:
        failure = error
    ranks.share_error(failure)
    assert rows is not None
    return Sweeps(rows, exchange, ranks, gamma)


def _iterate(sweeps: Sweeps, goal: Goal, evaluations: int) -> Certified:
    """Sweeps of all actions, each followed by some of the policy's, until there is a proof."""
    proof = Proof(sweeps, goal, 1 + evaluations)
    V, TV = sweeps.values(_first_value(sweeps, evaluations)), sweeps.values()
    V[: sweeps.n][~proof.live] = 0.0
    sweeps.refresh(V)
    while True:
        # π(s) = argmax_a Q(s, a), TV(s) = max_a Q(s, a), Q(s, a) = r(s, a) + γ Σ p(s' | s, a) V(s')
        low, high = sweeps.backup(V, TV)
        goal.sweeps += 1
        certified = proof(V, TV, low, high)
        if certified is not None:
            return certified
        V, TV = sweeps.refresh(TV), V
        for _ in range(evaluations):
            # V ← T_π V = r_π + γ P_π V
            sweeps.follow(V, TV)
            goal.sweeps += 1
            V, TV = sweeps.refresh(TV), V


def _first_value(sweeps: Sweeps, evaluations: int) -> float:
    """What values start from: with evaluations below V*, so that V ≤ TV and none overshoots."""
    if not evaluations or sweeps.gamma == 1.0:
        return 0.0
    return min(0.0, sweeps.least_reward) / (1.0 - sweeps.gamma)


def _greedy(sweeps: Sweeps, values: FloatArray) -> tuple[IntArray, FloatArray, IntArray, IntArray]:
    """Own part of the policy that is greedy for the values; Q, labels and offsets of own pairs."""
    rows, n = sweeps.rows, sweeps.n
    V, TV, Q = sweeps.values(), np.empty(n), np.empty(rows.r.size)
    V[:n] = values
    sweeps.backup(sweeps.refresh(V), TV, Q)
    slack = 4.0 * sweeps.rounding(float(sweeps.largest(largest(values))[0]))
    choice = np.empty(n, dtype=np.int64)
    kernels.best_pairs(rows.off, Q, slack, np.empty(0, dtype=np.int64), choice)
    real = rows.labels >= 0
    labels = rows.labels.astype(np.int64)
    counts = np.where(rows.live, np.diff(rows.off), 0)
    return labels[choice], Q[real], labels[real], starts_of(counts, np.dtype(np.int64))


def _facts(
    model: Generated | MDP,
    sweeps: Sweeps,
    certified: Certified,
    method: str,
    count: float,
    seconds: tuple[float, float],
) -> Facts:
    rows, exchange, ranks = sweeps.rows, sweeps.exchange, sweeps.ranks
    kept = (
        rows.nbytes + sweeps.policy.nbytes + 16 * (sweeps.n + exchange.width) + exchange.bytes_sent
    )
    pairs, transitions, sent = ranks.total([rows.n_pairs, rows.p.size, exchange.bytes_sent])
    most_halo, most_kept = ranks.largest([exchange.width, kept])
    return Facts(
        n_states=model.n_states,
        n_pairs=int(pairs),
        n_transitions=int(transitions),
        gamma=sweeps.gamma,
        start_value=_start_value(model, sweeps, certified.bounds.values),
        error_bound=certified.error,
        method=method,
        reason=f"states are spread over {ranks.size} ranks",
        sweeps=math.ceil(count),
        build_seconds=seconds[0],
        seconds=seconds[1],
        ranks=ranks.size,
        exchange=exchange.name,
        exchange_seconds=sweeps.exchange_seconds,
        halo=exchange.width,
        most_halo=int(most_halo),
        bytes_per_sweep=int(sent),
        rank_bytes=kept,
        most_rank_bytes=int(most_kept),
    )


def _start_value(model: Generated | MDP, sweeps: Sweeps, values: FloatArray) -> float | None:
    """The expected value of the first state, of which every rank has a part."""
    first, last = sweeps.rows.first, sweeps.rows.last
    if isinstance(model, MDP):
        if model.start is None:
            return None
        own = float(model.start[first:last] @ values)
    elif model.start:
        here = [values[state - first] for state in model.start if first <= state < last]
        own = float(sum(here)) / len(model.start)
    else:
        return None
    parts = np.empty((sweeps.ranks.size, 1))
    sweeps.ranks.gather(np.array([own]), parts)
    return float(parts.sum())
