"""N environments as the trainer sees them: transitions, spaces, seeds, state."""

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlkit.envs import vector
from rlkit.envs.make import make_env, make_envs
from rlkit.errors import EnvError, RlkitWarning, UsageError


class Scripted(gym.Env):
    """Ends at random, in all three ways, and logs its own transitions."""

    observation_space = spaces.Box(0, 1e6, (2,))
    action_space = spaces.Discrete(3)

    def __init__(self):
        self.log = []
        self.resets = 0

    def _observe(self):
        return np.array([self.resets, self.age], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets += 1
        self.age = 0
        return self._observe(), {}

    def step(self, action):
        before = self._observe()
        self.age += 1
        end = self.np_random.integers(6)
        terminated, truncated = bool(end in (0, 2)), bool(end in (1, 2))
        reward = float(self.np_random.normal())
        after = self._observe()
        self.log.append((before, int(action), reward, terminated, truncated, after))
        return after, reward, terminated, truncated, {}


def made(mode, n):
    """Envs over n Scripted environments, and these environments."""
    scripted = [Scripted() for _ in range(n)]
    if mode == "next_step":
        unused = iter(scripted)
        return make_envs(lambda: next(unused), n, 3), scripted
    ready = SyncVectorEnv([lambda e=e: e for e in scripted], autoreset_mode=AutoresetMode.SAME_STEP)
    return make_envs(ready, n, 3), scripted


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_the_valid_rows_are_each_environments_own_transitions(mode):
    n = 4
    envs, scripted = made(mode, n)
    assert envs.autoreset == mode
    seen = [[] for _ in range(n)]
    obs = envs.reset()
    rng = np.random.default_rng(0)
    dead = finals = both = 0
    for _ in range(300):
        step = envs.step(rng.integers(3, size=n))
        assert np.array_equal(step.obs, obs)
        last = step.next_obs.copy()
        if step.final_obs is not None:
            last[step.final_obs.index] = step.final_obs.obs
            assert np.array_equal(
                step.final_obs.index, np.flatnonzero(step.terminated | step.truncated)
            )
            finals += len(step.final_obs.index)
        for i in np.flatnonzero(step.valid):
            seen[i].append(
                (
                    step.obs[i],
                    step.action[i],
                    step.reward[i],
                    step.terminated[i],
                    step.truncated[i],
                    last[i],
                )
            )
        dead += n - np.count_nonzero(step.valid)
        both += np.count_nonzero(step.terminated & step.truncated)
        obs = step.next_obs
    assert both > 10
    assert (dead > 50, finals > 50) == (mode == "next_step", mode == "same_step")
    for rows, env in zip(seen, scripted, strict=True):
        assert len(rows) == len(env.log)
        for row, logged in zip(rows, env.log, strict=True):
            assert np.array_equal(row[0], logged[0])
            assert row[1] == logged[1]
            assert row[2] == np.float32(logged[2])
            assert row[3:5] == logged[3:5]
            assert np.array_equal(row[5], logged[5])


def test_kinds_of_arrays():
    envs, _ = made("next_step", 3)
    envs.reset()
    step = envs.step(np.array([0, 1, 2]))
    assert step.next_obs.dtype == step.reward.dtype == np.float32
    assert step.terminated.dtype == step.truncated.dtype == step.valid.dtype == np.bool_
    assert step.next_obs.flags.c_contiguous
    assert step.reward.shape == step.valid.shape == (3,)


@pytest.mark.parametrize("kind", ["compiled", "native"])
def test_cartpole_is_gymnasiums_vector_environment(kind):
    ours = make_envs("CartPole", 5, 8, kind)
    assert ours.id == "CartPole-v1"
    assert (ours.reward_threshold, ours.max_episode_steps) == (475.0, 500)
    assert json.loads(ours.spec_json)["id"] == "CartPole-v1"
    obs = ours.reset()
    theirs = gym.make_vec("CartPole-v1", 5, vectorization_mode="vector_entry_point")
    assert np.array_equal(obs, theirs.reset(seed=ours._venv.np_random_seed)[0])
    ended = np.zeros(5, bool)
    rng = np.random.default_rng(1)
    for _ in range(200):
        action = rng.integers(2, size=5)
        step, (obs, reward, terminated, truncated, _) = ours.step(action), theirs.step(action)
        assert np.array_equal(step.next_obs, obs)
        assert np.array_equal(step.reward, reward)
        assert np.array_equal(step.terminated, terminated)
        assert np.array_equal(step.truncated, truncated)
        assert np.array_equal(step.valid, ~ended)
        ended = terminated | truncated
    assert ours.steps == 200


def test_a_reset_in_the_middle_begins_anew():
    envs = make_envs("CartPole", 3, 0, options={"max_episode_steps": 4})
    envs.reset()
    for _ in range(4):
        step = envs.step(np.zeros(3, int))
    assert step.truncated.all()
    obs = envs.reset()
    assert envs.longest_running == 0
    step = envs.step(np.zeros(3, int))
    assert step.valid.all()
    assert np.array_equal(step.obs, obs)
    assert envs.longest_running == 1


def test_sync_and_async_agree():
    actions = np.random.default_rng(0).integers(2, size=(60, 2))
    with make_envs("CartPole", 2, 4, "sync") as one, make_envs("CartPole", 2, 4, "async") as many:
        assert one.spec_json == many.spec_json
        assert np.array_equal(one.reset(), many.reset())
        for action in actions:
            a, b = one.step(action), many.step(action)
            for name in ("next_obs", "reward", "terminated", "truncated", "valid"):
                assert np.array_equal(getattr(a, name), getattr(b, name))


class Seeded(Scripted):
    def reset(self, *, seed=None, options=None):
        SEEDS.append(seed)
        return super().reset(seed=seed)


SEEDS: list[int | None] = []


def test_no_two_environments_of_neighbouring_runs_share_a_seed():
    SEEDS.clear()
    for seed in range(40):
        make_envs(Seeded, 8, seed).reset()
    assert len(set(SEEDS)) == 320
    assert all(0 <= seed < 2**31 for seed in SEEDS)


def test_the_seed_is_used_once_and_decides_everything():
    SEEDS.clear()
    for envs in (make_envs(Seeded, 3, 5), make_envs(Seeded, 3, None)):
        envs.reset(*([] if envs._seed == 5 else [5]))
        envs.reset()
    assert SEEDS[:3] == SEEDS[6:9]
    assert SEEDS[3:6] == SEEDS[9:] == [None] * 3
    first, second = (make_envs("CartPole", 3, 5) for _ in range(2))
    assert np.array_equal(first.reset(), second.reset())
    assert [first.action_space.sample() for _ in range(20)] == [
        second.action_space.sample() for _ in range(20)
    ]
    assert not np.array_equal(first.reset(), make_envs("CartPole", 3, 6).reset())


class Echo(gym.Env):
    """Observes what it is told to, and keeps the actions it got."""

    def __init__(self, observes, acts, obs=None):
        self.observation_space, self.action_space = observes, acts
        self.obs = observes.sample() if obs is None else obs
        self.got = []

    def reset(self, *, seed=None, options=None):
        return self.obs, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.got.append(action)
        return self.obs, 0.0, False, False, {}


SMALL = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("space", "seen", "dtype", "value", "seen_value"),
    [
        (spaces.Box(0, 9, (2,), np.float64), spaces.Box(0, 9, (2,)), "float32", None, None),
        (spaces.Box(0, 9, (2,), np.int32), spaces.Box(0, 9, (2,)), "float32", None, None),
        (spaces.Box(0, 255, (2, 3), np.uint8), None, "uint8", None, None),
        (spaces.Box(-1.8e308, 1.7e308, (1,), np.float64), None, "float32", [7.0], [7.0]),
        (spaces.Discrete(5, start=-3), spaces.Discrete(5), "int64", np.int64(-1), 2),
        (spaces.Discrete(5, start=7), spaces.Discrete(5), "int64", 11, 4),
        (spaces.MultiDiscrete([3, 4]), None, "int64", None, None),
        (
            spaces.MultiDiscrete([3, 4], start=[2, -1]),
            spaces.MultiDiscrete([3, 4]),
            "int64",
            np.array([4, 2]),
            [2, 3],
        ),
        (spaces.MultiBinary(3), None, "float32", None, None),
    ],
)
@pytest.mark.filterwarnings("ignore:observations are a list")
def test_observations_as_an_agent_sees_them(space, seen, dtype, value, seen_value):
    echo = Echo(space, spaces.Discrete(2), value)
    envs = make_envs(lambda: echo, 1, 0)
    obs = envs.reset()
    if seen is not None:
        assert envs.obs_space == seen
    assert obs.dtype == dtype
    assert obs.shape == (1, *space.shape)
    expected = echo.obs if seen_value is None else seen_value
    assert np.array_equal(obs[0], np.asarray(expected).astype(dtype))
    assert np.array_equal(envs.step(np.array([0])).next_obs, obs)


