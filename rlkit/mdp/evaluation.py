"""The exact value of a given policy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from rlkit.errors import ModelError, UsageError
from rlkit.mdp.graph import can_end, states
from rlkit.mdp.linear import solve_chain
from rlkit.mdp.model import MDP, FloatArray


def evaluate_policy(mdp: MDP, policy: ArrayLike) -> FloatArray:
    """V^π = (I − γP_π)⁻¹ r_π by a sparse direct solve, as (S,) float64 (Puterman 1994, §6.1).

    Args:
        mdp: the model.
        policy: (S,) integer action labels, or (S, A) probabilities with a column per action label.
            What it says at terminal states is ignored.

    Raises:
        UsageError: the shape is wrong, probabilities do not sum to 1, or an action that is not
            admissible is taken; names the state.
        ModelError: γ = 1 and the policy earns rewards for ever; names the states.
        RunError: the equations are singular in float64.
    """
    given = np.asarray(policy)
    weigh = _pair_probabilities if given.ndim == 2 else _pair_indicators
    weights = weigh(mdp, given)
    taken = np.flatnonzero(weights)
    chosen = csr_array(  # (S, L): π(a | s) of each pair
        (weights[taken], (mdp.pair_state[taken], taken)), shape=(mdp.n_states, mdp.n_pairs)
    )
    P, r = (chosen @ mdp.P).tocsr(), chosen @ mdp.r
    if mdp.gamma == 1.0:
        P = _without_idling(mdp, P, weights)
    return solve_chain(P, mdp.gamma, r)


def _pair_indicators(mdp: MDP, policy: NDArray[np.generic]) -> FloatArray:
    if policy.shape != (mdp.n_states,) or policy.dtype.kind not in "iu":
        raise UsageError(
            f"policy is {policy.dtype} of shape {policy.shape}; it must be ({mdp.n_states},) "
            "integer action labels, or (S, A) probabilities"
        )
    taken = mdp.actions == policy[mdp.pair_state]
    has_action = np.zeros(mdp.n_states, dtype=bool)
    has_action[mdp.pair_state[taken]] = True
    missing = np.flatnonzero(~has_action & ~mdp.terminal)
    if missing.size:
        state = int(missing[0])
        labels = mdp.actions[mdp.offsets[state] : mdp.offsets[state + 1]].tolist()
        raise UsageError(
            f"state {state}: the policy takes action {policy[state]}; admissible are {labels}"
        )
    return np.asarray(taken, dtype=np.float64)


def _pair_probabilities(mdp: MDP, policy: NDArray[np.generic]) -> FloatArray:
    probabilities = policy.astype(np.float64)
    least = int(mdp.actions.max(initial=-1)) + 1
    if probabilities.shape[0] != mdp.n_states or probabilities.shape[1] < least:
        raise UsageError(
            f"policy has shape {probabilities.shape}; with a column per action label it must be "
            f"({mdp.n_states}, {least})"
        )
    live = mdp.live
    negative = live[~np.all(probabilities[live] >= 0, axis=1)]
    if negative.size:
        raise UsageError(f"state {negative[0]}: the policy's probabilities must be in [0, 1]")
    sums = probabilities.sum(axis=1)
    off = live[~(np.abs(sums[live] - 1.0) <= 1e-6)]
    if off.size:
        raise UsageError(
            f"state {off[0]}: the policy's probabilities sum to {sums[off[0]]:.9g}; "
            "they must sum to 1"
        )
    weights = probabilities[mdp.pair_state, mdp.actions]
    on_pairs = np.bincount(mdp.pair_state, weights, minlength=mdp.n_states)
    lost = live[sums[live] - on_pairs[live] > 1e-12]
    if lost.size:
        raise UsageError(
            f"state {lost[0]}: the policy gives {sums[lost[0]] - on_pairs[lost[0]]:.3g} of its "
            "probability to actions that are not admissible"
        )
    normalised: FloatArray = weights / sums[mdp.pair_state]
    return normalised


def _without_idling(mdp: MDP, P: csr_array, weights: FloatArray) -> csr_array:
    """P_π less the rows of states from which this policy earns nothing any more.

    Their value is 0 without them, and their equations (V = V) may have no unique solution.
    """
    chain, taken = np.arange(mdp.n_states), weights > 0
    earning, ends = np.zeros((2, mdp.n_states), dtype=bool)
    earning[mdp.pair_state[taken & (mdp.r != 0)]] = True
    ends[mdp.pair_state[taken & mdp.ends]] = True
    idle = ~can_end(P, chain, np.zeros_like(ends), terminal=earning)
    endless = np.flatnonzero(~can_end(P, chain, ends, terminal=mdp.terminal | idle))
    if endless.size:
        raise ModelError(
            f"{states(endless)}: under this policy the episode never ends, and rewards are earned "
            "for ever; its value at gamma=1 is not finite"
        )
    rows = np.repeat(~idle, np.diff(P.indptr))
    counts = np.where(idle, 0, np.diff(P.indptr))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return csr_array((P.data[rows], P.indices[rows], indptr), shape=P.shape)
