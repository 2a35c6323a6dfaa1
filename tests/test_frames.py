"""Frames that are kept once: every stack that is drawn is the one that came, bit for bit."""

import copy
from collections import deque
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from driven_replay import CPU, EPS, GAMMA, Driven
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scripted_envs import MODES, TERMINATED, random_ends

from rlkit.envs.make import make_envs
from rlkit.errors import UsageError
from rlkit.experience.replay import Replay, Sampling
from rlkit.experience.step import FinalObs, Step

PADDINGS = ("reset", "zero")


def memory_for(space, n, k, capacity, n_step, alpha=0.0, batch=64, actions=5):
    sampling = Sampling(0, 1, 1, batch, n_step, GAMMA, alpha, EPS)
    generator = torch.Generator().manual_seed(3)
    memory = Replay(
        capacity, n, space, spaces.Discrete(actions), sampling, CPU, generator, frame_stack=k
    )
    memory.allocate()
    return memory


class Stacking:
    """In a memory's place: makes stacks of the frames that come, and gives them to one."""

    def __init__(self, driven, k, padding):
        self.k, self.padding, self.n = k, padding, driven.n
        space = spaces.Box(0, 1e6, (k, 3))
        self.memory = memory_for(
            space, driven.n, k, driven.capacity, driven.n_step, driven.alpha, batch=40
        )
        self.stacks = None

    def begin(self, frame):
        fill = frame if self.padding == "reset" else np.zeros_like(frame)
        return deque([fill] * (self.k - 1) + [frame], maxlen=self.k)

    def add(self, step):
        if self.stacks is None:
            self.stacks = [self.begin(frame) for frame in step.obs]
        before, final = np.array(self.stacks), None
        ended = step.terminated | step.truncated
        if step.final_obs is not None:
            final = np.array(
                [
                    [*list(self.stacks[env])[1:], frame]
                    for env, frame in zip(step.final_obs.index, step.final_obs.obs, strict=True)
                ]
            )
        for env, frame in enumerate(step.next_obs):
            if (ended[env] and step.final_obs is not None) or not step.valid[env]:
                self.stacks[env] = self.begin(frame)
            else:
                self.stacks[env].append(frame)
        if final is not None:
            final = FinalObs(step.final_obs.index, final)
        self.memory.add(replace(step, obs=before, next_obs=np.array(self.stacks), final_obs=final))

    def restart(self):
        self.memory.restart()
        self.stacks = None

    @property
    def filled(self):
        return self.memory.filled

    def sample(self):
        """A batch of which each stack is held against its definition, and its newest frame left."""
        batch = self.memory.sample()
        for name in ("obs", "next_obs"):
            stacks = getattr(batch, name)
            np.testing.assert_array_equal(stacks[0], [self.defined(s) for s in stacks[0].numpy()])
            setattr(batch, name, stacks[:, :, -1].clone())
        return batch

    def defined(self, stack):
        """The stack whose newest frame is (environment, episode, age) / 8, as that one is."""
        env, episode, age = stack[-1]
        ages = [age - back / 8 for back in range(self.k - 1, -1, -1)]
        first = [0, 0, 0] if self.padding == "zero" else [env, episode, 0]
        return [[env, episode, age] if age >= 0 else first for age in ages]


@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    mode=st.sampled_from(MODES),
    padding=st.sampled_from(PADDINGS),
    k=st.integers(2, 5),
    n_step=st.integers(1, 4),
    n=st.integers(1, 4),
    capacity=st.integers(1, 60),
    how_often=st.sampled_from([0.02, 0.35, 1.0]),
    alpha=st.sampled_from([0.0, 0.6]),
)
@example(0, "same_step", "zero", 4, 3, 3, 20, 0.35, 0.0)
@example(0, "next_step", "reset", 4, 1, 3, 20, 0.02, 0.6)
def test_every_stack_drawn_is_the_one_that_came(
    seed, mode, padding, k, n_step, n, capacity, how_often, alpha
):
    ends = random_ends(n, 40, seed, how_often)
    driven = Driven(ends, mode, capacity, n_step, alpha=alpha)
    driven.memory = stacking = Stacking(driven, k, padding)
    breaks = np.random.default_rng(seed).integers(5, 45, 2)
    for taken in range(45):
        driven.step()
        if taken in breaks:
            driven.break_off()
        if stacking.filled > n_step:
            driven.check()


