"""What one rank gets back: the solution at its own states, with what holds for all of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import UsageError
from rlkit.mdp.generate import starts_of
from rlkit.mdp.model import FloatArray, IntArray
from rlkit.mdp.solution import Solution
from rlkit.ranks import Ranks
from rlkit.system import require_memory


@dataclass(frozen=True)
class Facts:
    """What a solve took; `Solution` has the words for what is not explained here.

    Fields:
        n_states, n_pairs, n_transitions: of the whole model.
        error_bound: a bound on the error of any state's value, on whatever rank.
        ranks: how many there were.
        build_seconds: this rank's, for the rows of its states; `seconds` come after these.
        exchange: "halo" or "all-gather".
        exchange_seconds: of `seconds`, what this rank spent on others, waiting included.
        halo: how many values of other ranks this one keeps, and `most_halo` that of any rank.
        bytes_per_sweep: what all ranks together send after a sweep.
        rank_bytes: of the rows, values and halo that this rank sweeps over, and `most_rank_bytes`
            that of any rank.
    """

    n_states: int
    n_pairs: int
    n_transitions: int
    gamma: float
    start_value: float | None
    error_bound: float
    method: str
    reason: str
    sweeps: int
    build_seconds: float
    seconds: float
    ranks: int
    exchange: str
    exchange_seconds: float
    halo: int
    most_halo: int
    bytes_per_sweep: int
    rank_bytes: int
    most_rank_bytes: int


@dataclass(frozen=True, eq=False, repr=False)
class PartSolution:
    """A solution at states `first` to before `last`; arrays are over those n states.

    Fields:
        values, lower, upper: (n,) float64. policy: (n,) int64. As of `Solution`.
        q: (L,) float64, actions: (L,) int64, offsets: (n + 1,) int64; of these states' pairs.
        facts: of the whole.
    """

    first: int
    last: int
    values: FloatArray
    policy: IntArray
    lower: FloatArray
    upper: FloatArray
    q: FloatArray
    actions: IntArray
    offsets: IntArray
    facts: Facts

    @property
    def error_bound(self) -> float:
        """A bound on the error of any state's value, on whatever rank."""
        return self.facts.error_bound

    def save(self, path: str | Path) -> None:
        """Write the arrays and facts to a compressed NumPy archive (.npz), as it is named."""
        facts = {name: x for name, x in asdict(self.facts).items() if x is not None}
        arrays = {name: x for name, x in vars(self).items() if name != "facts"}
        with Path(path).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays, **facts)

    def gather(self, ranks: Ranks) -> Solution | None:
        """The whole solution on rank 0, None elsewhere. Every rank has to call this.

        Raises UsageError where rank 0 has no room for it.
        """
        ranks.share_error(self._room(ranks))
        values, lower, upper, q = (
            self._whole(ranks, x) for x in (self.values, self.lower, self.upper, self.q)
        )
        policy, actions, counts = (
            self._whole(ranks, x) for x in (self.policy, self.actions, np.diff(self.offsets))
        )
        if ranks.rank:
            return None
        return Solution(
            values=values,
            policy=policy,
            q=q,
            lower=lower,
            upper=upper,
            offsets=starts_of(counts, np.dtype(np.int64)),
            actions=actions,
            gamma=self.facts.gamma,
            start_value=self.facts.start_value,
            method=self.facts.method,
            sweeps=self.facts.sweeps,
            seconds=self.facts.seconds,
            reason=self.facts.reason,
        )

    def _room(self, ranks: Ranks) -> UsageError | None:
        if ranks.rank:
            return None
        need = 48 * self.facts.n_states + 16 * self.facts.n_pairs
        try:
            require_memory(
                need,
                f"n_states is {self.facts.n_states:,}",
                "the whole solution on one rank",
                lambda free: f"about {int(self.facts.n_states * free / need):,}; save each part",
            )
        except UsageError as error:
            return error
        return None

    @staticmethod
    def _whole(ranks: Ranks, own: NDArray[Any]) -> NDArray[Any]:
        """All ranks' arrays in turn, on rank 0; elsewhere the own one."""
        sizes = np.empty((ranks.size, 1), dtype=np.int64)
        ranks.gather(np.array([own.size]), sizes)
        cuts = starts_of(sizes[:, 0], np.dtype(np.int64))
        own = np.ascontiguousarray(own)
        if ranks.rank:
            ranks.exchange({0: own}, {})
            return own
        whole = np.empty(cuts[-1], dtype=own.dtype)
        whole[: own.size] = own
        parts = {rank: whole[cuts[rank] : cuts[rank + 1]] for rank in range(1, ranks.size)}
        ranks.exchange({}, parts)
        return whole
