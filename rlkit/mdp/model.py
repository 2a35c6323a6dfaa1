"""The finite Markov decision process: sparse, over admissible state–action pairs, checked once.

Every row of `P` is one admissible pair (s, a): p(· | s, a). The rows are sorted by state, and
``offsets[s]:offsets[s + 1]`` are the pairs of state s. A row may sum to less than 1: **the missing
mass is termination**, after which nothing more is earned. A state without pairs is terminal; its
value is 0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from rlkit.mdp.checks import (
    ROW_SUM_TOLERANCE,
    check_numbers,
    check_shapes,
    discount,
    distribution,
    integers,
    normalise,
    row_sum_tolerance,
    row_sums,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
_Array = TypeVar("_Array", bound=NDArray[Any])

# States (B,) to successors (B, A, K), probabilities, rewards and perhaps what is admissible.
Generator: TypeAlias = Callable[[IntArray], tuple[ArrayLike, ...]]


@dataclass(frozen=True, eq=False, repr=False)
class MDP:
    """A finite MDP with S states and L admissible state–action pairs; immutable.

    Usually built by `from_gymnasium`, `from_arrays`, `from_function` and their like, or by `load`.
    The arrays are copied and made read-only.

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
        self._take(
            csr_array(given, dtype=np.float64, copy=True),
            np.array(self.r, dtype=np.float64),
            integers("offsets", self.offsets),
            integers("actions", self.actions),
            row_sum_tolerance(given.dtype),
        )

    def _take(
        self, P: csr_array, r: FloatArray, offsets: IntArray, actions: IntArray, near_one: float
    ) -> None:
        """Check these arrays, mend their rounding and keep them."""
        gamma = discount(self.gamma)
        check_shapes(P, r, offsets, actions)
        check_numbers(P, r, offsets, actions, near_one)
        start = None if self.start is None else distribution(self.start, offsets.size - 1)
        self.__dict__["ends"] = _frozen(normalise(P, near_one))  # rather than sum the rows again
        fields = {"P": P, "offsets": offsets, "r": r, "actions": actions}
        for name, value in {**fields, "gamma": gamma, "start": start}.items():
            object.__setattr__(self, name, value)
        for array in (P.data, P.indices, P.indptr, offsets, r, actions, start):
            if array is not None:
                array.flags.writeable = False

    @classmethod
    def from_pairs(
        cls,
        P: csr_array,
        r: ArrayLike,
        offsets: ArrayLike,
        gamma: float,
        actions: ArrayLike | None = None,
        start: ArrayLike | None = None,
        copy: bool = True,
    ) -> MDP:
        """An MDP from its pairs; a state to which `offsets` gives no pair is declared terminal.

        Args are the fields of `MDP`; without `actions` those of each state are labelled 0, 1, ....
        With copy=False float64 and int64 arrays are taken over as they are, which halves the memory
        that a large model needs while it is made: they are mended in place and made read-only.

        Raises:
            ModelError: see `MDP`.
        """
        offsets = integers("offsets", offsets, copy)
        if actions is None:
            n_pairs = np.shape(r)[0] if np.ndim(r) == 1 else 0
            counts = np.diff(offsets)
            consistent = counts.size and counts.min() >= 0 and counts.sum() == n_pairs
            firsts = np.repeat(offsets[:-1], counts) if consistent else 0
            actions = np.arange(n_pairs) - firsts
        if copy:
            return cls(P, offsets, r, actions, gamma, start)  # type: ignore[arg-type]
        given = csr_array(P)
        mdp = object.__new__(cls)
        object.__setattr__(mdp, "gamma", gamma)
        object.__setattr__(mdp, "start", start)
        mdp._take(
            csr_array(given, dtype=np.float64),
            np.asarray(r, dtype=np.float64),
            offsets,
            integers("actions", actions, copy),
            row_sum_tolerance(given.dtype),
        )
        return mdp

    @classmethod
    def from_arrays(
        cls,
        P: ArrayLike | Sequence[Any],
        R: ArrayLike,
        gamma: float,
        *,
        actions_first: bool = False,
        terminal: ArrayLike | None = None,
        admissible: ArrayLike | None = None,
        start: ArrayLike | None = None,
    ) -> MDP:
        """An MDP from arrays over all states and actions.

        Args:
            P: (S, A, S) array of p(s' | s, a), or a sequence of A sparse (S, S) matrices.
            R: (S, A) rewards of pairs, (S, A, S) rewards of transitions (their expectation is
                taken), or (S,) rewards for being in a state, earned with every action there. A
                sequence of A sparse (S, S) matrices holds rewards of transitions, too.
            actions_first: P is (A, S, S), and so is R where it has three axes.
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

        P_pairs, r, offsets, labels = arrays_to_pairs(P, R, actions_first, terminal, admissible)
        return cls.from_pairs(P_pairs, r, offsets, gamma, labels, start, copy=False)

    @classmethod
    def from_function(
        cls,
        f: Generator,
        n_states: int,
        gamma: float,
        *,
        start: ArrayLike | None = None,
        block: int | None = None,
    ) -> MDP:
        """An MDP from a function that says, for many states at once, what each action leads to.

        Args:
            f: called with states (B,) int64, a block of consecutive states; returns, for A actions
                and up to K outcomes of each,

                - successors (B, A, K) int: the next state of each outcome; -1 ends the episode;
                - probabilities (B, A, K), or what broadcasts to that, such as (K,) where they are
                  the same everywhere; 0 where there are fewer than K outcomes. Outcomes with the
                  same successor are summed. What is missing to 1 ends the episode, as -1 does;
                - rewards (B, A) of the pairs, or (B, A, K) of the outcomes (the expectation is
                  taken), or what broadcasts to one of them;
                - optionally admissible (B, A) bool: pairs where it is False do not exist, and
                  what stands there is ignored. A state without an admissible action is terminal.

                A and K may differ from block to block. A state whose every action stays there for
                sure with reward 0 is terminal too.
            n_states: S, the number of states.
            gamma: discount per step, in [0, 1].
            start: (S,) distribution of the first state.
            block: B, the number of states in a block; the last may be shorter. Without it about a
                quarter of a million outcomes are asked for at a time.

        A random walk on 0 ... 9 that ends at either side, with reward 1 on the right::

            def walk(states):
                successors = np.stack([states - 1, states + 1], axis=-1)[:, None, :]  # (B, 1, 2)
                rewards = np.where(successors == 10, 1.0, 0.0)
                return np.where(successors == 10, -1, successors), 0.5, rewards

            mdp = MDP.from_function(walk, 10, gamma=1.0)

        Raises:
            ModelError: see `MDP`; also an array of `f` that has another shape.
            UsageError: the model would not fit into the free memory.
        """
        from rlkit.mdp.generate import generated_pairs

        P, r, offsets, actions = generated_pairs(f, n_states, block)
        return cls.from_pairs(P, r, offsets, gamma, actions, start, copy=False)

    @classmethod
    def from_triplets(
        cls,
        states: ArrayLike,
        actions: ArrayLike,
        successors: ArrayLike,
        probabilities: ArrayLike,
        rewards: ArrayLike,
        gamma: float,
        *,
        n_states: int | None = None,
        start: ArrayLike | None = None,
    ) -> MDP:
        """An MDP from its transitions, one entry each in five arrays (N,), in any order.

        Args:
            states, actions: int, the pair that an outcome belongs to.
            successors: int, the next state; -1 ends the episode.
            probabilities, rewards: of the outcome. Outcomes of a pair with the same successor are
                summed, and the pair earns their expected reward. What is missing to 1 ends the
                episode, as -1 does.
            gamma: discount per step, in [0, 1].
            n_states: S; without it one more than the largest number that occurs.
            start: (S,) distribution of the first state.

        A state in which no outcome begins is terminal, and so is one whose every action stays
        there for sure with reward 0.

        Raises:
            ModelError: see `MDP`; also an array of another length.
        """
        from rlkit.mdp.triplets import triplets_to_pairs

        columns = (states, actions, successors, probabilities, rewards)
        P, r, offsets, labels = triplets_to_pairs(columns, n_states)
        return cls.from_pairs(P, r, offsets, gamma, labels, start, copy=False)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        gamma: float | None = None,
        *,
        rewards: str | None = None,
        goal: str | None = None,
        costs: bool = False,
    ) -> MDP:
        """The MDP in a file, in the format that its ending names (see docs/models.md).

        .npz is what `save` writes, or triplets; .csv triplets; .drn Storm's explicit format; .tra
        PRISM's explicit files, those beside it included; .mdp and .pomdp Cassandra's format.

        Args:
            path: the file. Nothing in it is ever run.
            gamma: discount per step, in place of the file's own; needed where it has none.
            rewards: the reward structure to take, by name; needed where there are several.
            goal: a label (.drn, .tra) whose states are terminal, whatever the file says of them.
            costs: the numbers are costs: their negatives are the rewards.

        Raises:
            UsageError: the file cannot be read, has an unknown ending, or no discount.
            ModelError: what is in it is no MDP; names the file, the line and what is expected.
        """
        from rlkit.mdp.formats import load

        return load(path, gamma, rewards=rewards, goal=goal, costs=costs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the MDP to a file: .npz keeps everything, .drn all but the discount.

        Raises:
            UsageError: the ending is another.
            OSError: the file cannot be written.
        """
        from rlkit.mdp.formats import save

        save(self, path)

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
        return _frozen(row_sums(self.P) < 1.0 - ROW_SUM_TOLERANCE / 2)

    @cached_property
    def width(self) -> int:
        """The largest number of successors of a pair."""
        return int(np.diff(self.P.indptr).max(initial=0))

    def __repr__(self) -> str:
        return (
            f"MDP({self.n_states} states ({int(self.terminal.sum())} terminal), "
            f"{self.n_pairs} pairs, {self.P.nnz} transitions, gamma={self.gamma:g})"
        )


def _frozen(array: _Array) -> _Array:
    array.flags.writeable = False
    return array
