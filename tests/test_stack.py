"""The last observations in one, for every environment that is observed as a Box."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from scripted_envs import MODES, Scripted, random_ends
from small_runs import leaves

import rlkit
from rlkit.envs.make import make_envs
from rlkit.errors import UsageError

K = 3


@pytest.mark.parametrize("vectorization", ["compiled", "sync"])
def test_stacks_are_gymnasiums(vectorization):
    def stacked():
        return FrameStackObservation(gym.make("MountainCar-v0", max_episode_steps=7), K)

    options, actions = {"max_episode_steps": 7}, np.array([2, 0])
    theirs = gym.vector.SyncVectorEnv([stacked] * 2)
    seeds = [5, 6]
    with make_envs("MountainCar", 2, 0, vectorization, options=options, frame_stack=K) as envs:
        assert envs.obs_space == theirs.single_observation_space
        venv = envs._venv
        assert np.array_equal(venv.reset(seed=seeds)[0], theirs.reset(seed=seeds)[0])
        for _ in range(30):
            mine, other = venv.step(actions), theirs.step(actions)
            for x, y in zip(mine[:4], other[:4], strict=True):
                assert np.array_equal(x, y)
    theirs.close()


@pytest.mark.parametrize("mode", MODES)
def test_every_stack_is_of_its_own_episode(mode):
    script = Scripted(random_ends(4, 30, seed=2), mode)
    with make_envs(script, 4, 0, frame_stack=K) as envs:
        envs.reset()
        finals = 0
        for row in range(60):
            step = envs.step(np.zeros(4, np.int64))
            after = dict(enumerate(step.next_obs))
            if step.final_obs is not None:
                finals += len(step.final_obs.index)
                after |= dict(zip(step.final_obs.index.tolist(), step.final_obs.obs, strict=True))
            for i, log in enumerate(script.log):
                if log and log[-1].row == row:
                    episode = [x for x in log if x.episode == log[-1].episode]
                    whole = [x.obs for x in episode] + [episode[-1].next_obs]
                    padded = [whole[0]] * K + whole
                    assert np.array_equal(after[i], np.array(padded[-K:], np.float32))
                if step.begins[i]:
                    newest = step.next_obs[i, -1]
                    assert np.array_equal(step.next_obs[i], [newest] * K)
    assert (finals > 10) == (mode == "same_step")


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_a_run_on_stacks_is_kept_as_such(agent, tmp_path):
    recipe = {"steps": 640, "envs": 2, "hidden": (8,), "n_steps": 16}
    if agent == "dqn":
        recipe |= {"learning_starts": 64, "buffer_size": 300, "n_step": recipe.pop("n_steps") // 8}
    options = {"run_dir": str(tmp_path), "eval_episodes": 2, "frame_stack": 4}
    trained = rlkit.train(agent, "CartPole", recipe, options)
    assert trained.agent.setting.obs_space.shape == (4, 4)
    assert rlkit.evaluate(trained.run, 2).mean > 0
    policy = rlkit.load(trained.run)
    assert policy.act(np.zeros((4, 4))) in (0, 1)
    if agent == "dqn":
        assert trained.agent.memory.observations.k == 4


def test_stacks_go_on_after_resuming():
    with make_envs("CartPole", 2, 0, frame_stack=K) as envs:
        envs.reset(seed=1)
        for _ in range(30):
            envs.step(np.array([0, 1]))
        saved = envs.get_state()
        ahead = [envs.step(np.array([0, 1])).next_obs for _ in range(30)]
    with make_envs("CartPole", 2, 5, frame_stack=K) as envs:
        envs.reset()
        envs.set_state(saved)
        again = [envs.step(np.array([0, 1])).next_obs for _ in range(30)]
    assert leaves({"x": np.array(ahead)}) == leaves({"x": np.array(again)})


def test_what_can_not_be_stacked_is_refused():
    with pytest.raises(UsageError, match=r"frame_stack .* is 4, and the observations are Discrete"):
        make_envs("FrozenLake", 1, 0, frame_stack=4)


def test_bounds_of_stacks():
    with make_envs("Pendulum", 1, 0, frame_stack=2) as envs:
        assert isinstance(envs.obs_space, spaces.Box)
        assert envs.obs_space.high.tolist() == [[1, 1, 8]] * 2
