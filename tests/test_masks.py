"""Invalid-action masks, from what an environment gives to what agents do and learn."""

import copy
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from scipy.stats import chisquare
from scripted_envs import MODES, Scripted, allowed, random_ends
from small_runs import leaves, steps_saved

import rlkit
from rlkit.agent import Setting
from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.agents.dqn import DQN, DQNRecipe
from rlkit.envs.make import make_envs
from rlkit.envs.observations import obs_port
from rlkit.envs.spaces import ActionPort
from rlkit.envs.vector import Envs
from rlkit.errors import EnvError, UsageError
from rlkit.experience.rollout import Rollout
from rlkit.run.checkpoint import load_checkpoint
from rlkit.training.evaluation import play
from rlkit.training.policy import Policy

CPU = torch.device("cpu")


class Walk(gym.Env):
    """A walk over the places 0 … 9; which of the four moves is allowed depends on the place.

    An invalid action is an error. An episode is terminated at place 9, where nothing is allowed,
    and truncated after 12 steps, where something is.
    """

    observation_space = spaces.Discrete(10)
    action_space = spaces.Discrete(4)

    def __init__(self, way="info"):
        self.way = way
        if way == "method":
            self.action_masks = self._mask

    def _mask(self):
        mask = np.array([(self.place + move) % 3 > 0 for move in range(4)])
        return mask if self.way == "method" else mask.astype(np.int8) * (self.place < 9)

    def _info(self):
        return {"action_mask": self._mask()} if self.way == "info" else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.age = int(self.np_random.integers(4)), 0
        return self.place, self._info()

    def step(self, action):
        assert self._mask()[action], f"move {action} at place {self.place}"
        self.age += 1
        self.place = (self.place + int(action) + int(self.np_random.integers(2))) % 10
        return self.place, float(action), self.place == 9, self.age == 12, self._info()

    def get_state(self):
        return {"place": self.place, "age": self.age}

    def set_state(self, tree):
        self.place, self.age = tree["place"], tree["age"]


class Choosy(gym.Env):
    """Two choices, of 2 and of 3; the first must not repeat, nor the second be the step's rest."""

    observation_space = spaces.Box(0, 10, (3,))
    action_space = spaces.MultiDiscrete([2, 3], start=[5, -1])

    def _info(self):
        mask = np.ones(5, dtype=np.int64)
        mask[[self.last, 2 + self.age % 3]] = 0
        return {"action_mask": mask}

    def _observe(self):
        return np.array([self.last, self.age % 3, self.age], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        self.last = self.age = 0
        return self._observe(), self._info()

    def step(self, action):
        first, second = action - [5, -1]
        assert first != self.last
        assert second != self.age % 3
        self.last, self.age = int(first), self.age + 1
        return self._observe(), 1.0, self.age == 7, False, self._info()


def mask_of(place):
    return [(place + move) % 3 > 0 for move in range(4)]


def walks(kind, way, mode, n=3):
    """Envs over Walks: made by rlkit, or vector environments that somebody else made."""
    if kind == "rlkit's":
        return make_envs(lambda: Walk(way), n, 0)
    vector = {"sync": SyncVectorEnv, "async": AsyncVectorEnv}[kind]
    autoreset = AutoresetMode.NEXT_STEP if mode == "next_step" else AutoresetMode.SAME_STEP
    return make_envs(vector([lambda: Walk(way)] * n, autoreset_mode=autoreset), n, 0)


def valid_action(mask, rng):
    return np.array([rng.choice(np.flatnonzero(row)) for row in mask])


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("rlkit's", "next_step"),
        *(("sync", mode) for mode in MODES),
        *(("async", mode) for mode in MODES),
    ],
)
@pytest.mark.parametrize("way", ["info", "method"])
def test_the_masks_are_those_of_the_current_observations(kind, mode, way):
    rng = np.random.default_rng(0)
    with walks(kind, way, mode) as envs:
        obs = envs.reset()
        ends = [0, 0]
        for _ in range(150):
            live = ~envs._ended | (mode == "same_step")
            assert envs.mask.dtype == np.bool_
            assert envs.mask[live].tolist() == [mask_of(place) for place in obs[live]]
            assert envs.mask[~live].all()
            mask = envs.mask
            step = envs.step(valid_action(mask, rng))
            assert step.mask is mask
            over = step.terminated if mode == "next_step" else step.terminated & False
            told = [mask_of(place) for place in step.next_obs]
            assert step.next_mask[~over].tolist() == np.array(told)[~over].tolist()
            if way == "info":
                assert step.next_mask[over].all()  # where the environment allows nothing
            if step.final_obs is not None:
                told = [
                    [True] * 4 if place == 9 else mask_of(place) for place in step.final_obs.obs
                ]
                found = step.final_obs.mask
                assert found is None if way == "method" else found.tolist() == told
            ends[0] += step.terminated.sum()
            ends[1] += step.truncated.sum()
            obs = step.next_obs
        assert min(ends) > 3


