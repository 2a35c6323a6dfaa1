"""From a function over blocks of states to state–action pairs; behind `MDP.from_function`.

A block is checked and packed while it is in cache, and only what is packed is kept: the triples of
a model of 10⁷ states would take several times the memory of its matrix.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from rlkit.errors import ModelError, UsageError
from rlkit.mdp.build import Pairs, index_dtype
from rlkit.mdp.checks import ROW_SUM_TOLERANCE, row_sum_tolerance
from rlkit.mdp.model import MDP, BoolArray, FloatArray, Generator, IntArray
from rlkit.system import require_memory

_FIRST_BLOCK = 64
_BLOCK_OUTCOMES = 2**18  # as many as caches hold


@dataclass(eq=False)
class Packed:
    """The admissible pairs of a block: rows of P, rewards, labels, and how many each state has."""

    data: FloatArray
    indices: NDArray[np.integer[Any]]
    row_lengths: NDArray[np.integer[Any]]
    r: FloatArray
    actions: IntArray
    pairs: IntArray

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in vars(self).values())

    def of_states(self, first: int, last: int) -> Packed:
        """Of states `first` to before `last` alone, counted from the block's first one."""
        pairs = starts_of(self.pairs, np.dtype(np.int64))[[first, last]]
        rows = slice(*pairs)
        entries = slice(*starts_of(self.row_lengths, np.dtype(np.int64))[pairs])
        return Packed(
            self.data[entries],
            self.indices[entries],
            self.row_lengths[rows],
            self.r[rows],
            self.actions[rows],
            self.pairs[first:last],
        )


@dataclass(frozen=True, eq=False)
class Generated:
    """A model in words of a function, any part of which can be made without the rest.

    Fields:
        function, n_states, block: as of `MDP.from_function`.
        start: the states in which one begins, each as likely; none where the model names none.
        sequential: the function draws from a random stream, so that it has to be called for all
            blocks in turn, once, to make the same model; of what it returns only a part is kept.
    """

    function: Generator
    n_states: int
    start: tuple[int, ...] = ()
    block: int | None = None
    sequential: bool = False

    def mdp(self, gamma: float) -> MDP:
        """All of it."""
        start = None
        if self.start:
            start = np.zeros(self.n_states)
            start[[*self.start]] = 1.0 / len(self.start)
        return MDP.from_function(self.function, self.n_states, gamma, start=start, block=self.block)

    def part(self, first: int, last: int) -> Iterator[Packed]:
        """The pairs of states `first` to before `last`, a block at a time.

        Raises ModelError and UsageError; see `MDP.from_function`.
        """
        if not self.sequential:
            yield from generated_blocks(self.function, first, last, self.n_states, self.block)
            return
        done = 0
        kept = last - first
        S = self.n_states  # and whole blocks: in a shorter one, what is drawn would differ
        for packed in generated_blocks(self.function, 0, S, S, self.block, kept):
            size = packed.pairs.size
            if done + size > first:
                yield packed.of_states(max(first - done, 0), min(last - done, size))
            done += size
            if done >= last:
                return


def generated_pairs(f: Generator, n_states: int, block: int | None) -> Pairs:
    """Pairs of the MDP that `f` describes; see `MDP.from_function`."""
    return _joined([*generated_blocks(f, 0, n_states, n_states, block)], n_states)


def generated_blocks(
    f: Generator, first: int, last: int, n_states: int, block: int | None, kept: int | None = None
) -> Iterator[Packed]:
    """Pairs of states `first` to before `last` of the MDP that `f` describes, block by block.

    kept: of how many states the blocks are kept; without it of all.
    """
    for name, value in (("n_states", n_states), ("block", block)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value!r}; allowed: a whole number, 1 or more")
    done, size = first, block or _FIRST_BLOCK
    while done < last:
        states = np.arange(done, min(done + size, last))
        described = f(states)
        packed = _packed(described, states, n_states)
        if done == first:
            _require_memory(packed.nbytes, len(states), kept or last - first)
            outcomes = np.size(described[0]) / len(states)
            size = block or max(1, int(_BLOCK_OUTCOMES / outcomes))
        done += len(states)
        yield packed


def _require_memory(packed: int, states: int, n_states: int) -> None:
    # The parts and, while they are joined, the longest of their columns once more.
    per_state = 1.6 * packed / states * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    require_memory(
        int(per_state * n_states),
        f"n_states is {n_states:,}",
        "the model",
        lambda free: f"about {int(free / per_state):,}",
    )


def _joined(parts: list[Packed], n_states: int) -> Pairs:
    def column(name: str) -> NDArray[Any]:
        pieces = [getattr(part, name) for part in parts]
        for part in parts:
            setattr(part, name, None)  # so that no more than one column stands twice
        return np.concatenate(pieces)

    offsets = starts_of(column("pairs"), np.dtype(np.int64))
    data = column("data")
    indptr = starts_of(column("row_lengths"), index_dtype(n_states, data.size))
    P = csr_array((data, column("indices"), indptr), shape=(indptr.size - 1, n_states))
    return P, column("r"), offsets, column("actions")


