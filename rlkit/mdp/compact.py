"""A model's arrays as compiled kernels take them, and the models for which those are worth it."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import UsageError
from rlkit.mdp.model import MDP, FloatArray

UintArray = NDArray[np.uint32]

MOST_ENTRIES = 2**32 - 1  # what 32-bit indices can number
NO_PAIR = MOST_ENTRIES  # of a policy in a terminal state
_LARGE = 200_000  # transitions; with fewer, NumPy is done before the kernels are loaded


def worth_compiling(mdp: MDP) -> bool:
    """Whether single sweeps over the model pay for loading compiled kernels (about a second)."""
    return bool(_LARGE <= mdp.P.nnz <= MOST_ENTRIES)


def compiled_by_now(mdp: MDP) -> bool:
    """Whether there is nothing to load: compiled kernels have had to do with the model already.

    Ask this only where nothing is rounded, so that what was solved before does not change results.
    """
    return worth_compiling(mdp) or mdp in _made


@dataclass(frozen=True)
class Compact:
    """A model's own arrays, with indices of 32 bits; see rlkit/mdp/kernels.py. No discount yet."""

    off: UintArray
    ptr: UintArray
    idx: UintArray
    p: FloatArray
    r: FloatArray

    @classmethod
    def of(cls, mdp: MDP) -> Compact:
        """Shares the model's memory where it can, and is made once for a model.

        Raises UsageError where indices of 32 bits do not suffice.
        """
        if mdp not in _made:
            _made[mdp] = cls._make(mdp)
        return _made[mdp]

    @classmethod
    def _make(cls, mdp: MDP) -> Compact:
        if mdp.P.nnz > MOST_ENTRIES:
            raise UsageError(
                f"a model of {mdp.P.nnz:,} transitions is too large for the compiled methods, "
                f"which take {MOST_ENTRIES:,}; use modified-policy-iteration"
            )
        return cls(
            mdp.offsets.astype(np.uint32),
            _unsigned(mdp.P.indptr),
            _unsigned(mdp.P.indices),
            mdp.P.data,
            mdp.r,
        )

    @property
    def arrays(self) -> tuple[UintArray, UintArray, UintArray, FloatArray, FloatArray]:
        return self.off, self.ptr, self.idx, self.p, self.r


def _unsigned(indices: NDArray[np.signedinteger]) -> UintArray:
    return indices.view(np.uint32) if indices.dtype == np.int32 else indices.astype(np.uint32)


_made: WeakKeyDictionary[MDP, Compact] = WeakKeyDictionary()
