"""Environments that misbehave, for real: what rlkit says and where it stops."""

import multiprocessing
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rlkit.envs.make import make_envs
from rlkit.errors import EnvError, RlkitWarning, UsageError

BOX = spaces.Box(-10, 10, (4,))
GOOD = np.arange(4, dtype=np.float32)


class Sick(gym.Env):
    """Well until its step number `onset`; from then on step returns what `symptoms` puts in."""

    action_space = spaces.Discrete(2)

    def __init__(self, symptoms, onset=3, space=BOX, healthy=GOOD):
        self.observation_space = space
        self.symptoms, self.onset, self.healthy = symptoms, onset, healthy
        self.count = 0

    def reset(self, *, seed=None, options=None):
        sick = self.onset == 0
        return (self.symptoms.get("obs", self.healthy) if sick else self.healthy), {}

    def step(self, action):
        self.count += 1
        said = {"obs": self.healthy, "reward": 1.0, "terminated": False, "truncated": False}
        said |= {"info": {}}
        if self.count >= self.onset:
            said |= self.symptoms
        return tuple(said.values())


class Ward(VectorEnv):
    """A vector environment of one's own: `symptoms` replace parts of its third step."""

    def __init__(self, symptoms, space=BOX, n=3, mode=AutoresetMode.NEXT_STEP):
        self.num_envs, self.symptoms = n, symptoms
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = space, spaces.Discrete(2)
        self.observation_space = gym.vector.utils.batch_space(space, n)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, n)
        self.count = 0
        self.obs = np.tile(GOOD, (n, 1))

    def reset(self, *, seed=None, options=None):
        return self.obs, {}

    def step(self, actions):
        n = self.num_envs
        self.count += 1
        said = {"obs": self.obs, "reward": np.ones(n, np.float32)}
        said |= {"terminated": np.zeros(n, bool), "truncated": np.zeros(n, bool), "info": {}}
        if self.count >= 3:
            said |= self.symptoms
        return tuple(said.values())


def envs_of(symptoms, kind="sync", strict=False, **how):
    """Three environments of which the last, number 2, falls sick."""
    patients = iter([{}, {}, symptoms])

    def make():
        if kind == "async":  # each worker makes its own, and Gymnasium puts its number last
            last = multiprocessing.current_process().name.endswith("-2")
            return Sick(symptoms if last else {}, **how)
        return Sick(next(patients), **how)

    return make_envs(make, 3, 0, kind, strict)


def run(envs, steps=5):
    """The last of so many steps from a reset."""
    with envs:
        envs.reset()
        for _ in range(steps):
            step = envs.step(np.zeros(envs.n, int))
    return step


