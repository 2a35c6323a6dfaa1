"""Environments on a device: Gymnasium's own and rlkit's games, and the contract that all keep."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from rlkit.device.graphs import Graphed
from rlkit.envs import catch, memory
from rlkit.envs.make import make_envs
from rlkit.errors import UsageError
from rlkit.run.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
N = 16
CLASSIC = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1")
RAGGED = {"source": "gambler"}  # of which each state has other actions
ALL = [
    *[(name, {"max_episode_steps": 7}) for name in CLASSIC],
    ("catch", {"rows": 4, "columns": 7, "scale": 3}),
    ("memory-corridor", {"length": 4}),
    ("repeat-first", {"length": 3, "suits": 2}),
    ("cartpole-hidden", {"max_episode_steps": 9}),
    ("FrozenLake", {"max_episode_steps": 8}),
    ("gridworld", {"max_episode_steps": 11}),
    ("model", RAGGED),
    ("model", {"source": "maze", "observe": "pixels", "max_episode_steps": 6}),
]
IDS = [f"{name}-{options.get('source', '')}" for name, options in ALL]
every = pytest.mark.parametrize(("name", "options"), ALL, ids=IDS)


def on_device(name, n=N, seed=0, device=CPU, **options):
    return make_envs(name, n, seed, "device", options=options, device=device)


def some_actions(envs, rng):
    """Random ones that are allowed."""
    if isinstance(envs.action_space, gym.spaces.Box):
        drawn = rng.uniform(-1, 1, (envs.n, *envs.action_space.shape)).astype(np.float32)
    elif envs.mask is not None:
        drawn = np.array([rng.choice(np.flatnonzero(row)) for row in envs.mask.cpu().numpy()])
    else:
        drawn = rng.integers(envs.action_space.n, size=envs.n)
    return torch.from_numpy(drawn).to(envs.device)


AIMS = {
    "CartPole-v1": lambda obs: obs[:, 2] + 0.3 * obs[:, 3] > 0,
    "Acrobot-v1": lambda obs: 2 * (obs[:, 4] < 0),
    "MountainCar-v0": lambda obs: 2 * (obs[:, 1] >= 0),
    "Pendulum-v1": lambda obs: np.sign(obs[:, 2]),
}


def aimed(name, obs, rng):
    """Random actions for half of the environments; the others get where episodes end."""
    random = rng.integers(2 if name == "CartPole-v1" else 3, size=N)
    if name == "Pendulum-v1":
        random = rng.uniform(-1.5, 1.5, N)  # beyond the bounds, where it is clipped
    action = np.where((np.arange(N) < 8) | (rng.random(N) < 0.02), random, AIMS[name](obs))
    return action[:, None].astype(np.float32) if name == "Pendulum-v1" else action


@pytest.mark.parametrize(
    ("name", "steps", "options"),
    [
        ("CartPole-v1", 600, {}),
        ("Acrobot-v1", 300, {}),
        ("MountainCar-v0", 400, {}),
        ("Pendulum-v1", 401, {}),
        ("CartPole-v1", 100, {"sutton_barto_reward": True, "max_episode_steps": 15}),
        ("MountainCar-v0", 140, {"goal_velocity": 0.03, "max_episode_steps": 125}),
        ("Pendulum-v1", 100, {"g": 9.81, "max_episode_steps": 33}),
    ],
)
def test_every_step_is_gymnasiums_from_the_same_state(name, steps, options):
    ours = on_device(name, **options)
    theirs = SyncVectorEnv([lambda: gym.make(name, disable_env_checker=True, **options)] * N)
    assert ours.max_episode_steps == theirs.envs[0].spec.max_episode_steps
    theirs.reset(seed=0)
    obs, rng = ours.reset().numpy(), np.random.default_rng(0)
    valid, ends = np.zeros(N, dtype=bool), np.zeros(2, dtype=int)
    for _ in range(steps):
        # Gymnasium's go on from our states: in Acrobot a last bit is soon a step.
        for env, state in zip(theirs.envs, ours.state.numpy().T, strict=True):
            env.unwrapped.state = state.copy()
        action = aimed(name, obs, rng)
        step = ours.step(torch.from_numpy(action))
        scaled = np.float32(2) * action if name == "Pendulum-v1" else action
        expected, reward, terminated, truncated, _ = theirs.step(scaled)
        valid = step.valid.numpy()
        np.testing.assert_allclose(step.next_obs[valid], expected[valid], rtol=1e-5, atol=1e-6)
        states = np.array([env.unwrapped.state for env in theirs.envs], dtype=np.float64)
        np.testing.assert_allclose(ours.state.T[valid], states[valid], rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(step.reward, reward, rtol=2e-6)
        assert step.terminated.tolist() == terminated.tolist()
        assert step.truncated.tolist() == truncated.tolist()
        ends += step.terminated.sum().item(), step.truncated.sum().item()
        obs = step.next_obs.numpy().copy()
    assert ends[1] > 5 or name == "Acrobot-v1"
    assert ends[0] > 5 or name == "Pendulum-v1"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("CartPole-v1", [-0.05] * 4, [0.05] * 4),
        ("Acrobot-v1", [-0.1] * 4, [0.1] * 4),
        ("MountainCar-v0", [-0.6, 0], [-0.4, 0]),
        ("Pendulum-v1", [-np.pi, -1], [np.pi, 1]),
    ],
)
def test_episodes_begin_uniformly_where_gymnasiums_do(name, low, high):
    envs = on_device(name, 4096)
    envs.reset()
    for row, a, b in zip(envs.state.numpy(), low, high, strict=True):
        if a == b:
            assert (row == a).all()
        else:
            assert stats.kstest(row, stats.uniform(a, b - a).cdf).pvalue > 1e-3


GAMES = {
    "catch": (catch.Catch(10, 5, 1), {}),
    "catch-large": (catch.Catch(4, 7, 3), {"rows": 4, "columns": 7, "scale": 3}),
    "memory-corridor": (memory.MemoryCorridor(10), {}),
    "memory-corridor-short": (memory.MemoryCorridor(1), {"length": 1}),
}


@pytest.mark.parametrize("game", GAMES)
def test_games_are_those_of_the_host(game):
    theirs, options = GAMES[game]
    name = game.removesuffix("-large").removesuffix("-short")
    envs, rng = on_device(name, 64, **options), np.random.default_rng(0)
    assert envs.obs_space == theirs.observation_space
    assert envs.action_space == theirs.action_space
    obs, ends = envs.reset(), 0
    assert obs.numpy().tobytes() == theirs.observe(envs.state.numpy()).tobytes()
    for _ in range(100):
        states = envs.state.numpy().copy()
        action = some_actions(envs, rng)
        step = envs.step(action)
        reward, ended = theirs.advance(states, action.numpy())
        valid = step.valid.numpy()
        assert step.reward[valid].tolist() == reward[valid].tolist()
        assert step.terminated[valid].tolist() == ended[valid].tolist()
        assert not step.truncated.any()
        assert envs.state.numpy()[:, valid].tobytes() == states[:, valid].tobytes()
        shown = theirs.observe(envs.state.numpy())
        assert step.next_obs.numpy().tobytes() == shown.tobytes()
        ends += int(step.terminated.sum())
    assert ends > 64


def test_repeat_first_pays_for_the_first_suit():
    envs = on_device("repeat-first", 400, length=3, suits=4)
    first, rng = envs.reset().clone(), np.random.default_rng(0)
    seen = [first]
    for k in range(3):
        action = torch.from_numpy(rng.integers(4, size=400))
        step = envs.step(action)
        expected = torch.where(action == first, 1 / 3, -1 / 3)
        torch.testing.assert_close(step.reward, expected)
        assert bool(step.terminated.all()) == (k == 2)
        assert bool(step.terminated.any()) == (k == 2)
        seen.append(step.next_obs.clone())
    counts = np.array([np.bincount(cards, minlength=4) for cards in seen])
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    assert stats.chi2_contingency(np.histogram2d(seen[0], seen[1], 4)[0]).pvalue > 1e-3


@pytest.mark.parametrize(("name", "sides"), [("catch", 5), ("memory-corridor", 2)])
def test_games_begin_everywhere_alike(name, sides):
    envs = on_device(name, 4096)
    envs.reset()
    assert stats.chisquare(np.bincount(envs.state[0].numpy(), minlength=sides)).pvalue > 1e-3


def test_hidden_cart_poles_are_cart_poles_without_velocities():
    whole, hidden = on_device("CartPole"), on_device("cartpole-hidden")
    assert hidden.obs_space == make_envs("cartpole-hidden", 1, 0).obs_space
    assert torch.equal(whole.reset()[:, [0, 2]], hidden.reset())
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = some_actions(whole, rng)
        one, other = whole.step(action), hidden.step(action)
        assert torch.equal(one.next_obs[:, [0, 2]], other.next_obs)
        assert torch.equal(one.terminated, other.terminated)


# The contract


@every
def test_steps_keep_their_contract(name, options):
    envs, rng = on_device(name, **options), np.random.default_rng(0)
    ordinary = make_envs(name, 2, 0, options=options)
    assert (envs.obs_space, envs.action_space) == (ordinary.obs_space, ordinary.action_space)
    assert (envs.id, envs.max_episode_steps) == (ordinary.id, ordinary.max_episode_steps)
    assert (envs.spec_json, envs.reward_threshold) == (
        ordinary.spec_json,
        ordinary.reward_threshold,
    )
    dtype = ordinary.reset().dtype
    before = envs.reset().clone()
    ended, ages = torch.zeros(N, dtype=torch.bool), torch.zeros(N, dtype=torch.int64)
    limit = envs.max_episode_steps or 10**9
    ends = dead = 0
    for k in range(60):
        step = envs.step(some_actions(envs, rng))
        assert envs.steps == k + 1
        assert torch.equal(step.obs, before)
        assert step.next_obs.numpy().dtype == dtype
        assert all(envs.obs_space.contains(row) for row in step.next_obs.numpy())
        assert step.reward.dtype == torch.float32
        assert step.reward.isfinite().all()
        assert torch.equal(step.valid, ~ended)
        assert torch.equal(step.begins, ended)
        assert not (step.terminated | step.truncated | (step.reward != 0))[ended].any()
        ages = torch.where(ended, 0, ages + 1)
        assert torch.equal(step.truncated, ages >= limit)
        ended = step.terminated | step.truncated
        assert envs.longest_running == torch.where(ended, 0, ages).max()
        before = step.next_obs.clone()
        ends, dead = ends + int(ended.sum()), dead + int((~step.valid).sum())
    assert ends > N
    assert dead > N / 2


@every
def test_nothing_is_read_by_the_host(name, options):
    """On the meta device, which has no values, whatever looks at one raises."""
    meta = torch.device("meta")
    envs = on_device(name, device=meta, **options)
    shape, width = envs.reset().shape, envs.action_space.shape
    assert shape == (N, *envs.obs_space.shape)
    dtype = torch.float32 if isinstance(envs.action_space, gym.spaces.Box) else torch.int64
    for _ in range(3):
        step = envs.step(torch.zeros((N, *width), dtype=dtype, device=meta))
        assert step.next_obs.is_meta
        assert step.next_obs.shape == shape
        for flags in (step.reward, step.terminated, step.truncated, step.valid, step.begins):
            assert flags.is_meta
            assert flags.shape == (N,)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(step.valid.any())
    assert envs.get_state() is None


@every
def test_resuming_goes_on_bit_for_bit(name, options, tmp_path):
    first, second = on_device(name, seed=0, **options), on_device(name, seed=1, **options)
    assert first.get_state() is None
    rng = np.random.default_rng(0)
    first.reset()
    second.reset()
    ended = False
    while first.steps < 10 or not ended:  # the next step has a dead one
        step = first.step(some_actions(first, rng))
        ended = bool((step.terminated | step.truncated).any())
    places = second.obs.data_ptr(), second.state.data_ptr(), second.age.data_ptr()
    save_checkpoint(tmp_path, 0, {"envs": first.get_state()}, {})
    obs = second.set_state(load_checkpoint(tmp_path).tree["envs"])
    assert torch.equal(obs, first.obs)
    assert second.steps == first.steps
    for _ in range(30):
        assert (first.mask is None) or torch.equal(first.mask, second.mask)
        action = some_actions(first, rng)
        one, other = first.step(action), second.step(action)
        for field in ("obs", "reward", "terminated", "truncated", "valid", "next_obs"):
            assert torch.equal(getattr(one, field), getattr(other, field))
    # what a graph has captured stays where it was
    assert places == (second.obs.data_ptr(), second.state.data_ptr(), second.age.data_ptr())


@every
def test_seeds(name, options):
    def played(seed, again=None):
        envs, rng = on_device(name, seed=seed, **options), np.random.default_rng(0)
        envs.reset()
        for _ in range(10):
            envs.step(some_actions(envs, rng))
        if again is not None:
            envs.reset(again)
        return envs.state.clone()

    assert torch.equal(played(3), played(3))
    assert torch.equal(played(3, again=5), played(4, again=5))
    if "source" not in options or options is RAGGED:  # in the maze nothing is random
        assert not torch.equal(played(3), played(4))


@every
def test_a_step_is_a_pure_function_that_a_population_can_share(name, options):
    envs, rng = on_device(name, **options), np.random.default_rng(0)
    envs.reset()
    states, ages, actions, uniforms = [], [], [], []
    for _ in range(4):
        action = some_actions(envs, rng)
        envs.step(action)
        states.append(envs.state.clone())
        ages.append(envs.age.clone())
        actions.append(some_actions(envs, rng))
        uniforms.append(torch.rand(envs.episodes.rules.draws, N, dtype=torch.float64))
    given = [torch.stack(each) for each in (states, ages, actions, uniforms)]
    copies = [each.clone() for each in given]
    together = torch.vmap(envs.episodes.step)(*given)
    for k in range(4):
        alone = envs.episodes.step(*(each[k] for each in given))
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[k], other, rtol=1e-12, atol=1e-12, equal_nan=True)
    for each, copy in zip(given, copies, strict=True):
        assert torch.equal(each, copy)


@pytest.mark.parametrize("name", ["Acrobot", "FrozenLake"])
def test_a_step_is_one_graph_for_the_compiler(name):
    envs = on_device(name)
    envs.reset()
    action = some_actions(envs, np.random.default_rng(0))
    u = torch.rand(envs.episodes.rules.draws, N, dtype=torch.float64)
    given = envs.state, envs.age, action, u
    compiled = torch.compile(envs.episodes.step, backend="eager", fullgraph=True)
    for one, other in zip(compiled(*given), envs.episodes.step(*given), strict=True):
        torch.testing.assert_close(one, other)


class Kernels(TorchDispatchMode):
    """Counts what isn't a mere view."""

    VIEWS = ("expand", "permute", "select", "slice", "squeeze", "t", "unbind", "unsqueeze", "view")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += str(function).split(".")[1] not in self.VIEWS
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "most"),
    [
        *(("CartPole", 35), ("Acrobot", 147), ("MountainCar", 30), ("Pendulum", 35)),
        *(("catch", 32), ("memory-corridor", 28), ("repeat-first", 23), ("FrozenLake", 26)),
    ],
)
def test_a_step_is_few_kernels_however_many_environments(name, most):
    counts = []
    for n in (2, 300):
        envs = on_device(name, n)
        envs.reset()
        action = some_actions(envs, np.random.default_rng(0))
        with Kernels() as kernels:
            envs.step(action)
        counts.append(kernels.count)
    assert counts[0] == counts[1] <= most


