"""rlkit's small games: Gymnasium's checker, the vector environments, and resuming them."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from rlkit.envs.games import check_size
from rlkit.envs.make import make_env, make_envs
from rlkit.errors import UsageError

N = 7
GAMES = [
    ("rlkit/Catch-v0", {}),
    ("rlkit/Catch-v0", {"rows": 4, "columns": 7, "scale": 3}),
    ("rlkit/MemoryCorridor-v0", {}),
    ("rlkit/MemoryCorridor-v0", {"length": 1}),
    ("rlkit/RepeatFirst-v0", {}),
    ("rlkit/RepeatFirst-v0", {"length": 3, "suits": 2}),
]
ALL = [*GAMES, ("rlkit/CartPoleHidden-v0", {})]


@pytest.mark.parametrize(("name", "options"), ALL)
def test_gymnasiums_checker_finds_nothing(name, options):
    with warnings.catch_warnings():
        # It would have CartPole's bounds finite, and symmetric action spaces of Boxes.
        warnings.filterwarnings("ignore", ".*Box observation space (minimum|maximum) value is")
        check_env(gym.make(name, **options).unwrapped)
        env = gym.make(name, render_mode="rgb_array", **options)
        env.reset(seed=0)
        picture = env.render()
        assert picture.dtype == np.uint8
        assert picture.ndim == 3


@pytest.mark.parametrize(("name", "options"), GAMES)
def test_the_vector_environment_is_a_row_of_single_ones(name, options):
    ours = gym.make_vec(name, N, vectorization_mode="vector_entry_point", **options)
    theirs = SyncVectorEnv([lambda: gym.make(name, **options)] * N)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.single_action_space == theirs.single_action_space
    rng = np.random.default_rng(0)
    obs, expected = ours.reset(seed=3)[0], theirs.reset(seed=3)[0]
    ends = 0
    for _ in range(100):
        assert obs.dtype == expected.dtype
        assert obs.tobytes() == expected.tobytes()
        actions = rng.integers(ours.single_action_space.n, size=N)
        obs, *rest, info = ours.step(actions)
        expected, *their_rest, _ = theirs.step(actions)
        assert info == {}
        for one, other in zip(rest, their_rest, strict=True):
            assert one.dtype == other.dtype
            assert one.tolist() == other.tolist()
        ends += rest[1].sum()
    assert ends > N
    assert ours.reset(seed=list(range(9, 9 + N)))[0].tobytes() == ours.reset(seed=9)[0].tobytes()


@pytest.mark.parametrize("vectorization", ["native", "sync"])
@pytest.mark.parametrize(("name", "options"), ALL)
def test_resuming_goes_on_bit_for_bit(name, options, vectorization):
    def envs_of(seed):
        envs = make_envs(name, N, seed, vectorization, options=options)
        envs.reset()
        return envs

    first, second = envs_of(0), envs_of(1)
    rng = np.random.default_rng(0)
    ended = False
    while first.steps < 20 or not ended:  # the next step is a dead one
        ended = first.step(rng.integers(first.action_space.n, size=N)).terminated.any()
    second.set_state(first.get_state())
    for _ in range(30):
        action = rng.integers(first.action_space.n, size=N)
        one, other = first.step(action), second.step(action)
        for part in ("obs", "reward", "terminated", "truncated", "valid", "next_obs"):
            assert getattr(one, part).tobytes() == getattr(other, part).tobytes()


def test_a_state_of_other_environments_is_refused():
    tree = gym.make_vec("rlkit/Catch-v0", 3).unwrapped.get_state()
    with pytest.raises(UsageError, match=r"shape \(3, 3\), this game's of \(3, 4\)"):
        gym.make_vec("rlkit/Catch-v0", 4).unwrapped.set_state(tree)


def test_bad_actions_are_named_and_dead_steps_take_any():
    envs = gym.make_vec("rlkit/MemoryCorridor-v0", 2, length=1)
    with pytest.raises(UsageError, match="before reset"):
        envs.step(np.zeros(2, dtype=int))
    envs.reset(seed=0)
    with pytest.raises(UsageError, match=r"env 1 is 2; it must be in Discrete\(2\)"):
        envs.step(np.array([0, 2]))
    with pytest.raises(UsageError, match="give 2 whole numbers"):
        envs.step(np.zeros(2))
    envs.step(np.zeros(2, dtype=int))
    assert envs.step(np.zeros(2, dtype=int))[2].all()
    envs.step(np.array([5, -1]))
    with pytest.raises(UsageError, match="3 seeds were given to 2"):
        envs.reset(seed=[1, 2, 3])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("catch", {"rows": 1}, "rows is 1; allowed: 2 to 1000"),
        ("catch", {"scale": 2.5}, "scale is 2.5; allowed: a whole number"),
        ("memory-corridor", {"length": 0}, "length is 0; allowed: 1 to"),
        ("repeat-first", {"suits": 1}, "suits is 1; allowed: 2 to 1000"),
        ("catch", {"row": 5}, "has no option 'row'; did you mean rows?"),
        ("catch", {"render_mode": "human"}, "allowed: None, 'rgb_array'"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(UsageError) as caught:
        make_env(name, options)
    assert message in str(caught.value)


def test_true_is_no_size():
    with pytest.raises(UsageError, match="rows is True"):
        check_size("rows", True, 0, 9)
