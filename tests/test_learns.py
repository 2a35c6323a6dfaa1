"""Does it learn? The tuned recipes on fresh seeds, and a deep agent against the exact optimum."""

import gymnasium
import numpy as np
import pytest

import rlkit
from rlkit.envs.make import make_env
from rlkit.training.options import RunOptions


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2000, 2005))
@pytest.mark.parametrize("agent", ["a2c", "dqn"])
def test_the_tuned_recipe_solves_cartpole(agent, seed, tmp_path):
    done = rlkit.train(agent, "CartPole", options=RunOptions(seed=seed, run_dir=str(tmp_path)))
    assert done.evaluation.mean >= 475


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a2c_learns_with_box_actions(tmp_path):
    recipe = {"steps": 150_000, "envs": 16, "gamma": 0.9, "gae_lambda": 0.95, "n_steps": 16}
    options = RunOptions(seed=2000, run_dir=str(tmp_path))
    done = rlkit.train("a2c", "Pendulum", recipe | {"normalize_advantage": True}, options)
    assert done.evaluation.mean > -900  # a random policy gets about -1200


@pytest.mark.timeout(120)
@pytest.mark.parametrize("agent", ["a2c", "dqn"])
def test_a_small_gridworld_is_played_optimally(agent, tmp_path):
    """The learned greedy policy's true value, by solving its linear system, is the optimum."""
    grid = {"map": ["S..", ".#.", "..G"], "slip": 0.0}
    mdp = rlkit.MDP.from_gymnasium(make_env("gridworld", grid), gamma=0.95)
    recipe = {
        "a2c": {"steps": 20_000, "gamma": 0.95, "learning_rate": 3e-3, "entropy_cost": 0.01},
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
