"""Tabular agents against loops written from the book's boxes, over scripted episodes."""

from collections import defaultdict
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from scripted_envs import MODES, TERMINATED, TRUNCATED, random_ends

import rlkit
from rlkit.envs.make import make_envs
from rlkit.envs.model_env import ModelVectorEnv
from rlkit.errors import RunError, UsageError
from rlkit.tables import StateNumber
from rlkit.training import build
from rlkit.training.options import RunOptions

S, A = 6, 3
CONTROL = ("q-learning", "double-q-learning", "sarsa", "expected-sarsa", "n-step-sarsa")
CONTROL += ("monte-carlo",)
ALL = (*CONTROL, "td-lambda")


@dataclass
class Row:
    """What one environment did in one vector step, as it knows it itself."""

    env: int
    s: int
    a: int
    r: float
    s_next: int
    terminated: bool
    truncated: bool
    allowed: list = field(default_factory=list)  # in s_next

    @property
    def ended(self):
        return self.terminated or self.truncated


class Wandering(VectorEnv):
    """Walks at random among few states; environment i's k-th transition ends as `ends[i][k]` says.

    What happens does not depend on the actions. `masked` environments allow two actions of three,
    by the state, and hold agents to it.
    """

    def __init__(self, ends, mode, masked):
        self.metadata = {"autoreset_mode": AutoresetMode[mode.upper()]}
        self.same_step = mode == "same_step"
        self.num_envs = len(ends)
        self.single_observation_space = spaces.Discrete(S)
        self.single_action_space = spaces.Discrete(A)
        self.ends, self.masked = ends, masked
        self.log, self.count = [], [0] * len(ends)

    def allowed(self, s):
        return [a for a in range(A) if not self.masked or a != s % A]

    def _info(self):
        if not self.masked:
            return {}
        mask = [[a in self.allowed(s) for a in range(A)] for s in self.s]
        return {"action_mask": np.array(mask)}

    def reset(self, *, seed=None, options=None):
        self.rng = np.random.default_rng(7)
        self.s = self.rng.integers(S, size=self.num_envs)
        self.over = np.zeros(self.num_envs, dtype=bool)
        return self.s.copy(), self._info()

    def step(self, actions):
        n = self.num_envs
        reward, flags = np.zeros(n), np.zeros((2, n), dtype=bool)
        final, final_mask = np.full(n, None, dtype=object), np.zeros((n, A), dtype=bool)
        for i in range(n):
            s_next = int(self.rng.integers(S))
            if self.over[i]:
                self.over[i], self.s[i], reward[i] = False, s_next, 1000.0
                continue
            assert actions[i] in self.allowed(self.s[i])
            end = self.ends[i][self.count[i] % len(self.ends[i])]
            self.count[i] += 1
            reward[i] = np.float32(self.rng.normal())
            flags[:, i] = bool(end & TERMINATED), bool(end & TRUNCATED)
            told = self.s[i], int(actions[i]), reward[i], s_next, *map(bool, flags[:, i])
            self.log.append(Row(i, *told, self.allowed(s_next)))
            self.s[i] = s_next
            if end and self.same_step:
                final[i] = np.int64(s_next)
                final_mask[i, self.allowed(s_next)] = True
                self.s[i] = self.rng.integers(S)
            else:
                self.over[i] = bool(end)
        info = self._info()
        if self.same_step and flags.any():
            info["final_obs"] = final
            if self.masked:
                info["final_info"] = {"action_mask": final_mask}
        return self.s.copy(), reward, flags[0], flags[1], info


def make_agent(name, envs, changes):
    agent_type = build.agent_class(name)
    recipe = build.defaults(agent_type).but({"envs": envs.n, **changes})
    agent = build.make_agent(agent_type, recipe, envs, RunOptions(device="cpu"))
    agent.memory.allocate()
    return agent


def play(agent, envs, steps, obs=None):
    """The training loop, without all that is around it; the last observation."""
    obs = envs.reset() if obs is None else obs
    for _ in range(steps):
        action, _ = agent.act(obs, None, mask=envs.mask)
        step = envs.step(action)
        agent.memory.add(step)
        obs = step.next_obs
        for batch in agent.memory.batches():
            agent.update(batch)
    return obs


GAMMA, EPSILON = 0.9, 0.3
STEPS = 200