def test_environments_without_masks_have_none():
    for name, n in (("CartPole", 5), ("CartPole", 2), ("Pendulum", 1)):
        with make_envs(name, n, 0) as envs:
            envs.reset()
            step = envs.step(np.stack([envs.action_space.sample() for _ in range(n)]))
            assert envs.mask is step.mask is step.next_mask is None


class Native(Scripted):
    """A vector environment of its own, which gives what it's told to as masks."""

    def __init__(self, masks, way, action_space=None):
        super().__init__([[0]] * 2, "next_step", action_space)
        self.masks, self.way = masks, way
        if way == "method":
            self.action_masks = lambda: self._now()

    def _now(self):
        if isinstance(self.masks, Exception):
            raise self.masks
        return self.masks if self.row else np.ones((2, 3), dtype=bool)

    def _masks(self):
        return {"action_mask": self._now()} if self.way == "info" else {}


@pytest.mark.parametrize("way", ["info", "method"])
def test_a_native_vector_environments_masks(way):
    masks = np.array([[0, 1, 1], [1, 0, 0]], dtype=np.int8)
    with make_envs(Native(masks, way), 2, 0) as envs:
        envs.reset()
        assert envs.mask.all()
        step = envs.step(np.array([0, 0]))
        assert step.next_mask.tolist() == (masks == 1).tolist()
        masks[:] = 1
        assert not step.next_mask.all()  # a copy


@pytest.mark.parametrize("way", ["info", "method"])
@pytest.mark.parametrize(
    ("masks", "found"),
    [
        (np.ones((2, 4), bool), "env 0 of Native gave an action mask of shape (4,)"),
        (np.ones((2, 3)), "env 0 of Native gave an action mask of dtype float64"),
        ([[1, 0, 1], [1, 2, 1]], "env 1 of Native gave an action mask with the value 2"),
        (np.array([[1, 0, 1], [0, 0, 0]]), "env 1 of Native gave an action mask that allows noth"),
        (np.array([[1, 0, 1], [0, -1, 0]]), "env 1 of Native gave an action mask with the value -"),
        (np.ones((3, 3), bool), "Native gave action masks of shape (3, 3)"),
        (1, "Native gave action masks of shape ()"),
    ],
)
def test_a_native_vector_environments_bad_masks_are_named(masks, found, way):
    with make_envs(Native(masks, way), 2, 0) as envs:
        envs.reset()
        with pytest.raises(EnvError) as caught:
            envs.step(np.array([0, 0]))
    message = str(caught.value)
    assert found in message
    assert "at vector step 1" in message
    assert "(3,)" in message or "its 2 environments" in message
    assert "\n" not in message


def test_a_method_that_raises_is_named():
    said = r"action_masks\(\) raised RuntimeError: no board"
    with (
        make_envs(Native(RuntimeError("no board"), "method"), 2, 0) as envs,
        pytest.raises(EnvError, match=said),
    ):
        envs.reset()

    class Boardless(Walk):
        def _mask(self):
            raise RuntimeError("no board")

    with (
        make_envs(lambda: Boardless("method"), 2, 0) as envs,
        pytest.raises(EnvError, match=r"env 0 raised RuntimeError: no board .*in action_masks\(\)"),
    ):
        envs.reset()


