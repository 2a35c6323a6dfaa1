"""From the shapes in which others write down an MDP to state–action pairs.

These stand behind `MDP.from_arrays` and `MDP.from_gymnasium`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csr_array, issparse

from rlkit.errors import ModelError, UsageError
from rlkit.mdp.checks import ROW_SUM_TOLERANCE
from rlkit.mdp.model import MDP, BoolArray, FloatArray, IntArray

Pairs = tuple[csr_array, FloatArray, IntArray, IntArray]  # P (L, S), r (L,), offsets (S+1,), labels


def index_dtype(n_states: int, entries: int) -> np.dtype[Any]:
    """The integers that a matrix of so many columns and entries is indexed with."""
    return np.dtype(np.int32 if max(n_states, entries) < 2**31 else np.int64)


def arrays_to_pairs(
    P: Any,
    R: Any,
    actions_first: bool,
    terminal: ArrayLike | None,
    admissible: ArrayLike | None,
) -> Pairs:
    """Pairs of an MDP given over all states and actions; see `MDP.from_arrays`."""
    rows, S, A = _rows(P, actions_first)
    r = _expected_rewards(R, rows, S, A, actions_first)
    exists = np.ones((S, A), dtype=bool)
    if admissible is not None:
        exists = np.array(admissible, dtype=bool)
        if exists.shape != (S, A):
            raise ModelError(f"admissible has shape {exists.shape}; it must be ({S}, {A})")
    declared = _declared(terminal, S)
    exists[declared] = False
    pairs = exists.ravel()

    empty = pairs & (rows.count_nonzero(axis=1) == 0)
    if admissible is None and empty.any():
        state, action = divmod(int(np.flatnonzero(empty)[0]), A)
        raise ModelError(
            f"state {state}, action {action}: all probabilities are 0; declare the state with "
            "terminal=[...], or say with admissible=... which pairs exist"
        )
    idle = ~declared & ~exists.any(axis=1)
    _refuse_idle(idle)
    kept = np.flatnonzero(pairs)
    pair_state, labels = np.divmod(kept, A)
    return without_absorbing(rows[kept], r[kept], pair_state, labels, S)


def gymnasium_model(env: Any, gamma: float, start: ArrayLike | None) -> MDP:
    """The MDP of an environment or of its table; see `MDP.from_gymnasium`."""
    if isinstance(env, Mapping):
        return _from_table(env, gamma, start)
    bare = getattr(env, "unwrapped", env)
    if callable(getattr(bare, "mdp", None)):
        model = bare.mdp(gamma)
        if not isinstance(model, MDP):
            raise UsageError(
                f"{type(bare).__name__}.mdp() returned {type(model).__name__}, not MDP"
            )
        return model if start is None else replace(model, start=np.asarray(start, dtype=np.float64))
    table = getattr(bare, "P", None)
    if not isinstance(table, Mapping):
        raise UsageError(
            f"{type(bare).__name__} has no model: neither a table P nor mdp(gamma); exact solvers "
            "need one, as FrozenLake, Taxi, CliffWalking and rlkit's GridWorld have"
        )
    if start is None:
        start = getattr(bare, "initial_state_distrib", None)
    return _from_table(table, gamma, start)


def _from_table(table: Mapping[Any, Any], gamma: float, start: ArrayLike | None) -> MDP:
    P, r, offsets, actions = _table_to_pairs(table)
    return MDP.from_pairs(P, r, offsets, gamma, actions, start, copy=False)


def _table_to_pairs(table: Mapping[Any, Any]) -> Pairs:
    S = len(table)
    _refuse_idle(np.array([not table.get(s, True) for s in range(S)], dtype=bool))
    pair_state: list[int] = []
    labels: list[int] = []
    r: list[float] = []
    rows: list[int] = []
    columns: list[int] = []
    data: list[float] = []
    for state in range(S):
        if state not in table:
            raise ModelError(f"P has {S} states but no state {state}; number them 0 to {S - 1}")
        for action, outcomes in sorted(table[state].items()):
            pair, name = len(r), f"state {state}, action {action}"
            total = reward = 0.0
            for probability, successor, gain, terminated in outcomes:
                _check_outcome(name, probability, successor, gain, S)
                total += probability
                reward += probability * gain
                if not terminated:
                    rows.append(pair)
                    columns.append(int(successor))
                    data.append(float(probability))
            if not abs(total - 1.0) <= ROW_SUM_TOLERANCE:
                raise ModelError(
                    f"{name}: probabilities sum to {total:.12g}; in a table P they must sum to 1 "
                    "(an end is marked by terminated)"
                )
            pair_state.append(state)
            labels.append(int(action))
            r.append(float(reward))
    P = csr_array((data, (rows, columns)), shape=(len(r), S), dtype=np.float64)
    absorbing = np.array([_is_absorbing(state, table[state]) for state in range(S)])
    return _drop_states(P, np.array(r), np.array(pair_state), np.array(labels), absorbing)


def _check_outcome(name: str, probability: float, successor: int, gain: float, S: int) -> None:
    if not 0.0 <= probability <= 1.0 + ROW_SUM_TOLERANCE:
        raise ModelError(f"{name}: probability {probability} is not a number in [0, 1]")
    if not 0 <= successor < S:
        raise ModelError(f"{name}: successor {successor} is out of range; states are 0 to {S - 1}")
    if not np.isfinite(gain):
        raise ModelError(f"{name}: reward {gain} is not a finite number")


def _is_absorbing(state: int, actions: Mapping[Any, Any]) -> bool:
    return all(
        probability == 0 or (successor == state and gain == 0)
        for outcomes in actions.values()
        for probability, successor, gain, _ in outcomes
    )


def numbers(name: str, values: Any) -> NDArray[np.floating[Any]]:
    """As an array of floats, single precision left as it is."""
    try:
        found = np.asarray(values)
        return found if found.dtype.kind == "f" else found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{name} is no array of numbers ({error}); see MDP.from_arrays for its shapes"
        ) from error


def _rows(P: Any, actions_first: bool) -> tuple[csr_array, int, int]:
    """P as (S·A, S), row s·A + a."""
    if _are_sparse(P):
        A, S = len(P), P[0].shape[0]
        return _interleaved("P", P, S), S, A
    dense = numbers("P", P)
    if actions_first and dense.ndim == 3:
        dense = dense.swapaxes(0, 1)
    if dense.ndim != 3 or dense.shape[0] != dense.shape[2] or dense.size == 0:
        wanted = "(A, S, S)" if actions_first else "(S, A, S)"
        turned = dense.ndim == 3 and dense.shape[1] == dense.shape[2] and not actions_first
        hint = "; with actions_first=True it may be (A, S, S)" if turned else ""
        raise ModelError(
            f"P has shape {np.shape(P)}; it must be {wanted}, "
            f"or a list of A sparse (S, S) matrices{hint}"
        )
    S, A, _ = dense.shape
    return csr_array(dense.reshape(S * A, S)), S, A


def _are_sparse(values: Any) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) > 0
        and all(issparse(matrix) for matrix in values)
    )


def _interleaved(name: str, matrices: Any, S: int) -> csr_array:
    """A sparse (S, S) matrices as one (S·A, S), row s·A + a."""
    A = len(matrices)
    for action, matrix in enumerate(matrices):
        if matrix.shape != (S, S):
            raise ModelError(f"action {action}: {name} has shape {matrix.shape}; expected {(S, S)}")
    parts = [matrix.tocoo() for matrix in matrices]
    rows = np.concatenate([part.coords[0].astype(np.int64) * A + a for a, part in enumerate(parts)])
    columns = np.concatenate([part.coords[1] for part in parts])
    data = np.concatenate([part.data for part in parts])
    return csr_array((data, (rows, columns)), shape=(S * A, S))


def _expected_rewards(R: Any, rows: csr_array, S: int, A: int, actions_first: bool) -> FloatArray:
    if _are_sparse(R):
        if len(R) != A:
            raise ModelError(f"R holds {len(R)} sparse matrices; P has {A} actions")
        gains = _interleaved("R", R, S)
        _refuse_gains(gains.tocoo(), A)
        return np.asarray(rows.multiply(gains).sum(axis=1)).ravel()
    R = numbers("R", R).astype(np.float64)
    if actions_first and R.ndim == 3:
        R = R.swapaxes(0, 1)
    if R.shape == (S, A):
        return np.asarray(R.ravel())
    if R.shape == (S,):
        return np.repeat(R, A)
    if R.shape == (S, A, S):
        gains = R.reshape(S * A, S)
        if not np.isfinite(R.sum()):
            _refuse_gains(coo_array(gains), A)
        return np.asarray(rows.multiply(gains).sum(axis=1)).ravel()
    raise ModelError(f"R has shape {R.shape}; it must be (S, A) = ({S}, {A}), (S, A, S) or (S,)")


def _refuse_gains(gains: coo_array, A: int) -> None:
    """Refuse rewards of transitions, (S·A, S), that are no finite numbers."""
    bad = np.flatnonzero(~np.isfinite(gains.data))
    if bad.size:
        state, action = divmod(int(gains.coords[0][bad[0]]), A)
        raise ModelError(
            f"state {state}, action {action}: reward {gains.data[bad[0]]} for "
            f"successor {gains.coords[1][bad[0]]} is not a finite number"
        )


def _declared(terminal: ArrayLike | None, S: int) -> BoolArray:
    declared = np.zeros(S, dtype=bool)
    if terminal is None:
        return declared
    given = np.atleast_1d(np.asarray(terminal))
    if given.dtype == np.bool_:
        if given.shape != (S,):
            raise ModelError(f"terminal has shape {given.shape}; as bool it must be ({S},)")
        return given.copy()
    if given.size and (given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= S):
        raise ModelError(f"terminal={terminal} must hold state numbers from 0 to {S - 1}")
    declared[given.astype(np.int64)] = True
    return declared


def _refuse_idle(idle: BoolArray) -> None:
    if idle.any():
        state = int(np.flatnonzero(idle)[0])
        raise ModelError(
            f"state {state} has no action; declare it terminal, or give it one "
            "(a terminal state may also be written as staying put with reward 0)"
        )


def without_absorbing(
    P: csr_array, r: FloatArray, pair_state: IntArray, labels: IntArray, S: int
) -> Pairs:
    """Pairs without those of states that every action keeps in place for ever with reward 0."""
    loops = np.zeros(r.size, dtype=bool)
    single = np.diff(P.indptr) == 1
    loops[single] = P.indices[P.indptr[:-1][single]] == pair_state[single]
    loops &= (r == 0) & (np.abs(P.sum(axis=1) - 1.0) <= ROW_SUM_TOLERANCE)
    moves = np.zeros(S, dtype=bool)
    moves[pair_state[~loops]] = True
    return _drop_states(P, r, pair_state, labels, ~moves)


def _drop_states(
    P: csr_array, r: FloatArray, pair_state: IntArray, labels: IntArray, dropped: BoolArray
) -> Pairs:
    if dropped[pair_state].any():
        kept = np.flatnonzero(~dropped[pair_state])
        P, r, pair_state, labels = P[kept], r[kept], pair_state[kept], labels[kept]
    counts = np.bincount(pair_state, minlength=dropped.size)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return P, r, offsets, labels
