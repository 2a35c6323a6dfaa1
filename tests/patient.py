"""An environment that falls ill: `rlkit train a2c patient.py:Patient --env-option symptom=nan`."""

import os
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

BOX = spaces.Box(-10, 10, (4,))
SYMPTOMS = {  # from its step number `onset` on, what step returns instead
    "nan": lambda obs: (np.array([0, np.nan, 0, 0], np.float32), 1.0, False, False, {}),
    "inf": lambda obs: (np.array([0, 0, -np.inf, 0], np.float32), 1.0, False, False, {}),
    "nan-reward": lambda obs: (obs, np.nan, False, False, {}),
    "inf-reward": lambda obs: (obs, np.inf, False, False, {}),
    "huge-reward": lambda obs: (obs, 3e38, False, False, {}),
    "outside": lambda obs: (np.array([0, 0, 0, 77], np.float32), 1.0, False, False, {}),
    "five": lambda obs: (np.zeros(5, np.float32), 1.0, False, False, {}),
    "one": lambda obs: (np.zeros(1, np.float32), 1.0, False, False, {}),
    "text": lambda obs: ("left", 1.0, False, False, {}),
    "no-reward": lambda obs: (obs, None, False, False, {}),
    "array-reward": lambda obs: (obs, np.ones(1), False, False, {}),
    "four-values": lambda obs: (obs, 1.0, False, {}),
    "no-info": lambda obs: (obs, 1.0, False, False, None),
    "sleep": lambda obs: time.sleep(100),
    "endless": lambda obs: (obs, 1.0, False, False, {}),
}
HABITS = ("", "list", "reuse", "bare-reset")  # lifelong ones, beside `ends`


class Patient(gym.Env):
    """Ten steps to an episode, noise to see, and a reward of 1 for action 1.

    `ends`: how episodes end, "terminated", "truncated" or "both". The environment variable PAUSE
    has each step take so many seconds.
    """

    observation_space = BOX
    action_space = spaces.Discrete(2)
    buffer = np.zeros(4, np.float32)  # of all patients that reuse one

    def __init__(self, symptom="", onset=0, habit="", ends="terminated"):
        assert symptom in ("", *SYMPTOMS)
        assert habit in HABITS
        self.symptom, self.onset, self.habit, self.ends = symptom, onset, habit, ends
        self.age = self.count = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self.look() if self.habit == "bare-reset" else (self.look(), {})

    def look(self):
        seen = self.np_random.random(4, np.float32)
        if self.habit == "list":
            return seen.tolist()
        if self.habit == "reuse":
            self.buffer[:] = seen
            return self.buffer
        return seen

    def step(self, action):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        self.age += 1
        self.count += 1
        obs = self.look()
        if self.symptom and self.count >= self.onset:
            return SYMPTOMS[self.symptom](obs)
        over = self.age == 10
        terminated, truncated = self.ends != "truncated", self.ends != "terminated"
        return obs, float(action), over and terminated, over and truncated, {}


class Lever(Patient):
    """A patient whose one action is how far to pull; the reward is that."""

    action_space = spaces.Box(-1, 1, (1,))

    def step(self, action):
        return super().step(action[0])


class Shifted(gym.Env):
    """Sees and takes numbers that do not begin at 0; the reward is 1 for the action it saw."""

    observation_space = spaces.Discrete(3, start=5)
    action_space = spaces.Discrete(3, start=-7)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        self.shown = self.np_random.integers(3)
        return 5 + self.shown, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        reward = float(action + 7 == self.shown)
        self.age += 1
        self.shown = self.np_random.integers(3)
        return 5 + self.shown, reward, self.age == 10, False, {}