class Ill(Walk):
    def __init__(self, mask, way):
        self.mask = mask
        super().__init__(way)

    def _mask(self):
        return super()._mask() if self.age == 0 else self.mask


@pytest.mark.parametrize("way", ["info", "method"])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("mask", "found"),
    [
        (np.ones(1, bool), "gave an action mask of shape (1,); Discrete(4) needs shape (4,)"),
        (None, "gave an action mask of shape ()"),
        ([1, 0, [1], 1], "gave an action mask of ragged lists"),
        (["1", "0", "1", "1"], "gave an action mask of dtype <U1"),
        (np.array([1, 0, 3, 1]), "gave an action mask with the value 3"),
    ],
)
def test_one_environments_bad_masks_are_named(mask, found, kind, way):
    with make_envs(lambda: Ill(mask, way), 2, 0, kind) as envs:
        envs.reset()
        action = valid_action(envs.mask, np.random.default_rng(0))
        with pytest.raises(EnvError) as caught:
            envs.step(action)
    assert str(caught.value).startswith(("env 0 ", "env 1 ") if kind == "async" else "env 0 ")
    assert found in str(caught.value)
    assert "at step 1 of this environment" in str(caught.value)


def test_masks_of_lists_are_taken():
    with make_envs(lambda: Ill([0, 1, True, 0], "info"), 2, 0) as envs:
        envs.reset()
        step = envs.step(valid_action(envs.mask, np.random.default_rng(0)))
        assert step.next_mask.tolist() == [[False, True, True, False]] * 2


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)], ids=str)
@pytest.mark.parametrize("way", ["info", "method"])
def test_masks_of_other_actions_are_refused(space, way):
    class Odd(Walk):
        action_space = space

    for make in (lambda: Odd(way), Native(np.ones((2, 3), bool), way, space)):
        with make_envs(make, 2, 0) as envs, pytest.raises(UsageError) as caught:
            envs.reset()
        message = str(caught.value)
        assert "masks are for Discrete and MultiDiscrete actions, which a2c, " in message
        assert str(space) in message


def test_a_mask_that_comes_late_or_not_each_time():
    class Rare(Walk):
        def _info(self):
            return super()._info() if self.age == 2 else {}

    with make_envs(lambda: Rare(), 2, 0) as envs:
        envs.reset()
        rollout = Rollout(3, 2, envs.obs_space, envs.action_space, CPU)
        rollout.allocate()
        assert envs.mask is None
        for k in range(6):
            place = [mask_of(place) for place in envs._obs]
            if k == 4:  # as if resumed before any mask was seen
                envs._mask_port.resume(None)
                envs.mask = None
            step = envs.step(valid_action(place, np.random.default_rng(k)))
            rollout.add(step)
            if k == 2:
                assert step.next_mask.all()
                (batch,) = rollout.batches()
                assert batch.mask[:2].all()
                assert batch.mask[2].tolist() == place
                assert batch.mask.shape == (3, 2, 4)
                batch.obs_mask[:] = False
        assert step.next_mask is None
        (batch,) = rollout.batches()
        assert batch.obs_mask.all()


def test_masks_that_only_some_environments_give():
    ways = iter(["info", "none", "info"])
    with make_envs(lambda: Walk(next(ways)), 3, 0) as envs:
        obs = envs.reset()
        for k in range(2):  # no episode ends so soon
            assert envs.mask[1].all()
            assert envs.mask[[0, 2]].tolist() == [mask_of(place) for place in obs[[0, 2]]]
            places = [mask_of(place) for place in obs]
            obs = envs.step(valid_action(places, np.random.default_rng(k))).next_obs


