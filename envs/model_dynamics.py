"""Drawing transitions of a finite MDP, compiled: N environments a step.

One uniform number per environment and step decides all: the row of the model in which an episode
begins, or the successor, by inverting the distribution function of its row (Devroye, Non-Uniform
Random Variate Generation, 1986, section III.2). Short rows are searched one by one, long ones by
bisection.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rlkit.compiled import compiled

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Indices: TypeAlias = NDArray[np.integer[Any]]  # int32 or int64, as SciPy has made them

ENDED = -1  # the age of an episode that is over
SHORT = 8  # successors that are searched one by one
_F, _I = "Array(float64, 1, 'C', readonly=True)", "Array(int64, 1, 'C', readonly=True)"


@cache
def load_step(index: str) -> Callable[..., int]:
    """`step` compiled for a model whose matrix is indexed by `index` (numba's name)."""
    _make_callable_from_kernels()
    rows = f"Array({index}, 1, 'C', readonly=True)"
    drawn = f"{_I}, f8[::1], i8[:,::1], i8[::1], f8[::1], b1[:,::1]"
    return compiled(step, f"i8({drawn}, {_I}, {_I}, {rows}, {rows}, {_F}, {_F}, {_I}, {_F}, f8)")


@cache
def load_cumulative(index: str) -> Callable[..., None]:
    """`cumulative` compiled, likewise."""
    rows = f"Array({index}, 1, 'C', readonly=True)"
    return compiled(cumulative, f"void({rows}, {_F}, Array(bool, 1, 'C', readonly=True), f8[::1])")


@cache
def load_allow() -> Callable[..., None]:
    return compiled(allow, f"void(i8[::1], {_I}, {_I}, i1[:,::1])")


@cache
def _make_callable_from_kernels() -> None:
    from numba.extending import register_jitable

    register_jitable(_drawn)


def step(
    actions: Ints,
    u: Floats,
    states: Ints,
    pairs: Ints,
    reward: Floats,
    flags: Bools,
    offsets: Ints,
    labels: Ints,
    indptr: Indices,
    indices: Indices,
    cdf: Floats,
    r: Floats,
    starts: Ints,
    start_cdf: Floats,
    limit: float,
) -> int:
    """Take a step in every environment; how many episodes ended in it.

    Args: `actions` (N,), labels; `u` (N,) in [0, 1); `states` (2, N), the state and the episode's
    age or `ENDED`, moved on in place; `pairs` (N,), scratch; `reward` (N,) and `flags` (2, N),
    terminated and truncated, written; the model: `offsets`, `labels` (its actions), `indptr` and
    `indices` of P, `cdf` (`cumulative`), `r`; `starts` and `start_cdf`, where episodes begin; the
    time limit.

    Returns -1 - i where environment i has no such action, and then wrote nothing but scratch. Where
    the row's mass ends before u the episode is terminated, and the state stays as it is.
    """
    n = len(actions)
    state, age = states[0], states[1]
    for i in range(n):
        if age[i] == ENDED:
            continue
        first, last = offsets[state[i]], offsets[state[i] + 1]
        pair = first + actions[i]
        if not (first <= pair < last and labels[pair] == actions[i]):
            pair = first
            while pair < last and labels[pair] != actions[i]:
                pair += 1
            if pair == last:
                return -1 - i
        pairs[i] = pair
    ended = 0
    for i in range(n):
        if age[i] == ENDED:
            state[i] = starts[_drawn(start_cdf, 0, len(starts), u[i])]
            age[i], reward[i], flags[0, i], flags[1, i] = 0, 0.0, False, False
            continue
        pair = pairs[i]
        last_entry = indptr[pair + 1]
        entry = _drawn(cdf, indptr[pair], last_entry, u[i])
        over = entry == last_entry  # the missing mass
        if not over:
            state[i] = indices[entry]
            over = offsets[state[i]] == offsets[state[i] + 1]
        age[i] += 1
        late = age[i] >= limit
        reward[i], flags[0, i], flags[1, i] = r[pair], over, late
        if over or late:
            age[i] = ENDED
            ended += 1
    return ended


def _drawn(cdf: Floats, first: int, last: int, u: float) -> int:
    """The first k in [first, last) with u < cdf[k]; `last` where there is none."""
    while last - first > SHORT:
        middle = (first + last) // 2
        if cdf[middle - 1] <= u:
            first = middle
        else:
            last = middle
    below = first
    for k in range(first, last):
        below += cdf[k] <= u  # no branch, which chance would have the processor mispredict
    return below


def cumulative(indptr: Indices, p: Floats, ends: Bools, cdf: Floats) -> None:
    """Write the distribution function of each row of P: (nnz,).

    A row without missing mass reaches beyond 1, so that rounding ends no episode.
    """
    for row in range(len(ends)):
        total = 0.0
        for k in range(indptr[row], indptr[row + 1]):
            total += p[k]
            cdf[k] = total
        if not ends[row]:
            cdf[indptr[row + 1] - 1] = 2.0


def allow(states: Ints, offsets: Ints, labels: Ints, mask: NDArray[np.int8]) -> None:
    """Write 1 into `mask` (N, A), zeros before, for the actions that each state (N,) has."""
    for i in range(len(states)):
        for pair in range(offsets[states[i]], offsets[states[i] + 1]):
            mask[i, labels[pair]] = 1
