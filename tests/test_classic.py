"""The compiled classic control environments: Gymnasium's own, to the last bit."""

import importlib.util
import shutil
import subprocess
import sys

import gymnasium as gym
import numba
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlkit.envs import dynamics
from rlkit.envs.classic import MODELS, ClassicVectorEnv
from rlkit.envs.make import make_envs
from rlkit.envs.names import with_options
from rlkit.errors import UsageError

IDS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1")
N = 8


def compiled(name, n=N, **options):
    return ClassicVectorEnv(with_options(gym.spec(name), options), n)


def gymnasiums(name, n=N, **options):
    """What the compiled environment must equal."""
    if name == "CartPole-v1":
        return gym.make_vec(name, n, vectorization_mode="vector_entry_point", **options)
    return SyncVectorEnv([lambda: gym.make(name, disable_env_checker=True, **options)] * n)


def seed_of(name):
    return 7 if name == "CartPole-v1" else [3, 1, 4, 159, 2, 65, 35, 89]


AIMS = {
    "CartPole-v1": lambda obs: obs[:, 2] + 0.3 * obs[:, 3] > 0,
    "Acrobot-v1": lambda obs: 2 * (obs[:, 4] < 0),
    "MountainCar-v0": lambda obs: 2 * (obs[:, 1] >= 0),
    "Pendulum-v1": lambda obs: 2 * np.sign(obs[:, 2]),
}


def play(name, obs, rng):
    """Random actions for half of the environments; the others get where episodes end."""
    random = rng.integers(2 if name == "CartPole-v1" else 3, size=N)
    if name == "Pendulum-v1":
        random = rng.uniform(-3, 3, N)  # the torque is clipped at 2
    action = np.where((np.arange(N) < 4) | (rng.random(N) < 0.02), random, AIMS[name](obs))
    return action[:, None].astype(np.float32) if name == "Pendulum-v1" else action


