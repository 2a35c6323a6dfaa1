"""Environments that follow a script and keep a log of their own, to hold the memories to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from rlkit.envs.make import make_envs

TERMINATED, TRUNCATED = 1, 2  # 3: both at once
MODES = ("next_step", "same_step")
_AUTORESET = {"next_step": AutoresetMode.NEXT_STEP, "same_step": AutoresetMode.SAME_STEP}


@dataclass(frozen=True)
class Transition:
    """What one environment did in one vector step, as it knows it itself."""

    row: int  # the vector step, from 0
    episode: int
    obs: tuple[float, ...]
    action: object
    reward: float
    terminated: bool
    truncated: bool
    next_obs: tuple[float, ...]  # before any reset

    @property
    def ended(self):
        return self.terminated or self.truncated


def allowed(obs):
    """Which of three actions a masked environment allows at an observation: one, two or all."""
    place = round(8 * float(np.dot(obs, (1, 3, 5))))
    return [(place + action) % 3 <= place // 3 % 3 for action in range(3)]


class Scripted(VectorEnv):
    """Environment i's k-th transition ends as `ends[i][k]` says (0: not), over and over.

    An observation is (environment, episode, age) / 8: it names its place in the log. `masked`
    environments give `allowed(obs)` as masks, and nothing in terminal states, and hold actions to
    them.
    """

    def __init__(self, ends, mode, action_space=None, masked=False):
        self.metadata = {"autoreset_mode": _AUTORESET[mode]}
        self.num_envs = len(ends)
        self.single_observation_space = spaces.Box(0, 1e6, (3,))
        self.single_action_space = action_space or spaces.Discrete(3)
        self.same_step = mode == "same_step"
        self.masked = masked
        self.ends = ends
        self.log = [[] for _ in ends]
        self.row = 0

    def reset(self, *, seed=None, options=None):
        self.episode, self.age = [0] * self.num_envs, [0] * self.num_envs
        self.over = [False] * self.num_envs
        return self._all(), self._masks()

    def _masks(self):
        if not self.masked:
            return {}
        mask = np.array([allowed(self._observe(i)) for i in range(self.num_envs)])
        for i in range(self.num_envs):
            if self.over[i] and self.log[i][-1].terminated:
                mask[i] = False
        return {"action_mask": mask.astype(np.int8)}

    def _observe(self, i):
        return (i / 8, self.episode[i] / 8, self.age[i] / 8)

    def _all(self):
        return np.array([self._observe(i) for i in range(self.num_envs)], dtype=np.float32)

    def _begin(self, i):
        self.episode[i] += 1
        self.age[i] = 0
        self.over[i] = False

    def step(self, actions):
        reward, flags = np.zeros(self.num_envs), np.zeros((2, self.num_envs), dtype=bool)
        final = np.full(self.num_envs, None, dtype=object)
        for i in range(self.num_envs):
            if self.over[i]:
                self._begin(i)  # the action is ignored: a dead step
                reward[i] = 1000.0  # which nobody must see
                continue
            end = self.ends[i][len(self.log[i]) % len(self.ends[i])]
            flags[:, i] = bool(end & TERMINATED), bool(end & TRUNCATED)
            reward[i] = np.float32(
                math.sin(1 + 2.3 * i + 5.1 * self.episode[i] + 0.7 * self.age[i])
            )
            before = self._observe(i)
            self.age[i] += 1
            after = self._observe(i)
            action = actions[i].tolist()
            assert not self.masked or allowed(before)[action]
            self.log[i].append(
                Transition(
                    self.row, self.episode[i], before, action, reward[i], *flags[:, i], after
                )
            )
            if end and self.same_step:
                final[i] = np.array(after, dtype=np.float32)
                self._begin(i)
            else:
                self.over[i] = bool(end)
        self.row += 1
        info = self._masks()
        if self.same_step and flags.any():
            info |= {"final_obs": final}
            if self.masked:
                masks = [[False] * 3 if obs is None else allowed(obs) for obs in final]
                info["final_info"] = {"action_mask": np.array(masks)}
        return self._all(), reward, flags[0], flags[1], info


class Ring(gym.Env):
    """States 0 … states − 1 round and round, whatever the action; episodes end at `length` steps.

    The reward is 1 at each step where `each_step`, else 1 at the last one.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, states, length, end, each_step):
        self.observation_space = spaces.Discrete(states)
        self.length, self.end, self.each_step = length, end, each_step

    def _observe(self):
        return self.age % int(self.observation_space.n)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self._observe(), {}

    def step(self, action):
        self.age += 1
        over = self.age == self.length
        flags = (over and bool(self.end & TERMINATED), over and bool(self.end & TRUNCATED))
        return self._observe(), float(over or self.each_step), *flags, {}


def vectorized(make, n, mode):
    """Envs over n environments made by `make`, in either mode."""
    if mode == "next_step":
        return make_envs(make, n, 0)
    return make_envs(SyncVectorEnv([make] * n, autoreset_mode=AutoresetMode.SAME_STEP), n, 0)


def random_ends(n, length, seed, how_often=0.35):
    """A script for n environments in which all ways to end come up, also twice in a row."""
    rng = np.random.default_rng(seed)
    ends = np.where(rng.random((n, length)) < how_often, rng.integers(1, 4, (n, length)), 0)
    return [list(map(int, row)) for row in ends]


def advantage(segment: Sequence[Transition], value, gamma, lam):
    """GAE by its definition, an average of k-step advantages (Schulman et al. 2016, eq. 16).

    `segment` are the transitions from t to the end of the episode or of the data, m of them:
    A = (1 − λ)·Σ_{k<m} λ^{k−1}·A⁽ᵏ⁾ + λ^{m−1}·A⁽ᵐ⁾.
    """

    def k_step(k):
        gain = sum(gamma**j * segment[j].reward for j in range(k))
        last = segment[k - 1]
        rest = 0.0 if last.terminated else gamma**k * value(last.next_obs)
        return gain + rest - value(segment[0].obs)

    m = len(segment)
    averaged = sum((1 - lam) * lam ** (k - 1) * k_step(k) for k in range(1, m))
    return averaged + lam ** (m - 1) * k_step(m)


def segments(log, first, last):
    """(transition, the transitions that follow it in its episode) with rows in [first, last)."""
    inside = [transition for transition in log if first <= transition.row < last]
    for k, start in enumerate(inside):
        yield start, [x for x in inside[k:] if x.episode == start.episode]
