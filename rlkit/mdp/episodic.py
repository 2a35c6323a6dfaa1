"""γ = 1: what makes an undiscounted model solvable, and the refusal of models that are not.

The value is the supremum of the expected sum of rewards over all policies. Three things can spoil
it, and all are properties of end components (sets that a policy can stay in for ever):

- one with rewards of 0 only: staying is worth 0, which iteration cannot see (V = V + 0 holds for
  any V). Its states reach one another for free, so they are merged into one, which gets the
  action "stay": ends with nothing more.
- one that earns ≥ 0 a step on average by other rewards: unbounded, or undefined. Refused.
- states from which nothing but such staying is possible, at a cost. Refused.

What is left satisfies the conditions of Bertsekas and Tsitsiklis (1991): some policy ends from
every state, and each that does not loses without end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, hstack

from rlkit.errors import ModelError
from rlkit.mdp.goal import Goal
from rlkit.mdp.graph import end_components, proper_choice, states, unending_states
from rlkit.mdp.linear import linear_program
from rlkit.mdp.model import MDP, BoolArray, IntArray


@dataclass(frozen=True)
class Merged:
    """A γ = 1 model with its free end components merged, and the way back.

    Fields:
        mdp: the merged model, which has S' ≤ S states.
        state: (S,) the merged state that each state belongs to.
        pair: (L',) the original pair of each merged one; -1 is "stay".
        free: (L,) bool: the original pairs inside free end components.
    """

    original: MDP
    mdp: MDP
    state: IntArray
    pair: IntArray
    free: BoolArray

    def members(self, merged_states: IntArray) -> IntArray:
        """The original states behind merged ones."""
        return np.flatnonzero(np.isin(self.state, merged_states))

    def choice(self, merged_choice: IntArray) -> IntArray:
        """(S_live,) pairs of the original model that do what the merged policy says.

        Inside a free end component: go to the state from which the merged policy leaves.
        """
        if not self.free.any():
            return merged_choice
        original = self.original
        chosen = self.pair[merged_choice]
        leaving = chosen[chosen >= 0]
        exits = np.zeros(original.n_states, dtype=bool)
        exits[original.pair_state[leaving]] = True
        walking = np.flatnonzero(self.free & ~exits[original.pair_state])
        inside = _restricted(original, walking)
        choice = original.offsets[:-1].copy()
        choice[inside.live] = walking[proper_choice(inside)]
        choice[original.pair_state[leaving]] = leaving
        return choice[original.live]


def merge_free_loops(mdp: MDP, goal: Goal) -> Merged:
    """The γ = 1 model in the form that solvers can take.

    Raises:
        ModelError: the value is unbounded or undefined; names the states in question.
        OutOfTimeError: the goal's time is over before that is known.
    """
    labels, free = end_components(mdp, mdp.r == 0, goal.check_time)
    merged = _merge(mdp, labels, free) if free.any() else _as_it_is(mdp)
    goal.check_time()
    endless = unending_states(merged.mdp)
    if endless.size:
        raise ModelError(
            f"{states(merged.members(endless))} can reach no terminal state under any policy, so "
            "the value at gamma=1 is not finite; use gamma < 1, or let the episode end there"
        )
    _refuse_gainful_loops(merged, goal)
    return merged


def _as_it_is(mdp: MDP) -> Merged:
    pairs = np.arange(mdp.n_pairs)
    return Merged(mdp, mdp, np.arange(mdp.n_states), pairs, np.zeros(mdp.n_pairs, dtype=bool))


def _merge(mdp: MDP, labels: IntArray, free: BoolArray) -> Merged:
    S, loops = mdp.n_states, int(labels.max(initial=-1)) + 1
    representative = np.arange(S)
    first = np.full(loops, S)
    np.minimum.at(first, labels[labels >= 0], np.flatnonzero(labels >= 0))
    representative[labels >= 0] = first[labels[labels >= 0]]
    kept_states, state = np.unique(representative, return_inverse=True)

    kept = np.flatnonzero(~free)
    pair = np.concatenate([kept, np.full(loops, -1)])
    owner = np.concatenate([state[mdp.pair_state[kept]], state[first]])
    order = np.argsort(owner, kind="stable")
    onto = csr_array((np.ones(S), (np.arange(S), state)), shape=(S, kept_states.size))
    P = (mdp.P[kept] @ onto).tocsr()
    P = csr_array(  # "stay" is an empty row: it ends
        (P.data, P.indices, np.concatenate([P.indptr, np.full(loops, P.indptr[-1])])),
        shape=(pair.size, kept_states.size),
    )
    r = np.concatenate([mdp.r[kept], np.zeros(loops)])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=kept_states.size))])
    small = MDP.from_pairs(P[order], r[order], offsets, 1.0)
    return Merged(mdp, small, state, pair[order], free)


def _refuse_gainful_loops(merged: Merged, goal: Goal) -> None:
    """Refuse end components in which some policy earns 0 or more a step on average."""
    mdp = merged.mdp
    gains = np.flatnonzero((mdp.r > 0) & ~mdp.ends)
    if not gains.size:
        return
    rows = mdp.P[gains]
    if np.all(np.add.reduceat(mdp.terminal[rows.indices], rows.indptr[:-1])):
        return  # each may end at once, so that none is inside an end component
    every = np.ones(mdp.n_pairs, dtype=bool)
    labels, internal = end_components(mdp, every, goal.check_time)
    for label in np.unique(labels[mdp.pair_state[internal & (mdp.r > 0)]]):
        members = np.flatnonzero(labels == label)
        pairs = np.flatnonzero(internal & (labels[mdp.pair_state] == label))
        gain = _best_gain(mdp, members, pairs, goal)
        if gain >= -1e-9 * float(np.abs(mdp.r[pairs]).max()):
            raise ModelError(
                f"{states(merged.members(members))} can be looped through for ever with an "
                f"average reward of {gain:.3g} a step, so the value at gamma=1 is unbounded or "
                "undefined; use gamma < 1, or make looping cost something"
            )


def _best_gain(mdp: MDP, members: IntArray, pairs: IntArray, goal: Goal) -> float:
    """The largest average reward in an end component: min g with g + h(s) − Σ p h ≥ r for all.

    The linear program of Puterman (1994), §8.8, for a communicating model.
    """
    column = np.full(mdp.n_states, -1)
    column[members] = np.arange(members.size)
    ones, rows = np.ones(pairs.size), np.arange(pairs.size)
    here = csr_array(
        (ones, (rows, column[mdp.pair_state[pairs]])), shape=(pairs.size, members.size)
    )
    left = hstack([csr_array(ones[:, None]), here - mdp.P[pairs][:, members]])
    cost = np.zeros(members.size + 1)
    cost[0] = 1.0
    free: list[tuple[float | None, float | None]] = [(None, None)] * (members.size + 1)
    free[1] = (0.0, 0.0)  # h is determined up to a constant
    result = linear_program(cost, -left, -mdp.r[pairs], free, goal)
    if result.status != 0:
        raise ModelError(
            f"{states(members)} form loops with positive rewards whose gain could not be bounded "
            "at gamma=1; use gamma < 1"
        )
    return float(result.fun)


def _restricted(mdp: MDP, pairs: IntArray) -> MDP:
    counts = np.bincount(mdp.pair_state[pairs], minlength=mdp.n_states)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return MDP.from_pairs(mdp.P[pairs], np.zeros(pairs.size), offsets, 1.0)