def assert_same(one, other):
    for ours, theirs in zip(one[:-1], other[:-1], strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()
    assert one[-1] == other[-1] == {}


def assert_same_states(ours, theirs):
    """In float64: the observations hide the last 29 bits."""
    if isinstance(theirs, SyncVectorEnv):
        states = np.array([env.unwrapped.state for env in theirs.envs], dtype=np.float64).T
    else:
        states = theirs.state
    assert ours.get_state()["states"][1:].tobytes() == states.tobytes()


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        *[(name, 50_000 // N, {}) for name in IDS],
        ("CartPole-v1", 1000, {"sutton_barto_reward": True, "max_episode_steps": 15}),
        ("Acrobot-v1", 1000, {"max_episode_steps": 90}),
        ("MountainCar-v0", 1000, {"goal_velocity": 0.03, "max_episode_steps": 122}),
        ("Pendulum-v1", 1000, {"g": 9.81, "max_episode_steps": 33}),
        ("Pendulum-v1", 300, {"g": 3, "max_episode_steps": 1}),
    ],
)
def test_every_bit_is_gymnasiums(name, steps, options):
    ours, theirs = compiled(name, **options), gymnasiums(name, **options)
    rng = np.random.default_rng(0)
    first = ours.reset(seed=seed_of(name))
    assert_same(first, theirs.reset(seed=seed_of(name)))
    obs, terminations, truncations = first[0], 0, 0
    for i in range(steps):
        action = play(name, obs, rng)
        step = ours.step(action)
        assert_same(step, theirs.step(action))
        assert_same_states(ours, theirs)
        obs = step[0]
        terminations += np.count_nonzero(step[2])
        truncations += np.count_nonzero(step[3])
        if i == steps // 2:  # in the middle of episodes, the generators going on
            first = ours.reset()
            assert_same(first, theirs.reset())
            obs = first[0]
    assert truncations > 20
    assert terminations > 20 or name == "Pendulum-v1"


@pytest.mark.parametrize("name", IDS)
def test_it_is_a_vector_environment_as_gymnasiums_are(name):
    ours, theirs = compiled(name), gymnasiums(name)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.single_action_space == theirs.single_action_space
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert (ours.num_envs, ours.spec.id, ours.unwrapped) == (N, name, ours)
    assert repr(ours) == f"ClassicVectorEnv({name}, num_envs=8)"
    ours.action_space.seed(0)
    obs, _ = ours.reset(seed=0)
    assert ours.np_random_seed == 0
    for _ in range(50):
        assert ours.observation_space.contains(obs)
        obs = ours.step(ours.action_space.sample())[0]
    ours.close()


@pytest.mark.parametrize("name", IDS)
def test_seeds(name):
    ours = compiled(name, 3)
    unseeded = [ours.reset()[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)
    assert not np.array_equal(compiled(name, 3).reset()[0], unseeded[0])
    first = ours.reset(seed=11)[0]
    assert len(np.unique(first, axis=0)) == 3
    ours.step(ours.action_space.sample())
    assert np.array_equal(ours.reset(seed=11)[0], first)
    if name != "CartPole-v1":  # its native environment has one generator
        assert np.array_equal(ours.reset(seed=[11, 12, 13])[0], first)
    with pytest.raises(UsageError, match=r"2 seeds were given to [13] generators"):
        ours.reset(seed=[1, 2])
    with pytest.raises(UsageError, match="resets without options; use sync"):
        ours.reset(options={"low": 0})


@pytest.mark.parametrize("name", IDS)
def test_the_arrays_are_the_callers_to_keep(name):
    ours = compiled(name, max_episode_steps=3)
    kept = [ours.reset(seed=0)[0]]
    for _ in range(10):
        kept += ours.step(ours.action_space.sample())[:-1]
    copies = [array.copy() for array in kept]
    for array in kept:
        array.flags.writeable = False
    for _ in range(10):
        ours.step(ours.action_space.sample())
    ours.reset()
    assert all(np.array_equal(array, copy) for array, copy in zip(kept, copies, strict=True))


@pytest.mark.parametrize("name", IDS)
def test_actions_of_any_kind_of_array(name):
    actions = np.random.default_rng(0).integers(2, size=(20, N))
    if name == "Pendulum-v1":
        actions = actions[:, :, None]
    frozen = actions.astype("i4")
    frozen.flags.writeable = False
    kinds = [actions, actions.astype("u1"), frozen, actions.astype(">i8"), actions.tolist()]
    kinds.append(np.repeat(actions, 2, axis=1)[:, ::2])
    if name == "Pendulum-v1":
        kinds += [actions.astype("f8"), actions.astype("f4")]
    ends = []
    for kind in kinds:
        ours = compiled(name)
        ours.reset(seed=0)
        ends.append([ours.step(action)[0] for action in kind][-1])
    assert all(np.array_equal(end, ends[0]) for end in ends)


@pytest.mark.parametrize(
    ("name", "action", "message"),
    [
        ("CartPole-v1", [0, 2, 0], r"the action for env 1 is 2; it must be in Discrete\(2\)"),
        ("CartPole-v1", [0, 0, -1], "the action for env 2 is -1"),
        ("Acrobot-v1", [3, 0, 0], r"the action for env 0 is 3; it must be in Discrete\(3\)"),
        ("Acrobot-v1", [0, -1, 0], "the action for env 1 is -1"),
        ("MountainCar-v0", [0, 3, 0], "the action for env 1 is 3"),
        ("MountainCar-v0", [0, -1, 0], "the action for env 1 is -1"),
        ("Pendulum-v1", [[0], [0], [np.nan]], r"the action for env 2 is \[nan\]"),
        ("CartPole-v1", [0, 1], r"actions of shape \(2,\) were given; give \(3,\)"),
        ("Pendulum-v1", [0, 1, 0], r"actions of shape \(3,\) were given; give \(3, 1\)"),
        ("CartPole-v1", [0.0, 1.0, 0.0], "the actions are float64; give whole numbers"),
        ("Pendulum-v1", [[0], [0], ["a"]], "the actions are <U21; give numbers"),
    ],
)
def test_actions_outside_the_space_are_refused(name, action, message):
    ours = compiled(name, 3)
    with pytest.raises(UsageError, match="step was called before reset"):
        ours.step(ours.action_space.sample())
    ours.reset(seed=0)
    with pytest.raises(UsageError, match=message) as caught:
        ours.step(np.array(action))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", IDS)
def test_the_action_of_a_reset_step_is_not_looked_at(name):
    ours, others = compiled(name, 2, max_episode_steps=1), compiled(name, 2, max_episode_steps=1)
    for venv in (ours, others):
        venv.reset(seed=0)
        assert venv.step(np.zeros_like(venv.action_space.sample()))[3].all()
    nonsense = np.full_like(ours.action_space.sample(), np.nan if name == "Pendulum-v1" else 99)
    step = ours.step(nonsense)
    assert_same(step, others.step(np.zeros_like(nonsense)))
    assert not any(array.any() for array in step[1:4])


def kind_of(name, n, vectorization="auto", **options):
    return type(make_envs(name, n, 0, vectorization, options=options)._venv).__name__


def test_auto_is_compiled_where_it_can_be():
    for name in (*IDS, "CartPole-v0", "cartpole"):
        for n in (1, 3, 4):
            assert kind_of(name, n) == kind_of(name, n, "compiled") == "ClassicVectorEnv"
    assert kind_of("CartPole", 1, sutton_barto_reward=True) == "ClassicVectorEnv"
    assert kind_of("Pendulum", 1, g=9.8, max_episode_steps=5) == "ClassicVectorEnv"
    assert kind_of("MountainCar", 1, goal_velocity=0.01) == "ClassicVectorEnv"


def test_auto_goes_another_way_where_it_cannot():
    assert kind_of("CartPole", 4, render_mode="rgb_array") == "CartPoleVectorEnv"
    assert kind_of("CartPole", 3, render_mode="rgb_array") == "SyncVectorEnv"
    assert kind_of("Acrobot", 4, render_mode="rgb_array") == "SyncVectorEnv"
    assert kind_of("Acrobot", 1, max_episode_steps=-1) == "SyncVectorEnv"  # no limit
    assert kind_of("Pendulum", 1, g=np.float32(9.8)) == "SyncVectorEnv"  # another precision
    assert kind_of("MountainCarContinuous", 4) == "SyncVectorEnv"
    assert kind_of("CartPole", 4, "native") == "CartPoleVectorEnv"
    assert kind_of("CartPole", 4, "sync") == "SyncVectorEnv"


def test_an_id_that_means_something_else_is_not_compiled():
    entry = "gymnasium.envs.classic_control.pendulum:PendulumEnv"
    wrapper = gym.wrappers.ClipReward.wrapper_spec(min_reward=-1)
    gym.register("WrappedOfTests-v0", entry, additional_wrappers=(wrapper,))
    gym.register("LightOfTests-v0", entry, kwargs={"g": 1.6})
    gym.register("OwnOfTests-v0", gym.envs.classic_control.CartPoleEnv)
    try:
        assert kind_of("OwnOfTests", 2) == kind_of("WrappedOfTests", 2) == "SyncVectorEnv"
        with make_envs("LightOfTests", 2, 0) as light, make_envs("LightOfTests", 2, 0) as again:
            assert isinstance(light._venv, ClassicVectorEnv)
            theirs = SyncVectorEnv([lambda: gym.make("LightOfTests-v0")] * 2)
            seed = [5, 6]
            assert_same(light._venv.reset(seed=seed), theirs.reset(seed=seed))
            for _ in range(300):  # without a time limit
                action = light._venv.action_space.sample()
                assert_same(light._venv.step(action), theirs.step(action))
            again.reset()
    finally:
        for name in ("Wrapped", "Light", "Own"):
            del gym.registry[f"{name}OfTests-v0"]


@pytest.mark.parametrize(
    ("env", "options", "message"),
    [
        ("FrozenLake", {}, "only CartPole, Acrobot, MountainCar, Pendulum are; use vectorization"),
        ("Pendulum", {"render_mode": "human"}, "it takes no option render_mode"),
        ("CartPole", {"max_episode_steps": 0}, "it takes no max_episode_steps = 0"),
        ("CartPole", {"max_episode_steps": True}, "it takes no max_episode_steps = True"),
        ("Pendulum", {"g": float("nan")}, "it takes no g = nan"),
        ("Pendulum", {"g": 10**400}, "it takes no g = 1000"),
        ("Pendulum", {"g": "9"}, "it takes no g = '9'"),
        (lambda: gym.make("CartPole"), None, "vectorization compiled needs an environment's name"),
    ],
)
def test_compiled_in_vain_says_why_and_what_to_do(env, options, message):
    with pytest.raises(UsageError) as caught:
        make_envs(env, 2, 0, "compiled", options=options)
    assert message in str(caught.value)
    assert "use " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_state_of_other_environments_is_refused():
    saved = {}
    for name, n in (("Pendulum", 3), ("MountainCar", 3), ("MountainCar", 2)):
        with make_envs(name, n, 0) as envs:
            envs.reset()
            saved[name, n] = envs._venv.get_state()
    cars = compiled("MountainCar-v0", 3)
    for other in (("Pendulum", 3), ("MountainCar", 2)):
        with pytest.raises(UsageError, match=f"the saved state is of {other[1]} {other[0]}Env"):
            cars.set_state(saved[other])
    native = make_envs("CartPole", 3, 0, "native")
    native.reset()
    with pytest.raises(UsageError, match="saved state is of another environment"):
        make_envs("CartPole", 3, 0, "compiled").set_state(native.get_state())


def one_step(kernel):
    """A step of one car at the bottom of its hill, which pushes to the right."""
    states, flags = np.array([[0.0], [-0.5], [0.0]]), np.zeros((2, 1), bool)
    obs, reward = np.zeros((1, 2), np.float32), np.zeros(1)
    params = np.array([200.0, 0.0, 2.0])
    assert kernel(np.array([2]), states, obs, reward, flags, np.zeros((0, 0)), params) == 0
    return states.tolist()


def test_no_cache_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "__pycache__").write_text("a file where numba wants a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "__pycache__" / "cache"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    source = shutil.copy(dynamics.__file__, tmp_path)
    spec = importlib.util.spec_from_file_location("dynamics_elsewhere", source)
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(elsewhere.mountain_car)
    kernel = elsewhere.load(elsewhere.mountain_car, "i8[::1]", "f8")
    assert one_step(kernel) == one_step(elsewhere.mountain_car)


def test_a_broken_cache_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    load = dynamics.load.__wrapped__  # what it loaded before is kept
    expected = one_step(load(dynamics.mountain_car, "i8[::1]", "f8"))
    written = list(tmp_path.rglob("*.nb[ic]"))
    assert len(written) == 2
    for path in written:
        path.write_bytes(path.read_bytes()[:50])
    assert one_step(load(dynamics.mountain_car, "i8[::1]", "f8")) == expected


def test_numba_waits_until_it_is_needed():
    code = (
        "import sys; from rlkit.envs.make import make_envs; make_envs('FrozenLake', 2, 0); "
        "make_envs('CartPole', 2, 0, 'sync'); assert 'numba' not in sys.modules; "
        "make_envs('CartPole', 2, 0); assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_table_names_what_gymnasium_registers():
    registered = {str(spec.entry_point): spec for spec in gym.registry.values()}
    assert set(MODELS) <= set(registered)
