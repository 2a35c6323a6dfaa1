"""The finite Markov decision process: sparse, over admissible state–action pairs, checked once.

Every row of `P` is one admissible pair (s, a): p(· | s, a). The rows are sorted by state, and
``offsets[s]:offsets[s + 1]`` are the pairs of state s. A row may sum to less than 1: **the missing
mass is termination**, after which nothing more is earned. A state without pairs is terminal; its
value is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from rlkit.errors import ModelError

# Rows whose sum differs from 1 by no more than this are meant to sum to 1, and are scaled to it;
# those in single precision, by no more than 8 of its eps.
ROW_SUM_TOLERANCE = 1e-9

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
_Array = TypeVar("_Array", bound=NDArray[Any])


@dataclass(frozen=True, eq=False, repr=False)
class MDP:
    """A finite MDP with S states and L admissible state–action pairs; immutable.

    Usually built by `from_gymnasium`, `from_arrays` or `from_pairs`. The arrays are copied and made
    read-only.

    Fields:
        P: csr_array (L, S) float64; row l is p(· | s, a) of pair l. No explicit zeros.
        offsets: (S + 1,) int64; the pairs of state s are ``offsets[s]:offsets[s + 1]``.
        r: (L,) float64; the expected reward of each pair.
        actions: (L,) int64; the label of each pair's action, not negative, increasing in a state.
        gamma: discount per step, in [0, 1].
        start: (S,) float64, the distribution of the first state; None where none is given.

    Raises:
        ModelError: a shape, a probability, a reward, a label or the discount is not as above; names
            the state and the action.
    """

    P: csr_array
    offsets: IntArray
    r: FloatArray
    actions: IntArray
    gamma: float
    start: FloatArray | None = None

    def __post_init__(self) -> None:
        given = csr_array(self.P)
        near_one = _row_sum_tolerance(given.dtype)
        fields: dict[str, Any] = {
            "P": csr_array(given, dtype=np.float64, copy=True),
            "offsets": _integers("offsets", self.offsets),
            "r": np.array(self.r, dtype=np.float64),
            "actions": _integers("actions", self.actions),
            "gamma": _discount(self.gamma),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check_shapes()
        self._check_numbers(near_one)
        if self.start is not None:
            object.__setattr__(self, "start", _distribution(self.start, self.n_states))
        self._normalise(near_one)
        self._freeze()

    @classmethod
    def from_pairs(
        cls,
        P: csr_array,
        r: ArrayLike,
        offsets: ArrayLike,
        gamma: float,
        actions: ArrayLike | None = None,
        start: ArrayLike | None = None,
    ) -> MDP:
        """An MDP from its pairs; a state to which `offsets` gives no pair is declared terminal.

        Args are the fields of `MDP`; without `actions` those of each state are labelled 0, 1, ....

        Raises:
            ModelError: see `MDP`.
        """
        offsets = _integers("offsets", offsets)
        if actions is None:
            n_pairs = np.shape(r)[0] if np.ndim(r) == 1 else 0
            counts = np.diff(offsets)
            consistent = counts.size and counts.min() >= 0 and counts.sum() == n_pairs
            firsts = np.repeat(offsets[:-1], counts) if consistent else 0
            actions = np.arange(n_pairs) - firsts
        return cls(P, offsets, r, actions, gamma, start)  # type: ignore[arg-type]

    @classmethod
    def from_arrays(
        cls,
        P: ArrayLike | Sequence[Any],
        R: ArrayLike,
        gamma: float,
        *,
        terminal: ArrayLike | None = None,
        admissible: ArrayLike | None = None,
        start: ArrayLike | None = None,
    ) -> MDP:
        """An MDP from arrays over all states and actions.

        Args:
            P: (S, A, S) array of p(s' | s, a), or a sequence of A sparse (S, S) matrices.
            R: (S, A) rewards of pairs, (S, A, S) rewards of transitions (their expectation is
                taken), or (S,) rewards for being in a state, earned with every action there.
            gamma: discount per step, in [0, 1].
            terminal: (S,) bool, or the numbers of the terminal states; their rows are ignored.
                A state whose every action stays there for sure with reward 0 is terminal too.
            admissible: (S, A) bool; pairs where it is False do not exist. Without it every pair
                exists, and a row of zeros is refused, since it could mean either "not admissible"
                or "ends the episode"; with it a row of zeros that is admissible ends the episode.
            start: (S,) distribution of the first state.

        Raises:
            ModelError: see `MDP`; also a state with no action which is not declared terminal.
        """
        from rlkit.mdp.build import arrays_to_pairs

        P_pairs, r, offsets, actions = arrays_to_pairs(P, R, terminal, admissible)
        return cls.from_pairs(P_pairs, r, offsets, gamma, actions, start)

    @classmethod
    def from_gymnasium(cls, env: Any, gamma: float, *, start: ArrayLike | None = None) -> MDP:
        """The MDP behind a Gymnasium environment.

        Args:
            env: an environment whose ``env.unwrapped`` has ``P`` (``P[s][a]`` is a list of
                ``(probability, next state, reward, terminated)``: FrozenLake, Taxi, CliffWalking)
                or offers ``mdp(gamma)``; or such a ``P`` itself. What is `terminated` ends the
                episode: its mass is left out of the row, its reward counts. States whose every
                action stays there for sure with reward 0 are terminal.
            gamma: discount per step, in [0, 1].
            start: (S,) distribution of the first state; without it the environment's
                ``initial_state_distrib``, where it has one.

        Raises:
            UsageError: the environment has no model.
            ModelError: see `MDP`; also a state with no action.
        """
        from rlkit.mdp.build import gymnasium_model

        return gymnasium_model(env, gamma, start)

    @property
    def n_states(self) -> int:
        """S, the number of states, terminal ones included."""
        return int(self.offsets.size - 1)

    @property
    def n_pairs(self) -> int:
        """L, the number of admissible state–action pairs."""
        return int(self.r.size)

    @cached_property
    def terminal(self) -> BoolArray:
        """(S,) bool: states with no pairs."""
        return _frozen(np.diff(self.offsets) == 0)

    @cached_property
    def live(self) -> IntArray:
        """(S_live,) int64: the states that are not terminal, in order."""
        return _frozen(np.flatnonzero(~self.terminal))

    @cached_property
    def pair_state(self) -> IntArray:
        """(L,) int64: the state of each pair."""
        return _frozen(np.repeat(np.arange(self.n_states), np.diff(self.offsets)))

    @cached_property
    def ends(self) -> BoolArray:
        """(L,) bool: pairs with missing mass, which may end the episode then and there."""
        return _frozen(np.asarray(self.P.sum(axis=1) < 1.0 - ROW_SUM_TOLERANCE / 2))

    @cached_property
    def width(self) -> int:
        """The largest number of successors of a pair."""
        return int(np.diff(self.P.indptr).max(initial=0))

    def __repr__(self) -> str:
        return (
            f"MDP({self.n_states} states ({int(self.terminal.sum())} terminal), "
            f"{self.n_pairs} pairs, {self.P.nnz} transitions, gamma={self.gamma:g})"
        )

    def _check_shapes(self) -> None:
        S, L = self.offsets.size - 1, self.r.size
        if S < 1 or self.offsets[0] != 0 or np.any(np.diff(self.offsets) < 0):
            raise ModelError("offsets must be S + 1 numbers that start at 0 and never decrease")
        for name, found, wanted in (
            ("r", self.r.shape, (int(self.offsets[-1]),)),
            ("actions", self.actions.shape, (L,)),
            ("P", tuple(self.P.shape), (L, S)),
        ):
            if found != wanted:
                raise ModelError(
                    f"{name} has shape {found}; with these offsets it must be {wanted}"
                )
        indices = self.P.indices
        if indices.size and (indices.min() < 0 or indices.max() >= S):
            bad = np.flatnonzero((indices < 0) | (indices >= S))[0]
            pair = int(np.searchsorted(self.P.indptr, bad, side="right")) - 1
            raise ModelError(
                f"{self._name(pair)}: successor {indices[bad]} is out of range; "
                f"states are 0 to {S - 1}"
            )

    def _check_numbers(self, near_one: float) -> None:
        P, data = self.P, self.P.data
        self._refuse(
            np.repeat(np.arange(self.n_pairs), np.diff(P.indptr))[~(data >= 0)],
            lambda pair: (
                f"probability {data[P.indptr[pair] : P.indptr[pair + 1]].min()} is not a number "
                "in [0, 1]"
            ),
        )
        sums = P.sum(axis=1)
        self._refuse(
            np.flatnonzero(~(sums <= 1.0 + near_one)),
            lambda pair: f"probabilities sum to {sums[pair]:.12g}; they may sum to 1 at most",
        )
        self._refuse(
            np.flatnonzero(~np.isfinite(self.r)),
            lambda pair: f"reward {self.r[pair]} is not a finite number",
        )
        self._refuse(
            np.flatnonzero(self.actions < 0),
            lambda pair: "action labels must not be negative",
        )
        same_state = self.pair_state[1:] == self.pair_state[:-1]
        self._refuse(
            1 + np.flatnonzero(same_state & (np.diff(self.actions) <= 0)),
            lambda pair: "action labels must increase within a state",
        )

    def _refuse(self, pairs: IntArray, why: Any) -> None:
        if pairs.size:
            pair = int(pairs[0])
            raise ModelError(f"{self._name(pair)}: {why(pair)}")

    def _name(self, pair: int) -> str:
        return f"state {self.pair_state[pair]}, action {self.actions[pair]}"

    def _normalise(self, near_one: float) -> None:
        P = self.P
        P.sum_duplicates()
        P.eliminate_zeros()
        sums = P.sum(axis=1)
        near = (sums != 1.0) & (np.abs(sums - 1.0) <= near_one)
        P.data /= np.repeat(np.where(near, sums, 1.0), np.diff(P.indptr))

    def _freeze(self) -> None:
        for array in (self.P.data, self.P.indices, self.P.indptr, self.start):
            if array is not None:
                array.flags.writeable = False
        for array in (self.offsets, self.r, self.actions):
            array.flags.writeable = False


def _row_sum_tolerance(dtype: np.dtype[Any]) -> float:
    """How far from 1 the sum of a row may be that is meant to be 1: more in single precision."""
    single = dtype.kind == "f" and dtype.itemsize < 8
    return 8.0 * float(np.finfo(dtype).eps) if single else ROW_SUM_TOLERANCE


def _frozen(array: _Array) -> _Array:
    array.flags.writeable = False
    return array


def _integers(name: str, values: ArrayLike) -> IntArray:
    found = np.asarray(values)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise ModelError(
            f"{name} must be a one-dimensional array of integers; "
            f"found {found.dtype} of shape {found.shape}"
        )
    return found.astype(np.int64)


def _discount(gamma: float) -> float:
    if not 0.0 <= gamma <= 1.0:
        raise ModelError(f"gamma={gamma} is out of range; a discount lies in [0, 1]")
    return float(gamma)


def _distribution(start: ArrayLike, n_states: int) -> FloatArray:
    found = np.array(start, dtype=np.float64)
    if found.shape != (n_states,):
        raise ModelError(f"start has shape {found.shape}; it must be ({n_states},)")
    if not np.all(found >= 0):
        state = int(np.flatnonzero(~(found >= 0))[0])
        raise ModelError(f"state {state}: start probability {found[state]} is not in [0, 1]")
    total = float(found.sum())
    if not abs(total - 1.0) <= 1e-6:
        raise ModelError(f"start probabilities sum to {total:.9g}; they must sum to 1")
    return found / total
