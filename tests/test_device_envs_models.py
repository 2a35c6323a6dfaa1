"""Finite MDPs on a device: their law, their masks and their views, against P itself."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_array

import rlkit
from rlkit.envs.device.forms import model_envs
from rlkit.envs.device.model import Model
from rlkit.envs.make import make_env, make_envs
from rlkit.envs.model_env import ModelEnv
from rlkit.envs.model_views import Index
from rlkit.envs.models import make_model
from rlkit.errors import UsageError

CPU = torch.device("cpu")


def ragged(rng, n_states=6, n_actions=3):
    """A model with missing mass, terminal states, and other actions in each state."""
    rows, offsets, labels = [], [0], []
    for state in range(n_states):
        of_state = rng.permutation(n_actions)[: rng.integers(1, n_actions + 1)]
        for label in sorted(of_state) if state not in (2, n_states - 1) else ():
            row = rng.dirichlet(np.full(n_states, 0.4)) * rng.choice([1.0, 0.8])
            rows.append(np.where(row < 0.02, 0, row))
            labels.append(label)
            if row.sum() > 0.99:
                rows[-1] /= rows[-1].sum()
        offsets.append(len(rows))
    start = np.where(np.isin(np.arange(n_states), (2, n_states - 1)), 0, rng.random(n_states))
    r = rng.normal(size=len(rows))
    P = csr_array(np.array(rows))
    return rlkit.MDP.from_pairs(P, r, offsets, 0.9, labels, start / start.sum())


def states_of(mdp):
    return np.repeat(np.arange(mdp.n_states), np.diff(mdp.offsets))


def drawn_from(mdp, pair, n, seed=0):
    """n steps of a pair: the counts of each successor and, last, of the missing mass."""
    envs = model_envs(mdp, n, CPU, seed)
    envs.reset()
    state = int(states_of(mdp)[pair])
    envs.state.fill_(state)
    step = envs.step(torch.full((n,), int(mdp.actions[pair])))
    assert step.valid.all()
    assert torch.equal(step.reward, torch.full((n,), float(np.float32(mdp.r[pair]))))
    lost = step.terminated & (envs.state[0] == state)
    terminal = torch.from_numpy(mdp.terminal.copy())
    assert torch.equal(step.terminated, lost | terminal[envs.state[0]])
    counts = np.bincount(envs.state[0, ~lost].numpy(), minlength=mdp.n_states)
    return np.append(counts, int(lost.sum()))


@pytest.mark.parametrize("seed", range(3))
def test_successors_are_drawn_from_p(seed):
    mdp = ragged(np.random.default_rng(seed))
    assert mdp.ends.any()
    least = 1e-4 / mdp.n_pairs
    for pair in range(mdp.n_pairs):
        p = mdp.P[[pair]].toarray()[0]
        p = np.append(p, max(0.0, 1 - p.sum()) * mdp.ends[pair])
        counts = drawn_from(mdp, pair, 20_000, seed)
        assert not counts[p == 0].any()
        if np.count_nonzero(p) > 1:
            assert stats.chisquare(counts[p > 0], counts.sum() * p[p > 0]).pvalue > least


def test_a_successor_is_the_inverse_of_the_distribution_function():
    """Devroye (1986), III.2: the first one up to which the function is above u."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 700, size=40)
    rows = [rng.dirichlet(np.full(n, 0.3)) for n in lengths]
    P = np.zeros((40, 700))
    for row, p in zip(P, rows, strict=True):
        row[rng.choice(700, p.size, replace=False)] = p
    offsets = np.minimum(np.arange(701), 40)
    P[:, 39] = 0  # a live state leads to itself only by its own row
    P /= P.sum(1, keepdims=True)
    mdp = rlkit.MDP.from_pairs(csr_array(P), np.zeros(40), offsets, 0.9)
    rules = Model(mdp, Index(700), CPU)
    for pair in range(40):
        cdf = np.cumsum(mdp.P[[pair]].toarray()[0])
        edges = cdf[cdf < 1]
        u = np.concatenate([rng.random(500), [0.0, np.nextafter(1.0, 0)], edges + 1e-9])
        u = np.minimum(u, np.nextafter(1.0, 0))
        expected = np.searchsorted(cdf, u, side="right").clip(max=mdp.P[[pair]].indices.max())
        state = torch.full((1, u.size), pair)
        uniform = torch.from_numpy(u).unsqueeze(0)
        found, _, ended = rules.step(state, torch.zeros(u.size, dtype=torch.int64), uniform)
        assert found[0].tolist() == expected.tolist()
        assert ended.tolist() == mdp.terminal[expected].tolist()