def failure(envs):
    """What the user reads when `envs` are stepped."""
    with pytest.raises(EnvError) as caught:
        run(envs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def changed(value, at=1):
    obs = GOOD.copy()
    obs[at] = value
    return obs


@pytest.mark.parametrize("kind", ["sync", "async", "vector"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_observations(value, kind):  # faults 1 and 2
    if kind == "vector":
        obs = np.tile(GOOD, (3, 1))
        obs[2, 1] = value
        envs = make_envs(Ward({"obs": obs}), 3, 0)
    else:
        envs = envs_of({"obs": changed(value)}, kind)
    assert failure(envs).startswith(f"env 2 returned observation[1] = {value} at vector step 3;")


def test_a_nan_in_the_first_observation_and_in_an_image():
    message = failure(envs_of({"obs": changed(np.nan, 3)}, onset=0))
    assert message.startswith("env 2 returned observation[3] = nan at the reset")
    image = np.zeros((2, 5, 6), np.float32)
    bad = image.copy()
    bad[1, 4, 0] = np.nan
    space = spaces.Box(-np.inf, np.inf, image.shape)
    message = failure(envs_of({"obs": bad}, space=space, healthy=image))
    assert message.startswith("env 2 returned observation[1, 4, 0] = nan at vector step 3")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_where_the_box_has_no_bounds(value):
    space = spaces.Box(-np.inf, np.inf, (4,))
    message = failure(envs_of({"obs": changed(value, 0)}, space=space))
    assert message.startswith(f"env 2 returned observation[0] = {value} at vector step 3")


def test_many_large_values_are_no_fault():
    huge = np.full(4, 3e38, np.float32)  # their sum is not finite
    space = spaces.Box(-np.inf, np.inf, (4,))
    step = run(envs_of({"obs": huge, "reward": 3e38}, space=space))
    assert np.array_equal(step.next_obs[2], huge)
    assert step.reward[2] == np.float32(3e38)


@pytest.mark.parametrize("kind", ["sync", "async", "vector"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_rewards_that_are_not_finite(value, kind):  # faults 3 and 4
    if kind == "vector":
        envs = make_envs(Ward({"reward": np.array([1, 1, value])}), 3, 0)
    else:
        envs = envs_of({"reward": value}, kind)
    message = failure(envs)
    assert message.startswith(f"env 2 returned reward = {value}")
    assert "at vector step 3" in message
    assert ("beyond float32" in message) == (value == 1e39)


@pytest.mark.parametrize("value", [11, -10.5])
def test_outside_the_box_warns_once_and_strict_stops(value):  # fault 6
    said = rf"env 2 returned observation\[1\] = {float(value)} at vector step 3, outside its Box "
    said += r"\[-10.0, 10.0\]"
    envs = envs_of({"obs": changed(value)})
    with pytest.warns(RlkitWarning, match=said) as warned:
        step = run(envs, 9)
    assert len(warned) == 1
    assert step.next_obs[2, 1] == value
    assert re.match(said, failure(envs_of({"obs": changed(value)}, strict=True)))


def test_a_nan_after_the_warning_is_still_found():
    envs = make_envs(lambda: Sick({"obs": changed(77)}), 1, 0)
    with pytest.warns(RlkitWarning, match="outside its Box"):
        run(envs)
    envs._venv.envs[0].unwrapped.symptoms = {"obs": changed(np.nan)}
    with pytest.raises(EnvError, match="nan at vector step 6"):
        envs.step(np.array([0]))


@pytest.mark.parametrize(
    ("space", "healthy", "value"),
    [
        (spaces.Discrete(5), 1, 5),
        (spaces.Discrete(5, start=2), 2, 1),
        (spaces.MultiDiscrete([3, 4]), np.array([0, 0]), np.array([0, 4])),
        (spaces.MultiBinary(2), np.zeros(2, np.int8), np.array([0, 2], np.int8)),
    ],
)
def test_outside_a_discrete_space_is_always_an_error(space, healthy, value):
    message = failure(envs_of({"obs": value}, space=space, healthy=healthy))
    assert message.startswith("env 2 returned observation")
    assert "outside its space" in message
    assert str(np.max(value)) in message


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    "shape", [(5,), (1,), (), (4, 1), (1, 4)]
)  # faults 7 and 8; NumPy would broadcast most of these
def test_another_shape(shape, kind):
    message = failure(envs_of({"obs": np.zeros(shape, np.float32)}, kind))
    assert message.startswith(
        f"env 2 returned an observation of shape {shape}, its space says (4,)"
    )
    assert "step 3" in message


@pytest.mark.parametrize("shape", [(3, 5), (3, 1), (4,), (2, 4), ()])
def test_another_shape_from_a_vector_environment(shape):
    message = failure(make_envs(Ward({"obs": np.zeros(shape, np.float32)}), 3, 0))
    assert "at vector step 3" in message
    told = ["returned 2 observations", "it has 3"] if shape == (2, 4) else [str(shape), "(4,)"]
    assert all(part in message for part in told)


@pytest.mark.parametrize(
    ("obs", "found"),
    [
        (GOOD.astype(np.float64), "float64"),
        (GOOD.tolist(), "a list"),
        (tuple(GOOD), "a tuple"),
        (GOOD.astype(np.int64), "int64"),
    ],
)
def test_other_dtypes_are_cast_with_one_warning(obs, found):  # fault 9
    envs = make_envs(lambda: Sick({"obs": obs}), 3, 0)
    with pytest.warns(RlkitWarning) as warned:
        step = run(envs)
    assert [str(warning.message) for warning in warned] == [
        f"observations are {found} where the space declares float32; they are cast (said once)"
    ]
    assert step.next_obs.dtype == np.float32
    assert np.array_equal(step.next_obs, np.tile(GOOD, (3, 1)))


def test_other_dtypes_of_a_vector_environment_are_cast_with_one_warning():
    envs = make_envs(Ward({"obs": np.ones((3, 4))}), 3, 0)
    with pytest.warns(RlkitWarning, match="float64 where the space declares float32") as warned:
        run(envs)
    assert len(warned) == 1


def test_a_box_declared_float64_is_cast_in_silence():
    space = spaces.Box(-10, 10, (4,), np.float64)
    envs = make_envs(lambda: Sick({}, space=space, healthy=GOOD.astype(np.float64)), 2, 0)
    assert run(envs).next_obs.dtype == np.float32


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("obs", "found"),
    [
        ("left", "the str 'left'"),
        (["1", "2", "3", "4"], "the list ['1', '2', '3', '4']"),
        (None, "the NoneType None"),
        ({"x": 1}, "the dict"),
        ([[1.0], [2.0, 3.0]], "a ragged list"),
    ],
)
def test_observations_that_are_no_numbers(obs, found, kind):  # fault 10
    message = failure(envs_of({"obs": obs}, kind))
    assert message.startswith(f"env 2 returned an observation that is {found}")
    assert "Box(-10.0, 10.0, (4,), float32)" in message


def test_strings_from_a_vector_environment():
    assert "the ndarray" in failure(make_envs(Ward({"obs": np.full((3, 4), "1")}), 3, 0))


def test_fractions_where_whole_numbers_are_declared():
    space = spaces.Box(0, 255, (4,), np.uint8)
    healthy = np.zeros(4, np.uint8)
    for obs in (np.array([0, 0.5, 1, 2]), np.array([0, 1, 2, 300]), np.array([-1, 0, 0, 0])):
        message = failure(envs_of({"obs": obs}, space=space, healthy=healthy))
        assert f"{obs.dtype}, with values that uint8 can't hold" in message
    message = failure(envs_of({"obs": 1.5}, space=spaces.Discrete(3), healthy=1))
    assert "float64, with values that int64 can't hold" in message


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("reward", [None, np.ones(1), np.ones(4), [1.0], "1", np.array(1.0), 1j])
def test_rewards_that_are_no_numbers(reward, kind):  # fault 11
    message = failure(envs_of({"reward": reward}, kind))
    assert message.startswith("env 2 step returned ")
    assert message.endswith("for the reward; return float(reward) (at step 3 of this environment)")


@pytest.mark.parametrize("reward", [np.ones(4), np.ones((3, 1)), None, np.full(3, None)])
def test_rewards_of_a_vector_environment(reward):
    message = failure(make_envs(Ward({"reward": reward}), 3, 0))
    assert message.endswith("at vector step 3; return 3 numbers")


@pytest.mark.parametrize("reward", [1, np.float64(1), np.int32(1), True, np.bool_(True)])
def test_rewards_of_other_numeric_types_are_fine(reward):
    step = run(envs_of({"reward": reward}))
    assert np.array_equal(step.reward, np.ones(3, np.float32))


@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_flags(name):
    for value in (None, "no", 2, np.array([True])):
        assert f"for {name}; return bool({name})" in failure(envs_of({name: value}))
    for value in (1, np.bool_(True), np.array(True), np.int64(1)):
        step = run(envs_of({name: value}), 3)
        assert getattr(step, name).tolist() == [False, False, True]
    message = failure(make_envs(Ward({name: np.zeros((3, 2), bool)}), 3, 0))
    assert f"{name} of shape (3, 2)" in message


class FourValues(Sick):
    def step(self, action):
        return GOOD, 1.0, False, {}


class BareReset(Sick):
    def reset(self, *, seed=None, options=None):
        return GOOD


class TwoNumbers(Sick):
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32)


class ResetWithoutSeed(Sick):
    def reset(self):
        return GOOD


class InfoNone(Sick):
    def reset(self, *, seed=None, options=None):
        return GOOD, None


def limited(kind):
    return lambda: gym.wrappers.TimeLimit(kind({}), 50)


@pytest.mark.parametrize("wrap", [lambda kind: lambda: kind({}), limited], ids=["bare", "limited"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (FourValues, "in Gymnasium step(action) returns (observation, reward, terminated, trunca"),
        (BareReset, "reset returned one ndarray; in Gymnasium reset(seed=..., options=...) retu"),
        (TwoNumbers, "reset returned one ndarray; in Gymnasium reset(seed=..., options=...) ret"),
        (ResetWithoutSeed, "reset refused its arguments"),
        (InfoNone, "reset returned None for info; return a dict"),
    ],
)
def test_the_old_api_is_answered_with_the_new(kind, message, wrap):  # fault 12
    said = failure(make_envs(wrap(kind), 2, 0))
    assert said.startswith("env 0 ")
    assert message in said


def test_info_of_a_step():
    assert "step returned None for info" in failure(envs_of({"info": None}))


class Crashes(Sick):
    def step(self, action):
        if self.count == 2:
            raise KeyError("the left wheel")
        return super().step(action)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_exception_names_environment_action_and_line(kind):
    envs = make_envs(lambda: Crashes({}, onset=99), 2, 0, kind)
    with pytest.raises(EnvError) as caught:
        run(envs)
    message = str(caught.value)
    assert re.match(r"env [01] step raised KeyError: 'the left wheel' \(.*test_env_faults", message)
    assert "for action 0 (at step 3 of this environment)" in message
    cause = caught.value.__cause__
    if kind == "sync":
        assert isinstance(cause, KeyError)
    else:
        assert "the left wheel" in cause.__notes__[0]
        assert "Traceback" in cause.__notes__[0]


class Both(Sick):
    def step(self, action):
        return GOOD, 1.0, True, True, {}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_terminated_and_truncated_at_once_stay_so(kind):  # fault 18
    step = run(make_envs(lambda: Both({}), 2, 0, kind), 1)
    assert step.terminated.all()
    assert step.truncated.all()


class Reuses(gym.Env):
    """Writes every observation into one buffer, which all its instances share."""

    observation_space = spaces.Box(-1e6, 1e6, (1,))
    action_space = spaces.Discrete(2)
    buffer = np.zeros(1, np.float32)
    made = 0

    def __init__(self):
        Reuses.made += 1
        self.value = 1000 * Reuses.made

    def reset(self, *, seed=None, options=None):
        self.buffer[0] = self.value
        return self.buffer, {}

    def step(self, action):
        self.value += 1
        self.buffer[0] = self.value
        return self.buffer, 0.0, False, False, {}


class ReusesAll(Ward):
    def step(self, actions):
        obs, reward, terminated, truncated, info = super().step(actions)
        self.obs += 1
        self.arrays = getattr(self, "arrays", (reward, terminated, truncated))
        self.arrays[0][:] = self.count
        self.arrays[1][:] = self.arrays[2][:] = self.count % 2
        return (obs, *self.arrays, info)


def test_buffers_that_an_environment_reuses_are_copied():  # fault 19
    Reuses.made = 0
    envs = make_envs(Reuses, 2, 0)
    kept = [envs.reset()] + [envs.step(np.zeros(2, int)).next_obs for _ in range(3)]
    assert [obs[:, 0].tolist() for obs in kept] == [[1000 + t, 2000 + t] for t in range(4)]

    envs = make_envs(ReusesAll({}), 3, 0)
    first = envs.reset()
    steps = [envs.step(np.zeros(3, int)) for _ in range(4)]
    assert np.array_equal(first[0], GOOD)
    for t, step in enumerate(steps, start=1):
        assert np.array_equal(step.obs[0], GOOD + t - 1)
        assert np.array_equal(step.next_obs[0], GOOD + t)
        assert step.reward.tolist() == [t] * 3
        assert step.terminated.tolist() == step.truncated.tolist() == [t % 2 == 1] * 3


def test_a_vector_environment_is_accepted():  # fault 33
    ready = gym.make_vec("CartPole-v1", 4, vectorization_mode="sync")
    with make_envs(ready, 4, 0) as envs:
        assert envs.id == "CartPole-v1"
        assert envs.reward_threshold == 475
        assert envs.reset().shape == (4, 4)
        assert envs.step(np.zeros(4, int)).valid.all()
    with pytest.raises(UsageError, match="holds 4 environments, not 8"):
        make_envs(ready, 8, 0)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (AutoresetMode.DISABLED, "autoreset is DISABLED; make it with"),
        (None, r"metadata\['autoreset_mode'\] is None; set it to"),
        ("nonsense", r"metadata\['autoreset_mode'\] is 'nonsense'; set it to"),
    ],
)
def test_autoreset_modes_that_are_not_supported(mode, message):
    ward = Ward({}, mode=mode)
    with pytest.raises(UsageError, match=message):
        make_envs(ward, 3, 0)
    assert ward.closed  # no worker process stays behind


