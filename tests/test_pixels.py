"""Learning from what is rendered, and from images of bools."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlkit.envs.make import make_envs
from rlkit.envs.pixels import Pixels, with_byte_images
from rlkit.errors import UsageError


class Painted(gym.Env):
    """Renders a frame of noise for each step it has taken."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return 0, {}

    def step(self, action):
        self.steps += 1
        return 0, 0.0, self.steps == 6, False, {}

    def render(self):
        return frame(self.steps)

    def get_state(self):
        return {"steps": self.steps}

    def set_state(self, tree):
        self.steps = tree["steps"]


def frame(steps):
    return np.random.default_rng(steps).integers(256, size=(60, 40, 3)).astype(np.uint8)


def shrunk(steps, size, grayscale):
    """The frame as observed: averages of areas, and the weights of the three colours by NTSC."""
    cv2 = pytest.importorskip("cv2")
    small = cv2.resize(frame(steps), (size, size), interpolation=cv2.INTER_AREA)
    return (small @ [0.2125, 0.7154, 0.0721]).astype(np.uint8) if grayscale else small


@pytest.mark.parametrize("grayscale", [True, False])
@pytest.mark.parametrize("stack", [1, 3])
def test_the_newest_frames_are_observed_with_zeros_before_them(grayscale, stack):
    size = 20
    expected = [shrunk(k, size, grayscale) for k in range(7)]
    pixels = Pixels(size, grayscale, stack)
    envs = make_envs(lambda: Painted("rgb_array"), 2, 0, pixels=pixels)
    shape = (stack, size, size) if stack > 1 else (size, size)
    shape += () if grayscale and stack > 1 else (1,) if grayscale else (3,)
    assert envs.obs_space == spaces.Box(0, 255, shape, np.uint8)
    obs = envs.reset()
    for k in [*range(7), *range(3)]:  # the last step of the first range is the dead one
        blank = [np.zeros_like(expected[0])] * max(0, stack - 1 - k)
        wanted = np.array([*blank, *expected[max(0, k + 1 - stack) : k + 1]]).reshape(shape)
        assert (obs == wanted).all()
        obs = envs.step(np.zeros(2, dtype=int)).next_obs


def test_pixels_of_a_registered_environment():
    pytest.importorskip("cv2")
    pytest.importorskip("pygame")
    envs = make_envs("CartPole", 2, 0, pixels=Pixels())
    assert envs.id == "CartPole-v1"
    assert envs.max_episode_steps == 500
    obs = envs.reset()
    assert obs.shape == (2, 4, 84, 84)
    assert len(np.unique(obs[:, 3])) > 2
    assert (envs.step(np.zeros(2, dtype=int)).next_obs[:, 2] == obs[:, 3]).all()


def test_resuming_goes_on_with_the_same_frames():
    pytest.importorskip("cv2")
    first, second = (
        make_envs(lambda: Painted("rgb_array"), 2, seed, pixels=Pixels(20)) for seed in (0, 1)
    )
    for envs in (first, second):
        envs.reset()
    for _ in range(4):
        first.step(np.zeros(2, dtype=int))
    assert (second.set_state(first.get_state())[:, 3] == shrunk(4, 20, True)).all()
    for _ in range(9):
        one, other = (envs.step(np.zeros(2, dtype=int)) for envs in (first, second))
        assert (one.next_obs == other.next_obs).all()
        assert (one.terminated == other.terminated).all()


@pytest.mark.parametrize(
    ("env", "keywords", "message"),
    [
        (Painted, {}, "was made with render_mode None; make it with 'rgb_array'"),
        ("Blackjack", {"vectorization": "native"}, "native renders nothing; use sync or async"),
        (Painted(), {}, "the environment is a Painted; pixels need its name"),
    ],
)
def test_what_can_not_be_seen_is_refused(env, keywords, message):
    pytest.importorskip("cv2")
    with pytest.raises(UsageError) as caught:
        make_envs(env, 1, 0, pixels=Pixels(), **keywords)
    assert message in str(caught.value)


def test_an_environment_that_renders_something_else_is_refused(monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.setattr(Painted, "render", lambda self: np.zeros((4, 4, 3)))
    with pytest.raises(UsageError, match=r"Painted renders float64 of shape \(4, 4, 3\)"):
        make_envs(lambda: Painted("rgb_array"), 1, 0, pixels=Pixels())
    monkeypatch.setattr(Painted, "metadata", {"render_modes": ["ansi"]})
    with pytest.raises(UsageError, match=r"renders \['ansi'\]; pixels need 'rgb_array'"):
        make_envs(lambda: Painted("rgb_array"), 1, 0, pixels=Pixels())


def test_sizes_are_checked():
    with pytest.raises(UsageError, match="size is 0; allowed: 1 to 1000"):
        Pixels(size=0)
    with pytest.raises(UsageError, match="frame_stack is 0"):
        Pixels(frame_stack=0)


class Bits(gym.Env):
    """Shows a square board of bools."""

    observation_space = spaces.Box(0.0, 1.0, (3, 3, 2), np.bool_)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.eye(3, dtype=bool)[..., None].repeat(2, axis=-1), {}

    def step(self, action):
        return np.zeros((3, 3, 2), dtype=bool), 0.0, False, False, {}


def test_images_of_bools_arrive_as_bytes():
    envs = make_envs(Bits, 2, 0)
    assert envs.obs_space == spaces.Box(0, 255, (3, 3, 2), np.uint8)
    assert (envs.reset() == 255 * np.eye(3, dtype=np.uint8)[..., None]).all()
    painted = Painted()
    assert with_byte_images(painted) is painted


def test_minatar_plays_in_bytes():
    pytest.importorskip("minatar")
    envs = make_envs("MinAtar/Breakout", 3, 0)
    assert envs.id == "MinAtar/Breakout-v1"
    assert envs.obs_space == spaces.Box(0, 255, (10, 10, 4), np.uint8)
    assert set(np.unique(envs.reset())) == {0, 255}
    again = make_envs("MinAtar/Breakout", 3, 0)
    again.reset()
    for action in np.random.default_rng(0).integers(3, size=(50, 3)):
        one, other = envs.step(action), again.step(action)
        assert (one.next_obs == other.next_obs).all()
        assert (one.reward == other.reward).all()
