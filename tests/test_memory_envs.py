"""The games that need a memory: what they show, what they hide, and what each policy gets."""

import gymnasium as gym
import numpy as np
import pytest

from rlkit.envs.make import make_env, make_envs
from rlkit.envs.memory import MemoryCorridor

LEFT, RIGHT = [0, 1, 1], [1, 1, 0]


def walk(seed, actions, length):
    """The observations, rewards and ends of an episode."""
    env = make_env("memory-corridor", {"length": length})
    seen, rewards, ends = [env.reset(seed=seed)[0].tolist()], [], []
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        seen.append(obs.tolist())
        rewards.append(reward)
        ends.append(terminated)
        assert not truncated
        assert info == {}
    return seen, rewards, ends


@pytest.mark.parametrize("length", [1, 2, 10, 60])
def test_nothing_after_the_first_observation_tells_the_cue(length):
    rng = np.random.default_rng(length)
    after, cues = set(), set()
    for seed in range(30):
        actions = rng.integers(2, size=length + 1).tolist()
        seen, rewards, ends = walk(seed, actions, length)
        cues.add(tuple(seen[0]))
        after.add(str(seen[1:]))
        assert seen[1:length] == [[1, 0, 1]] * (length - 1)
        assert seen[length] == [0, 1, 0]
        assert ends == [False] * length + [True]
        assert rewards[:-1] == [0.0] * length
        goal = 0 if seen[0] == LEFT else 1
        assert rewards[-1] == (1.0 if actions[-1] == goal else -1.0)
    assert cues == {tuple(LEFT), tuple(RIGHT)}
    assert len(after) == 1


def test_the_end_itself_shows_nothing_either():
    """Whichever way the agent turns: what stays in view at the end is the junction."""
    seen = {str(walk(seed, [action] * 3, 2)[0][-1]) for seed in range(8) for action in (0, 1)}
    assert seen == {"[0.0, 1.0, 0.0]"}


def test_both_cues_are_as_likely_and_memory_makes_the_difference():
    envs = make_envs("memory-corridor", 200, 0, options={"length": 3})
    obs = envs.reset()
    rewards = {"remembers": [], "always left": []}
    goals = []
    memory = np.zeros(200, dtype=int)
    for policy, earned in rewards.items():
        obs = envs.reset()
        for _ in range(100):
            for i, code in enumerate(obs.tolist()):
                if code in (LEFT, RIGHT):
                    memory[i] = code == RIGHT
                    goals.append(int(memory[i]))
            action = memory if policy == "remembers" else np.zeros(200, dtype=int)
            step = envs.step(action)
            earned += step.reward[step.terminated].tolist()
            obs = step.next_obs
    assert set(rewards["remembers"]) == {1.0}
    assert abs(np.mean(goals) - 0.5) < 0.03  # about 8000 draws: a standard error of 0.006
    assert abs(np.mean(rewards["always left"])) < 0.06  # about 4000: 0.016


def test_the_first_card_is_to_be_repeated():
    env = make_env("repeat-first", {"length": 5, "suits": 3})
    suits = set()
    for seed in range(20):
        first, _ = env.reset(seed=seed)
        suits.add(int(first))
        for k in range(5):
            action = (int(first) + (k == 2)) % 3
            obs, reward, terminated, _, _ = env.step(action)
            assert reward == pytest.approx(-0.2 if k == 2 else 0.2)
            assert obs in env.observation_space
            assert terminated == (k == 4)
    assert suits == {0, 1, 2}


def test_the_later_cards_are_independent_of_the_first():
    envs = make_envs("repeat-first", 500, 0)
    obs = envs.reset()
    first, pairs = obs, np.zeros((4, 4))
    for _ in range(300):
        step = envs.step(first)
        obs = step.next_obs
        first = np.where(step.valid, first, obs)
        np.add.at(pairs, (first[step.valid], obs[step.valid]), 1)
    # Each of 16 pairs has p = 1/16 of 136,000: a standard deviation of 1.5 % of it.
    assert np.abs(pairs / pairs.sum() * 16 - 1).max() < 0.06


def test_only_positions_are_seen_of_the_pole():
    ours, theirs = make_env("cartpole-hidden"), gym.make("CartPole-v1")
    assert ours.spec.max_episode_steps == theirs.spec.max_episode_steps == 500
    assert ours.spec.reward_threshold == theirs.spec.reward_threshold == 475
    rng = np.random.default_rng(0)
    for seed in range(5):
        seen, whole = ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0]
        over = False
        while not over:
            assert seen.tobytes() == whole[[0, 2]].tobytes()
            action = int(rng.integers(2))
            seen, *rest, _ = ours.step(action)
            whole, *their_rest, _ = theirs.step(action)
            assert rest == their_rest
            over = rest[1]


def test_many_hidden_poles_are_gymnasiums_poles():
    ours = gym.make_vec("rlkit/CartPoleHidden-v0", 6)
    theirs = gym.make_vec("CartPole-v1", 6, vectorization_mode="vector_entry_point")
    rng = np.random.default_rng(0)
    obs, whole = ours.reset(seed=5)[0], theirs.reset(seed=5)[0]
    for _ in range(400):
        assert obs.dtype == np.float32
        assert obs.tobytes() == whole[:, [0, 2]].tobytes()
        action = rng.integers(2, size=6)
        obs, *rest, _ = ours.step(action)
        whole, *their_rest, _ = theirs.step(action)
        assert all((a == b).all() for a, b in zip(rest, their_rest, strict=True))


def test_a_long_corridor_costs_nothing_to_hold():
    game = MemoryCorridor(50_000)
    assert game.observe(np.array([[0, 1], [50_000, 7]])).tolist() == [[0, 1, 0], [1, 0, 1]]