@pytest.mark.parametrize(
    ("final", "message"),
    [
        (None, "env 1 ended at vector step 3, and info has no 'final_obs' for it"),
        (np.zeros(5), "env 1 returned a final observation of shape (5,) at vector step 3"),
        (changed(np.nan), "env 1 returned observation[1] = nan at vector step 3"),
    ],
)
def test_final_observations_are_checked_too(final, message):
    rows = np.full(3, None)
    rows[1] = final
    symptoms = {"terminated": np.array([False, True, False]), "info": {"final_obs": rows}}
    ward = Ward(symptoms, mode=AutoresetMode.SAME_STEP)
    assert failure(make_envs(ward, 3, 0)).startswith(message)


def test_values_in_the_right_place_say_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            ready = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=mode)
            run(make_envs(ready, 2, 0), 50)


class NoSpace(gym.Env):
    action_space = spaces.Discrete(2)


def test_an_environment_without_a_space():
    with pytest.raises(UsageError, match="NoSpace has no observation_space; set self"):
        make_envs(NoSpace, 1, 0)


def test_environments_that_differ():
    sizes = iter([3, 4])
    with pytest.raises(UsageError, match="the 2 environments differ in their spaces"):
        make_envs(lambda: Sick({}, space=spaces.Box(-1, 1, (next(sizes),))), 2, 0)