def test_a_restored_state_that_has_masks_still_has_them_when_none_come():
    class Once(Walk):
        def _info(self):
            return super()._info() if self.age == 0 else {}

    with make_envs(Once, 2, 0) as envs, make_envs(Once, 2, 0) as others:
        envs.reset()
        others.set_state(envs.get_state())
        assert others.mask.tolist() == envs.mask.tolist()
        assert others.step(valid_action(envs.mask, np.random.default_rng(0))).next_mask.all()


RUN = {"steps": 480, "envs": 4, "hidden": (8,)}
REPLAYED = {"learning_starts": 40, "train_every": 8, "buffer_size": 300, "batch_size": 16}
RUNS = {
    "a2c": RUN,
    "pqn": RUN | {"n_steps": 12, "minibatch_size": 16},
    "dqn": RUN | REPLAYED,
    "rainbow": RUN | REPLAYED | {"gradient_steps": 2, "head_hidden": (8,), "exploration": 0.3},
    "r2d2": RUN | REPLAYED | {"core_width": 8, "unroll": 6},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_trains_evaluates_and_resumes_by_the_masks(name, tmp_path):
    """A Walk asserts that each action is allowed; resumed from the middle, the run is the same."""
    every = {"save_every": 240, "eval_every": 480}
    options = {"run_dir": str(tmp_path), "eval_episodes": 5, **every}
    whole = rlkit.train(name, Walk, RUNS[name], options).run
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    later = [name for name in steps_saved(broken) if not name.startswith("000000000240")]
    for name in later:
        shutil.rmtree(broken / "checkpoints" / name)
    assert later
    assert steps_saved(broken)
    rlkit.resume(broken, env=Walk)
    one, other = (leaves(load_checkpoint(run).tree) for run in (whole, broken))
    assert one == other
    assert any("mask" in path for path in one)


def agent_for(kind, envs, **changes):
    torch.manual_seed(0)
    setting = Setting(envs.obs_space, envs.action_space, envs.n, CPU, seed=1)
    if kind is DQN:
        changes = {"learning_starts": 50, "train_every": 16, "gradient_steps": 2} | changes
    recipe = {A2C: A2CRecipe, DQN: DQNRecipe}[kind]().but(
        {"envs": envs.n, "hidden": (8,)} | changes
    )
    agent = kind(setting, recipe)
    agent.memory.allocate()
    return agent


def trained(agent, envs, steps):
    """Train for `steps` vector steps; the actions of the valid rows and their masks."""
    obs, taken, masks = envs.reset(), [], []
    for k in range(steps):
        agent.clock.progress = k / steps
        action, _ = agent.act(obs, None, mask=envs.mask)
        step = envs.step(action)
        taken.append(action[step.valid])
        masks.append(step.mask[step.valid])
        agent.memory.add(step)
        obs = step.next_obs
        for batch in agent.memory.batches():
            agent.update(batch)
    return np.concatenate(taken), np.concatenate(masks)


@pytest.mark.parametrize("kind", [A2C, DQN])
def test_no_invalid_action_is_ever_taken_in_taxi(kind):
    with make_envs("Taxi", 4, 0) as envs:
        agent = agent_for(kind, envs)
        action, mask = trained(agent, envs, 1000)
        assert len(action) > 3500
        assert mask[np.arange(len(mask)), action].all()
        assert 0.3 < mask.mean() < 0.7
        # Greedy, the actions that are never allowed at once must not be chosen either.
        masks = np.random.default_rng(0).random((500, 6)) < 0.2
        masks[:, 3] = True
        obs = np.arange(500)
        greedy, _ = agent.act(obs, None, explore=False, mask=masks)
        assert masks[np.arange(500), greedy].all()
        head = (agent.ac.nets.actor if kind is A2C else agent.online).infer(obs)
        assert np.array_equal(greedy, np.where(masks, head, -np.inf).argmax(-1))
        assert not np.array_equal(greedy, head.argmax(-1))


@pytest.mark.parametrize("kind", [A2C, DQN])
@pytest.mark.parametrize("mode", MODES)
def test_no_invalid_action_reaches_an_environment(kind, mode):
    with walks("sync", "info", mode, n=8) as envs:  # a Walk asserts that the action is allowed
        action, _ = trained(agent_for(kind, envs), envs, 500)
        assert len(set(action.tolist())) == 4


def test_every_choice_of_several_is_masked():
    with make_envs(Choosy, 4, 0) as envs:
        assert envs.action_space == spaces.MultiDiscrete([2, 3])
        action, mask = trained(agent_for(A2C, envs), envs, 500)
        assert mask[np.arange(len(mask)), action[:, 0]].all()
        assert mask[np.arange(len(mask)), 2 + action[:, 1]].all()


def test_evaluation_plays_by_the_masks():
    with walks("sync", "info", "next_step", n=4) as envs:
        for kind in (A2C, DQN):
            evaluation = play(agent_for(kind, envs), envs, 20, seed=3)
            assert len(evaluation.returns) == 20


@pytest.mark.parametrize("kind", [A2C, DQN])
def test_exploring_draws_from_the_renormalised_policy(kind):
    with walks("sync", "info", "next_step", n=2) as envs:
        agent = agent_for(kind, envs, **({"exploration": "1"} if kind is DQN else {}))
    mask = np.array([[True, False, True, True], [False, True, False, False]])
    obs = np.array([3, 4])
    logits = torch.zeros(4)
    if kind is A2C:
        with torch.no_grad():
            agent.ac.nets.actor.head.bias.copy_(torch.tensor([0.0, 3.0, 1.0, -1.0]))
        logits = torch.from_numpy(agent.ac.nets.actor.infer(obs))[0]
    drawn = np.stack([agent.act(obs, None, mask=mask)[0] for _ in range(6000)])
    p = logits.double()[[0, 2, 3]].softmax(-1)
    counts = np.bincount(drawn[:, 0], minlength=4)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2, 3]], 6000 * p.numpy()).pvalue > 1e-3
    assert (drawn[:, 1] == 1).all()