def acted(space, action):
    echo = Echo(SMALL, space)
    envs = make_envs(lambda: echo, 1, 0)
    envs.reset()
    step = envs.step(np.array([action]))
    assert np.array_equal(step.action[0], action)
    return envs.action_space, echo.got[0]


def test_discrete_actions_get_their_start():
    for start in (-4, 0, 3):
        space, got = acted(spaces.Discrete(5, start=start), 2)
        assert space == spaces.Discrete(5)
        assert got == start + 2


@pytest.mark.parametrize(
    ("action", "expected"),
    [([-1, -1], [2, -10]), ([0, 0], [3, 0]), ([1, 0.5], [4, 5]), ([-7, 9], [2, 10])],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_bounded_actions_are_scaled(action, expected, dtype):
    box = spaces.Box(np.array([2, -10], dtype), np.array([4, 10], dtype), dtype=dtype)
    space, got = acted(box, action)
    assert space == spaces.Box(-1, 1, (2,))
    assert got.dtype == dtype
    assert np.array_equal(got, expected)


def test_scaling_never_leaves_the_bounds():
    rng = np.random.default_rng(0)
    low = rng.normal(size=200).astype(np.float32) * 10.0 ** rng.integers(-6, 6, 200)
    high = low + rng.random(200) * 10.0 ** rng.integers(-6, 6, 200)
    box = spaces.Box(low.astype(np.float32), high.astype(np.float32))
    for action in (-np.ones(200), np.ones(200), rng.uniform(-1, 1, 200)):
        acted(box, action)  # Echo asserts that its space contains the action


def test_scaled_whole_numbers_are_rounded():
    box = spaces.Box(-10, 10, (4,), np.int64)
    assert acted(box, [-0.07, 0.02, 0.07, 0.99])[1].tolist() == [-1, 0, 1, 10]


def test_unbounded_actions_pass_through():
    low, high = np.array([-np.inf, 0, -1]), np.array([np.inf, np.inf, 3])
    box = spaces.Box(low.astype(np.float32), high.astype(np.float32))
    space, got = acted(box, [-70, -5, 0])
    assert np.array_equal(space.low, np.float32([-np.inf, 0, -1]))
    assert np.array_equal(space.high, np.float32([np.inf, np.inf, 1]))
    assert np.array_equal(got, [-70, 0, 1])


def test_the_ports_take_batches_of_any_size():
    # A policy answers batches of whatever size through the ports of one environment.
    envs = make_envs("Pendulum", 1, 0)
    obs = np.array([[0.5, -1, 8], [1, 0, 0], [0, 1, -8]], np.float32)
    assert np.array_equal(envs.obs_port.take(obs, "act"), obs)
    assert np.array_equal(envs.action_port.give(np.array([[1.0], [0.0], [-0.5]])), [[2], [0], [-1]])
    obs[2, 1] = np.nan
    with pytest.raises(EnvError, match=r"env 2 returned observation\[1\] = nan at act"):
        envs.obs_port.take(obs, "act")


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(2)])
def test_other_actions_pass(space):
    seen, got = acted(space, [1, 0])
    assert seen == space
    assert np.array_equal(got, [1, 0])


