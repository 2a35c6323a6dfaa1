"""The exact ruler: against dense algebra, power series, played episodes and known answers."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv
from gymnasium.wrappers import (
    FrameStackObservation,
    NormalizeObservation,
    TransformObservation,
    TransformReward,
)
from scipy import stats
from scipy.sparse import csr_array
from small_runs import SMALL, metrics, weights

import rlkit
from rlkit.agent import Estimates
from rlkit.envs.make import make_envs
from rlkit.envs.model_env import ModelEnv, ModelVectorEnv
from rlkit.envs.models import make_model
from rlkit.errors import RunError, UndefinedError, UsageError
from rlkit.experience.noise import Noise
from rlkit.run.metrics import read_metrics
from rlkit.training import build
from rlkit.training.exact import Exact, Ruler
from rlkit.training.exact_chain import Systems, mixes_fast, valued
from rlkit.training.exact_meter import Meter, ruler_for
from rlkit.training.exact_model import seen_model
from rlkit.training.options import RunOptions

TABULAR = (
    *("q-learning", "double-q-learning", "sarsa", "expected-sarsa", "n-step-sarsa"),
    *("monte-carlo", "td-lambda"),
)
EXACT = ("a2c", "ppo", "pqn", "dqn", "rainbow", *TABULAR)
OPTIONS = RunOptions(device="cpu")


class Told:
    """An agent that believes and does what it is told, over the states of the ruler."""

    def __init__(self, greedy, exploring=None, v=None, q=None):
        self.all = Estimates(greedy, exploring, v, q)
        self.at = 0
        self.masks, self.seen = [], []

    def estimates(self, obs, mask=None):
        self.masks.append(mask)
        self.seen.append(obs)
        self.at, rows = self.at + len(obs), slice(self.at, self.at + len(obs))
        parts = (self.all.greedy, self.all.exploring, self.all.v, self.all.q)
        return Estimates(*(None if part is None else part[rows] for part in parts))


def random_model(seed, gamma=0.9, ends=True):
    """States with 1 to 3 actions each, of which many may end the episode."""
    rng = np.random.default_rng(seed)
    n = 12
    P = rng.random((n, 3, n)) * (rng.random((n, 3, n)) < 0.4) + 1e-3
    P /= P.sum(-1, keepdims=True)
    if ends:
        P *= rng.choice([0.8, 1.0], (n, 3, 1))
    admissible = rng.random((n, 3)) < 0.7
    admissible[np.arange(n), rng.integers(3, size=n)] = True
    start = rng.random(n)
    return rlkit.MDP.from_arrays(
        P,
        rng.normal(size=(n, 3)),
        gamma,
        admissible=admissible,
        start=start / start.sum(),
    )


def ruler_of(mdp, **options):
    def make():
        return ModelEnv(mdp, **options)

    return Ruler(seen_model(make, OPTIONS, {}, mdp.gamma, int(mdp.actions.max()) + 1))


def random_policy(mdp, rng):
    """(S, A) probabilities of the admissible actions."""
    policy = np.zeros((mdp.n_states, int(mdp.actions.max()) + 1))
    policy[mdp.pair_state, mdp.actions] = rng.random(mdp.n_pairs) + 0.01
    policy[mdp.live] /= policy[mdp.live].sum(1, keepdims=True)
    return policy


def by_definition(mdp, policy, q_hat, v_hat):
    """All quantities of `Exact` by loops, dense algebra and a power series."""
    n, gamma = mdp.n_states, mdp.gamma
    dense, pairs = mdp.P.toarray(), range(mdp.n_pairs)
    P, r = np.zeros((n, n)), np.zeros(n)
    for pair in pairs:
        s, a = mdp.pair_state[pair], mdp.actions[pair]
        P[s] += policy[s, a] * dense[pair]
        r[s] += policy[s, a] * mdp.r[pair]
    V = np.linalg.solve(np.eye(n) - gamma * P, r)
    d, flow = np.zeros(n), mdp.start.copy()
    for _ in range(3000):
        d, flow = d + flow, gamma * flow @ P
    d /= d.sum()
    Q = {(mdp.pair_state[k], mdp.actions[k]): mdp.r[k] + gamma * dense[k] @ V for k in pairs}
    best = rlkit.solve(mdp, "value-iteration", tol=1e-8)
    Q_star = dict(zip(Q, mdp.r + gamma * dense @ best.values, strict=True))

    def top(values, s):
        return max((value, -a) for (t, a), value in values.items() if t == s)

    uniform = (policy > -1) * 0.0
    for s, a in Q:
        uniform[s, a] = 1
    uniform /= uniform.sum(1, keepdims=True)
    P_u = sum(uniform[s, a] * np.eye(n)[s][:, None] * dense[k] for k, (s, a) in enumerate(Q))
    r_u = sum(uniform[s, a] * np.eye(n)[s] * mdp.r[k] for k, (s, a) in enumerate(Q))
    random = mdp.start @ np.linalg.solve(np.eye(n) - gamma * P_u, r_u)
    J, optimum = mdp.start @ V, mdp.start @ best.values
    optimal = np.zeros(n)
    for (s, a), value in Q_star.items():
        optimal[s] += policy[s, a] * (value > best.values[s] - 1e-7)
    found = {
        "value": J,
        "regret": optimum - J,
        "fraction": (J - random) / (optimum - random),
        "optimal_actions": optimal.mean(),
        "optimal_actions_visited": d @ optimal,
    }
    if q_hat is None:
        found["overestimation"] = d @ (v_hat - V)
    else:
        v_hat = np.zeros(n)
        told = {(s, a): q_hat[s, a] for s, a in Q}
        for (s, a), value in told.items():
            v_hat[s] += policy[s, a] * value
        for name, true in (("q_error", Q), ("q_star_error", Q_star)):
            errors = {pair: abs(told[pair] - true[pair]) for pair in Q}
            found[f"{name}_max"] = max(errors.values())
            found[f"{name}_mean"] = sum(d[s] * policy[s, a] * e for (s, a), e in errors.items())
        tops = [top(told, s) for s in range(n)]
        found["overestimation"] = sum(d[s] * (x - Q[s, -a]) for s, (x, a) in enumerate(tops))
        found["overestimation_star"] = sum(
            d[s] * (x - top(Q_star, s)[0]) for s, (x, _) in enumerate(tops)
        )
    found["v_error_max"] = np.abs(v_hat - V).max()
    found["v_error_mean"] = d @ np.abs(v_hat - V)
    return found


def assert_is(exact, wanted):
    for name in Exact.__dataclass_fields__:
        found = getattr(exact, name)
        if name in wanted:
            assert found == pytest.approx(wanted[name], abs=1e-7), name
        else:
            assert found is None, name


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("has_q", [True, False])
def test_every_quantity_is_what_its_formula_says(seed, gamma, has_q):
    mdp, rng = random_model(seed, gamma), np.random.default_rng(seed + 100)
    greedy, exploring = random_policy(mdp, rng), random_policy(mdp, rng)
    q, v = rng.normal(size=greedy.shape) * 3, rng.normal(size=mdp.n_states) * 3
    told = Told(greedy, exploring, None if has_q else v, q if has_q else None)
    found = ruler_of(mdp).measure(told)
    given = (q, None) if has_q else (None, v)
    assert_is(found.greedy, by_definition(mdp, greedy, *given))
    assert_is(found.exploring, by_definition(mdp, exploring, *given))
    assert found.optimum == pytest.approx(mdp.start @ rlkit.solve(mdp, tol=1e-9).values, abs=1e-7)
    assert found.optimum_error <= 1e-4
    mask = np.zeros(greedy.shape, dtype=bool)
    mask[mdp.pair_state, mdp.actions] = True
    assert np.array_equal(np.concatenate(told.masks), mask)


def test_the_policy_evaluation_of_the_exact_side_agrees():
    mdp = make_model("windy-grid", 0.97).mdp
    ruler = ruler_of(mdp)
    part, rng = ruler._mdp, np.random.default_rng(0)
    policy = random_policy(part, rng)
    found = ruler.measure(Told(policy[part.live])).greedy
    assert found.value == pytest.approx(part.start @ rlkit.evaluate_policy(part, policy), abs=1e-9)


@pytest.mark.parametrize("bias", [0.0, 0.7, -1.3])
def test_an_optimal_agent_with_a_known_bias(bias):
    mdp = random_model(7)
    table = rlkit.solve(mdp, tol=1e-10).q_table()
    greedy = (table == table.max(1, keepdims=True)).astype(float)
    q = np.where(np.isfinite(table), table, 99.0) + bias
    found = ruler_of(mdp).measure(Told(greedy, q=q)).greedy
    for name, wanted in {
        "regret": 0.0,
        "fraction": 1.0,
        "optimal_actions": 1.0,
        "optimal_actions_visited": 1.0,
        "overestimation": bias,
        "overestimation_star": bias,
        "q_star_error_max": abs(bias),
        "q_error_max": abs(bias),
        "v_error_mean": abs(bias),
    }.items():
        assert getattr(found, name) == pytest.approx(wanted, abs=1e-7), name


def test_what_no_policy_reaches_counts_for_nothing():
    P = np.zeros((4, 1, 4))
    P[0, 0, 1] = P[1, 0, 0] = P[2, 0, 3] = P[3, 0, 2] = 1.0
    mdp = rlkit.MDP.from_arrays(P, np.array([1.0, 0, 50, 50]), 0.5, start=[1.0, 0, 0, 0])
    ruler = ruler_of(mdp)
    assert ruler.n_states == 2
    assert list(ruler._seen.states) == [0, 1]
    found = ruler.measure(Told(np.ones((2, 1)), v=np.array([4 / 3, 2 / 3])))
    assert found.greedy.v_error_max == pytest.approx(0, abs=1e-12)
    assert found.greedy.fraction is None  # there is but one policy


# γ = 1


def bridge():
    """0 → 1 → end by action 0, at cost 1 a step; action 1 stays, at cost 1; in 2 it is free."""
    P = np.zeros((3, 2, 3))
    P[0, 0, 1] = P[0, 1, 0] = P[1, 1, 1] = P[2, :, 2] = 1.0
    P[2, 0] = 0.0
    R = np.array([[-1.0, -1], [-1, -1], [-1, 0]])
    return rlkit.MDP.from_arrays(P, R, 1.0, admissible=np.ones((3, 2), bool), start=[0.5, 0, 0.5])


def test_at_gamma_1_a_policy_that_does_not_end_has_no_finite_value():
    ruler = ruler_of(bridge())
    stays = np.array([[0.0, 1], [1, 0], [0, 1]])
    q = np.zeros((3, 2))
    found = ruler.measure(Told(stays, np.full((3, 2), 0.5), q=q))
    assert found.greedy.value is None
    assert found.greedy.regret is None
    assert found.greedy.overestimation is None
    # of 1 and 2, whose values are −1 and 0; and of the pairs that do not lead to 0
    assert found.greedy.v_error_max == pytest.approx(1)
    assert found.exploring.value == pytest.approx(-0.5 * 4 - 0.5 * 1)
    assert all(np.isfinite(x) for x in found.scalars().values())
    assert "greedy_value" not in found.scalars()


def test_at_gamma_1_what_leads_to_an_endless_cost_has_no_finite_value_either():
    P = np.array([[0, 0.5, 0.5], [0, 1, 0], [0, 0, 0]])  # 0 goes to 1, which stays, or to 2
    found = valued(
        csr_array(P),
        -np.ones(3),
        earns=np.ones(3, dtype=bool),
        ends=np.array([False, False, True]),
        start=np.array([0, 0, 1.0]),
        gamma=1.0,
        iterate=False,
    )
    assert found.finite.tolist() == [False, False, True]
    assert found.values[2] == -1
    assert found.visits.tolist() == [0, 0, 1]


def test_at_gamma_1_idling_for_nothing_is_worth_nothing():
    ruler = ruler_of(bridge())
    goes = np.array([[1.0, 0], [1, 0], [0, 1]])
    found = ruler.measure(Told(goes, v=np.zeros(3))).greedy
    assert found.value == pytest.approx(-1)  # half of −2, and 0 in state 2
    assert found.regret == pytest.approx(0, abs=1e-9)
    assert found.v_error_mean == pytest.approx(1.5)  # of 0 and 1, visited once each


def test_at_gamma_1_a_policy_that_goes_on_practically_for_ever_has_no_value(monkeypatch):
    def singular(*args):
        raise RunError("singular in float64")

    mdp = random_model(0, 1.0)
    monkeypatch.setattr("rlkit.training.exact.valued", singular)
    found = ruler_of(mdp).measure(Told(random_policy(mdp, np.random.default_rng(0))))
    assert found.random_value is None
    assert found.greedy.value is None
    assert 0 < found.greedy.optimal_actions < 1


# The equations


def test_iteration_and_factors_agree():
    mdp = make_model("garnet", 0.99, {"states": 1500, "seed": 1}).mdp
    ruler = ruler_of(mdp)
    assert ruler._iterate
    rng = np.random.default_rng(0)
    told = random_policy(ruler._mdp, rng)
    told = np.eye(told.shape[1])[told.argmax(1)]
    found = ruler.measure(Told(told)).greedy
    ruler._iterate = False
    again = ruler.measure(Told(told)).greedy
    assert found.value == pytest.approx(again.value, rel=1e-9)
    assert found.optimal_actions_visited == pytest.approx(again.optimal_actions_visited, rel=1e-9)


def test_the_size_of_rewards_does_not_decide_how_equations_are_solved():
    mdp = make_model("garnet", 0.99, {"states": 1500, "actions": 1}).mdp
    for size in (1e-20, 1.0, 1e20):
        assert mixes_fast(mdp.P, size * mdp.r, 0.99)


def test_grids_are_factorised():
    env = gym.make("rlkit/GridWorld-v0", size=50)
    mdp = rlkit.MDP.from_gymnasium(env, 0.99)
    assert not ruler_of(mdp)._iterate


@pytest.mark.parametrize("iterate", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_systems_solve_what_they_say(iterate, transposed):
    mdp = make_model("garnet", 0.95, {"states": 300, "actions": 1}).mdp
    b = np.random.default_rng(0).random(300) * 1e-9
    x = Systems(mdp.P, 0.95, iterate).solve(b, transposed)
    A = np.eye(300) - 0.95 * mdp.P.toarray()
    assert np.allclose(x, np.linalg.solve(A.T if transposed else A, b), rtol=1e-10, atol=0)


# What agents tell


def built(agent, env="FrozenLake", n=1, recipe=None, seed=0, **env_options):
    agent_type = build.agent_class(agent)
    recipe = build.choose_recipe(agent_type, "", {"envs": n, **(recipe or {})})
    # hundreds of environments at once, for their spaces alone
    form = "model" if env == "FrozenLake" else "auto"
    envs = make_envs(env, n, 0, form, options=env_options)
    options = RunOptions(seed=seed, device="cpu")
    learner = build.make_agent(agent_type, recipe, envs, options)
    return learner, envs


def shaken(agent, seed=0):
    """The agent with weights and tables that are no longer those of a beginner."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    for name in ("q", "v"):
        holder = getattr(agent, "control", agent)
        table = getattr(holder, name, None)
        if isinstance(table, torch.Tensor):
            table.copy_(torch.randn_like(table).round(decimals=0))  # with ties
    agent.clock.progress = 0.3
    return agent


