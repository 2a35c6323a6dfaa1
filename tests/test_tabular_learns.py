"""What tabular agents learn, against exact solutions and the book's examples."""

import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from small_runs import steps_saved
from test_resume import assert_same_run
from test_tabular import ALL, chain, make_agent, play

import rlkit
from rlkit.envs.make import make_envs
from rlkit.envs.model_env import ModelVectorEnv


def model_of(name, gamma):
    return rlkit.MDP.from_gymnasium(gym.make(name), gamma)


def episodes(agent, envs, count):
    """Play one environment for so many episodes; the return of each."""
    obs, returns, gain = envs.reset(), [], 0.0
    while len(returns) < count:
        action, _ = agent.act(obs, None, mask=envs.mask)
        step = envs.step(action)
        agent.memory.add(step)
        obs = step.next_obs
        for batch in agent.memory.batches():
            agent.update(batch)
        gain += float(step.reward[0])
        if step.terminated[0]:
            returns.append(gain)
            gain = 0.0
    return returns


@pytest.mark.parametrize(
    ("env", "gamma", "tolerance"), [("FrozenLake-v1", 0.95, 0.04), ("CliffWalking-v1", 0.9, 1e-3)]
)
@pytest.mark.parametrize("name", ["q-learning", "double-q-learning"])
def test_off_policy_learning_converges_to_the_optimal_values(name, env, gamma, tolerance):
    mdp = model_of(env, gamma)
    envs = make_envs(ModelVectorEnv(mdp, 256, max_episode_steps=100), 256, 0)
    rates = {"learning_rate": 1.0, "visit_exponent": 0.65, "exploration": 1.0}
    agent = make_agent(name, envs, {"gamma": gamma, **rates})
    play(agent, envs, 15_000)
    q, exact = agent.control.q.mean(0).numpy(), rlkit.solve(mdp).q_table()
    seen = (agent.control.visits.numpy().sum(0) > 0) & np.isfinite(exact)
    assert seen.sum() > 0.65 * exact.size
    np.testing.assert_allclose(q[seen], exact[seen], atol=tolerance)


@pytest.mark.parametrize("name", ["sarsa", "expected-sarsa", "n-step-sarsa", "monte-carlo"])
def test_on_policy_learning_finds_an_optimal_policy(name):
    """On the 4x3 world of Russell and Norvig's book, ε falling to 0."""
    from rlkit.envs.gridworld import GridWorld

    mdp = GridWorld("russell-norvig").mdp(0.99)
    envs = make_envs(ModelVectorEnv(mdp, 64, max_episode_steps=100), 64, 0)
    agent = make_agent(name, envs, {"gamma": 0.99, "learning_rate": 1.0, "visit_exponent": 0.6})
    obs = None
    for progress in np.linspace(0, 1, 20):
        agent.clock.progress = progress
        obs = play(agent, envs, 400, obs)
    exact = rlkit.solve(mdp).q_table()[mdp.live]
    greedy = agent.control.q[0].numpy()[mdp.live].argmax(-1)
    loss = exact.max(-1) - exact[np.arange(len(exact)), greedy]
    assert loss.max() < 0.02  # in every state; values reach up to 1


def test_on_the_cliff_sarsa_takes_the_safe_path_and_earns_more():
    """Example 6.6 of the book: online returns of about -25 and -50."""
    cliff = model_of("CliffWalking-v1", 1.0)
    online, lengths = {}, {}
    for name, last in (("sarsa", "0.5:0.02"), ("q-learning", "0.5")):
        envs = make_envs(ModelVectorEnv(cliff, 1), 1, 0)
        agent = make_agent(
            name,
            envs,
            {"gamma": 1.0, "learning_rate": last, "visit_exponent": 0.0, "exploration": 0.1},
        )
        returns = []
        for progress in np.linspace(0, 1, 10):
            agent.clock.progress = progress
            agent.memory.restart()
            returns += episodes(agent, envs, 50)
        online[name] = np.mean(returns[100:])
        s, lengths[name] = 36, 0
        while s != 35 and lengths[name] < 50:  # above the goal
            action, _ = agent.act(np.array([s]), None, explore=False)
            s = int(cliff.P[[cliff.offsets[s] + action[0]]].indices[0])
            lengths[name] += 1
    assert -30 < online["sarsa"] < -19
    assert -60 < online["q-learning"] < -40
    assert lengths["q-learning"] == 12  # along the edge
    assert lengths["sarsa"] in (14, 16)  # a row or two above it