@pytest.mark.parametrize("kind", [A2C, DQN])
def test_a_mask_that_allows_everything_changes_nothing(kind):
    with walks("sync", "info", "next_step", n=4) as envs:
        one, other = agent_for(kind, envs), agent_for(kind, envs)
    obs = np.arange(4)
    for explore in [True] * 100 + [False]:
        told = one.act(obs, None, explore, mask=np.ones((4, 4), bool))[0]
        assert np.array_equal(told, other.act(obs, None, explore)[0])


@pytest.mark.parametrize("mode", MODES)
def test_a_rollout_keeps_the_masks_of_the_observations_acted_on(mode):
    script = Scripted(random_ends(3, 40, seed=2), mode, masked=True)
    rng = np.random.default_rng(1)
    with make_envs(script, 3, 0) as envs:
        rollout = Rollout(6, 3, envs.obs_space, envs.action_space, CPU)
        rollout.allocate()
        envs.reset()
        for _ in range(60):
            rollout.add(envs.step(valid_action(envs.mask, rng)))
            for batch in rollout.batches():
                told = np.array([[allowed(obs) for obs in row] for row in batch.obs])
                assert np.array_equal(batch.mask[batch.valid], told[:-1][batch.valid])
                goes_on = ~batch.terminated  # the next observation is no terminal state
                if mode == "same_step":
                    goes_on[:] = True  # or begins an episode
                    told_finals = [allowed(obs) for obs in batch.final_obs]
                    assert batch.final_mask.tolist() == told_finals
                assert np.array_equal(batch.obs_mask[1:][goes_on], told[1:][goes_on])
                assert batch.obs_mask[1:][~goes_on].all()