def test_starts_are_drawn_from_the_start_distribution():
    mdp = ragged(np.random.default_rng(1))
    envs = model_envs(mdp, 20_000, CPU, 0)
    envs.reset()
    counts = np.bincount(envs.state[0].numpy(), minlength=mdp.n_states)
    possible = mdp.start > 0
    assert not counts[~possible].any()
    assert stats.chisquare(counts[possible], 20_000 * mdp.start[possible]).pvalue > 1e-4
    without = rlkit.MDP.from_pairs(mdp.P, mdp.r, mdp.offsets, 0.9, mdp.actions)
    envs = model_envs(without, 20_000, CPU, 0)  # then all states that are not terminal
    envs.reset()
    counts = np.bincount(envs.state[0].numpy(), minlength=mdp.n_states)
    assert not counts[mdp.terminal].any()
    assert stats.chisquare(counts[~mdp.terminal]).pvalue > 1e-4


def test_a_start_is_the_inverse_of_the_distribution_function():
    P = csr_array(np.eye(4)[[0, 1, 2]])
    mdp = rlkit.MDP.from_pairs(P, np.zeros(3), [0, 1, 2, 3, 3], 0.9, start=[0.25, 0, 0.75, 0])
    u = torch.tensor([[0.0, 0.25 - 2**-54, 0.25, 1 - 2**-53]], dtype=torch.float64)
    assert Model(mdp, Index(4), CPU).start(u).tolist() == [[0, 0, 2, 2]]


def test_masks_are_what_each_state_has_and_what_it_lacks_pays_nan():
    mdp = ragged(np.random.default_rng(2))
    has = np.zeros((mdp.n_states, int(mdp.actions.max()) + 1), dtype=bool)
    has[states_of(mdp), mdp.actions] = True
    has[mdp.terminal] = True
    envs, rng = model_envs(mdp, 64, CPU, 0, max_episode_steps=5), np.random.default_rng(0)
    envs.reset()
    over = np.zeros(64, dtype=bool)
    dead = 0
    for _ in range(40):
        mask = envs.mask.numpy().copy()
        assert mask.tolist() == (has[envs.state[0]] | over[:, None]).tolist()
        action = torch.from_numpy(np.array([rng.choice(np.flatnonzero(row)) for row in mask]))
        step = envs.step(action)
        assert step.mask.tolist() == mask.tolist()
        assert step.next_mask.tolist() == has[envs.state[0]].tolist()
        assert step.reward.isfinite().all()
        over = (step.terminated | step.truncated).numpy()
        dead += np.count_nonzero(~step.valid)
    assert dead > 100
    state, action = np.argwhere(~has)[0]
    envs.reset()
    envs.state.fill_(state)
    step = envs.step(torch.full((64,), int(action)))
    assert step.reward.isnan().all()
    assert step.terminated.all()


def test_a_model_with_every_action_everywhere_has_no_masks():
    envs = make_envs("FrozenLake", 4, 0, "device")
    envs.reset()
    assert envs.mask is None
    assert envs.step(torch.zeros(4, dtype=torch.int64)).next_mask is None