@pytest.mark.parametrize("name", ["CartPole", "catch", "FrozenLake"])
def test_more_than_the_memory_holds_is_refused(name, monkeypatch):
    monkeypatch.setattr("rlkit.system.available_memory", lambda: 2**16)
    with pytest.raises(UsageError, match=r"^envs \(--envs\) is 1,000: the environments") as refused:
        make_envs(name, 1000, 0, "device", device="cpu")
    most = int(str(refused.value).rpartition("allowed: up to ")[2])
    with make_envs(name, most, 0, "device", device="cpu") as envs:
        assert envs.n == most >= 64
    with pytest.raises(UsageError, match=f"is {most + 1}: "):
        make_envs(name, most + 1, 0, "device", device="cpu")


def test_a_models_tables_need_room_too(monkeypatch):
    monkeypatch.setattr("rlkit.system.available_memory", lambda: 1000)
    with pytest.raises(UsageError, match=r"^the model has \d+ transitions: its tables on the dev"):
        make_envs("FrozenLake", 1, 0, "device", device="cpu")


def test_what_is_refused():
    with pytest.raises(UsageError, match="step was called before reset"):
        on_device("CartPole").step(torch.zeros(N, dtype=torch.int64))
    envs, push = on_device("CartPole"), on_device("Pendulum")
    envs.reset()
    push.reset()
    with pytest.raises(UsageError, match=r"shape \(3,\) and torch.int64 .* takes shape \(16,\)"):
        envs.step(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"torch\.float32 were given; .* of whole numbers"):
        envs.step(torch.zeros(N))
    with pytest.raises(UsageError, match=r"torch\.bool were given; .* of whole numbers"):
        envs.step(torch.zeros(N, dtype=torch.bool))  # as an index, a mask
    with pytest.raises(UsageError, match=r"the actions are a ndarray; give .* a tensor"):
        envs.step(np.zeros(N, dtype=np.int64))
    with pytest.raises(UsageError, match=r"takes shape \(16, 1\) of numbers"):
        push.step(torch.zeros(N))
    with pytest.raises(UsageError, match="the seed is -1"):
        envs.reset(-1)
    tree = envs.get_state()
    with pytest.raises(UsageError, match=r"CartPole of shape \(4, 16\), these are Pendulum of"):
        push.set_state(tree)
    with pytest.raises(UsageError, match=r"of shape \(4, 16\), these are CartPole of .*\(4, 3\)"):
        on_device("CartPole", 3).set_state(tree)
    tree["generator"] = torch.zeros(16, dtype=torch.uint8)  # as a GPU's are
    with pytest.raises(UsageError, match="random state is not of a cpu device; resume with"):
        envs.set_state(tree)