GRID = spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 7], [-3, 0]])


def test_multidiscrete_of_several_dimensions_is_seen_as_one_from_zero():
    flat = spaces.MultiDiscrete([2, 3, 4, 5])
    space, got = acted(GRID, [1, 0, 3, 4])
    assert space == flat
    assert got.tolist() == [[1, 7], [0, 4]]
    envs = make_envs(lambda: Echo(GRID, SMALL, np.array([[1, 9], [-1, 0]])), 2, 0)
    assert envs.obs_space == flat
    assert envs.reset().tolist() == [[1, 2, 2, 0]] * 2
    outside = make_envs(lambda: Echo(GRID, SMALL, np.array([[1, 9], [-4, 0]])), 2, 0)
    with pytest.raises(EnvError, match=r"env 0 returned observation\[2\] = -4 at the reset"):
        outside.reset()


def test_a_final_observation_of_several_dimensions():
    class Short(Echo):
        def step(self, action):
            return self.obs, 0.0, True, False, {}

    make = [lambda: Short(GRID, SMALL, np.array([[1, 9], [-1, 0]]))]
    venv = SyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)
    envs = make_envs(venv, 1, 0)
    envs.reset()
    assert envs.step(np.zeros((1, 2))).final_obs.obs.tolist() == [[1, 2, 2, 0]]


