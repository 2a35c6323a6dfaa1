"""Compiled sweeps over state–action pairs: what the fast exact solvers do most of the time.

They work on `Flow` arrays (rlkit/mdp/flow.py) or on a model's own (rlkit/mdp/compact.py):

    off   (n + 1,) uint32: the pairs of state s are off[s]:off[s + 1]
    ptr   (L + 1,) uint32: the successors of pair l are ptr[l]:ptr[l + 1]
    idx   (N,) uint32: successors
    p     (N,) float64: their weights
    r     (L,) float64: rewards

Indices are unsigned, since numba wraps signed ones around at each access. One accumulator a row:
rows are short, and several of them are in flight at once anyway. Loops over states are not cut up:
numba inlines `expectation`, but a call of a longer function takes as long as a state does.
numba is imported with this module, so that nothing which can do without it may import it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Generic, ParamSpec, TypeVar

import numpy as np

from rlkit.compiled import compiled
from rlkit.mdp.compact import UintArray
from rlkit.mdp.model import BoolArray, FloatArray, IntArray

Args = ParamSpec("Args")
Result = TypeVar("Result")

# Types in numba's words; what is only read may be read-only.
U = "Array(uint32, 1, 'C', readonly=True)"
F = "Array(float64, 1, 'C', readonly=True)"
B = "Array(boolean, 1, 'C', readonly=True)"
MODEL = f"{U}, {U}, {U}, {F}, {F}"  # off, ptr, idx, p, r


class Kernel(Generic[Args, Result]):
    """A plain function that numba compiles when it is first called."""

    def __init__(self, function: Callable[Args, Result], signature: str) -> None:
        self.function, self.signature = function, signature
        self.__doc__ = function.__doc__

    def __call__(self, *args: Args.args, **named: Args.kwargs) -> Result:
        return self._fast(*args, **named)

    def load(self) -> Callable[Args, Result]:
        """The compiled function, which other kernels may call."""
        return self._fast

    @cached_property
    def _fast(self) -> Callable[Args, Result]:
        return compiled(self.function, self.signature)


def kernel(
    signature: str,
) -> Callable[[Callable[Args, Result]], Kernel[Args, Result]]:
    """Make a kernel of a function, for a signature in numba's words."""

    def decorate(function: Callable[Args, Result]) -> Kernel[Args, Result]:
        return Kernel(function, signature)

    return decorate


@kernel(f"float64({U}, {F}, {F}, uint32, uint32)")
def _expectation(idx: UintArray, p: FloatArray, V: FloatArray, a: int, b: int) -> float:
    total = 0.0
    for k in range(a, b):
        total += p[k] * V[idx[k]]
    return total


expectation = _expectation.load()  # Σ_k p_k V(idx_k), k from a to b


@kernel(f"void({U}, {U}, {F}, {F}, float64, {U}, {F}, float64[::1])")
def follow(
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    gamma: float,
    policy: UintArray,
    V: FloatArray,
    TV: FloatArray,
) -> None:
    """TV = r_π + γ P_π V, for a model in which no state is terminal."""
    for s in range(policy.size):
        pair = policy[s]
        TV[s] = r[pair] + gamma * expectation(idx, p, V, ptr[pair], ptr[pair + 1])


@kernel(f"void({U}, {F}, {B}, float64[::1])")
def largest(off: UintArray, Q: FloatArray, allowed: BoolArray, best: FloatArray) -> None:
    """The largest Q (L,) of each state's allowed pairs, into best (S,); 0 without pairs."""
    for s in range(off.size - 1):
        best[s] = 0.0 if off[s] == off[s + 1] else -np.inf
        for pair in range(off[s], off[s + 1]):
            if allowed[pair]:
                best[s] = max(best[s], Q[pair])


@kernel(f"void({MODEL}, {F}, float64, boolean[::1])")
def within(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    V: FloatArray,
    gap: float,
    tied: BoolArray,
) -> None:
    """Which pairs have V − Q ≤ gap, into tied (L,), at γ = 1."""
    for s in range(off.size - 1):
        for pair in range(off[s], off[s + 1]):
            q = r[pair] + expectation(idx, p, V, ptr[pair], ptr[pair + 1])
            tied[pair] = V[s] - q <= gap


@kernel(f"boolean({MODEL}, {F}, {F}, {B}, float64)")
def enclosed(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    lower: FloatArray,
    upper: FloatArray,
    tied: BoolArray,
    margin: float,
) -> bool:
    """Whether T upper + margin < upper and, with the tied (L,) pairs alone, T lower − margin ≥
    lower, at γ = 1, in all states that have pairs."""
    for s in range(off.size - 1):
        if off[s] == off[s + 1]:
            continue
        above, below = -np.inf, -np.inf
        for pair in range(off[s], off[s + 1]):
            first, last = ptr[pair], ptr[pair + 1]
            above = max(above, r[pair] + expectation(idx, p, upper, first, last))
            if tied[pair]:
                below = max(below, r[pair] + expectation(idx, p, lower, first, last))
        if not (above + margin < upper[s] and below - margin >= lower[s]):
            return False
    return True


@kernel(f"void({U}, {F}, float64, Array(int64, 1, 'C', readonly=True), int64[::1])")
def best_pairs(
    off: UintArray, Q: FloatArray, slack: float, incumbent: IntArray, choice: IntArray
) -> None:
    """The pair of each state that has any: the incumbent, if there is one and its Q (L,) is the
    largest but for the slack, else the first of which that is true."""
    place = 0
    for s in range(off.size - 1):
        if off[s] == off[s + 1]:
            continue
        best = -np.inf
        for pair in range(off[s], off[s + 1]):
            best = max(best, Q[pair])
        for pair in range(off[s], off[s + 1]):
            if Q[pair] - best >= -slack:
                choice[place] = pair
                break
        if incumbent.size and Q[incumbent[place]] - best >= -slack:
            choice[place] = incumbent[place]
        place += 1


