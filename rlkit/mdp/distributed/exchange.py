"""Values of other ranks' states, brought up to date after each sweep.

A rank's values are one array: those of its own states first, in order, then those of others that
its states lead to. `Halo` brings exactly these; `AllGather` brings all of them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rlkit.mdp.model import FloatArray, IntArray
from rlkit.ranks import Ranks

# Where ranks need more than this share of all values of others, all are sent. That is about as fast
# (docs/distributed.md has the measurement) and takes no lists of which: 24 bytes for each needed.
_MOST_HALO = 0.8


class Exchange(Protocol):
    """How a rank gets values of other ranks' states.

    Attributes:
        name: of the way, for people.
        width: how many values of other ranks are kept.
        bytes_sent: by this rank, each time.
    """

    name: str
    width: int
    bytes_sent: int

    def columns(self, states: IntArray) -> IntArray:
        """Where the values of other ranks' states (N,) are kept, counted from the first of them."""

    def refresh(self, V: FloatArray) -> None:
        """Bring V (own + width,) up to date, after its own values have changed on all ranks."""


def exchange_for(ranks: Ranks, starts: IntArray, halo: IntArray, wanted: str) -> Exchange:
    """How values are to be exchanged; halo: (H,) other ranks' states that own ones lead to, sorted.

    wanted: "halo", "all-gather", or "auto", which takes the one that is less work.
    """
    if wanted == "auto":
        needed = int(ranks.total([halo.size])[0])
        everything = (ranks.size - 1) * int(starts[-1])
        wanted = "all-gather" if needed > _MOST_HALO * everything else "halo"
    return AllGather(ranks, starts) if wanted == "all-gather" else Halo(ranks, starts, halo)


class Halo:
    """Each rank sends to each other one the values that this one needs, and nothing else."""

    name = "halo"

    def __init__(self, ranks: Ranks, starts: IntArray, halo: IntArray) -> None:
        self._ranks, self._halo = ranks, halo
        self._own = int(starts[ranks.rank + 1] - starts[ranks.rank])
        self.width = halo.size
        cuts = np.searchsorted(halo, starts)  # a sorted halo is sorted by owner
        needs = np.empty((ranks.size, ranks.size), dtype=np.int64)  # of a rank, from another
        ranks.gather(np.diff(cuts), needs)
        self._from = {
            int(peer): slice(self._own + cuts[peer], self._own + cuts[peer + 1])
            for peer in np.flatnonzero(np.diff(cuts))
        }
        asked = {
            int(peer): np.empty(needs[peer, ranks.rank], dtype=np.int64)
            for peer in np.flatnonzero(needs[:, ranks.rank])
        }
        ranks.exchange({peer: halo[cuts[peer] : cuts[peer + 1]] for peer in self._from}, asked)
        self._sent = {peer: states - starts[ranks.rank] for peer, states in asked.items()}
        self._buffers = {peer: np.empty(states.size) for peer, states in self._sent.items()}
        self.bytes_sent = sum(buffer.nbytes for buffer in self._buffers.values())

    def columns(self, states: IntArray) -> IntArray:
        return np.searchsorted(self._halo, states)

    def refresh(self, V: FloatArray) -> None:
        for peer, buffer in self._buffers.items():
            np.take(V, self._sent[peer], out=buffer)
        self._ranks.exchange(self._buffers, {peer: V[part] for peer, part in self._from.items()})


class AllGather:
    """Every rank gets all values of all ranks: none is looked up where nearly all are needed."""

    name = "all-gather"

    def __init__(self, ranks: Ranks, starts: IntArray) -> None:
        self._ranks, self._starts = ranks, starts
        self._own = int(starts[ranks.rank + 1] - starts[ranks.rank])
        self._longest = int(np.diff(starts).max())
        self._block = np.zeros(self._longest)  # gloo gathers blocks of one length
        self.width = ranks.size * self._longest
        self.bytes_sent = (ranks.size - 1) * self._block.nbytes

    def columns(self, states: IntArray) -> IntArray:
        owner = np.searchsorted(self._starts, states, side="right") - 1
        return np.asarray(owner * self._longest + states - self._starts[owner])

    def refresh(self, V: FloatArray) -> None:
        self._block[: self._own] = V[: self._own]
        self._ranks.gather(self._block, V[self._own :].reshape(self._ranks.size, self._longest))
