"""Jacobi sweeps over a model, by one thread or by several.

Each state's new value depends on old values alone, so that threads can share the states out between
them, and results are the same to the last bit whatever their number. The threads are Python's: the
compiled sweep lets go of the interpreter.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from rlkit.mdp.compact import MOST_ENTRIES, Compact, UintArray
from rlkit.mdp.model import FloatArray

_SHARE = 200_000  # transitions that a thread should have at least; less is done sooner than shared

NO_Q: FloatArray = np.empty(0)  # to be left as it is
NO_POLICY: UintArray = np.empty(0, dtype=np.uint32)
NO_PAIR = MOST_ENTRIES  # of a terminal state


class Sweeps:
    """Jacobi sweeps over a model's arrays; see `rlkit.mdp.kernels`.

    Args:
        model: the arrays.
        gamma: discount per step.
        threads: how many at most.
        successors: how many each row has, or 0.
        pool: where there are threads already.
    """

    def __init__(
        self,
        model: Compact,
        gamma: float,
        threads: int = 1,
        successors: int = 0,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        from rlkit.mdp import ell

        self.model, self.gamma, self._successors = model, gamma, successors
        self._sweep = ell.sweep_for(successors)
        self._how = (ell.is_wide(model), np.uint64(ell.entries_ahead(model)))
        self._threads = threads
        parts = max(1, min(threads, model.idx.size // _SHARE))
        share = np.arange(parts + 1) * (model.idx.size / parts)
        cuts = np.searchsorted(model.ptr[model.off], share)
        cuts[0], cuts[-1] = 0, model.off.size - 1
        self._cuts: list[int] = cuts.tolist()
        self._pool = pool or (ThreadPoolExecutor(threads - 1) if parts > 1 else None)

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
        work = [
            partial(self._sweep, *model, first, last, *self._how)
            for first, last in zip(self._cuts, self._cuts[1:], strict=False)
        ]
        if self._pool is None or len(work) == 1:
            return work[0]()
        others = [self._pool.submit(part) for part in work[1:]]
        changes = [work[0](), *(other.result() for other in others)]
        return min(low for low, _ in changes), max(high for _, high in changes)

    def following(self, policy: UintArray) -> Sweeps:
        """Sweeps of a policy's own operator. policy: (S,) pairs; NO_PAIR in terminal states.

        Its rows are copied: read in place, they would lie scattered over the model.
        """
        from rlkit.mdp import ell

        model = self.model
        live = policy != NO_PAIR
        pairs = policy[live]
        off = np.concatenate([[0], np.cumsum(live)]).astype(np.uint32)
        ptr = np.zeros(pairs.size + 1, dtype=np.uint32)
        np.cumsum(model.ptr[pairs + 1] - model.ptr[pairs], out=ptr[1:])
        idx, p = np.empty(int(ptr[-1]), dtype=np.uint32), np.empty(int(ptr[-1]))
        ell.gather(model.ptr, model.idx, model.p, pairs, ptr, idx, p)
        chain = Compact(off, ptr, idx, p, model.r[pairs])
        return Sweeps(chain, self.gamma, self._threads, self._successors, self._pool)