@pytest.mark.parametrize("kind", [A2C, DQN])
@pytest.mark.parametrize("way", ["info", "method"])
@pytest.mark.parametrize("before", [3, 37, 103])
def test_going_on_from_a_saved_state_is_bit_equal(kind, way, before):
    def run(agent, envs, obs, steps):
        for _ in range(steps):
            step = envs.step(agent.act(obs, None, mask=envs.mask)[0])
            agent.memory.add(step)
            obs = step.next_obs
            seen.append((obs, step.action, envs.mask))
            for batch in agent.memory.batches():
                agent.update(batch)
        return obs

    with walks("rlkit's", way, "next_step") as envs, walks("rlkit's", way, "next_step") as others:
        agent, restored = agent_for(kind, envs), agent_for(kind, envs)
        seen = []
        obs = run(agent, envs, envs.reset(), before)
        saved = copy.deepcopy((agent.get_state(), envs.get_state()))
        seen = once = []
        run(agent, envs, obs, 80)
        restored.set_state(saved[0])
        obs = others.set_state(saved[1])
        seen = again = []
        run(restored, others, obs, 80)
        for one, other in zip(once, again, strict=True):
            for x, y in zip(one, other, strict=True):
                assert np.array_equal(x, y)
        one, other = (getattr(a, "ac", a).flat.values for a in (agent, restored))
        assert torch.equal(one, other)


def test_saved_environments_without_masks_have_none_again():
    with make_envs("CartPole", 4, 0) as envs:
        envs.reset()
        tree = envs.get_state()
        envs.set_state(tree)
        assert envs.mask is None
        assert envs.step(np.zeros(4, int)).next_mask is None


def policy_for(space):
    torch.manual_seed(1)
    obs_space, port = spaces.Box(-1, 1, (2,)), ActionPort(space)
    agent = A2C(Setting(obs_space, port.space, 1, CPU, seed=1), A2CRecipe(envs=1))
    return Policy(agent, "Somewhere", obs_port(obs_space, 1, strict=True), port)


def test_a_policy_answers_within_its_mask():
    policy = policy_for(spaces.Discrete(5, start=10))
    for action in range(5):
        mask = np.arange(5) == action
        assert policy.act([0.1, 0.2], mask) == 10 + action
        assert policy.act([0.1, 0.2], mask=mask.astype(int).tolist()) == 10 + action
    assert policy.act([[0.1, 0.2]] * 5, np.eye(5, dtype=np.int8)).tolist() == [10, 11, 12, 13, 14]
    several = policy_for(spaces.MultiDiscrete([2, 3]))
    assert several.act([0, 0], [0, 1, 1, 0, 0]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("space", "mask", "said"),
    [
        (spaces.Discrete(3), [1, 0], r"the mask is of shape \(2,\); allowed: \(3,\) bools"),
        (spaces.Discrete(3), [[1, 0, 1]], r"the mask is of shape \(1, 3\)"),
        (spaces.Discrete(3), [1.0, 0, 1], "the mask is of dtype float64"),
        (spaces.Discrete(3), [0, 0, 0], "the mask allows nothing at observation; allowed"),
        (spaces.MultiDiscrete([2, 1]), [1, 1, 0], "the mask allows nothing"),
        (spaces.Box(-1, 1, (2,)), [1, 1], "a mask was given, and the action space is Box"),
    ],
)
def test_a_policy_refuses_what_is_no_mask(space, mask, said):
    with pytest.raises(UsageError, match=said) as caught:
        policy_for(space).act([0, 0], mask)
    assert "\n" not in str(caught.value)


def test_masks_cost_the_usual_environment_one_look():
    """Neither a call of the environments nor an array per step."""

    class Counted(SyncVectorEnv):
        calls = 0

        def call(self, name, *args, **kwargs):
            Counted.calls += 1
            return super().call(name, *args, **kwargs)

    made = Counted([lambda: Walk("none")] * 2)
    with make_envs(made, 2, 0) as envs:
        assert isinstance(envs, Envs)
        obs = envs.reset()
        for _ in range(20):
            step = envs.step(
                valid_action([mask_of(place) for place in obs], np.random.default_rng())
            )
            obs = step.next_obs
        assert Counted.calls <= 1
