"""An environment of numbers that falls ill: `numbered.py:Numbered`, `symptom=nan-reward`."""

import os
import signal
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

ONSET = 25  # its step from which on a symptom shows: the 27th with two resets


class Numbered(gym.Env):
    """A walk over five numbers, ten steps to an episode; the reward is the number."""

    observation_space = spaces.Discrete(5)
    action_space = spaces.Discrete(2)

    def __init__(self, symptom=""):
        self.symptom = symptom
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age, self.place = 0, 2
        return self.place, {}

    def step(self, action):
        self.steps += 1
        self.age += 1
        drift = self.np_random.integers(-1, 2) + 2 * action - 1
        self.place = int(np.clip(self.place + drift, 0, 4))
        reward, seen = float(self.place), self.place
        if self.steps >= ONSET:
            if self.symptom == "nan-reward":
                reward = np.nan
            elif self.symptom == "outside":
                seen = 5
            elif self.symptom == "raise":
                raise RuntimeError("no way on")
            elif self.symptom == "die":
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return seen, reward, False, self.age == 10, {}
