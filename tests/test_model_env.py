"""Any MDP as an environment: its law against the model's, and Gymnasium's own checks."""

import itertools
import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from scipy.sparse import csr_array
from scipy.stats import chisquare

import rlkit
from rlkit.envs.make import make_envs
from rlkit.envs.model_env import ModelEnv, ModelVectorEnv
from rlkit.envs.model_source import model_of
from rlkit.envs.models import make_model
from rlkit.errors import UsageError
from rlkit.mdp.draw_grid import WALL, GridLayout
from rlkit.registry import MODELS

N = 64


def random_model(seed, n_states=7, n_actions=4, ragged=False, wide=False):
    """A model with terminals, missing mass and, where ragged, labels with gaps."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(n_states, 1.0 if wide else 0.3), (n_states, n_actions))
    P *= rng.choice([1.0, 0.7], (n_states, n_actions, 1))
    if not wide:
        P[P < 0.02] = 0.0
    exists = np.ones((n_states, n_actions), dtype=bool)
    if ragged:
        exists = rng.random((n_states, n_actions)) < 0.6
        exists[:, 2] |= ~exists.any(axis=1)
        exists[0] = (False, True, False, True)
    exists[n_states - 1] = False
    return rlkit.MDP.from_arrays(
        P,
        rng.normal(size=(n_states, n_actions)),
        0.9,
        terminal=[n_states - 1],
        admissible=exists,
        start=[0.5, 0.0, 0.3, 0.2] + [0.0] * (n_states - 4),
    )


def dense(mdp):
    """p (L, S + 1) of each pair; the last column is what ends the episode without a state."""
    P = mdp.P.toarray()
    return np.column_stack([P, np.maximum(0, 1 - P.sum(axis=1))])


def assert_drawn_from(counts, p):
    """Pearson's test of counts (K,) against probabilities (K,); never what has none."""
    assert counts[p == 0].sum() == 0
    seen = p > 0
    if seen.sum() > 1:
        assert chisquare(counts[seen], p[seen] / p[seen].sum() * counts.sum()).pvalue > 1e-4


