"""The finite model: its checks, and the forms it is built from."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from scipy.sparse import csr_array, csr_matrix

from rlkit import MDP
from rlkit.errors import ModelError, UsageError

P2 = [[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]]  # state 0: actions 0 and 1; state 1: action 0


def pairs(P=P2, r=(1.0, 2.0, 3.0), offsets=(0, 2, 3), gamma=0.9, actions=None, start=None):
    return MDP.from_pairs(csr_array(np.array(P)), r, offsets, gamma, actions, start)


def test_fields_and_sizes():
    mdp = pairs(start=[0.25, 0.75])
    assert (mdp.n_states, mdp.n_pairs, mdp.gamma) == (2, 3, 0.9)
    assert mdp.actions.tolist() == [0, 1, 0]
    assert mdp.pair_state.tolist() == [0, 0, 1]
    assert not mdp.terminal.any()
    assert mdp.start.tolist() == [0.25, 0.75]


def test_arrays_are_copied_and_read_only():
    P, r = csr_array(np.array(P2)), np.ones(3)
    mdp = MDP.from_pairs(P, r, [0, 2, 3], 0.9)
    P.data[:] = r[:] = 7.0
    assert mdp.P.data.max() <= 1.0
    assert mdp.r.max() == 1.0
    for array in (mdp.P.data, mdp.P.indices, mdp.P.indptr, mdp.r, mdp.offsets, mdp.actions):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(AttributeError):
        mdp.gamma = 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"P": [[0.5, 0.6], [0, 1], [1, 0]]}, "state 0, action 0: probabilities sum to 1.1"),
        ({"P": [[0.5, 0.5], [-0.1, 1], [1, 0]]}, r"state 0, action 1: probability -0\.1"),
        ({"P": [[0.5, 0.5], [0, 1], [np.nan, 0]]}, "state 1, action 0: probability nan"),
        ({"P": [[0.5, 0.5], [0, 1], [np.inf, 0]]}, "state 1, action 0: probabilities sum to inf"),
        ({"r": [0, np.nan, 0]}, "state 0, action 1: reward nan"),
        ({"r": [0, 0, -np.inf]}, "state 1, action 0: reward -inf"),
        ({"r": [0, 0]}, r"r has shape \(2,\).*\(3,\)"),
        ({"offsets": [0, 3, 2]}, "offsets must"),
        ({"offsets": [0.0, 2.0, 3.0]}, "offsets must be .* integers"),
        ({"offsets": [0, 1, 2, 3]}, r"P has shape \(3, 2\).*\(3, 3\)"),
        ({"gamma": 1.5}, r"gamma=1.5 is out of range.*\[0, 1\]"),
        ({"gamma": -0.1}, "gamma=-0.1"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"actions": [1, 0, 0]}, "state 0, action 0: action labels must increase"),
        ({"actions": [0, 1, -1]}, "state 1, action -1: action labels must not be negative"),
        ({"start": [0.5, 0.6]}, "start probabilities sum to 1.1"),
        ({"start": [1.5, -0.5]}, "state 1: start probability -0.5"),
        ({"start": [1.0]}, r"start has shape \(1,\)"),
    ],
)
def test_invalid_models_are_refused_by_name(change, message):
    with pytest.raises(ModelError, match=message) as refusal:
        pairs(**change)
    assert "\n" not in str(refusal.value)


def test_successors_out_of_range_are_refused_by_name():
    P = csr_array(np.array(P2))
    P.indices[-1] = 9
    with pytest.raises(ModelError, match=r"state 1, action 0: successor 9.*0 to 1"):
        MDP.from_pairs(P, np.ones(3), [0, 2, 3], 0.9)


def test_duplicates_are_summed_zeros_dropped_and_rounded_rows_mended():
    data, columns = [0.1, 0.2, 0.7 - 1e-12, 0.0], [0, 0, 1, 1]
    P = csr_array((data, columns, [0, 4, 4]), shape=(2, 2))
    mdp = MDP.from_pairs(P, [0, 0], [0, 1, 2], 0.9)
    assert mdp.P.nnz == 2
    assert mdp.P.sum() == pytest.approx(1.0, abs=1e-15)
    assert mdp.ends.tolist() == [False, True]


def test_arrays_in_each_shape_agree():
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(4), size=(4, 2))
    R = rng.normal(size=(4, 2, 4))
    expected = np.einsum("sat,sat->sa", P, R)
    dense = MDP.from_arrays(P, R, 0.9)
    np.testing.assert_allclose(dense.r, expected.ravel(), atol=1e-15)
    np.testing.assert_allclose(dense.P.toarray(), P.reshape(8, 4), atol=1e-15)
    for sparse in (csr_array, csr_matrix):
        other = MDP.from_arrays([sparse(P[:, a]) for a in range(2)], expected, 0.9)
        np.testing.assert_allclose(other.P.toarray(), dense.P.toarray())
        np.testing.assert_allclose(other.r, dense.r)
    by_state = MDP.from_arrays(P, [1.0, 2.0, 3.0, 4.0], 0.9)
    assert by_state.r.tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_rows_in_single_precision_do_not_end():
    P = np.random.default_rng(0).dirichlet(np.ones(7), size=(7, 3)).astype(np.float32)
    assert np.any(np.abs(P.astype(np.float64).sum(axis=2) - 1.0) > 1e-9)
    for given in (P, [csr_array(P[:, a]) for a in range(3)]):
        mdp = MDP.from_arrays(given, np.ones((7, 3)), 0.9)
        assert not mdp.ends.any()
        np.testing.assert_allclose(mdp.P.sum(axis=1), 1.0, atol=1e-15)


def two_states(row):
    P = np.zeros((2, 2, 2))
    P[0] = [[0.0, 1.0], [1.0, 0.0]]
    P[1] = row
    return P


def test_a_row_of_zeros_must_be_explained():
    P, R = two_states([[0, 0], [1, 0]]), np.ones((2, 2))
    with pytest.raises(ModelError, match="state 1, action 0: all probabilities are 0; declare"):
        MDP.from_arrays(P, R, 0.9)
    assert MDP.from_arrays(P, R, 0.9, terminal=[1]).terminal.tolist() == [False, True]
    assert MDP.from_arrays(P, R, 0.9, terminal=[False, True]).n_pairs == 2
    kept = MDP.from_arrays(P, R, 0.9, admissible=[[True, True], [False, True]])
    assert kept.actions.tolist() == [0, 1, 1]
    ending = MDP.from_arrays(P, R, 0.9, admissible=np.ones((2, 2), dtype=bool))
    assert ending.ends.tolist() == [False, False, True, False]


def test_a_state_without_actions_must_be_declared_terminal():
    P, R = two_states([[0, 1], [1, 0]]), np.ones((2, 2))
    nowhere = [[True, True], [False, False]]
    with pytest.raises(ModelError, match="state 1 has no action; declare it terminal"):
        MDP.from_arrays(P, R, 0.9, admissible=nowhere)
    assert MDP.from_arrays(P, R, 0.9, admissible=nowhere, terminal=[1]).n_pairs == 2
    with pytest.raises(ModelError, match="state 1 has no action"):
        MDP.from_gymnasium({0: {0: [(1.0, 1, 0.0, False)]}, 1: {}}, 0.9)


def test_staying_for_ever_with_reward_0_is_terminal_however_written():
    P = two_states([[0, 1], [0, 1]])
    assert MDP.from_arrays(P, [[1, 1], [0, 0]], 0.9).terminal.tolist() == [False, True]
    assert not MDP.from_arrays(P, [[1, 1], [0, 1]], 0.9).terminal.any()
    table = {0: {0: [(1.0, 1, 1.0, False)]}, 1: {0: [(1.0, 1, 0, False)]}}
    assert MDP.from_gymnasium(table, 0.9).terminal.tolist() == [False, True]


@pytest.mark.parametrize(
    ("P", "R", "message"),
    [
        (np.ones((2, 3)), np.ones(2), r"P has shape \(2, 3\)"),
        (np.full((2, 1, 2), 0.5), np.ones((2, 2)), r"R has shape \(2, 2\).*\(S, A\) = \(2, 1\)"),
        ([csr_array(np.eye(2)), csr_array(np.eye(3))], np.ones(2), r"action 1: P has shape"),
        ([csr_array(np.eye(2)), np.eye(2)], np.ones(2), r"^P is no array of numbers"),
        (np.full((2, 1, 2), 0.5), [["much"], ["more"]], r"^R is no array of numbers"),
        (np.full((2, 1, 2), 0.5), [[[0, 1]], [[np.inf, 0]]], "state 1, action 0: reward inf"),
    ],
)
def test_arrays_that_do_not_fit(P, R, message):
    with pytest.raises(ModelError, match=message):
        MDP.from_arrays(P, R, 0.9)


def test_frozen_lake_matches_its_own_table():
    env = gym.make("FrozenLake-v1")
    mdp = MDP.from_gymnasium(env, 0.99)
    assert np.flatnonzero(mdp.terminal).tolist() == [5, 7, 11, 12, 15]  # holes H and the goal G
    assert mdp.start.tolist() == [1.0] + [0.0] * 15
    for pair in range(mdp.n_pairs):
        outcomes = env.unwrapped.P[mdp.pair_state[pair]][mdp.actions[pair]]
        expected = np.zeros(16)
        for probability, successor, _, terminated in outcomes:
            expected[successor] += probability * (not terminated)
        np.testing.assert_allclose(mdp.P[[pair]].toarray()[0], expected, atol=1e-15)
        assert mdp.r[pair] == pytest.approx(sum(p * r for p, _, r, _ in outcomes))


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ((1.2, 0, 0.0, False), "state 0, action 3: probability 1.2"),
        ((0.9, 0, 0.0, False), "state 0, action 3: probabilities sum to 0.9"),
        ((float("nan"), 0, 0.0, False), "state 0, action 3: probability nan"),
        ((1.0, 7, 0.0, True), "state 0, action 3: successor 7"),
        ((1.0, 0, float("nan"), True), "state 0, action 3: reward nan"),
    ],
)
def test_invalid_tables_are_refused_by_name(outcome, message):
    with pytest.raises(ModelError, match=message):
        MDP.from_gymnasium({0: {3: [outcome]}}, 0.9)


def test_a_table_must_number_its_states():
    with pytest.raises(ModelError, match="no state 0; number them 0 to 0"):
        MDP.from_gymnasium({1: {0: [(1.0, 1, 0.0, True)]}}, 0.9)


def test_environments_without_a_model_are_refused():
    with pytest.raises(UsageError, match=r"CartPoleEnv has no model.*FrozenLake"):
        MDP.from_gymnasium(gym.make("CartPole-v1"), 0.9)


class Offering(gym.Env):
    def __init__(self, model):
        self.model = model

    def mdp(self, gamma):
        return self.model and pairs(gamma=gamma)


def test_an_environment_may_offer_its_own_model():
    mdp = MDP.from_gymnasium(Offering(True), 0.75, start=[1.0, 0.0])
    assert mdp.gamma == 0.75
    assert mdp.start.tolist() == [1.0, 0.0]
    with pytest.raises(UsageError, match="returned NoneType"):
        MDP.from_gymnasium(Offering(None), 0.75)