@pytest.mark.parametrize(
    ("name", "changes", "low", "high"),
    [
        ("n-step-sarsa", {"n_step": 1, "learning_rate": 0.6}, 0.35, 0.42),  # figure 7.2
        ("n-step-sarsa", {"n_step": 4, "learning_rate": 0.4}, 0.28, 0.34),
        ("n-step-sarsa", {"n_step": 16, "learning_rate": 0.4}, 0.40, 0.50),
        ("td-lambda", {"trace_decay": 0.0, "learning_rate": 0.6}, 0.35, 0.42),  # figure 12.6
        ("td-lambda", {"trace_decay": 0.8, "learning_rate": 0.4}, 0.28, 0.34),
    ],
    ids=str,
)
def test_errors_on_the_random_walk_are_those_of_the_figures(name, changes, low, high):
    """19 states, the RMS error after each of the first 10 episodes, averaged over 10 runs."""
    walk, true = chain(19), np.arange(-18, 19, 2) / 20
    np.testing.assert_allclose(rlkit.solve(walk).values, true, atol=1e-6)
    envs = make_envs(ModelVectorEnv(walk, 1), 1, 0)
    errors = []
    for _ in range(10):
        agent = make_agent(name, envs, {"gamma": 1.0, **changes})
        for _ in range(10):
            agent.memory.restart()
            episodes(agent, envs, 1)
            v = agent.v if name == "td-lambda" else agent.control.q[0, :, 0]
            errors.append(np.sqrt(np.mean((v.numpy() - true) ** 2)))
    assert low < np.mean(errors) < high