def wandered(name, mode, masked, changes):
    """An agent that has learned, and the log of what it has learned from."""
    venv = Wandering(random_ends(5, 41, seed=2, how_often=0.25), mode, masked)
    envs = make_envs(venv, 5, 0)
    rates = {"gamma": GAMMA, "learning_rate": 0.4, "initial_value": 0.7}
    if name != "td-lambda":
        rates |= {"exploration": EPSILON, "visit_exponent": 0.0}
    agent = make_agent(name, envs, {**rates, **changes})
    play(agent, envs, STEPS)
    assert {(x.terminated, x.truncated) for x in venv.log} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }
    return agent, venv.log


class Rates:
    """Step sizes α·N^−ω by a count of one's own."""

    def __init__(self, changes):
        self.alpha = changes.get("learning_rate", 0.4)
        self.omega = changes.get("visit_exponent", 0.0)
        self.visits = defaultdict(int)

    def __call__(self, key):
        self.visits[key] += 1
        return self.alpha * self.visits[key] ** -self.omega


def value_of_policy(q, x):
    """Σ_a π(a|s')·Q(s', a) for the ε-greedy policy among what is allowed; 0 at a terminal."""
    if x.terminated:
        return 0.0
    values = [q[x.s_next, a] for a in x.allowed]
    greedy = int(np.argmax(values))
    pi = [EPSILON / len(values) + (1 - EPSILON) * (k == greedy) for k in range(len(values))]
    return float(np.dot(pi, values))


def q_learning(log, q, step_size):
    for x in log:
        best = 0.0 if x.terminated else max(q[x.s_next, a] for a in x.allowed)
        delta = x.r + GAMMA * best - q[x.s, x.a]
        q[x.s, x.a] += step_size((x.s, x.a)) * delta


def expected_sarsa(log, q, step_size):
    for x in log:
        delta = x.r + GAMMA * value_of_policy(q, x) - q[x.s, x.a]
        q[x.s, x.a] += step_size((x.s, x.a)) * delta


def n_step_sarsa(log, q, step_size, n=1):
    """The box of section 7.2: at time t the update is of τ = t − n + 1, once A_{t+1} is chosen."""
    episodes = defaultdict(list)

    def learn(episode, tau, until, v):
        G = sum(GAMMA ** (k - tau) * episode[k].r for k in range(tau, until))
        G += GAMMA ** (until - tau) * v
        pair = episode[tau].s, episode[tau].a
        q[pair] += step_size(pair) * (G - q[pair])

    for x in log:
        episode = episodes[x.env]
        if len(episode) >= n:
            learn(episode, len(episode) - n, len(episode), q[x.s, x.a])
        episode.append(x)
        if x.ended:
            v, T = value_of_policy(q, x), len(episode)
            for tau in range(max(0, T - n), T):
                learn(episode, tau, T, v)
            episodes[x.env] = []


def monte_carlo(log, q, step_size):
    episodes = defaultdict(list)
    for x in log:
        episodes[x.env].append(x)
        if not x.ended:
            continue
        episode, v = episodes.pop(x.env), value_of_policy(q, x)
        T = len(episode)
        returns = {}
        for t in range(T):  # the first visit stays
            G = sum(GAMMA ** (k - t) * episode[k].r for k in range(t, T)) + GAMMA ** (T - t) * v
            returns.setdefault((episode[t].s, episode[t].a), G)
        for pair, G in returns.items():
            q[pair] += step_size(pair) * (G - q[pair])