class Film(gym.Env):
    """Pictures whose pixels are drawn anew, out of so many colours, for every step."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape, colours, length):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.colours, self.length = colours, length

    def _picture(self):
        return self.np_random.integers(0, self.colours, self.observation_space.shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self._picture(), {}

    def step(self, action):
        self.age += 1
        return self._picture(), float(self.age), self.age == self.length, False, {}


# Of a pixel with two colours, stacks often look as if an episode went on, or had just begun.
@pytest.mark.parametrize(("shape", "colours"), [((4, 6), 256), ((3, 2, 3), 256), ((1,), 2)])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
def test_the_stacks_of_gymnasiums_wrapper_and_a_saved_memory(mode, padding, shape, colours):
    """Every transition that is drawn was fed, uint8 for uint8, after saving and loading too."""
    k, n = 3, 3

    def make(length):
        return lambda: FrameStackObservation(Film(shape, colours, length), k, padding_type=padding)

    autoreset = AutoresetMode.NEXT_STEP if mode == "next_step" else AutoresetMode.SAME_STEP
    venv = SyncVectorEnv([make(length) for length in (1, 4, 30)], autoreset_mode=autoreset)
    with make_envs(venv, n, 0) as envs:
        envs.reset()
        memory = memory_for(envs.obs_space, n, k, 24, 1, actions=2)
        fed = {}  # row → obs, next_obs, of the newest step there
        for taken in range(40):
            step = envs.step(np.zeros(n, dtype=np.int64))
            memory.add(step)
            after = step.next_obs.copy()
            if step.final_obs is not None:
                after[step.final_obs.index] = step.final_obs.obs
            fed[taken % memory.rows] = step.obs.copy(), after
    loaded = memory_for(envs.obs_space, n, k, 24, 1, actions=2)
    loaded.set_state(copy.deepcopy(memory.get_state()))
    for batch in (memory.sample(), loaded.sample()):
        assert batch.obs.dtype == batch.next_obs.dtype == torch.uint8
        for i, (row, env) in enumerate(zip(*np.divmod(batch.cell[0].numpy(), n), strict=True)):
            obs, next_obs = fed[int(row)]
            np.testing.assert_array_equal(batch.obs[0, i], obs[env])
            np.testing.assert_array_equal(batch.next_obs[0, i], next_obs[env])


def test_a_frame_is_kept_once():
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    memory = memory_for(space, 8, 4, 1600, 1)
    step = Step(
        *(np.zeros((8, 4, 84, 84), np.uint8), np.zeros(8, np.int64), np.zeros(8, np.float32)),
        *(np.zeros(8, bool), np.zeros(8, bool), np.ones(8, bool)),
        np.zeros((8, 4, 84, 84), np.uint8),
    )
    while memory.filled < memory.limit:
        memory.add(step)
    held = sum(x.nbytes for column in memory.get_state()["rows"].values() for x in column)
    assert held / 1600 < 7500


def pictures(*stacks):
    return np.array(stacks, dtype=np.uint8).reshape(len(stacks), 3, 1)


def step_of(obs, next_obs, final=None):
    n = len(obs)
    ended = np.full(n, final is not None)
    final = None if final is None else FinalObs(np.arange(n), final)
    return Step(
        *(obs, np.zeros(n, np.int64), np.zeros(n, np.float32), ended, ended & False),
        *(np.ones(n, bool), next_obs, final),
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (step_of(pictures([1, 2, 3]), pictures([2, 3, 4])), "env 0's observation is not a stack"),
        (step_of(pictures([1] * 3), pictures([1, 2, 1])), "env 0's observation is not a stack"),
        (step_of(pictures([1] * 3, [0, 0, 2]), pictures([1, 1, 4], [2, 0, 0])), "env 1's obs"),
        (
            step_of(pictures([1] * 3), pictures([5] * 3), pictures([1, 2, 3])),
            "a final observation is not a stack of the last 3 frames",
        ),
    ],
)
def test_what_is_no_stack_is_refused(step, message):
    memory = memory_for(spaces.Box(0, 255, (3, 1), np.uint8), len(step.obs), 3, 20, 1)
    with pytest.raises(UsageError, match=f"frame_stack is 3; {message}.*set it to 1"):
        memory.add(step)


@pytest.mark.parametrize(
    "space", [spaces.Box(0, 1, (4, 2)), spaces.Box(0, 1, (3,)), spaces.Discrete(3)]
)
def test_spaces_without_so_many_frames_are_refused(space):
    with pytest.raises(UsageError, match=r"frame_stack is 3; .*allowed: the length of their first"):
        memory_for(space, 1, 3, 20, 1)


def test_one_episode_per_step_in_the_smallest_ring():
    for mode in MODES:
        driven = Driven([[TERMINATED]], mode, 1, 1)
        driven.memory = Stacking(driven, 4, "reset")
        for _ in range(20):
            driven.step()
            if driven.memory.filled > 1:
                driven.check()
