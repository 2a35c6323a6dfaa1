"""An environment that behaves otherwise on one rank of several, as RANKED says: see
test_data_parallel_runs.py."""

import os
import signal
import time

import gymnasium as gym
import numpy as np


class Ranked(gym.Env):
    """Episodes of 20 steps, in which nothing is to be learned."""

    observation_space = gym.spaces.Box(-10, 10, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)
    steps = 0  # of all environments of the process

    def __init__(self):
        rank, self.attempt = (os.environ.get(name, "0") for name in ("RANK", RESTARTS))
        wanted, _, self.deed = os.environ.get("RANKED", "9 nothing").partition(" ")
        if rank != wanted:
            self.deed = "nothing"

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        Ranked.steps += 1
        if self.deed == "break" and Ranked.steps == 100:
            raise ValueError("a wheel came off")
        if self.deed == "die" and self.attempt == "0" and Ranked.steps == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.deed == "dawdle" and Ranked.steps > 60:
            time.sleep(0.1)
        return self._obs(), 1.0, False, self.t == 20, {}

    def _obs(self):
        return self.np_random.normal(size=2).astype(np.float32)


RESTARTS = "TORCHELASTIC_RESTART_COUNT"
