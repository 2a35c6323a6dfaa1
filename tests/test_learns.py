"""Does it learn? The tuned recipes on fresh seeds, and a deep agent against the exact optimum."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import rlkit
from rlkit.envs.make import make_env
from rlkit.training.options import RunOptions


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [2000, 2001, 2002, 2003, 2004])
@pytest.mark.parametrize("agent", ["a2c", "ppo", "pqn", "dqn"])
def test_the_tuned_recipe_solves_cartpole(agent, seed, tmp_path):
    done = rlkit.train(agent, "CartPole", options=RunOptions(seed=seed, run_dir=str(tmp_path)))
    assert done.evaluation.mean >= 475


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("agent", "env", "least"),
    [
        ("ppo", "catch", 0.9),
        ("dqn", "catch", 0.9),
        ("ppo", "memory-corridor", 0.9),
        ("a2c", "cartpole-hidden", 450),
    ],
)
def test_the_tuned_recipes_see_and_remember(agent, env, least, tmp_path):
    done = rlkit.train(agent, env, options=RunOptions(seed=2000, run_dir=str(tmp_path)))
    assert done.evaluation.mean >= least


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [2000, 2001, 2002])
def test_the_tuned_recipe_swings_the_pendulum_up(seed, tmp_path):
    done = rlkit.train("sac", "Pendulum", options=RunOptions(seed=seed, run_dir=str(tmp_path)))
    assert done.evaluation.mean >= -170


class Follow(gymnasium.Env):
    """Answer an observation in [-1, 1] with twice itself; the reward is minus the squared error."""

    observation_space = spaces.Box(-1, 1, (1,))
    action_space = spaces.Box(-2, 2, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 10
        return self._draw(), {}

    def step(self, action):
        reward = -float((action[0] - 2 * self.wanted) ** 2)
        self.left -= 1
        return self._draw(), reward, False, self.left == 0, {}

    def _draw(self):
        self.wanted = self.np_random.uniform(-1, 1)
        return np.array([self.wanted], dtype=np.float32)


@pytest.mark.parametrize("agent", ["a2c", "ppo", "sac"])
def test_box_actions_are_learned_in_the_environments_units(agent, tmp_path):
    small = {"hidden": (32, 32), "batch_size": 64, "learning_starts": 200}
    recipe = {
        "a2c": {"steps": 40_000, "envs": 8, "gamma": 0.0, "learning_rate": 3e-3},
        "ppo": {"steps": 40_000, "gamma": 0.0, "learning_rate": 3e-3, "n_steps": 32},
        "sac": {"steps": 1_200, "gamma": 0.0, "learning_rate": 3e-3} | small,
    }[agent]
    done = rlkit.train(agent, Follow, recipe, RunOptions(seed=2000, run_dir=str(tmp_path)))
    assert done.evaluation.mean > -0.5  # ten steps; always answering 0 gets -13
    answers = rlkit.load(done.run, env=Follow).act(np.array([[-0.8], [0.0], [0.5]]))
    assert answers == pytest.approx(np.array([[-1.6], [0.0], [1.0]]), abs=0.3)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("agent", ["a2c", "ppo", "dqn"])
def test_a_small_gridworld_is_played_optimally(agent, tmp_path):
    """The learned greedy policy's true value, by solving its linear system, is the optimum."""
    grid = {"map": ["S..", ".#.", "..G"], "slip": 0.0}
    mdp = rlkit.MDP.from_gymnasium(make_env("gridworld", grid), gamma=0.95)
    recipe = {
        "a2c": {"steps": 20_000, "gamma": 0.95, "learning_rate": 3e-3, "entropy_cost": 0.01},
        "ppo": {"steps": 16_000, "gamma": 0.95, "learning_rate": 3e-3, "n_steps": 32},
        "dqn": {"steps": 6_000, "gamma": 0.95, "learning_starts": 500, "target_interval": 64},
    }[agent]
    options = RunOptions(seed=2000, run_dir=str(tmp_path), eval_episodes=1)
    done = rlkit.train(agent, "gridworld", recipe, options, env_options=grid)
    policy = rlkit.load(done.run).act(np.arange(mdp.n_states))
    best = rlkit.solve(mdp)
    start = 0
    learned = rlkit.evaluate_policy(mdp, np.where(mdp.terminal, -1, policy))
    assert learned[start] == pytest.approx(best.values[start], abs=1e-6)


def test_an_untrained_policy_is_no_good(tmp_path):
    """The check above can fail: what CartPole is worth before learning."""
    options = RunOptions(seed=2000, run_dir=str(tmp_path), eval_episodes=20)
    done = rlkit.train("a2c", "CartPole", {"steps": 80}, options)
    assert done.evaluation.mean < 100
    assert gymnasium.spec("CartPole-v1").reward_threshold == done.reward_threshold
