"""The graph under an MDP: which states can end, and where a policy could stay for ever."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, dijkstra

from rlkit.mdp.bellman import greedy
from rlkit.mdp.compact import Compact, compiled_by_now
from rlkit.mdp.model import MDP, BoolArray, FloatArray, IntArray


def can_end(P: csr_array, owner: IntArray, ends: BoolArray, terminal: BoolArray) -> BoolArray:
    """(S,) bool: states from which some way leads to an end.

    Args:
        P: (L, S) transitions; only their pattern counts.
        owner: (L,) the state of each row.
        ends: (L,) rows which may end the episode.
        terminal: (S,) states at which it has ended.
    """
    S = terminal.size
    entries = P.tocoo()
    finish = np.concatenate([np.flatnonzero(terminal), np.unique(owner[ends])])
    tails = np.concatenate([entries.coords[1], np.full(finish.size, S)])
    heads = np.concatenate([owner[entries.coords[0]], finish])
    backwards = csr_array((np.ones(tails.size), (tails, heads)), shape=(S + 1, S + 1))
    reached = breadth_first_order(backwards, S, directed=True, return_predecessors=False)
    found = np.zeros(S + 1, dtype=bool)
    found[reached] = True
    return found[:S]


def unending_states(mdp: MDP) -> IntArray:
    """States from which no policy can reach an end."""
    if not compiled_by_now(mdp):
        return np.flatnonzero(~can_end(mdp.P, mdp.pair_state, mdp.ends, mdp.terminal))
    from rlkit.mdp.order import flow_order, upwind_order

    # At γ = 1 that is the order that solvers take afterwards.
    order_of = upwind_order if mdp.gamma == 1.0 else flow_order
    order, levels = order_of(mdp, Compact.of(mdp))
    return np.sort(order[: levels[0]]).astype(np.int64)


def proper_choice(mdp: MDP) -> IntArray:
    """A policy that ends from every state from which one can, as (S_live,) numbers of pairs.

    Each pair chosen may step along the way of the fewest expected tries to an end, so that the
    policy ends for sure (Bertsekas and Tsitsiklis, An Analysis of Stochastic Shortest Path
    Problems, 1991). Among those that may, it is the one with the fewest tries left on average: a
    policy that counts on an unlikely slip may take a time exponential in the way's length.
    The first action where there is no way to an end.
    """
    tries, onward = _tries_to_end(mdp)
    pair_of_entry = np.repeat(np.arange(mdp.n_pairs), np.diff(mdp.P.indptr))
    forward = mdp.ends & (onward[mdp.pair_state] == mdp.n_states)
    forward[pair_of_entry[mdp.P.indices == onward[mdp.pair_state[pair_of_entry]]]] = True
    # Finite stand-ins for -inf, so that differences are defined; the other pairs come last.
    return greedy(mdp, np.where(forward, np.maximum(-(mdp.P @ tries), -1e200), -1e300), 0.0)


def _tries_to_end(mdp: MDP) -> tuple[FloatArray, IntArray]:
    """(S,) least Σ 1/p along a way to an end, and the next state on it.

    That would be the expected number of tries if a step that fails changed nothing. It is 0 at
    terminals and inf where there is no way. The next state is S where the episode ends in between
    states, and negative where there is none.
    """
    S, entering = mdp.n_states, mdp.P.tocsc()
    ending = np.flatnonzero(mdp.ends)
    missing = 1.0 - mdp.P.sum(axis=1)[ending]
    # Row s' lists the states that can go to s', row S those that can end. Not built from triples,
    # which would add up parallel edges: the shortest of them counts.
    backwards = csr_array(
        (
            1.0 / np.concatenate([entering.data, missing]),
            mdp.pair_state[np.concatenate([entering.indices, ending])],
            np.append(entering.indptr, mdp.P.nnz + ending.size),
        ),
        shape=(S + 1, S + 1),
    )
    sources = np.append(np.flatnonzero(mdp.terminal), S)
    tries, onward, _ = dijkstra(backwards, indices=sources, min_only=True, return_predecessors=True)
    return np.asarray(tries[:S]), np.asarray(onward[:S], dtype=np.int64)


def end_components(
    mdp: MDP, allowed: BoolArray, check_time: Callable[[], None] = lambda: None
) -> tuple[IntArray, BoolArray]:
    """Maximal end components of the MDP with the `allowed` pairs only.

    An end component is a set of states and pairs that can be stayed in for ever, any state of it
    reaching any other (de Alfaro, Formal Verification of Probabilistic Systems, 1997, §3.3).

    check_time: called now and then; what it raises ends the search.

    Returns:
        labels: (S,) the number of each state's component, 0, 1, ...; -1 where it is in none.
        internal: (L,) the pairs that stay inside.
    """
    owner, S = mdp.pair_state, mdp.n_states
    kept = allowed & ~mdp.ends
    if not kept.any():
        return np.full(S, -1, dtype=np.int64), kept
    count = np.bincount(owner[kept], minlength=S)
    dead = np.flatnonzero(count == 0)
    trim = _trimmer(mdp)
    while True:
        check_time()
        trim(dead, kept, count)
        pairs = np.flatnonzero(kept)
        if not pairs.size:
            break
        P = mdp.P[pairs]
        tails = np.repeat(owner[pairs], np.diff(P.indptr))
        steps = csr_array((np.ones(tails.size), (tails, P.indices)), shape=(S, S))
        _, component = connected_components(steps, directed=True, connection="strong")
        leaves = np.logical_or.reduceat(component[tails] != component[P.indices], P.indptr[:-1])
        if not leaves.any():
            break
        dead = _leave_out(pairs[leaves], owner, kept, count)
    labels = np.full(S, -1, dtype=np.int64)
    inside = count > 0
    if inside.any():
        labels[inside] = np.unique(component[inside], return_inverse=True)[1]
    return labels, kept


def _leave_out(pairs: IntArray, owner: IntArray, kept: BoolArray, count: IntArray) -> IntArray:
    """Take these pairs from kept (L,) and from count (S,); the states that lose their last."""
    kept[pairs] = False
    np.subtract.at(count, owner[pairs], 1)
    states = np.unique(owner[pairs])
    return np.asarray(states[count[states] == 0])


def _trimmer(mdp: MDP) -> Callable[[IntArray, BoolArray, IntArray], None]:
    """Leaves out the pairs that may lead to states without pairs, which leave any end component."""
    if compiled_by_now(mdp):
        from rlkit.mdp.trim import Trimmer

        return Trimmer(mdp)
    entering, owner = mdp.P.tocsc(), mdp.pair_state

    def trim(dead: IntArray, kept: BoolArray, count: IntArray) -> None:
        while dead.size:
            lost = np.unique(entering[:, dead].indices)
            dead = _leave_out(lost[kept[lost]], owner, kept, count)

    return trim


def states(numbers: IntArray) -> str:
    """The first few of them, in words."""
    shown = ", ".join(str(number) for number in numbers[:5])
    more = f" and {numbers.size - 5} more" if numbers.size > 5 else ""
    return f"state{'s' if numbers.size > 1 else ''} {shown}{more}"
