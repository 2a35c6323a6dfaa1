"""Jacobi sweeps that read a model as fast as memory delivers it.

Two things keep a plain loop over CSR rows from that. Short rows are over before the processor has
guessed how long they are: where (nearly) all rows have the same few successors, they are laid out
with exactly so many (ELLPACK), and the loop over them is compiled for this number. And a model
larger than the cache is asked for some way ahead of its use, which the processor's own guesses
don't do far enough while it also looks up values. Rows of many successors get four accumulators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from rlkit.compiled import compiled
from rlkit.mdp.compact import NO_PAIR, Compact, UintArray
from rlkit.mdp.kernels import MODEL, F, U, kernel
from rlkit.mdp.model import FloatArray
from rlkit.mdp.prefetch import prefetch

_MOST_FIXED = 8  # successors in a row for which a loop of its own pays
_MOST_PADDED = 1.1  # entries after filling up rows, as a multiple of those before
_WIDE = 16  # successors on average from which on four accumulators pay
_CACHED = 16_000_000  # bytes of a model that stays in the cache from sweep to sweep
_AHEAD = 1_024  # entries
_ROWS_AHEAD = 8

Sweep = Callable[..., tuple[float, float]]

_SIGNATURE = (
    f"UniTuple(float64, 2)({MODEL}, float64, {F}, float64[::1], float64[::1], uint32[::1], int64, "
    "int64, boolean, uint64)"
)


@cache
def sweep_for(successors: int) -> Sweep:
    """The sweep over rows of so many successors, or of any number for 0; releases the GIL.

    See `rlkit.mdp.kernels` for a model's arrays, and `rlkit.mdp.parallel.Sweeps` for V, Q, TV,
    policy and what is returned. More arguments: the states first..last that are swept; whether rows
    have many successors; how many entries ahead to ask for, or 0.
    """
    K = np.uint64(successors)
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    eight = np.uint64(8)

    def sweep(
        off: UintArray,
        ptr: UintArray,
        idx: UintArray,
        p: FloatArray,
        r: FloatArray,
        gamma: float,
        V: FloatArray,
        Q: FloatArray,
        TV: FloatArray,
        policy: UintArray,
        first: int,
        last: int,
        wide: bool,
        ahead: Any,
    ) -> tuple[float, float]:
        low, high = np.inf, -np.inf
        keep, choose = Q.size > 0, policy.size > 0
        pair = np.uint64(off[first])
        k = pair * K if K else np.uint64(ptr[pair])
        for s in range(first, last):
            end_pair = np.uint64(off[s + 1])
            if pair == end_pair:
                TV[s] = 0.0
                continue
            if ahead and K:
                line = k
                while line < end_pair * K:
                    prefetch(p, line + ahead)
                    prefetch(p, line + eight + ahead)
                    prefetch(idx, line + ahead)
                    line += eight + eight
            best, arg = -np.inf, pair
            while pair < end_pair:
                total = 0.0
                if K:
                    for j in range(K):
                        total += p[k + j] * V[idx[k + j]]
                    k += K
                else:
                    end = np.uint64(ptr[pair + one])
                    if wide:
                        t1, t2, t3 = 0.0, 0.0, 0.0
                        while k + eight <= end:
                            if ahead:
                                prefetch(p, k + ahead)
                                prefetch(idx, k + ahead)
                            total += p[k] * V[idx[k]]
                            t1 += p[k + one] * V[idx[k + one]]
                            t2 += p[k + two] * V[idx[k + two]]
                            t3 += p[k + three] * V[idx[k + three]]
                            k += four
                            total += p[k] * V[idx[k]]
                            t1 += p[k + one] * V[idx[k + one]]
                            t2 += p[k + two] * V[idx[k + two]]
                            t3 += p[k + three] * V[idx[k + three]]
                            k += four
                        total = (total + t1) + (t2 + t3)
                    elif ahead:
                        prefetch(p, k + ahead)
                        prefetch(idx, k + ahead)
                    while k < end:
                        total += p[k] * V[idx[k]]
                        k += one
                q = r[pair] + gamma * total
                if keep:
                    Q[pair] = q
                arg = pair if q > best else arg
                best = max(best, q)
                pair += one
            TV[s] = best
            if choose:
                policy[s] = arg
            low, high = min(low, best - V[s]), max(high, best - V[s])
        return low, high

    return compiled(sweep, _SIGNATURE, release_gil=True)


def is_wide(compact: Compact) -> bool:
    """Whether rows have many successors."""
    return bool(compact.idx.size >= _WIDE * compact.r.size)


def entries_ahead(compact: Compact) -> int:
    """How far ahead of a sweep to ask for entries; 0 for a model that stays in the cache."""
    return _AHEAD if compact.p.nbytes + compact.idx.nbytes > _CACHED else 0


def fixed_rows(compact: Compact) -> tuple[int, Compact] | None:
    """(K, the model with exactly K successors in each row), where that is nearly so already.

    Rows are filled up by transitions of weight 0 to a successor that they have.
    """
    counts = np.diff(compact.ptr)
    K = int(counts.max(initial=0))
    if not 0 < K <= _MOST_FIXED or K * counts.size > _MOST_PADDED * compact.idx.size:
        return None
    if K * counts.size == compact.idx.size:
        return K, compact
    ptr = np.arange(0, K * counts.size + 1, K, dtype=np.uint32)
    place = np.arange(K) < counts[:, None]
    idx = np.zeros((counts.size, K), dtype=np.uint32)
    p = np.zeros((counts.size, K))
    idx[place], p[place] = compact.idx, compact.p
    filled = ~place & (counts > 0)[:, None]
    idx[filled] = np.repeat(idx[:, 0], filled.sum(axis=1))
    return K, Compact(compact.off, ptr, idx.ravel(), p.ravel(), compact.r)


@kernel(f"UniTuple(int64, 2)({U}, {U}, uint32[::1], uint32[::1])")
def measure(
    ptr: UintArray, policy: UintArray, new_off: UintArray, new_ptr: UintArray
) -> tuple[int, int]:
    """Where pairs and successors begin in a model of the policy's pairs alone; how many there are.

    policy: (n,); NO_PAIR where a state has none. new_off, new_ptr: (n + 1,), of which the latter
    may stay unused at its end.
    """
    pairs, entries = 0, 0
    new_off[0] = new_ptr[0] = 0
    for s in range(policy.size):
        pair = policy[s]
        if pair != NO_PAIR:
            entries += ptr[pair + np.uint32(1)] - ptr[pair]
            pairs += 1
            new_ptr[pairs] = entries
        new_off[s + 1] = pairs
    return pairs, entries


@kernel(f"void({U}, {U}, {F}, {F}, {U}, uint32[::1], float64[::1], float64[::1])")
def gather(
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    policy: UintArray,
    new_idx: UintArray,
    new_p: FloatArray,
    new_r: FloatArray,
) -> None:
    """The rows of the policy's pairs, one after the other; see `measure`."""
    row, place = 0, 0
    for s in range(policy.size):
        if s + _ROWS_AHEAD < policy.size and policy[s + _ROWS_AHEAD] != NO_PAIR:
            pair = policy[s + _ROWS_AHEAD]
            for k in range(ptr[pair], ptr[pair + np.uint32(1)], 8):
                prefetch(p, k)
                prefetch(idx, k)
        pair = policy[s]
        if pair == NO_PAIR:
            continue
        new_r[row] = r[pair]
        row += 1
        for k in range(ptr[pair], ptr[pair + np.uint32(1)]):
            new_idx[place] = idx[k]
            new_p[place] = p[k]
            place += 1
