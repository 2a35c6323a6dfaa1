"""Jacobi sweeps over a model, by one thread or by several.

Each state's new value depends on old values alone, so that threads can share the states out between
them, and results are the same to the last bit whatever their number. The threads are Python's: the
compiled sweep lets go of the interpreter.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from rlkit.mdp.compact import Compact, UintArray
from rlkit.mdp.model import FloatArray, IntArray

_SHARE = 200_000  # transitions that a thread should have at least; less is done sooner than shared

NO_Q: FloatArray = np.empty(0)  # to be left as it is
NO_POLICY: UintArray = np.empty(0, dtype=np.uint32)


class Sweeps:
    """Jacobi sweeps over a model's arrays; see `rlkit.mdp.kernels`.

    Args:
        model: the arrays.
        gamma: discount per step.
        threads: how many at most.
        successors: how many each row has, or 0.
        wide: whether sums over rows are taken in four parts; by default where rows are long.
        pool: where there are threads already.
    """

    def __init__(
        self,
        model: Compact,
        gamma: float,
        threads: int = 1,
        successors: int = 0,
        wide: bool | None = None,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        from rlkit.mdp import ell

        self.model, self.gamma, self._successors = model, gamma, successors
        self._sweep = ell.sweep_for(successors)
        self._wide = ell.is_wide(model) if wide is None else wide
        self._how = (self._wide, np.uint64(ell.entries_ahead(model)))
        self._threads, self._pool = threads, pool
        self._cuts = [0, model.off.size - 1]
        parts = min(threads, model.idx.size // _SHARE)
        if parts > 1:
            share = np.arange(1, parts) * (model.idx.size / parts)
            self._cuts[1:1] = np.searchsorted(model.ptr[model.off], share).tolist()
            self._pool = pool or ThreadPoolExecutor(threads - 1)

    @classmethod
    def often(cls, model: Compact, gamma: float, threads: int = 1) -> Sweeps:
        """For many sweeps, which are worth a copy of the model where that makes them faster."""
        from rlkit.mdp import ell

        successors, laid_out = ell.fixed_rows(model) or (0, model)
        return cls(laid_out, gamma, threads, successors)

    def __call__(
        self, V: FloatArray, TV: FloatArray, Q: FloatArray = NO_Q, policy: UintArray = NO_POLICY
    ) -> tuple[float, float]:
        """TV (S,) of V (S,), the maximum of Q = r + γ Σ p V; the min and the max of TV − V.

        Q (L,) and policy (S,), the pairs that attain the maximum, are filled where they are not
        empty. A state without pairs gets 0, no policy, and has no part in the min and the max.
        """
        model = (*self.model.arrays, self.gamma, V, Q, TV, policy)
        if len(self._cuts) == 2:
            return self._sweep(*model, *self._cuts, *self._how)
        assert self._pool is not None
        work = [
            partial(self._sweep, *model, first, last, *self._how)
            for first, last in zip(self._cuts, self._cuts[1:], strict=False)
        ]
        others = [self._pool.submit(part) for part in work[1:]]
        changes = [work[0](), *(other.result() for other in others)]
        return min(low for low, _ in changes), max(high for _, high in changes)

    def some(self, states: IntArray, V: FloatArray, TV: FloatArray, Q: FloatArray) -> None:
        """As a call, for these states alone, in rising order: TV and Q are kept for others."""
        model = (*self.model.arrays, self.gamma, V, Q, TV, NO_POLICY)
        for run in np.split(states, np.flatnonzero(np.diff(states) > 1) + 1):
            self._sweep(*model, run[0], run[-1] + 1, *self._how)

    def following(self, policy: UintArray) -> Sweeps:
        """Sweeps of a policy's own operator. policy: (S,) pairs; NO_PAIR in terminal states.

        Its rows are copied: read in place, they would lie scattered over the model.
        """
        from rlkit.mdp import ell

        model, n = self.model, policy.size
        off, ptr = np.empty(n + 1, dtype=np.uint32), np.empty(n + 1, dtype=np.uint32)
        pairs, entries = ell.measure(model.ptr, policy, off, ptr)
        idx, p, r = np.empty(entries, dtype=np.uint32), np.empty(entries), np.empty(pairs)
        ell.gather(*model.arrays[1:], policy, idx, p, r)
        chain = Compact(off, ptr[: pairs + 1], idx, p, r)
        return Sweeps(chain, self.gamma, self._threads, self._successors, self._wide, self._pool)