@pytest.mark.parametrize(
    ("ragged", "wide"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_transitions_and_starts_are_drawn_as_the_model_says(ragged, wide):
    mdp = random_model(3, 30 if wide else 7, ragged=ragged, wide=wide)
    assert (mdp.width > 8) == wide  # long rows are searched by bisection
    p = dense(mdp)
    counts, starts = np.zeros(p.shape), np.zeros(mdp.n_states)
    venv = ModelVectorEnv(mdp, 512)
    s, _ = venv.reset(seed=1)
    np.add.at(starts, s, 1)
    rng = np.random.default_rng(0)
    over = np.zeros(512, dtype=bool)
    for _ in range(600 if wide else 200):
        first, last = mdp.offsets[s], mdp.offsets[s + 1]
        pair = first + (rng.random(512) * (last - first)).astype(int)
        action = np.where(over, 99, mdp.actions[np.where(over, 0, pair)])
        s_next, reward, terminated, truncated, _ = venv.step(action)
        assert not truncated.any()
        assert not reward[over].any()
        assert not terminated[over].any()
        np.add.at(starts, s_next[over], 1)
        taken = pair[~over]
        np.testing.assert_array_equal(reward[~over], mdp.r[taken])
        gone = terminated & ~mdp.terminal[s_next]
        np.testing.assert_array_equal(s_next[~over & gone], s[~over & gone])
        np.add.at(counts, (taken, np.where(gone, mdp.n_states, s_next)[~over]), 1)
        assert terminated[~over & mdp.terminal[s_next]].all()
        s, over = s_next, terminated
    for row, expected in zip(counts, p, strict=True):
        assert_drawn_from(row, expected)
    assert counts.sum(axis=1).min() > 100
    assert_drawn_from(starts, mdp.start)


def test_masks_say_which_actions_a_state_has():
    mdp = random_model(5, ragged=True)
    exists = np.zeros((mdp.n_states, 4), dtype=np.int8)
    exists[mdp.pair_state, mdp.actions] = 1
    venv = ModelVectorEnv(mdp, N)
    s, info = venv.reset(seed=0)
    for _ in range(50):
        assert info["action_mask"].dtype == np.int8
        np.testing.assert_array_equal(info["action_mask"], exists[s])
        s, *_, info = venv.step(exists[s].argmax(1))
    assert "action_mask" not in ModelVectorEnv(random_model(5), 2).reset(seed=0)[1]
    env = ModelEnv(mdp)
    s, info = env.reset(seed=0)
    np.testing.assert_array_equal(info["action_mask"], exists[s])


def test_an_action_that_a_state_does_not_have_moves_nothing():
    mdp = random_model(5, ragged=True)
    venv = ModelVectorEnv(mdp, 1)
    s, _ = venv.reset(seed=3)
    while s[0] != 0:
        s, _ = venv.reset()
    before = venv.get_state()["states"]
    for wrong in (0, 2, 4, -1):
        with pytest.raises(InvalidAction, match=f"env 0 is {wrong}; its state 0 has the actions 1"):
            venv.step(np.array([wrong]))
    np.testing.assert_array_equal(venv.get_state()["states"], before)
    venv.step(np.array([3]))


def test_time_limits_truncate_and_episodes_begin_anew():
    P = csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    mdp = rlkit.MDP.from_pairs(P, [1.0, 2.0], [0, 1, 2], 0.9, start=[1.0, 0.0])
    venv = ModelVectorEnv(mdp, 2, max_episode_steps=3)
    venv.reset(seed=0)
    told = [venv.step(np.zeros(2, dtype=np.int64)) for _ in range(5)]
    assert [step[0].tolist() for step in told] == [[1, 1], [0, 0], [1, 1], [0, 0], [1, 1]]
    assert [step[1][0] for step in told] == [1, 2, 1, 0, 1]
    assert [bool(step[3][0]) for step in told] == [False, False, True, False, False]
    assert not any(step[2].any() for step in told)
    for limit in (0, -1, 2.5, True):
        with pytest.raises(UsageError, match=r"max_episode_steps is .*; allowed: a whole number"):
            ModelVectorEnv(mdp, 2, max_episode_steps=limit)


@pytest.mark.parametrize("observe", ["index", "one-hot", "coordinates", "pixels"])
@pytest.mark.parametrize("source", ["FrozenLake", "gridworld"])
@pytest.mark.filterwarnings("ignore:.*alternative render modes")
def test_gymnasium_finds_no_fault(source, observe):
    mdp, layout = model_of(source, {})
    check_env(ModelEnv(mdp, observe, layout))


def test_one_environment_is_the_vector_of_one():
    mdp = random_model(2)
    env, venv = ModelEnv(mdp), ModelVectorEnv(mdp, 1)
    rng = np.random.default_rng(0)
    s, _ = env.reset(seed=9)
    assert venv.reset(seed=9)[0].tolist() == [s]
    for _ in range(300):
        action = int(rng.integers(4))
        s, reward, terminated, truncated, _ = env.step(action)
        told = venv.step(np.array([action]))
        assert [part[0] for part in told[:4]] == [s, reward, terminated, truncated]
        if terminated:
            with pytest.raises(ResetNeeded):
                env.step(0)
            s, _ = env.reset()
            assert venv.step(np.array([0]))[0].tolist() == [s]


def test_the_same_seed_gives_the_same_episodes_and_another_does_not():
    mdp = random_model(2)

    def played(seed):
        venv = ModelVectorEnv(mdp, N)
        seen = [venv.reset(seed=seed)[0]]
        return np.array(seen + [venv.step(np.zeros(N, dtype=int))[0] for _ in range(20)])

    np.testing.assert_array_equal(played(1), played(1))
    assert (played(1) != played(2)).any()


def test_going_on_from_a_saved_state_is_exact():
    def envs():
        made = make_envs("FrozenLake", N, 0, "model", options={"max_episode_steps": 20})
        made.reset()
        return made

    one, other = envs(), envs()
    rng = np.random.default_rng(0)
    for _ in range(30):
        one.step(rng.integers(4, size=N))
    np.testing.assert_array_equal(other.set_state(one.get_state()), one.step(np.zeros(N, int)).obs)
    one.set_state(other.get_state())
    for _ in range(60):
        action = rng.integers(4, size=N)
        step, again = one.step(action), other.step(action)
        for name in ("obs", "reward", "terminated", "truncated", "valid", "next_obs"):
            np.testing.assert_array_equal(getattr(step, name), getattr(again, name))
    with pytest.raises(UsageError, match="64 environments"):
        make_envs("FrozenLake8x8", 3, 0, "model")._venv.set_state(
            one.get_state()["environments"]["own"]
        )


def test_views_show_the_state():
    marks = np.array([["S", " ", WALL], [" ", "H", "G"]])
    states = np.array([[4, 3, -1], [2, 1, 0]])  # any numbering
    tones = np.array([[0, 0, 0], [0, -1, 1]], dtype=np.int8)
    layout = GridLayout(states, marks, marks == "G", tones)
    P = csr_array(np.full((5, 5), 0.2))
    mdp = rlkit.MDP.from_pairs(P, np.zeros(5), np.arange(6), 0.9)
    index = ModelVectorEnv(mdp, N).reset(seed=0)[0]
    assert set(index) == set(range(5))
    one_hot = ModelVectorEnv(mdp, N, "one-hot").reset(seed=0)[0]
    np.testing.assert_array_equal(one_hot, np.eye(5)[index])
    where = ModelVectorEnv(mdp, N, "coordinates", layout).reset(seed=0)[0]
    row, column = where[:, 0], where[:, 1] * 2
    np.testing.assert_array_equal(states[row.astype(int), column.astype(int)], index)
    pictures = ModelVectorEnv(mdp, N, "pixels", layout).reset(seed=0)[0]
    assert pictures.shape == (N, 56, 84, 3)
    cells = pictures[:, ::28, ::28]
    agent = (cells == (31, 97, 190)).all(-1)
    np.testing.assert_array_equal(agent, states == index[:, None, None])
    assert len({tuple(cell) for cell in cells[index == 4][0].reshape(-1, 3)}) == 5
    for observe in ("coordinates", "pixels"):
        with pytest.raises(UsageError, match="the model is no grid; allowed: index, one-hot"):
            ModelEnv(mdp, observe)
    with pytest.raises(UsageError, match="unknown observation 'pixel'; did you mean pixels"):
        ModelEnv(mdp, "pixel")
    small = rlkit.MDP.from_pairs(csr_array(np.full((4, 4), 0.25)), np.zeros(4), range(5), 0.9)
    with pytest.raises(UsageError, match="the layout shows 5 states, and the model has 4"):
        ModelEnv(small, "pixels", layout)


def test_models_that_no_episode_can_begin_in_are_refused():
    none = csr_array((0, 2))
    with pytest.raises(UsageError, match="every state of the model is terminal"):
        ModelEnv(rlkit.MDP.from_pairs(none, [], [0, 0, 0], 0.9))
    P = csr_array(np.array([[0.5, 0.5]]))
    with pytest.raises(UsageError, match=r"terminal state 1 with probability 0\.25"):
        ModelEnv(rlkit.MDP.from_pairs(P, [0.0], [0, 1, 1], 0.9, start=[0.75, 0.25]))
    with pytest.raises(UsageError, match=r"beyond float32's 3\.4e"):
        ModelEnv(rlkit.MDP.from_pairs(P, [1e39], [0, 1, 1], 0.9))


def test_vectorization_model_is_the_environment_in_law():
    """The uniform policy's mean return in FrozenLake agrees with Gymnasium's to 4 errors."""
    model, own = make_envs("FrozenLake", 512, 0, "model"), make_envs("FrozenLake", 64, 0, "sync")
    assert model.max_episode_steps == own.max_episode_steps == 100
    assert (model.id, model.obs_space, model.action_space) == (
        own.id,
        own.obs_space,
        own.action_space,
    )
    rng = np.random.default_rng(0)
    means, errors = [], []
    for envs, steps in ((model, 1500), (own, 1000)):
        gains = np.zeros(envs.n)
        finished = []
        envs.reset()
        for _ in range(steps):
            step = envs.step(rng.integers(4, size=envs.n))
            gains += step.reward
            over = step.terminated | step.truncated
            finished += gains[over].tolist()
            gains[over] = 0
        means.append(np.mean(finished))
        errors.append(np.std(finished) / len(finished) ** 0.5)
    assert abs(means[0] - means[1]) < 4 * np.hypot(*errors)
    assert means[1] > 6 * errors[1]


def test_vectorization_model_refuses_what_has_none():
    for name, why in (("CartPole", "no model"), ("Blackjack", "no model"), ("catch", "no model")):
        with pytest.raises(UsageError, match=f"can't be stepped by its model: it has {why}"):
            make_envs(name, 2, 0, "model")
    with pytest.raises(UsageError, match="vectorization model needs an environment's name"):
        make_envs(lambda: gym.make("FrozenLake-v1"), 2, 0, "model")


def test_models_by_name_and_from_files(tmp_path, cli):
    mdp = rlkit.MDP.from_gymnasium(gym.make("FrozenLake-v1"), 0.9)
    file = tmp_path / "lake.npz"
    mdp.save(file)
    for source in ("FrozenLake", str(file)):
        for n, vectorization in itertools.product((1, 8), ("auto", "sync")):
            envs = make_envs("model", n, 0, vectorization, options={"source": source})
            assert envs.obs_space == gym.spaces.Discrete(16)
            assert isinstance(envs._venv, SyncVectorEnv) == (vectorization == "sync")
    limit = ("--env-option", "max_episode_steps=100", "--steps", 2000, "--json")
    told = cli("train", "q-learning", "model", "--env-option", f"source={file}", *limit)
    run = json.loads(told.out)["run"]
    assert cli("evaluate", run).status == 0
    with pytest.raises(UsageError, match="source is 3; allowed: a model's name or file"):
        make_envs("model", 2, 0, options={"source": 3})
    with pytest.raises(UsageError, match=r"'my_envs\.py:Maze', which is code"):
        make_envs("model", 2, 0, options={"source": "my_envs.py:Maze"})


def test_every_model_of_the_registry_is_an_environment(cli):
    for name in MODELS:
        envs = make_envs(name, 8, 0)
        mdp = make_model(name).mdp
        assert envs.obs_space == gym.spaces.Discrete(mdp.n_states)
        assert (envs.id, envs.max_episode_steps) == (f"rlkit/{name}-v0", 1000)
        envs.reset()
    small = ("--steps", 2000, "--eval-episodes", 3, "--json")
    small += ("--env-option", "max_episode_steps=30")
    told = cli("train", "q-learning", "maze", "--env-option", "size=4", *small)
    assert told.status == 0, told.err
    run = json.loads(told.out)["run"]
    assert cli("evaluate", run, "--episodes", 3).status == 0
    states = make_model("maze", options={"size": 4}).mdp.n_states
    assert rlkit.load(run).agent.setting.obs_space == gym.spaces.Discrete(states)
    told = cli("train", "q-learning", "maze", "--env-option", "sice=4", *small)
    assert "model maze has no option 'sice'; did you mean size?" in told.error