def test_what_has_no_form_on_a_device():
    has = "CartPole, Acrobot, .*, cartpole-hidden have one, and what has a model"
    for name in ("Blackjack", "MountainCarContinuous"):
        with pytest.raises(UsageError, match=f"no form on a device: it has no model, .*; {has}"):
            on_device(name)
    with pytest.raises(UsageError, match="CartPole-v1 has no form on a device: it takes no sutton"):
        on_device("CartPole", sutton_barto_reward="yes")
    with pytest.raises(UsageError, match="has no option 'gravity'"):
        on_device("Pendulum", gravity=1)
    with pytest.raises(UsageError, match="columns is 0; allowed: 1 to 1000"):
        on_device("catch", columns=0)
    with pytest.raises(UsageError, match="device needs an environment's name; use sync or async"):
        make_envs(lambda: gym.make("CartPole-v1"), 2, 0, "device")
    with pytest.raises(UsageError, match=r"device has no frame_stack \(--frame-stack\); leave"):
        make_envs("CartPole", 2, 0, "device", frame_stack=2)
    with pytest.raises(UsageError, match=r"device \(--device\) is 'tpu'; allowed: auto, cpu"):
        make_envs("CartPole", 2, 0, "device", device="tpu")


# On a GPU


def assert_close(one, other):
    torch.testing.assert_close(one.cpu(), other.cpu(), rtol=1e-5, atol=1e-6)