@pytest.mark.parametrize("shape", [(2, 3), (1,)])
def test_box_actions_of_any_shape_are_scaled_and_kept_as_they_were_drawn(shape):
    action = np.full(shape, 1.5, dtype=np.float32)
    space, got = acted(spaces.Box(0, 4, shape), action)  # which says that Step has the action
    assert space == spaces.Box(-1, 1, shape)
    assert np.array_equal(got, np.full(shape, 4.0))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((2, 1), int), "shape (2, 1)"),
        (np.zeros(3, int), "3 actions were given to 2 environments"),
        (np.zeros(2), "float64"),
    ],
)
def test_actions_of_another_kind_are_refused(action, message):
    envs = make_envs("CartPole", 2, 0)
    envs.reset()
    with pytest.raises(UsageError) as caught:
        envs.step(action)
    assert message in str(caught.value)


def test_an_action_that_is_not_finite_is_the_agents_fault():
    envs = make_envs("Pendulum", 2, 0)
    envs.reset()
    with pytest.raises(UsageError, match="the action for env 1 is array"):
        envs.step(np.array([[0.5], [np.nan]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CartPole", 0, 0), "the number of environments is 0; give 1 or more"),
        (("CartPole", 1, 0, "natve"), "did you mean native?"),
        (("Pendulum", 1, 0, "native"), "Pendulum-v1 has no native vector environment"),
        ((Scripted, 1, 0, "native"), "needs an environment's name"),
        ((Scripted(), 1, 0), "a function without arguments"),
        ((Scripted, 1, 0, "sync", False, {"a": 1}), "options are for environments given by name"),
        ((lambda: 5, 1, 0), "returned a int"),
        ((lambda: 1 / 0, 1, 0), "ZeroDivisionError"),
        (("CartPole", 1, 0, "native", False, {"render": 1}), "did you mean render_mode?"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(UsageError) as caught:
        make_envs(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_negative_seed_and_a_step_before_the_reset_are_refused():
    with pytest.raises(UsageError, match="the seed is -1; give a whole number of 0 or more"):
        make_envs("CartPole", 1, -1).reset()
    with pytest.raises(UsageError, match="call reset first"):
        make_envs("CartPole", 1, 1).step(np.array([0]))


ACTIONS_ONLY = [spaces.Dict({"a": SMALL}), spaces.Tuple([SMALL]), spaces.Text(4)]
BOTH = [spaces.Box(0, 1, (0,)), spaces.Box(0, 1, (2, 0)), spaces.Sequence(SMALL), spaces.Dict({})]


@pytest.mark.parametrize(
    ("space", "side"),
    [(space, "action") for space in ACTIONS_ONLY]
    + [(space, side) for space in BOTH for side in ("observation", "action")],
)
def test_unsupported_spaces_are_named(space, side):
    pair = (space, SMALL) if side == "observation" else (SMALL, space)
    with pytest.raises(UsageError) as caught:
        make_envs(lambda: Echo(*pair), 1, 0)
    assert str(caught.value).startswith(f"the {side} space")
    assert type(space).__name__ in str(caught.value)


def test_options_reach_native_and_sync_environments():
    native = make_envs("CartPole", 4, 0, "native", options={"max_episode_steps": 7})
    sync = make_envs("FrozenLake", 2, 0, options={"is_slippery": False, "max_episode_steps": 7})
    assert native.max_episode_steps == sync.max_episode_steps == 7
    assert json.loads(sync.spec_json)["kwargs"]["is_slippery"] is False
    assert not isinstance(native._venv, SyncVectorEnv)
    assert isinstance(sync._venv, SyncVectorEnv)
    native.reset()
    ended = [native.step(np.full(4, i % 2)).truncated.all() for i in range(7)]
    assert ended == [False] * 6 + [True]


class Tilted(Scripted):
    def __init__(self, tilt=0):
        super().__init__()


class NativeScripted(SyncVectorEnv):
    def __init__(self, num_envs):
        super().__init__([Scripted] * num_envs)


def test_auto_is_sync_for_few_and_where_the_native_environment_lacks_an_option():
    gym.register("TiltedOfTests-v0", Tilted, vector_entry_point=NativeScripted)
    try:
        native, few = make_envs("TiltedOfTests", 4, 0), make_envs("TiltedOfTests", 3, 0)
        tilted = make_envs("TiltedOfTests", 4, 0, options={"tilt": 3})
        with pytest.raises(UsageError, match="TiltedOfTests-v0 has no option 'tilt'"):
            make_envs("TiltedOfTests", 2, 0, "native", options={"tilt": 3})
    finally:
        del gym.registry["TiltedOfTests-v0"]
    assert isinstance(native._venv, NativeScripted)
    assert not isinstance(few._venv, NativeScripted)
    assert not isinstance(tilted._venv, NativeScripted)
    assert native.spec_json is None  # its entry points are objects, which JSON can't hold


def test_facts_of_an_environment_from_a_function():
    envs = make_envs(lambda: gym.make("MountainCar-v0", max_episode_steps=30), 2, 0)
    assert (envs.id, envs.reward_threshold, envs.max_episode_steps) == ("MountainCar-v0", -110, 30)
    assert make_env(json.loads(envs.spec_json)["id"]).spec.max_episode_steps == 200
    assert make_envs(Scripted, 1, 0).id == "Scripted"
    assert make_envs(Scripted, 1, 0).spec_json is None


def roundtrip(tree):
    """The tree after a checkpoint: arrays copied, everything else through JSON."""
    if isinstance(tree, dict):
        return {key: roundtrip(value) for key, value in tree.items()}
    return tree.copy() if isinstance(tree, np.ndarray) else json.loads(json.dumps(tree))


class Saveable(Scripted):
    def get_state(self):
        return {"age": self.age, "resets": self.resets}

    def set_state(self, tree):
        self.age, self.resets = tree["age"], tree["resets"]


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        ("CartPole", "compiled"),
        ("MountainCar", "compiled"),
        ("Acrobot", "compiled"),
        ("Pendulum", "compiled"),
        ("CartPole", "native"),
        ("CartPole", "sync"),
        ("MountainCar", "sync"),
        ("MountainCarContinuous", "sync"),
        ("Acrobot", "sync"),
        ("Pendulum", "sync"),
        ("FrozenLake", "sync"),
        ("CliffWalking", "sync"),
        (Saveable, "sync"),
    ],
)
def test_a_saved_state_goes_on_bit_for_bit(env, kind):
    options = {"max_episode_steps": 20} if isinstance(env, str) else None
    straight, resumed = (make_envs(env, 3, seed, kind, options=options) for seed in (1, 2))
    straight.reset()
    actions = np.stack([straight.action_space.sample() for _ in range(3 * 130)])
    actions = actions.reshape(130, 3, *straight.action_space.shape)
    for at, action in enumerate(actions[:70]):
        if straight.step(action).truncated.any() and at > 50:
            break  # between an end and the dead step is the hardest place to save
    saved = roundtrip(straight.get_state())
    later = [straight.step(action) for action in actions[70:]]
    assert any((step.terminated | step.truncated).any() for step in later)
    for _ in range(2):  # the second time shows that the tree was left as it was
        assert np.array_equal(resumed.set_state(saved), later[0].obs)
        for step, action in zip(later, actions[70:], strict=True):
            again = resumed.step(action)
            for name in ("obs", "next_obs", "reward", "terminated", "truncated", "valid"):
                assert np.array_equal(getattr(step, name), getattr(again, name)), name
        assert resumed.steps == straight.steps


def test_what_cannot_be_saved_says_none():
    for env, kind in ((Scripted, "sync"), ("Taxi", "async"), ("Taxi", "sync")):
        with make_envs(env, 2, 0, kind) as envs:
            envs.reset()
            assert envs.get_state() is None
    wrapped = make_envs(lambda: gym.wrappers.NormalizeReward(make_env("CartPole")), 2, 0)
    wrapped.reset()
    assert wrapped.get_state() is None


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (object(), "gave the type object at the top"),
        ({"a": [1, {2}]}, "gave the type set at /a/1"),
        ({"a": {(1, 2): 3}}, r"gave the key \(1, 2\) at /a"),
        ({"a": np.array(["x"])}, "gave <U1 at /a"),
        (ValueError("lost\nit"), "raised ValueError: lost"),
    ],
)
def test_a_hook_that_gives_no_tree_costs_no_checkpoint(given, said, kind):
    class Broken(Saveable):
        def get_state(self):
            if isinstance(given, Exception):
                raise given
            return given

    with warnings.catch_warnings():
        warnings.simplefilter("default")  # workers would make errors of them too
        envs = make_envs(Broken, 2, 0, kind)
        envs.reset()
    with envs:
        if kind == "sync":
            with pytest.warns(RlkitWarning, match=f"Broken.get_state {said}"):
                assert envs.get_state() is None
        else:  # it is the workers that say it
            assert envs.get_state() is None
        envs.step(np.zeros(2, np.int64))


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_hook_that_fails_to_restore_is_named(kind):
    class Stubborn(Saveable):
        def set_state(self, tree):
            raise ValueError("no\nway")

    with make_envs(Stubborn, 2, 0, kind) as envs:
        envs.reset()
        saved = envs.get_state()
        with pytest.raises(EnvError, match=r"^Stubborn.set_state raised ValueError: no \(.*"):
            envs.set_state(saved)


def test_a_state_of_other_environments_is_refused():
    envs = make_envs("CartPole", 3, 0, "native")
    envs.reset()
    tree = envs.get_state()
    for name, n, kind in (
        ("CartPole", 2, "native"),
        ("Pendulum", 3, "sync"),
        ("CartPole", 3, "sync"),
    ):
        with pytest.raises(UsageError, match="saved"):
            make_envs(name, n, 0, kind).set_state(tree)


class Endless(Scripted):
    def step(self, action):
        self.age += 1
        return self._observe(), 0.0, self.age == 10 and self.resets == 1, False, {}


def test_the_longest_running_episode_is_counted_and_warned_of_once(monkeypatch):
    monkeypatch.setattr(vector, "ENDLESS", 50)
    monkeypatch.setattr(vector, "LOOK_EVERY", 8)
    envs = make_envs(Endless, 2, 0)
    envs.reset()
    action = np.zeros(2, int)

    def run(steps):
        for _ in range(steps):
            envs.step(action)
            yield envs.longest_running

    lengths = list(run(60))
    # The episode of 10 steps, the dead step, then one that never ends.
    assert lengths == [*range(1, 10), 0, 0, *range(1, 50)]
    with pytest.warns(RlkitWarning, match=r"env 0 has run for 53 steps.*max_episode_steps") as said:
        list(run(100))
    assert len(said) == 1