REFERENCES = {
    "q-learning": q_learning,
    "expected-sarsa": expected_sarsa,
    "sarsa": n_step_sarsa,
    "n-step-sarsa": n_step_sarsa,
    "monte-carlo": monte_carlo,
}
CASES = [(name, {}) for name in REFERENCES]
CASES += [("q-learning", {"visit_exponent": 0.7}), ("sarsa", {"visit_exponent": 1.0})]
CASES += [("monte-carlo", {"visit_exponent": 1.0, "learning_rate": 1.0})]
CASES += [("n-step-sarsa", {"n_step": n}) for n in (1, 2, 3, 50)]


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "changes"), CASES, ids=str)
def test_the_table_is_that_of_the_books_loop(name, changes, mode, masked):
    agent, log = wandered(name, mode, masked, changes)
    q = np.full((S, A), 0.7)
    n = {} if name != "n-step-sarsa" else {"n": changes.get("n_step", 4)}
    REFERENCES[name](log, q, Rates(changes), **n)
    np.testing.assert_allclose(agent.control.q[0].numpy(), q, rtol=1e-12, atol=1e-12)
    assert len(np.unique(q)) > S * A - S  # nearly everything was learned


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("mode", MODES)
def test_double_q_learning_is_the_books_loop(mode, masked, monkeypatch):
    from rlkit.experience.noise import Noise

    tossed = []
    draw = Noise.next

    def noted(self, x):
        drawn = draw(self, x)
        if drawn.ndim == 1:
            tossed.append(drawn.copy())
        return drawn

    monkeypatch.setattr(Noise, "next", noted)
    agent, log = wandered("double-q-learning", mode, masked, {})
    coins = np.array(tossed)
    assert coins.shape == (STEPS, 5)
    assert 0.4 < (coins < 0.5).mean() < 0.6
    rows = iter(log)
    q, x = np.full((2, S, A), 0.7), next(rows)
    dead = np.zeros(5, dtype=bool)
    for row, i in np.ndindex(coins.shape):
        if dead[i]:
            dead[i] = False
            continue
        assert x.env == i
        k = int(coins[row, i] >= 0.5)
        target = x.r
        if not x.terminated:
            best = max(x.allowed, key=lambda a: q[k, x.s_next, a])
            target += GAMMA * q[1 - k, x.s_next, best]
        q[k, x.s, x.a] += 0.4 * (target - q[k, x.s, x.a])
        dead[i] = x.ended and mode == "next_step"
        x = next(rows, None)
    assert x is None
    np.testing.assert_allclose(agent.control.q.numpy(), q, rtol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_td_lambda_is_the_books_loop(mode, lam):
    agent, log = wandered("td-lambda", mode, True, {"trace_decay": lam})
    v, z = np.full(S, 0.7), defaultdict(lambda: np.zeros(S))
    for x in log:
        delta = x.r + GAMMA * (0.0 if x.terminated else v[x.s_next]) - v[x.s]
        z[x.env] *= GAMMA * lam
        z[x.env][x.s] += 1
        v += 0.4 * delta * z[x.env]
        if x.ended:
            z[x.env][:] = 0
    np.testing.assert_allclose(agent.v.numpy(), v, rtol=1e-12)
    by_state = defaultdict(lambda: np.zeros(A))
    for x in log:
        by_state[x.s][x.a] += 1
    for s, counts in by_state.items():  # the uniform policy among two allowed actions
        share = counts / counts.sum()
        assert share[s % A] == 0
        assert abs(share - 0.5)[np.arange(A) != s % A].max() < 0.15


@pytest.mark.parametrize("name", [name for name in ALL if "double" not in name])  # it tosses coins
@pytest.mark.parametrize("mode", MODES)
def test_what_was_held_of_broken_off_episodes_is_void(name, mode):
    """After `restart` the table goes on as one that has never seen the episodes' beginnings."""
    venv = Wandering([[0] * 8 + [TERMINATED]], mode, False)
    envs = make_envs(venv, 1, 0)
    agent = make_agent(name, envs, {"gamma": GAMMA, "learning_rate": 0.4, "initial_value": 0.0})
    obs = play(agent, envs, 3)
    weights = {key: x.clone() for key, x in agent.state_dict().items()}
    agent.memory.restart()
    play(agent, envs, 6, obs)

    fresh = make_agent(name, envs, {"gamma": GAMMA, "learning_rate": 0.4, "initial_value": 0.0})
    fresh.load_state_dict(weights)
    for x in venv.log[3:]:
        fresh.update(one_transition(x, begins=x is venv.log[3]))
    for key, x in fresh.state_dict().items():
        assert torch.equal(x, agent.state_dict()[key]), key


def one_transition(x, begins):
    from rlkit.experience.latest import EVERYTHING, Transitions

    one = [np.array([value]) for value in (x.s, x.a, x.r, x.s_next)]
    flags = [np.array([bool(value)]) for value in (x.terminated, x.truncated, True, begins)]
    return Transitions(*one, *flags, EVERYTHING)


# ----------------------------------------------------------------- acting


def test_exploring_takes_any_allowed_action_and_breaks_ties_at_random():
    envs = make_envs(Wandering([[0]] * 4000, "next_step", True), 4000, 0)
    s = envs.reset()
    agent = make_agent("q-learning", envs, {"exploration": 0.3, "initial_value": 1.0})
    agent.control.q[0, :, 2] = 0.5
    action, _ = agent.act(s, None, mask=envs.mask)
    for state, pi in {0: (0, 0.85, 0.15), 1: (0.85, 0, 0.15), 2: (0.5, 0.5, 0)}.items():
        taken = np.bincount(action[s == state], minlength=A) / np.sum(s == state)
        np.testing.assert_allclose(taken, pi, atol=0.06)
    greedy, _ = agent.act(s, None, explore=False, mask=envs.mask)
    np.testing.assert_array_equal(greedy, np.where(s % A == 0, 1, 0))


def test_greedy_actions_change_nothing():
    envs = make_envs(Wandering([[0]] * 3, "next_step", False), 3, 0)
    for name in CONTROL:
        agent = make_agent(name, envs, {})
        obs = play(agent, envs, 5)
        before = agent.generator.get_state()
        agent.act(obs, None, explore=False)
        assert torch.equal(before, agent.generator.get_state())


# ----------------------------------------------------------------- states


def test_states_are_numbered_by_mixed_radix():
    two = spaces.MultiDiscrete([3, 4])
    space = spaces.Tuple((spaces.Discrete(5), spaces.Dict({"a": two, "b": spaces.Discrete(2)})))
    number = StateNumber(space)
    assert number.count == 5 * 12 * 2
    envs = make_envs(lambda: Constant(space), 1, 0)  # packs observations as all environments do
    port = envs.obs_port
    found = []
    for i in range(5):
        for j, k in np.ndindex(3, 4):
            for m in range(2):
                value = (np.array([i]), {"a": np.array([[j, k]]), "b": np.array([m])})
                found.append(number(port.take(value, "now")).item())
    assert found == list(range(number.count))
    assert StateNumber(spaces.MultiDiscrete([[2, 3], [4, 5]])).count == 120
    assert StateNumber(spaces.Discrete(7))(np.array([3, 5])).tolist() == [3, 5]


class Constant(gym.Env):
    """Any observation space, of which little is seen."""

    action_space = spaces.Discrete(2)

    def __init__(self, space):
        self.observation_space = space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def test_what_no_table_holds_is_refused(cli):
    told = cli("train", "q-learning", "CartPole")
    assert told.status == 2
    assert "tabular agents take Discrete and MultiDiscrete, and Tuples and Dicts" in told.error
    told = cli("train", "sarsa", "Pendulum")
    assert "sarsa takes Discrete actions" in told.error
    huge = make_envs(lambda: Constant(spaces.Discrete(10**9)), 1, 0)
    with pytest.raises(UsageError, match=r"makes a table of 1 x 1,000,000,000 x 2 numbers"):
        make_agent("q-learning", huge, {})
    with pytest.raises(UsageError, match=r"Discrete\(1000000000\) makes a table of 1 x 1,000,"):
        make_agent("td-lambda", huge, {})
    wide = make_envs(ModelVectorEnv(chain(5), 65536), 65536, 0)
    with pytest.raises(UsageError, match=r"n_step \(--n-step\) 10000 makes a table of 65,536 x"):
        make_agent("n-step-sarsa", wide, {"n_step": 10_000})


def test_an_episode_without_an_end_is_told_by_monte_carlo(monkeypatch):
    monkeypatch.setattr("rlkit.agents.monte_carlo.LARGEST_TABLE", 1000)
    envs = make_envs(Wandering([[0]] * 2, "next_step", False), 2, 0)
    agent = make_agent("monte-carlo", envs, {})
    with pytest.raises(RunError, match="an episode has gone on for 256 steps, and Monte Carlo"):
        play(agent, envs, 600)


def test_values_that_overflow_stop_td_lambda():
    envs = make_envs(Wandering([[0]], "next_step", False), 1, 0)
    agent = make_agent("td-lambda", envs, {"learning_rate": 1.0, "gamma": 1.0, "trace_decay": 1.0})
    with pytest.raises(RunError, match="a value overflowed"):
        play(agent, envs, 5000)
    assert torch.isfinite(agent.v).all()


def chain(n):
    """The random walk of section 7.1 on n states, from -1 on the left to 1 on the right."""

    def walk(states):
        successors = np.stack([states - 1, states + 1], axis=-1)[:, None, :]
        rewards = np.select([successors < 0, successors >= n], [-1.0, 1.0], 0.0)
        return np.where(successors >= n, -1, successors), 0.5, rewards

    return rlkit.MDP.from_function(walk, n, 1.0, start=np.eye(n)[n // 2])
