"""Models from a function over blocks of states, and from arrays with the actions first."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.sparse import csr_array

from rlkit import MDP
from rlkit.errors import ModelError, UsageError

S, A, K = 23, 3, 4


def tables(seed):
    """Random outcomes with duplicates, zeros, ends, missing mass and pairs that do not exist."""
    rng = np.random.default_rng(seed)
    successors = rng.integers(-1, S, size=(S, A, K))
    p = rng.dirichlet(np.ones(K + 1), size=(S, A))[..., :K]
    p[rng.random(p.shape) < 0.2] = 0.0
    rewards = rng.normal(size=(S, A, K))
    admissible = rng.random((S, A)) < 0.8
    return successors, p, rewards, admissible


def by_hand(successors, p, rewards, admissible):
    """The same model, one outcome at a time."""
    P, r, actions, counts = [], [], [], []
    for s in range(S):
        counts.append(int(admissible[s].sum()))
        for a in np.flatnonzero(admissible[s]):
            row = np.zeros(S)
            for k in range(K):
                if successors[s, a, k] >= 0:
                    row[successors[s, a, k]] += p[s, a, k]
            P.append(row)
            r.append(float(p[s, a] @ rewards[s, a]))
            actions.append(int(a))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return MDP.from_pairs(csr_array(np.array(P)), r, offsets, 0.9, actions)


def same(a, b):
    np.testing.assert_array_equal(a.offsets, b.offsets)
    np.testing.assert_array_equal(a.actions, b.actions)
    np.testing.assert_allclose(a.P.toarray(), b.P.toarray(), atol=1e-15)
    np.testing.assert_allclose(a.r, b.r, atol=1e-15)


@pytest.mark.parametrize("block", [1, 7, S, 100])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_of_any_size_give_the_model_that_is_written_by_hand(block, seed):
    successors, p, rewards, admissible = tables(seed)
    asked = []

    def f(states):
        asked.append(states)
        return successors[states], p[states], rewards[states], admissible[states]

    mdp = MDP.from_function(f, S, 0.9, block=block)
    same(mdp, by_hand(successors, p, rewards, admissible))
    np.testing.assert_array_equal(np.concatenate(asked), np.arange(S))
    assert max(len(states) for states in asked) == min(block, S)
    assert (mdp.terminal == ~admissible.any(axis=1)).all()


def test_what_is_the_same_everywhere_need_not_be_repeated():
    successors = tables(0)[0]
    p = np.array([0.1, 0.2, 0.3, 0.4])
    short = MDP.from_function(lambda states: (successors[states], p, -1.0), S, 0.9)
    every = np.ones((S, A), dtype=bool)
    full = by_hand(successors, np.tile(p, (S, A, 1)), -np.ones((S, A, K)), every)
    same(short, full)
    even = MDP.from_function(lambda states: (successors[states], 1 / K, 2.0), S, 0.9)
    assert even.P.sum(axis=1).max() <= 1.0
    same(even, by_hand(successors, np.full((S, A, K), 1 / K), np.full((S, A, K), 2.0), every))


def test_what_is_said_of_pairs_that_do_not_exist_is_ignored():
    successors, p, rewards, admissible = tables(1)
    expected = by_hand(successors, p, rewards, admissible)
    successors[~admissible], p[~admissible], rewards[~admissible] = 10**6, np.nan, np.inf
    same(
        MDP.from_function(lambda s: (successors[s], p[s], rewards[s], admissible[s]), S, 0.9),
        expected,
    )


def test_single_precision_does_not_end_episodes():
    p = np.random.default_rng(0).dirichlet(np.ones(7), size=(50, 2)).astype(np.float32)
    assert np.any(np.abs(p.astype(np.float64).sum(axis=2) - 1.0) > 1e-9)
    mdp = MDP.from_function(
        lambda s: (np.zeros((len(s), 2, 7), int) + np.arange(7), p[s], 1), 50, 0.9
    )
    assert not mdp.ends.any()
    np.testing.assert_allclose(mdp.P.sum(axis=1), 1.0, atol=1e-15)


def test_the_walk_of_the_documentation():
    def walk(states):
        successors = np.stack([states - 1, states + 1], axis=-1)[:, None, :]
        rewards = np.where(successors == 10, 1.0, 0.0)
        return np.where(successors == 10, -1, successors), 0.5, rewards

    mdp = MDP.from_function(walk, 10, gamma=1.0)
    # The gambler's ruin: from s, the right end is reached first with probability (s + 1) / 11.
    from rlkit import solve

    np.testing.assert_allclose(solve(mdp).values, np.arange(1, 11) / 11, atol=1e-6)


def test_staying_for_ever_with_reward_0_is_terminal():
    successors = np.array([[[0, 0]], [[1, 1]], [[2, 2]], [[3, 0]]])
    rewards = np.array([[0.0], [1.0], [0.0], [0.0]])
    p = np.array([[[0.5, 0.5]], [[0.5, 0.5]], [[0.5, 0.4]], [[1.0, 0.0]]])
    mdp = MDP.from_function(lambda states: (successors[states], p[states], rewards[states]), 4, 0.9)
    assert mdp.terminal.tolist() == [True, False, False, True]


def outcomes(**changes):
    arrays = {
        "successors": np.zeros((5, 2, 2), dtype=int),
        "p": np.full((5, 2, 2), 0.5),
        "r": np.ones((5, 2)),
    }
    for name, (place, value) in changes.items():
        arrays[name][place] = value
    return lambda states: tuple(array[states] for array in arrays.values())


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (outcomes(successors=((3, 1, 0), 5)), "state 3, action 1: successor 5 is out of range"),
        (outcomes(successors=((3, 1, 0), -2)), "state 3, action 1: successor -2 .* -1 ends the"),
        (outcomes(p=((4, 0, 1), -0.1)), "state 4, action 0: probability -0.1 is not a number in"),
        (outcomes(p=((4, 0, 1), np.nan)), "state 4, action 0: probability nan"),
        (outcomes(p=((2, 1, 1), 0.6)), "state 2, action 1: probabilities sum to 1.1"),
        (outcomes(r=((2, 1), np.inf)), "state 2, action 1: reward inf is not a finite number"),
        (lambda s: (np.zeros((2, 1, 1)), 1.0, 0.0), r"float64 and shape \(2, 1, 1\); for these 2"),
        (lambda s: (np.zeros((2, 1), int), 1.0, 0.0), r"shape \(2, 1\); .*shape \(2, A, K\)"),
        (lambda s: (np.zeros((3, 1, 1), int), 1.0, 0.0), r"for these 2 states"),
        (lambda s: (np.zeros((2, 0, 1), int), 1.0, 0.0), "A and K must be 1 or more"),
        (lambda s: (np.zeros((2, 1, 2), int), np.ones(3), 0.0), r"probabilities of shape \(3,\)"),
        (lambda s: (np.zeros((2, 1, 2), int), 0.5, np.ones(3)), r"rewards of shape \(3,\); they"),
        (lambda s: (np.zeros((2, 1, 2), int), 0.9, 0.0), "action 0: probabilities sum to 1.8"),
        (lambda s: (np.zeros((2, 1, 2), int), 0.5), "it returned 2 arrays"),
        (lambda s: None, "it returned NoneType"),
    ],
)
def test_mistakes_are_named_with_state_and_action(f, message):
    with pytest.raises(ModelError, match=message) as refusal:
        MDP.from_function(f, 5, 0.9, block=2)
    assert "\n" not in str(refusal.value)


def test_an_end_is_as_much_of_a_probability_as_any_successor():
    successors, p = np.array([[[-1, 0]]]), np.array([[[0.6, 0.6]]])
    with pytest.raises(ModelError, match=r"state 0, action 0: probabilities sum to 1\.2"):
        MDP.from_function(lambda states: (successors, p, 0.0), 1, 0.9)


def test_sizes_are_checked_before_anything_is_made(monkeypatch):
    for name in ("n_states", "block"):
        with pytest.raises(UsageError, match=f"{name} is 0; allowed: a whole number, 1 or more"):
            MDP.from_function(outcomes(), **{"n_states": 5, "gamma": 0.9, "block": 5, name: 0})
    calls = []

    def many(states):
        calls.append(states)
        return np.zeros((len(states), 2, 2), dtype=int), 0.5, 1.0

    monkeypatch.setattr("rlkit.system.available_memory", lambda: 10**9)
    with pytest.raises(UsageError, match="n_states is 1,000,000,000: the model would take"):
        MDP.from_function(many, 10**9, 0.9)
    assert len(calls) == 1


def test_a_model_takes_little_more_than_its_arrays_while_it_is_made():
    n = 60_000

    def grid(states):
        successors = (states[:, None, None] + np.array([1, 7, 70])) % n
        return np.tile(successors, (1, 4, 1)), 1 / 3, 0.5

    MDP.from_function(grid, n, 0.9)  # imports
    tracemalloc.start()
    mdp = MDP.from_function(grid, n, 0.9, block=2**11)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    own = sum(
        x.nbytes for x in (mdp.P.data, mdp.P.indices, mdp.P.indptr, mdp.r, mdp.actions, mdp.offsets)
    )
    assert peak < 2.5 * own


def test_handed_over_arrays_are_used_as_they_are():
    P = csr_array(np.array([[0.5, 0.5], [1.0, 0.0]]))
    r, offsets = np.ones(2), np.array([0, 1, 2])
    mdp = MDP.from_pairs(P, r, offsets, 0.9, copy=False)
    assert mdp.r is r
    assert mdp.offsets is offsets
    assert np.shares_memory(mdp.P.data, P.data)
    assert not r.flags.writeable
    with pytest.raises(ModelError, match="state 1, action 0: reward inf"):
        MDP.from_pairs(P, np.array([1.0, np.inf]), offsets, 0.9, copy=False)


def test_actions_first():
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(4), size=(2, 4))  # (A, S, S)
    R = rng.normal(size=(2, 4, 4))
    turned = MDP.from_arrays(P.swapaxes(0, 1), R.swapaxes(0, 1), 0.9)
    same(MDP.from_arrays(P, R, 0.9, actions_first=True), turned)
    same(MDP.from_arrays(P, turned.r.reshape(4, 2), 0.9, actions_first=True), turned)
    same(MDP.from_arrays([csr_array(p) for p in P], [csr_array(x) for x in R], 0.9), turned)
    with pytest.raises(ModelError, match=r"P has shape \(2, 4, 4\); .* with actions_first=True"):
        MDP.from_arrays(P, R, 0.9)
    with pytest.raises(ModelError, match=r"P has shape \(4, 2, 4\); it must be \(A, S, S\)"):
        MDP.from_arrays(P.swapaxes(0, 1), R, 0.9, actions_first=True)
    bad = [csr_array(x) for x in R]
    bad[1].data[:] = np.nan
    with pytest.raises(ModelError, match="state 0, action 1: reward nan for successor 0"):
        MDP.from_arrays([csr_array(p) for p in P], bad, 0.9)
    with pytest.raises(ModelError, match="R holds 1 sparse matrices; P has 2 actions"):
        MDP.from_arrays([csr_array(p) for p in P], bad[:1], 0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": [0, 0, 9]}, "transition 2: found 9 .*states are 0 to 1"),
        ({"successors": [0, 1, -3]}, "transition 2: found -3 .*successors are 0 to 1, and -1"),
        ({"probabilities": [0.5, -0.5, 1]}, "transition 1: found -0.5 .* in .0, 1."),
        ({"probabilities": [0.6, 0.6, 1]}, "state 0, action 0: probabilities sum to 1.2"),
        (
            {"successors": [0, -1, -1], "probabilities": [0.6, 0.6, 1]},
            "state 0, action 0: probabilities sum to 1.2",
        ),
        ({"rewards": [0, np.nan, 0]}, "transition 1: found nan .*finite number"),
        ({"rewards": [0, 0]}, r"rewards has shape \(2,\); states has \(3,\)"),
        ({"states": [0.0, 0.0, 1.0]}, "states must be .* integers"),
        ({"actions": [0, 0, -1]}, "state 1, action -1: action labels must not be negative"),
    ],
)
def test_triplets_that_are_no_model(change, message):
    columns = {
        "states": [0, 0, 1],
        "actions": [0, 0, 0],
        "successors": [0, 1, -1],
        "probabilities": [0.5, 0.5, 1.0],
        "rewards": [0.0, 0.0, 1.0],
    }
    with pytest.raises(ModelError, match=message):
        MDP.from_triplets(**{**columns, **change}, gamma=0.9, n_states=2)