@pytest.mark.cuda
@every
def test_a_gpu_computes_the_same(name, options):
    there, here = on_device(name, device="cuda", **options), on_device(name, **options)
    there.reset()
    here.reset()
    rng = np.random.default_rng(0)
    for _ in range(20):
        u = torch.rand(here.episodes.rules.draws, N, dtype=torch.float64)
        action = some_actions(here, rng)
        moved = here.episodes.step(here.state, here.age, action, u)
        args = here.state.cuda(), here.age.cuda(), action.cuda(), u.cuda()
        for one, other in zip(there.episodes.step(*args), moved, strict=True):
            assert_close(one, other)
        assert_close(
            there.episodes.rules.observe(args[0]).float(),
            here.episodes.rules.observe(here.state).float(),
        )
        here.step(action)


@pytest.mark.cuda
@every
def test_a_captured_step_equals_an_eager_one(name, options):
    eager, graphed = (on_device(name, device="cuda", **options) for _ in range(2))
    assert torch.equal(eager.reset(), graphed.reset())
    replayed = Graphed(graphed.step, graphed.device, True, [graphed.generator])
    rng = np.random.default_rng(0)
    for _ in range(30):  # the first of them run as they are
        action = some_actions(eager, rng)
        one, other = eager.step(action), replayed(action)
        for field in ("obs", "reward", "terminated", "truncated", "valid", "next_obs"):
            assert torch.equal(getattr(one, field), getattr(other, field)), field
        assert eager.mask is None or torch.equal(eager.mask, graphed.mask)
    assert replayed.captured == 1
    assert torch.equal(eager.generator.get_state(), graphed.generator.get_state())
    # going back in time, also for a graph
    state = eager.get_state()
    graphed.set_state(state)
    for _ in range(5):
        action = some_actions(eager, rng)
        assert torch.equal(eager.step(action).next_obs, replayed(action).next_obs)