def starts_of(counts: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """(N + 1,) where each of the groups of these sizes (N,) starts, and where the last ends."""
    starts = np.zeros(counts.size + 1, dtype=dtype)
    np.cumsum(counts, out=starts[1:])
    return starts


def _packed(described: tuple[ArrayLike, ...], states: IntArray, n_states: int) -> Packed:
    successors, p, r, admissible = _arrays(described, states)
    _check(successors, p, states, n_states)
    _drop_absorbing(successors, p, r, admissible, states)
    shape = successors.shape
    kept = np.broadcast_to(p > 0, shape) & admissible[..., None]
    if successors.min(initial=0) < 0:
        kept &= successors >= 0
    last = np.cumsum(kept, dtype=np.int32)[shape[2] - 1 :: shape[2]]  # of each pair's entries
    rows = csr_array(
        (
            np.broadcast_to(p, shape)[kept],
            successors[kept].astype(index_dtype(n_states, n_states), copy=False),
            np.concatenate([np.zeros(1, dtype=np.int32), last[admissible.ravel()]]),
        ),
        shape=(np.count_nonzero(admissible), n_states),
    )
    rows.sum_duplicates()
    actions = np.broadcast_to(np.arange(admissible.shape[1]), admissible.shape)
    return Packed(
        rows.data,
        rows.indices,
        np.diff(rows.indptr),
        r[admissible],
        actions[admissible],
        admissible.sum(axis=1),
    )


def _arrays(
    described: tuple[ArrayLike, ...], states: IntArray
) -> tuple[IntArray, FloatArray, FloatArray, BoolArray]:
    """Successors (B, A, K), probabilities as given, expected rewards and admissibility (B, A)."""
    if not isinstance(described, tuple) or len(described) not in (3, 4):
        raise ModelError(
            "f must return successors, probabilities, rewards and perhaps admissible; "
            f"it returned {_in_words(described)}"
        )
    successors = np.asarray(described[0])
    B = states.size
    if successors.ndim != 3 or len(successors) != B or successors.dtype.kind not in "iu":
        raise ModelError(
            f"f returned successors of {successors.dtype} and shape {successors.shape}; for these "
            f"{B} states they must be integers of shape ({B}, A, K)"
        )
    if 0 in successors.shape:
        raise ModelError(
            f"f returned successors of shape {successors.shape}; A and K must be 1 or more"
        )
    given = np.atleast_1d(np.asarray(described[1]))
    p = given.astype(np.float64, copy=False)
    every_p = _broadcast("probabilities", p, successors.shape)
    if p.shape[-1] == 1:  # the same for each outcome: a sum over the last axis must see them all
        p = every_p
    if row_sum_tolerance(given.dtype) > ROW_SUM_TOLERANCE:
        p = every_p = _mended(every_p, row_sum_tolerance(given.dtype))
    rewards = np.asarray(described[2], dtype=np.float64)
    if rewards.ndim == 3:
        gains = _broadcast("rewards", rewards, successors.shape)
        rewards = np.einsum("bak,bak->ba", every_p, gains)
    r = _broadcast("rewards", rewards, successors.shape[:2])
    if len(described) == 3:
        return successors, p, r, np.ones(successors.shape[:2], dtype=bool)
    admissible = _broadcast("admissible", described[3], successors.shape[:2]).astype(bool)
    # Whatever stands in pairs that do not exist, and may be out of range there.
    exists = admissible[..., None]
    successors = np.where(exists, successors, 0)
    return successors, np.where(exists, every_p, 0.0), np.where(admissible, r, 0.0), admissible


def _mended(p: FloatArray, near: float) -> FloatArray:
    """Probabilities (B, A, K) in single precision, scaled to sum to 1 where that is meant."""
    sums = p.sum(axis=2, keepdims=True)
    return np.where(np.abs(sums - 1.0) <= near, p / sums, p)


def _broadcast(name: str, values: ArrayLike, shape: tuple[int, ...]) -> FloatArray:
    found = np.asarray(values, dtype=np.float64)
    try:
        return np.broadcast_to(found, shape)
    except ValueError as error:
        raise ModelError(
            f"f returned {name} of shape {found.shape}; they must be {shape}, or broadcast to it"
        ) from error


def _in_words(described: object) -> str:
    kind = type(described).__name__
    return f"{len(described)} arrays" if isinstance(described, tuple) else kind


def _check(successors: IntArray, p: FloatArray, states: IntArray, n_states: int) -> None:
    """Refuse what is no longer seen once ends are dropped; `MDP` checks the rest."""
    if successors.size and (successors.min() < -1 or successors.max() >= n_states):
        b, a, k = np.argwhere((successors < -1) | (successors >= n_states))[0]
        raise ModelError(
            f"state {states[b]}, action {a}: successor {successors[b, a, k]} is out of range; "
            f"states are 0 to {n_states - 1}, and -1 ends the episode"
        )
    sums = p.sum(axis=-1)
    if p.min() >= 0.0 and sums.max() <= 1.0 + ROW_SUM_TOLERANCE:
        return
    p = np.broadcast_to(p, successors.shape)
    for b, a, k in np.argwhere(~(p >= 0))[:1]:
        raise ModelError(
            f"state {states[b]}, action {a}: probability {p[b, a, k]} is not a number in [0, 1]"
        )
    sums = np.broadcast_to(sums, successors.shape[:2])
    for b, a in np.argwhere(~(sums <= 1.0 + ROW_SUM_TOLERANCE))[:1]:
        raise ModelError(
            f"state {states[b]}, action {a}: probabilities sum to {sums[b, a]:.12g}; "
            "they may sum to 1 at most"
        )


def _drop_absorbing(
    successors: IntArray, p: FloatArray, r: FloatArray, admissible: BoolArray, states: IntArray
) -> None:
    """Take their actions from states that all of them keep in place for ever with reward 0."""
    idle = np.flatnonzero(np.all((r == 0) | ~admissible, axis=1))
    every_p = np.broadcast_to(p, successors.shape)[idle]
    staying = np.where(successors[idle] == states[idle, None, None], every_p, 0.0).sum(axis=2)
    loops = (staying >= 1.0 - ROW_SUM_TOLERANCE) | ~admissible[idle]
    admissible[idle[np.all(loops, axis=1)]] = False