@kernel(
    f"Tuple((float64, int64))({MODEL}, float64[::1], uint32[::1], int64, int64, int64, float64)"
)
def improve(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    V: FloatArray,
    policy: UintArray,
    first: int,
    last: int,
    step: int,
    slack: float,
) -> tuple[float, int]:
    """A Gauss–Seidel sweep V(s) ← max_a r + Σ p V from state `first` to before `last`, in place.

    step: 1 or -1. policy: the pair that attains the maximum; it stays while it is within `slack`.
    Returns the largest change of V, and how many states switched.
    """
    worst, switched = 0.0, 0
    for s in range(first, last, step):
        incumbent = policy[s]
        best, arg, kept = -np.inf, incumbent, -np.inf
        for pair in range(off[s], off[s + 1]):
            q = r[pair] + expectation(idx, p, V, ptr[pair], ptr[pair + 1])
            if pair == incumbent:
                kept = q
            if q > best:
                best, arg = q, np.uint32(pair)
        worst = max(worst, abs(best - V[s]))
        V[s] = best
        if kept < best - slack:
            policy[s] = arg
            switched += 1
    return worst, switched


@kernel(f"float64({U}, {U}, {F}, {F}, float64[::1], {U}, int64, int64, int64)")
def evaluate(
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    V: FloatArray,
    policy: UintArray,
    first: int,
    last: int,
    step: int,
) -> float:
    """A Gauss–Seidel sweep V(s) ← r_π + Σ p_π V, in place; returns the largest change."""
    worst = 0.0
    for s in range(first, last, step):
        pair = policy[s]
        v = r[pair] + expectation(idx, p, V, ptr[pair], ptr[pair + 1])
        worst = max(worst, abs(v - V[s]))
        V[s] = v
    return worst


@kernel(f"void({MODEL}, float64[::1], uint32[::1], int64, int64)")
def start(
    off: UintArray,
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    V: FloatArray,
    policy: UintArray,
    first: int,
    last: int,
) -> None:
    """First values and actions, from those of states with lower numbers.

    Successors that have no value yet are taken to lie as far above the state as those that have one
    lie below it, or level with it where they weigh too much for that. Only actions count that go
    where values are known with at least half the probability of the one that does so most.
    """
    for s in range(first, last):
        most = 0.0
        for pair in range(off[s], off[s + 1]):
            known = 1.0
            for k in range(ptr[pair], ptr[pair + 1]):
                if idx[k] >= s:
                    known -= p[k]
            most = max(most, known)
        best, arg = -np.inf, off[s]
        for pair in range(off[s], off[s + 1]):
            value, below, unknown = 0.0, 0.0, 0.0
            for k in range(ptr[pair], ptr[pair + 1]):
                if idx[k] >= s:
                    unknown += p[k]
                else:
                    below += p[k]
                    value += p[k] * V[idx[k]]
            if 1.0 - unknown < most / 2 or most < 1e-9:
                continue
            # v = r + value + unknown (v + slope)
            slope = 0.0
            if below > unknown + 0.05:  # slope = v - value / below
                v = (r[pair] + value - unknown * value / below) / (1.0 - 2.0 * unknown)
                slope = v - value / below
            v = (r[pair] + value + unknown * slope) / (1.0 - unknown)
            if v > best:
                best, arg = v, np.uint32(pair)
        V[s] = best if most >= 1e-9 else 0.0
        policy[s] = arg


@kernel(f"void({U}, {U}, {F}, {F}, {U}, uint32[::1], uint32[::1], float64[::1], float64[::1])")
def chain(
    ptr: UintArray,
    idx: UintArray,
    p: FloatArray,
    r: FloatArray,
    policy: UintArray,
    new_ptr: UintArray,
    new_idx: UintArray,
    new_p: FloatArray,
    new_r: FloatArray,
) -> None:
    """The rows of the policy's pairs, one after the other; new_idx and new_p may be too long."""
    entries = 0
    new_ptr[0] = 0
    for s in range(policy.size):
        pair = policy[s]
        new_r[s] = r[pair]
        for k in range(ptr[pair], ptr[pair + 1]):
            new_idx[entries] = idx[k]
            new_p[entries] = p[k]
            entries += 1
        new_ptr[s + 1] = entries


@kernel(f"void({U}, {U}, {F}, {F}, float64[::1])")
def smooth(ptr: UintArray, idx: UintArray, p: FloatArray, b: FloatArray, x: FloatArray) -> None:
    """A symmetric Gauss–Seidel step for (I − P) x = b from x = 0: forwards, then backwards."""
    n = b.size
    for s in range(n):
        total = b[s]
        for k in range(ptr[s], ptr[s + 1]):
            if idx[k] < s:
                total += p[k] * x[idx[k]]
        x[s] = total
    for s in range(n - 1, -1, -1):
        total = x[s]
        for k in range(ptr[s], ptr[s + 1]):
            if idx[k] > s:
                total += p[k] * x[idx[k]]
        x[s] = total


@kernel(f"void({U}, {U}, {F}, {F}, float64[::1])")
def apply(ptr: UintArray, idx: UintArray, p: FloatArray, x: FloatArray, y: FloatArray) -> None:
    """y = (I − P) x."""
    for s in range(x.size):
        y[s] = x[s] - expectation(idx, p, x, ptr[s], ptr[s + 1])
