"""Sweeps over a rank's own states, between which values of other ranks' states come in."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from rlkit.mdp import kernels
from rlkit.mdp.bellman import largest, rounding_of
from rlkit.mdp.compact import Compact, UintArray
from rlkit.mdp.distributed.exchange import Exchange
from rlkit.mdp.distributed.rows import Rows
from rlkit.mdp.model import BoolArray, FloatArray
from rlkit.mdp.parallel import NO_Q
from rlkit.mdp.parallel import Sweeps as Jacobi
from rlkit.ranks import Ranks


class Sweeps:
    """A rank's values, and what a sweep does to them; all ranks make the same calls.

    V is (own + width,): the values of the own states, then those of others as an exchange keeps
    them, up to date. What is called global is the same on all ranks.

    Attributes:
        gamma: discount per step.
        n: how many states this rank holds.
        closed: global, no episode ever ends.
        width: global, the largest number of successors of a pair.
        least_reward: global.
        exchange_seconds: spent on other ranks, waiting included.
    """

    def __init__(self, rows: Rows, exchange: Exchange, ranks: Ranks, gamma: float) -> None:
        self.rows, self.exchange, self.ranks, self.gamma = rows, exchange, ranks, gamma
        self.n = rows.last - rows.first
        self.exchange_seconds = 0.0
        known = self.largest(rows.ends, rows.width, largest(rows.r), -rows.r.min(initial=0.0))
        self.closed = not known[0]
        self.width, self._reward = int(known[1]), float(known[2])
        self.least_reward = -float(known[3])
        self.policy: UintArray = np.zeros(self.n, dtype=np.uint32)
        self._sweep = self.sweep_of(rows.r, gamma)

    def values(self, value: float = 0.0) -> FloatArray:
        """(own + width,) of the same value."""
        return np.full(self.n + self.exchange.width, value)

    def refresh(self, V: FloatArray) -> FloatArray:
        """V, with what other ranks have for their part of it."""
        since = perf_counter()
        self.exchange.refresh(V)
        self.exchange_seconds += perf_counter() - since
        return V

    def largest(self, *values: float) -> FloatArray:
        """The global maximum of each."""
        since = perf_counter()
        found = self.ranks.largest(values)
        self.exchange_seconds += perf_counter() - since
        return found

    def backup(self, V: FloatArray, TV: FloatArray, Q: FloatArray = NO_Q) -> tuple[float, float]:
        """Own part of TV, and Q (L,) if given, of V; the least and the largest of own TV − V.

        The policy becomes greedy for V.
        """
        return self._sweep(V, TV, Q, self.policy)

    def sweep_of(self, r: FloatArray, gamma: float) -> Jacobi:
        """Sweeps over own rows with other rewards (L,) and another discount.

        Sums are taken in one order on all ranks, however long the rows of each are: results are the
        same to the last bit on any number of ranks.
        """
        return Jacobi(Compact(*self.rows.arrays[:4], r), gamma, wide=False)

    def follow(self, V: FloatArray, TV: FloatArray) -> None:
        """Own part of TV = r_π + γ P_π V; in place, since a copy of the rows takes memory."""
        kernels.follow(*self.rows.arrays[1:], self.gamma, self.policy, V, TV)

    def best(self, Q: FloatArray, allowed: BoolArray) -> FloatArray:
        """(own,) the largest Q (L,) of each state's allowed pairs."""
        found = np.empty(self.n)
        kernels.largest(self.rows.off, Q, allowed, found)
        return found

    def pair_values(self, x: FloatArray) -> FloatArray:
        """(L,) for each pair what `x` has for its state."""
        return np.repeat(x[: self.n], np.diff(self.rows.off))

    def rounding(self, size: float) -> float:
        """Global, as `rlkit.mdp.bellman.rounding`; size is the global max |V|."""
        return rounding_of(self.width, self._reward + size)