def test_frozen_lake_pays_what_its_model_says():
    """The uniform policy's expected return within the time limit, by the recursion over P."""
    own = gym.make("FrozenLake-v1")
    mdp = rlkit.MDP.from_gymnasium(own, 1.0)
    policy = csr_array((np.full(mdp.n_pairs, 0.25), (states_of(mdp), np.arange(mdp.n_pairs))))
    policy.resize(mdp.n_states, mdp.n_pairs)
    v = np.zeros(mdp.n_states)
    for _ in range(own.spec.max_episode_steps):
        v = policy @ (mdp.r + mdp.P @ v)
    envs = make_envs("FrozenLake", 2000, 0, "device")
    assert envs.max_episode_steps == 100
    envs.reset()
    generator = torch.Generator().manual_seed(0)
    gains, playing = torch.zeros(2000), torch.ones(2000, dtype=torch.bool)
    for _ in range(100):
        step = envs.step(torch.randint(4, (2000,), generator=generator))
        gains += step.reward * playing
        playing &= ~(step.terminated | step.truncated)
    assert not playing.any()
    error = float(gains.std()) / 2000**0.5
    assert abs(float(gains.mean()) - v[0]) < 4 * error < 0.01


@pytest.mark.parametrize("observe", ["index", "one-hot", "coordinates", "pixels", "pixels-40"])
def test_what_is_seen_is_what_is_seen_on_the_host(observe):
    model = make_model("cliff")
    envs = model_envs(model.mdp, model.mdp.n_states, CPU, 0, observe, model.layout)
    host = ModelEnv(model.mdp, observe, model.layout)
    states = np.arange(model.mdp.n_states)
    assert envs.obs_space == host.observation_space
    envs.reset()
    tree = envs.get_state()
    tree["state"] = torch.from_numpy(states).unsqueeze(0)
    shown, expected = envs.set_state(tree).numpy(), host.observations(states)
    assert shown.dtype == expected.dtype
    assert shown.tobytes() == expected.tobytes()


def test_many_rows_leave_few_bits_and_are_still_right():
    """A chain of 70 000 states: 17 bits of a key are the row's, 45 the probability's."""
    n = 70_000
    states = np.arange(n)
    P = csr_array(
        (
            np.tile([0.25, 0.75], n - 1),
            np.stack([states, states + 1], 1)[:-1].ravel(),
            np.arange(0, 2 * n - 1, 2),
        ),
        shape=(n - 1, n),
    )
    mdp = rlkit.MDP.from_pairs(P, np.zeros(n - 1), np.minimum(np.arange(n + 1), n - 1), 0.9)
    rules = Model(mdp, Index(n), CPU)
    at = torch.arange(n - 1).unsqueeze(0)
    nothing = torch.zeros(n - 1, dtype=torch.int64)
    for u, moves in ((0.0, 0), (0.25 - 2**-44, 0), (0.25, 1), (1 - 2**-53, 1)):
        uniform = torch.full((1, n - 1), u, dtype=torch.float64)
        found, _, ended = rules.step(at, nothing, uniform)
        assert torch.equal(found, at + moves)
        assert ended.nonzero().flatten().tolist() == ([n - 2] if moves else [])


def test_models_that_are_refused():
    P = csr_array([[1.0, 0.0]])
    with pytest.raises(UsageError, match="terminal state 1 with probability"):
        model_envs(rlkit.MDP.from_pairs(P, [0.0], [0, 1, 1], 0.9, start=[0.5, 0.5]), 2, CPU)
    with pytest.raises(UsageError, match="max_episode_steps is 0; allowed"):
        model_envs(rlkit.MDP.from_pairs(P, [0.0], [0, 1, 1], 0.9), 2, CPU, max_episode_steps=0)
    with pytest.raises(UsageError, match="the model is no grid; allowed: index, one-hot"):
        model_envs(rlkit.MDP.from_pairs(P, [0.0], [0, 1, 1], 0.9), 2, CPU, observe="pixels")


def test_environments_of_your_own_with_a_model(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import gymnasium, rlkit\n"
        "class Lake(gymnasium.Env):\n"
        "    def __init__(self):\n"
        "        self.inner = gymnasium.make('FrozenLake-v1').unwrapped\n"
        "        self.observation_space = self.inner.observation_space\n"
        "        self.action_space = self.inner.action_space\n"
        "        self.P = self.inner.P\n"
        "        self.initial_state_distrib = self.inner.initial_state_distrib\n"
    )
    name = f"{file}:Lake"
    assert make_env(name).observation_space.n == 16
    envs = make_envs(name, 3, 0, "device", options={"max_episode_steps": 4})
    assert (envs.id, envs.max_episode_steps) == (name, 4)
    assert envs.reset().tolist() == [0, 0, 0]
