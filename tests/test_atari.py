"""Atari games: their names, preprocessing and lives, held to what Gymnasium makes of them."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from rlkit.envs import atari
from rlkit.envs.listing import list_envs
from rlkit.envs.make import evaluation_options, make_env, make_envs
from rlkit.envs.names import facts_of, resolve, short_name
from rlkit.envs.pixels import Pixels
from rlkit.errors import UsageError

pytest.importorskip("ale_py")
PLAIN = {"noop_max": 0, "fire_reset": False, "repeat_action_probability": 0.0}


def actions_of(n, count, seed=0):
    return np.random.default_rng(seed).integers(n, size=count)


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("Pong", "ALE/Pong-v5"),
        ("spaceinvaders", "ALE/SpaceInvaders-v5"),
        ("ALE/Pong-v5", "ALE/Pong-v5"),
        ("ale/pong", "ALE/Pong-v5"),
        ("PongNoFrameskip-v4", "PongNoFrameskip-v4"),
    ],
)
def test_names_of_games(name, full):
    found = resolve(name)
    assert found.name == full
    assert found.spec.entry_point == atari.ENTRY
    assert short_name(name) == full.rpartition("/")[2]
    assert found.spec.kwargs["repeat_action_probability"] == (0.25 if "ALE" in full else 0.0)


def test_a_game_with_a_random_frame_skip_stays_as_it_is():
    assert resolve("Pong-v4").spec.entry_point == "ale_py.env:AtariEnv"
    assert make_env("Pong-v4").observation_space.shape == (210, 160, 3)


def test_a_misspelt_game_and_option_are_answered_with_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean .*ALE/Breakout"):
        resolve("ALE/Breakot")
    with pytest.raises(UsageError, match="no option 'episodic_lif'; did you mean episodic_life"):
        make_envs("Pong", 1, 0, options={"episodic_lif": True})
    with pytest.raises(UsageError, match="frame_stack is 0; allowed: 1 to"):
        make_envs("Pong", 1, 0, options={"frame_stack": 0})
    with pytest.raises(UsageError, match="observed in pixels as it is"):
        make_envs("Pong", 1, 0, pixels=Pixels())


def test_one_line_of_the_list_stands_for_all_games():
    resolve("Pong")
    (line,) = [env for env in list_envs() if "Atari" in env.summary]
    assert (line.name, line.id, line.needs) == ("ALE/Pong", "ALE/Pong-v5", None)
    assert resolve(line.name).name == line.id


@pytest.mark.parametrize("vectorization", ["auto", "sync"])
@pytest.mark.parametrize("n", [1, 3])
def test_images_are_stacked_bytes_however_many_there_are(n, vectorization):
    envs = make_envs("Pong", n, 0, vectorization)
    assert isinstance(envs._venv, atari.AtariVectorEnv) == (vectorization == "auto")
    assert envs.obs_space == gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    obs = envs.reset()
    assert obs.shape == (n, 4, 84, 84)
    assert not obs[:, :3].any()
    assert obs[:, 3].any()


def test_facts_tell_how_many_images_are_stacked():
    spec = resolve("Pong").spec
    assert facts_of("", spec, {}).frame_stack == 4
    assert facts_of("", spec, {"frame_stack": 3}).frame_stack == 3
    assert facts_of("", resolve("CartPole").spec, {}).frame_stack == 1
    envs = make_envs("Pong", 1, 0, options={"frame_stack": 3, "size": 42, "grayscale": False})
    assert envs.obs_space.shape == (3, 42, 42, 3)


@pytest.mark.parametrize("game", ["breakout", "ms_pacman"])
def test_every_image_is_gymnasiums_preprocessing(game):
    pytest.importorskip("cv2")
    name = game.title().replace("_", "")
    ours = make_env(f"ALE/{name}-v5", PLAIN)
    theirs = gym.make(f"ALE/{name}-v5", frameskip=1, repeat_action_probability=0.0)
    theirs = gym.wrappers.AtariPreprocessing(theirs, noop_max=0)
    theirs = gym.wrappers.FrameStackObservation(theirs, 4, padding_type="zero")
    obs, expected = ours.reset(seed=0)[0], theirs.reset(seed=0)[0]
    ends = 0
    for action in actions_of(ours.action_space.n, 600):
        assert (obs == expected).all()
        obs, *rest, _ = ours.step(action)
        expected, *their_rest, _ = theirs.step(action)
        assert rest == their_rest
        if rest[1]:
            ends += 1
            assert (obs == expected).all()
            obs, expected = ours.reset()[0], theirs.reset()[0]
    assert ends > 0


@pytest.mark.parametrize("episodic_life", [False, True])
def test_the_vector_environment_is_a_row_of_single_ones(episodic_life):
    options = {"episodic_life": episodic_life, "repeat_action_probability": 0.25}
    ours = gym.make_vec(resolve("Breakout").spec, 3, **options)
    theirs = SyncVectorEnv([lambda: make_env("Breakout", options)] * 3)
    obs, expected = ours.reset(seed=4)[0], theirs.reset(seed=4)[0]
    ends = 0
    for actions in actions_of(4, (250, 3)):
        assert (obs == expected).all()
        obs, *rest, _ = ours.step(actions)
        expected, *their_rest, _ = theirs.step(actions)
        assert all((one == other).all() for one, other in zip(rest, their_rest, strict=True))
        ends += rest[1].sum()
    assert ends > 0


def ages(ended):
    """For each step, how many have passed since its episode's first observation."""
    age, over, found = 0, False, []
    for end in ended:
        age = 0 if over else age + 1
        over = end
        found.append(age)
    return found