SMALL_NETS = {
    "dqn": {"hidden": (8,), "exploration": "0.6"},
    "rainbow": {"hidden": (8,), "head_hidden": (8,), "atoms": 5},
    "pqn": {"hidden": (8,), "exploration": "0.6"},
    "a2c": {"hidden": (8,)},
    "ppo": {"hidden": (8,)},
}


@pytest.mark.parametrize("agent", [name for name in EXACT if name != "rainbow"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_probabilities_are_those_of_its_actions(agent, masked):
    n, rounds = 400, 50
    given = SMALL_NETS.get(agent) or ({} if agent == "td-lambda" else {"exploration": "0.6"})
    learner, _ = built(agent, n=n, recipe=given)
    shaken(learner)
    states = np.array([0, 6, 14])
    for state in states:
        obs = np.full(n, state)
        mask = np.tile([True, False, True, True], (n, 1)) if masked else None
        told = learner.estimates(obs[:1], None if mask is None else mask[:1])
        actions = np.concatenate(
            [learner.act(obs, None, explore=True, mask=mask)[0] for _ in range(rounds)]
        )
        counts, p = np.bincount(actions, minlength=4), told.exploring[0]
        assert p.sum() == pytest.approx(1)
        assert not counts[p == 0].any()
        kept = p > 0
        if kept.sum() > 1:
            expected = p[kept] * n * rounds / p[kept].sum()
            assert stats.chisquare(counts[kept], expected).pvalue > 1e-4


@pytest.mark.parametrize("agent", [name for name in EXACT if name != "td-lambda"])
def test_the_greedy_ones_are_those_of_its_greedy_actions(agent):
    learner, _ = built(agent, n=16, recipe=SMALL_NETS.get(agent))
    shaken(learner)
    obs = np.arange(16)
    rng = np.random.default_rng(0)
    for mask in (
        None,
        np.eye(4, dtype=bool)[rng.integers(4, size=16)] | (rng.random((16, 4)) < 0.5),
    ):
        learner.act(obs, None, explore=True, mask=mask)  # draws noise where there is any
        told = learner.estimates(obs, mask)
        actions, _ = learner.act(obs, None, explore=False, mask=mask)
        assert np.array_equal(told.greedy, np.eye(4)[actions])
        assert told.greedy.dtype == np.float64


def test_estimating_draws_and_changes_nothing():
    for agent in EXACT:
        learner, _ = built(agent, n=16, recipe=SMALL_NETS.get(agent))
        before = {k: v.clone() for k, v in learner.state_dict().items()}
        generators = learner.generator.get_state().clone(), torch.get_rng_state()
        held = [part.get_state() for part in learner.parts.values() if isinstance(part, Noise)]
        learner.estimates(np.arange(16))
        for name, value in learner.state_dict().items():
            assert torch.equal(value, before[name]), (agent, name)
        assert torch.equal(learner.generator.get_state(), generators[0])
        assert torch.equal(torch.get_rng_state(), generators[1])
        again = [part.get_state() for part in learner.parts.values() if isinstance(part, Noise)]
        assert [str(x) for x in held] == [str(x) for x in again]


def test_estimates_are_in_units_of_the_rewards():
    for agent in ("a2c", "ppo", "pqn"):
        plain, _ = built(agent, n=16, recipe=SMALL_NETS[agent])
        scaled, _ = built(agent, n=16, recipe={**SMALL_NETS[agent], "normalize_reward": True})
        scaler = scaled.parts["reward_scaler"]
        scaler.moments.var.fill_(25.0)
        one, other = (learner.estimates(np.arange(16)) for learner in (plain, scaled))
        name = "q" if agent == "pqn" else "v"
        assert np.allclose(getattr(other, name), 5 * getattr(one, name), rtol=1e-6)
        assert np.array_equal(one.exploring, other.exploring)


def test_double_q_learning_believes_the_mean_of_its_tables():
    learner, _ = built("double-q-learning", n=16)
    learner.control.q[0], learner.control.q[1] = 1.0, 4.0
    assert np.array_equal(learner.estimates(np.arange(16)).q, np.full((16, 4), 2.5))


def test_noisy_layers_have_no_action_probabilities():
    learner, _ = built("rainbow", n=16, recipe=SMALL_NETS["rainbow"])
    assert learner.estimates(np.arange(16)).exploring is None
    found = ruler_for(learner, "FrozenLake", OPTIONS, {}).measure(learner)
    assert found.exploring is None
    assert found.greedy.value is not None


@pytest.mark.parametrize(
    ("agent", "env", "recipe", "words"),
    [
        ("r2d2", "FrozenLake", {}, "recurrent"),
        ("ppo", "FrozenLake", {"core": "gru"}, "recurrent"),
        ("a2c", "Pendulum", {}, "action space"),
        ("sac", "Pendulum", {}, "action space"),
    ],
)
def test_what_is_not_defined_says_why(agent, env, recipe, words):
    learner, _ = built(agent, env, recipe=recipe)
    with pytest.raises(UndefinedError, match=words):
        learner.estimates(np.zeros((1, *learner.setting.obs_space.shape), dtype=np.int64))


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("agent", ["q-learning", "ppo", "dqn"])
def test_played_episodes_earn_the_exact_value(agent, explore):
    n, gamma = 2500, 0.9
    mdp = rlkit.MDP.from_gymnasium(gym.make("FrozenLake-v1"), gamma)
    given = {**SMALL_NETS.get(agent, {"exploration": "0.6"}), "gamma": gamma}
    learner, _ = built(agent, n=n, recipe=given)
    shaken(learner, seed=3)
    best = rlkit.solve(mdp).q_table()
    if agent == "q-learning":  # else it never gets anywhere
        learner.control.q[0] = torch.from_numpy(np.where(np.isfinite(best), best, 0.0))
    envs = ModelVectorEnv(mdp, n)
    obs, _ = envs.reset(seed=1)
    gain, running = np.zeros(n), np.ones(n, dtype=bool)
    for t in range(120):
        action, _ = learner.act(obs, None, explore=explore)
        obs, reward, terminated, _, _ = envs.step(action)
        gain += gamma**t * reward * running
        running &= ~terminated
    found = ruler_for(learner, "FrozenLake", OPTIONS, {}).measure(learner)
    exact = found.exploring if explore else found.greedy
    assert abs(gain.mean() - exact.value) <= 4 * gain.std() / np.sqrt(n) + gamma**120


# Environments


def observed(env, options=OPTIONS, env_options=None, gamma=0.9, n_actions=4):
    return seen_model(env, options, env_options or {}, gamma, n_actions)


@pytest.mark.parametrize(
    ("env", "env_options"),
    [
        ("FrozenLake", {}),
        ("gridworld", {"size": 6}),
        ("CliffWalking", {}),
        ("Taxi", {}),
        ("model", {"source": "gridworld", "observe": "one-hot"}),
        ("model", {"source": "gridworld", "observe": "pixels"}),
        ("model", {"source": "gridworld", "observe": "coordinates"}),
        ("model", {"source": "jacks-car-rental"}),
    ],
)
def test_agents_meet_no_other_observations_and_masks(env, env_options):
    envs = make_envs(env, 8, 0, options=env_options)
    n_actions = int(envs.action_space.n)
    seen = observed(env, env_options=env_options, n_actions=n_actions)
    rows = seen.observe(seen.states)
    known = {row.tobytes(): i for i, row in enumerate(rows)}
    obs, rng = envs.reset(), np.random.default_rng(0)
    for _ in range(30):
        allowed = np.ones((8, n_actions), bool) if envs.mask is None else envs.mask
        for i in np.flatnonzero(~envs._ended):  # the dead step takes any action
            state = known[obs[i].tobytes()]
            assert seen.mask is None or np.array_equal(seen.mask[state], allowed[i])
        assert (seen.mask is None) == (envs.mask is None)
        assert obs.dtype == rows.dtype
        action = np.array([rng.choice(np.flatnonzero(mask)) for mask in allowed])
        obs = envs.step(action).next_obs


def test_taxis_masks_cost_nothing():
    masked = Ruler(observed("Taxi", n_actions=6))
    options = RunOptions(vectorization="model", device="cpu")
    plain = Ruler(observed("Taxi", options, n_actions=6))
    assert masked._seen.mask is not None
    assert plain._seen.mask is None
    assert masked.optimum == pytest.approx(plain.optimum, abs=1e-6)
    assert masked.random_value > plain.random_value + 1


def lake(**options):
    return gym.make("FrozenLake-v1", **options)


def test_wrappers_of_observations_are_seen_through():
    def make():
        env, space = lake(), spaces.Box(0, 2, (16,), np.float64)
        return TransformObservation(env, lambda s: 2 * np.eye(16)[s], space)

    seen = observed(make)
    assert np.array_equal(seen.observe(seen.states), 2 * np.eye(16, dtype=np.float32)[seen.states])


class NoStart(gym.Env):
    """Two states, of which the environment does not say where it begins."""

    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(2)

    def __init__(self):
        self.P = {s: {a: [(1.0, 1 - s, 1.0, bool(s))] for a in (0, 1)} for s in (0, 1)}

    def reset(self, *, seed=None, options=None):
        return 0, {}


class Elsewhere(NoStart):
    """It begins where its model does not."""

    initial_state_distrib = (0.0, 1.0)


class Masked(NoStart):
    initial_state_distrib = (1.0, 0.0)

    def reset(self, *, seed=None, options=None):
        return 0, {"action_mask": np.ones(2, np.int8)}


class Lacking(NoStart):
    initial_state_distrib = (1.0, 0.0)

    def __init__(self):
        super().__init__()
        del self.P[1][1]


class Shown(NoStart):
    observation_space = spaces.Box(0, 1, (1,))
    initial_state_distrib = (1.0, 0.0)


class Raising(NoStart):
    def mdp(self, gamma):
        raise ZeroDivisionError("no such luck")


class Redrawn(NoStart):
    """Each episode has one of two models."""

    initial_state_distrib = (1.0, 0.0)

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        better = self.np_random.integers(2)
        for a in (0, 1):
            self.P[0][a] = [(1.0, 1, float(a == better), False)]
        return 0, {}


class Otherwise(FrozenLakeEnv):
    """A lake whose steps are not what its table says."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def step(self, action):
        seen, reward, terminated, truncated, info = super().step(action)
        return *self.change(seen, reward, terminated), truncated, info


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Otherwise(lambda s, r, end: (s, r - 0.01, end)),
            "Otherwise's table P does not have",
        ),
        (lambda: Otherwise(lambda s, r, end: (s, r, end or s == 4)), "Otherwise's table"),
        (lambda: Otherwise(lambda s, r, end: (s ^ 2, r, end)), "Otherwise's table"),
        (lambda: TransformReward(lake(), lambda r: 2 * r), "TransformReward"),
        (lambda: NormalizeObservation(lake()), "NormalizeObservation"),
        (lambda: FrameStackObservation(lake(), 2), "FrameStackObservation"),
        (lambda: lake(desc=None, map_name=None), "another model"),
        (Redrawn, "each episode, has another model"),
        ("grid-maps", "another model"),
        (NoStart, "names no start"),
        (Elsewhere, "begins with an observation"),
        (Masked, r"action_mask\(state\)"),
        (Lacking, "lack an action"),
        (Shown, r"observations\(states\)"),
        (Raising, "ZeroDivisionError: no such luck"),
    ],
)
def test_environments_that_are_not_their_models_are_refused(make, words):
    with pytest.raises(UndefinedError, match=words) as error:
        observed(make, n_actions=4 if words[0] in "TNFaO" else 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [{"pixels": True}, {"frame_stack": 2}])
def test_what_is_rendered_or_remembered_is_not_the_state(given):
    with pytest.raises(UndefinedError, match="no function of the model's state"):
        observed("FrozenLake", RunOptions(device="cpu", **given))


def test_no_model_is_no_error():
    assert observed("CartPole") is None
    learner, _ = built("a2c", "CartPole")
    assert ruler_for(learner, "CartPole", OPTIONS, {}) is None


# Runs


def run_of(tmp_path, agent, env="FrozenLake", recipe=None, env_options=None, **options):
    told = {"device": "cpu", "run_dir": str(tmp_path), "eval_episodes": 2, **options}
    return rlkit.train(agent, env, recipe or {}, told, env_options=env_options)


def exact_lines(run):
    return [
        (line["step"], {k: v for k, v in line.items() if k.startswith("exact/")})
        for line in read_metrics(Path(run) / "metrics.jsonl")
        if "exact/optimum" in line
    ]


FEW = {"steps": 4000, "envs": 8, "hidden": (8,)}
SMALL_RECIPES = {
    "a2c": FEW,
    "ppo": {**FEW, "n_steps": 16, "minibatch_size": 32, "normalize_reward": True},
    "pqn": {**FEW, "n_steps": 16, "minibatch_size": 32, "normalize_reward": True},
    "dqn": {**FEW, "steps": 1200, "learning_starts": 200},
    "q-learning": {"steps": 4000, "envs": 8},
    "td-lambda": {"steps": 4000, "envs": 8},
}


@pytest.mark.parametrize("agent", SMALL_RECIPES)
def test_the_ruler_changes_no_training(agent, tmp_path):
    recipe = SMALL_RECIPES[agent]
    with_it = run_of(tmp_path, agent, recipe=recipe)
    without = run_of(tmp_path, agent, recipe=recipe, exact=False)
    assert exact_lines(with_it.run)
    assert not exact_lines(without.run)
    assert without.exact is None
    assert torch.equal(weights(with_it.run), weights(without.run))
    stripped = [
        {k: v for k, v in line.items() if not k.startswith("exact/")}
        for line in metrics(with_it.run)
    ]
    assert stripped == metrics(without.run)


@pytest.mark.parametrize("agent", ["ppo", "pqn", "dqn", "q-learning"])
def test_a_run_is_measured_afterwards_as_it_was_at_its_end(agent, tmp_path):
    done = run_of(tmp_path, agent, recipe=SMALL_RECIPES[agent])
    step, logged = exact_lines(done.run)[-1]
    assert step == done.steps
    again = rlkit.measure(done.run)
    assert again == done.exact
    assert {f"exact/{k}": v for k, v in again.scalars().items()} == logged


def test_a_resumed_run_is_measured_when_one_never_interrupted_is(tmp_path):
    recipe = {**SMALL_RECIPES["q-learning"], "steps": 40_000}
    whole = run_of(tmp_path, "q-learning", recipe=recipe, save_every="16000", eval_every=40_000).run
    halted = shutil.copytree(whole, tmp_path / "halted")
    for checkpoint in (halted / "checkpoints").iterdir():
        if checkpoint.is_dir() and int(checkpoint.name[:12]) > 16_000:
            shutil.rmtree(checkpoint)
    done = rlkit.resume(halted)
    assert [step for step, _ in exact_lines(whole)][-1] == 40_000
    assert len(exact_lines(whole)) == 4  # at logs, and with the evaluation at the end
    assert metrics(halted) == metrics(whole)
    assert torch.equal(weights(done.run), weights(whole))


def test_a_table_that_has_learned_all_has_no_regret(tmp_path):
    recipe = {"steps": 120_000, "envs": 32, "learning_rate": "1", "exploration": "1"}
    recipe |= {"visit_exponent": 0.0, "gamma": 0.9}
    done = run_of(tmp_path, "q-learning", "gridworld", recipe, {"map": "two-ways", "slip": 0.0})
    greedy = done.exact.greedy
    assert greedy.regret == pytest.approx(0, abs=1e-6)
    assert greedy.optimal_actions == 1.0
    assert greedy.q_star_error_max == pytest.approx(0, abs=1e-6)
    assert greedy.overestimation == pytest.approx(0, abs=1e-6)
    assert done.exact.exploring.regret > 0.01


@pytest.mark.parametrize(
    ("agent", "env_options"),
    [
        ("ppo", {"source": "jacks-car-rental"}),
        ("dqn", {"source": "gridworld", "observe": "pixels"}),
        ("q-learning", {"source": "jacks-car-rental"}),
    ],
)
def test_models_as_environments_are_measured(agent, env_options, tmp_path):
    recipe = {"steps": 256, "envs": 8}
    if agent == "dqn":
        recipe |= {"learning_starts": 200, "batch_size": 8, "gradient_steps": 1}
    env_options = {**env_options, "max_episode_steps": 20}
    done = run_of(tmp_path, agent, "model", recipe, env_options)
    assert done.exact_problem is None
    assert done.exact.greedy.value is not None
    assert done.exact.greedy.v_error_max is not None


def test_the_meter_keeps_to_its_share():
    class Still:
        n_states = 300
        measured = 0

        def measure(self, agent):
            self.measured += 1
            return ruler_of(random_model(0)).measure(Told(random_policy(random_model(0), rng)))

    rng, ruler = np.random.default_rng(0), Still()
    meter = Meter(lambda: ruler, None, 8, 200_000, 2_000)
    steps = [step for step in range(8, 200_001, 8) if step % 2_000 < 8]
    due = [step for step in steps if meter.at_log(step)]
    assert due == [26_000, 52_000, 78_000, 104_000, 130_000, 156_000, 182_000]
    assert ruler.measured * (ruler.n_states + 200) <= 0.02 * 200_000
    assert {b - a for a, b in pairwise(due)} == {26_000}
    assert meter.at_evaluation(190_000)
    assert meter.found_at(190_000) is not None
    assert meter.found_at(182_000) is None
    assert not meter.at_evaluation(190_000)  # it is on record
    ruler.n_states = 5_000
    assert not meter.at_evaluation(195_000)
    assert meter.at_evaluation(200_000)


def test_large_models_are_left_to_evaluate(monkeypatch):
    learner, _ = built("q-learning", n=1)
    for name, words in (("MOST_STATES", "11 states"), ("MOST_BYTES", "GB")):
        with monkeypatch.context() as patched:
            patched.setattr(f"rlkit.training.exact_meter.{name}", 10)
            with pytest.raises(UndefinedError, match=f"{words}.*evaluate RUN --exact"):
                ruler_for(learner, "FrozenLake", OPTIONS, {})
            assert ruler_for(learner, "FrozenLake", OPTIONS, {}, limited=False) is not None


def test_large_observations_are_looked_at_in_blocks(monkeypatch):
    monkeypatch.setattr("rlkit.training.exact.BLOCK_BYTES", 3 * 8)
    mdp, rng = random_model(3), np.random.default_rng(0)
    policy, q = random_policy(mdp, rng), rng.normal(size=(12, 3))
    ruler = ruler_of(mdp)
    assert len(ruler._blocks) == 4
    told = Told(policy, q=q)
    assert_is(ruler.measure(told).greedy, by_definition(mdp, policy, q, None))
    assert np.array_equal(np.concatenate(told.seen), np.arange(12))


# The command line


@pytest.fixture
def lake_run(cli):
    words = ("--envs", 8, "--hidden", 8, "--steps", 400, "--eval-episodes", 2)
    words += ("--learning-starts", 100, "--batch-size", 8, "--json")
    return json.loads(cli("train", "dqn", "FrozenLake", *words).out)


def test_evaluate_shows_all_that_is_known(cli, lake_run):
    shown = cli("evaluate", lake_run["run"], "--exact")
    assert shown.status == 0
    assert "certified" in shown.out
    for words in ("regret", "|Q − Q*|, largest", "overestimation of the optimal values"):
        assert words in shown.out
    told = cli("evaluate", lake_run["run"], "--exact", "--json")
    found = json.loads(told.out.splitlines()[-1])
    assert found["greedy"] == lake_run["exact"]["greedy"]
    assert found["optimum"] == pytest.approx(0.542, abs=1e-3)


def test_what_scales_rewards_is_measured_whatever_the_number_of_environments(cli):
    told = cli("train", "ppo", "FrozenLake", *SMALL["ppo"], "--envs", 4, "--json")
    shown = cli("evaluate", json.loads(told.out.splitlines()[-1])["run"], "--exact")
    assert shown.status == 0
    assert "certified" in shown.out


def test_training_ends_with_the_exact_value(cli):
    words = ("--envs", 8, "--steps", 800, "--eval-episodes", 2)
    done = cli("train", "q-learning", "FrozenLake", *words)
    (line,) = [line for line in done.out.splitlines() if line.startswith("exact value")]
    assert "of the optimum 0.542 (γ 0.99)" in line
    assert "--exact" in line
    silent = cli("train", "q-learning", "FrozenLake", *words, "--no-exact")
    assert "exact" not in silent.out


def test_why_there_is_no_exact_value_is_said_once(cli):
    small = SMALL["ppo"]
    done = cli("train", "ppo", "FrozenLake", *small, "--core", "gru", "--core-width", 8)
    lines = [line for line in done.out.splitlines() if "exact" in line]
    assert len(lines) == 1
    assert lines[0].startswith("exact value: not defined for a recurrent policy")
    run = next(Path("runs").iterdir())
    assert cli("evaluate", run, "--exact").error.startswith("not defined for a recurrent policy")
    assert "exact" not in cli("train", "a2c", "CartPole", *SMALL["a2c"]).out


def test_evaluate_refuses_what_does_not_fit(cli):
    cli("train", "a2c", "CartPole", *SMALL["a2c"])
    run = next(Path("runs").iterdir())
    refused = cli("evaluate", run, "--exact")
    assert refused.status == 2
    assert "CartPole-v1 has no model" in refused.error
    both = cli("evaluate", run, "--exact", "--episodes", 3)
    assert both.status == 2
    assert "--episodes does not go with --exact" in both.error
    with pytest.raises(UsageError, match="no model"):
        rlkit.measure(run)


def test_valued_needs_no_visits_where_it_begins_idle():
    mdp = bridge()
    found = valued(
        mdp.P[[1, 3, 5]],
        mdp.r[[1, 3, 5]],
        np.array([True, True, False]),
        np.zeros(3, dtype=bool),
        np.array([0.0, 0, 1]),
        1.0,
        False,
    )
    assert found.finite.tolist() == [False, False, True]
    assert found.visits.tolist() == [0, 0, 1]


def test_small_chains_are_factorised_whatever_they_are():
    mdp = make_model("garnet", 0.95, {"states": 300, "actions": 1}).mdp
    assert not mixes_fast(mdp.P, mdp.r, 0.95)