class Biased(gym.Env):
    """Figure 6.5: from A, right ends with 0, left leads to B, where all ten actions end with a
    reward of mean -0.1 and deviation 1."""

    observation_space, action_space = spaces.Discrete(2), spaces.Discrete(10)

    def _info(self):
        return {"action_mask": np.arange(10) < (2, 10)[self.state]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return 0, self._info()

    def step(self, action):
        if self.state == 0 and action == 0:
            self.state = 1
            return 1, 0.0, False, False, self._info()
        reward = 0.0 if self.state == 0 else float(self.np_random.normal(-0.1, 1))
        return self.state, reward, True, False, self._info()


def test_double_q_learning_is_not_drawn_to_the_largest_noise():
    """Figure 6.5: the share of left moves, 5 % at best, in the first 100 episodes."""
    share = {}
    for name in ("q-learning", "double-q-learning"):
        lefts = total = 0
        for seed in range(12):
            envs = make_envs(Biased, 1, seed)
            rates = {"learning_rate": 0.1, "visit_exponent": 0.0, "exploration": 0.1}
            agent = make_agent(name, envs, {"gamma": 1.0, **rates})
            agent.generator.manual_seed(seed)
            obs = envs.reset()
            for _ in range(250):
                action, _ = agent.act(obs, None, mask=envs.mask)
                step = envs.step(action)
                if step.valid[0] and obs[0] == 0:
                    lefts, total = lefts + (action[0] == 0), total + 1
                agent.memory.add(step)
                obs = step.next_obs
                for batch in agent.memory.batches():
                    agent.update(batch)
        share[name] = lefts / total
    assert share["q-learning"] > 0.6
    assert share["double-q-learning"] < 0.4


# ----------------------------------------------------------------- runs

RUN = ("--steps", 1000, "--envs", 4, "--seed", 3, "--save-every", 500, "--eval-every", 300)
RUN += ("--eval-episodes", 3)
LAKE = ("FrozenLake",)
MODEL = ("FrozenLake", "--vectorization", "model")
GRID = ("gridworld", "--vectorization", "model", "--env-option", "max_episode_steps=9")
RESUMED = [("q-learning", *LAKE), ("q-learning", "CliffWalking"), ("q-learning", *GRID)]
RESUMED += [(name, *MODEL) for name in ALL]


@pytest.mark.filterwarnings("ignore::rlkit.errors.RlkitWarning")
@pytest.mark.parametrize("told", RESUMED, ids=" ".join)
def test_resuming_from_the_middle_equals_one_go(cli, tmp_path, told, monkeypatch):
    monkeypatch.setattr("rlkit.training.evaluation.EPISODE_CAP", 50)
    one_go = cli("train", *told, *RUN, "--json")
    assert one_go.status == 0, one_go.err
    whole, broken = Path(json.loads(one_go.out)["run"]), tmp_path / "broken"
    shutil.copytree(whole, broken)
    middle = next(name for name in steps_saved(whole) if 500 <= int(name) < 700)
    for name in steps_saved(broken):
        if name > middle:
            shutil.rmtree(broken / "checkpoints" / name)
    resumed = cli("resume", broken)
    assert resumed.status == 0, resumed.err
    assert f"from step {int(middle)} to 1,000" in resumed.out
    assert "afresh" not in resumed.out
    assert_same_run(whole, broken)


@pytest.mark.parametrize("name", ALL)
def test_where_the_state_cannot_be_saved_episodes_start_afresh(cli, name):
    told = cli("train", name, "Blackjack", *RUN, "--json")
    assert told.status == 0, told.err
    resumed = cli("resume", json.loads(told.out)["run"], "--steps", 2000, "--json")
    assert resumed.status == 0, resumed.err
    assert "its episodes start afresh" in resumed.err
    assert json.loads(resumed.out)["steps"] == 2000


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_twice_is_equal_and_another_is_not(cli, name):
    runs = []
    for seed in (5, 5, 6):
        told = cli("train", name, "FrozenLake", *RUN, "--seed", seed, "--json")
        runs.append(json.loads(told.out)["run"])
    assert_same_run(*runs[:2])
    with pytest.raises(AssertionError):
        assert_same_run(runs[0], runs[2])


def test_a_saved_policy_plays_and_is_exported(cli):
    run = json.loads(cli("train", "q-learning", "Blackjack", *RUN, "--json").out)["run"]
    policy = rlkit.load(run)
    obs = (np.array(20), np.array(10), np.array(0))
    assert policy.act(obs) in (0, 1)
    exported = cli("export", run, "--format", "torch-export")
    assert exported.status == 0, exported.err
    assert "all actions equal" in exported.out
    run = json.loads(cli("train", "td-lambda", "Blackjack", *RUN, "--json").out)["run"]
    assert "td-lambda learns values and no policy" in cli("export", run).error


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("env", ["FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "Taxi-v4"])
def test_the_tuned_recipes_are_within_two_percent_of_the_exact_optimum(tmp_path, env):
    options = {"run_dir": str(tmp_path), "seed": 2000, "eval_every": 10_000_000}
    agent = rlkit.train("q-learning", env, None, options).agent
    mdp = model_of(env, agent.recipe.gamma)
    states, mask = np.arange(mdp.n_states), None
    if hasattr(made := gym.make(env).unwrapped, "action_mask"):  # Taxi's
        mask = np.stack([made.action_mask(state) for state in states]).astype(bool)
    policy, _ = agent.act(states, None, explore=False, mask=mask)
    found, best = rlkit.evaluate_policy(mdp, policy), rlkit.solve(mdp).values
    assert mdp.start @ found > mdp.start @ best - 0.02 * abs(mdp.start @ best)


# Stick from this sum on, by the dealer's card: figure 5.2.
HARD = {1: 17, 2: 13, 3: 13, 4: 12, 5: 12, 6: 12, 7: 17, 8: 17, 9: 17, 10: 17}
SOFT = {1: 19, **dict.fromkeys(range(2, 9), 18), 9: 19, 10: 19}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["monte-carlo", "q-learning"])
def test_blackjack_is_played_as_in_the_figure(tmp_path, name):
    recipe = {"steps": 3_000_000, "envs": 64, "gamma": 1.0, "exploration": 0.3}
    rates = {"learning_rate": 1.0, "visit_exponent": 1.0 if name == "monte-carlo" else 0.8}
    options = {"run_dir": str(tmp_path), "eval_every": 3_000_000, "eval_episodes": 5000}
    trained = rlkit.train(
        name, "Blackjack", {**recipe, **rates}, options, env_options={"sab": True}
    )
    policy = rlkit.load(trained.run)
    agreed = total = 0
    for usable, sticks in enumerate((HARD, SOFT)):
        for player, dealer in np.ndindex(10, 10):
            action = policy.act(tuple(map(np.array, (player + 12, dealer + 1, usable))))
            agreed += (action == 0) == (player + 12 >= sticks[dealer + 1])
            total += 1
    assert agreed >= 0.95 * total
    assert trained.evaluation.mean > -0.09  # -0.048 is what the best policy expects