def test_a_lost_life_ends_the_episode_and_the_game_goes_on():
    """Held to the whole game, played with the actions that lives make of the agent's."""
    from ale_py.vector_env import AtariVectorEnv as Native

    options = {"noop_max": 0, "repeat_action_probability": 0.0, "episodic_life": True}
    envs = make_envs("Breakout", 4, 0, options=options)
    whole = Native("breakout", 4, noop_max=0, reward_clipping=False, life_loss_info=False)
    obs, info = envs.reset(), whole.reset(seed=0)[1]
    rows = []
    lives, game_over = info["lives"], np.zeros(4, dtype=bool)
    fake = np.zeros(4, dtype=bool)
    for actions in actions_of(4, (400, 4), 1):
        played = np.where(fake | game_over, 1, actions)  # FIRE serves the ball
        step = envs.step(actions)
        frames, reward, terminated, truncated, info = whole.step(played)
        lost = (info["lives"] < lives) & ~game_over
        assert (step.valid == ~(fake | game_over)).all()
        assert (step.reward == np.where(step.valid, reward, 0)).all()
        assert (step.terminated == (lost | terminated)).all()
        assert not step.truncated.any()
        rows.append((step.next_obs, frames, step.terminated))
        lives, fake, game_over = info["lives"], lost & ~terminated, terminated | truncated
    fakes = 0
    for env in range(4):
        ended = [row[2][env] for row in rows]
        for (ours, theirs, _), age in zip(rows, ages(ended), strict=True):
            images = min(age + 1, 4)
            assert (ours[env, 4 - images :] == theirs[env, 4 - images :]).all()
            assert not ours[env, : 4 - images].any()
            fakes += age == 0
    assert fakes > 4
    assert obs.shape == (4, 4, 84, 84)


class Bright:
    """As ale-py's vector environment of two: a point and white images, whatever happens."""

    num_envs = 2
    single_observation_space = observation_space = gym.spaces.Box(0, 255, (4, 1, 1), np.uint8)
    single_action_space = action_space = gym.spaces.Discrete(3)
    lost = (False, True)

    def step(self, actions):
        self.actions = actions.tolist()
        obs, never = np.full((2, 4, 1, 1), 255, np.uint8), np.zeros(2, dtype=bool)
        return obs, np.ones(2, dtype=np.int32), np.array(self.lost), never, {}


def test_the_step_after_a_lost_life_is_dead():
    native = Bright()
    envs = atari.AtariVectorEnv(native, stack=4, fire=False, episodic_life=True)
    for _ in range(3):
        native.lost = (False, False)
        envs.step(np.array([1, 2]))
    native.lost = (False, True)
    assert envs.step(np.array([1, 2]))[1].tolist() == [1, 1]
    native.lost = (False, False)
    obs, reward, terminated, *_ = envs.step(np.array([1, 2]))
    assert native.actions == [1, 0]
    assert reward.tolist() == [1, 0]
    assert not terminated.any()
    assert obs[..., 0, 0].tolist() == [[255] * 4, [0, 0, 0, 255]]
    obs, reward, *_ = envs.step(np.array([1, 2]))
    assert native.actions == [1, 2]
    assert reward.tolist() == [1, 1]
    assert obs[1, :, 0, 0].tolist() == [0, 0, 255, 255]


def test_the_length_limit_truncates():
    options = {**PLAIN, "max_num_frames_per_episode": 40}
    envs = make_envs("Pong", 2, 0, options=options)
    envs.reset()
    steps = [envs.step(np.zeros(2, dtype=int)) for _ in range(24)]
    ends = [bool(step.truncated.all()) for step in steps]
    assert ends == ([False] * 9 + [True, False]) * 2 + [False, False]
    assert not any(step.terminated.any() for step in steps)
    assert [bool(step.valid.all()) for step in steps[9:12]] == [True, False, True]


def test_rewards_are_clipped_where_that_is_asked_for():
    points = {}
    for clip in (False, True):
        envs = make_envs("SpaceInvaders", 4, 0, options={**PLAIN, "clip_reward": clip})
        envs.reset()
        points[clip] = [envs.step(a).reward for a in actions_of(6, (300, 4))]
    assert max(np.max(r) for r in points[False]) >= 5
    assert all((np.sign(a) == b).all() for a, b in zip(points[False], points[True], strict=True))


def test_evaluation_is_on_whole_games_and_all_points():
    options = {"episodic_life": True, "clip_reward": True, "size": 42}
    assert evaluation_options("Pong", options) == {"size": 42}
    assert evaluation_options("CartPole", options) == options
    assert evaluation_options(make_env, options) == options


def test_gymnasiums_checker_finds_nothing():
    # Its own check of spec asks for an environment of the registry, which is the raw one.
    check_env(make_env("Pong").unwrapped, skip_render_check=True)
    env = make_env("Breakout", {"render_mode": "rgb_array", "episodic_life": True})
    env.reset(seed=0)
    assert env.render().shape == (84, 84, 3)
