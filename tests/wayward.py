"""Environments whose processes come to grief: `rlkit train a2c wayward.py:Wayward --env-option ...`

Only one of them does, in the worker process number 1.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class UnpicklableError(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


def fail(error):
    raise error


def part():
    """Die, and leave a child that has every pipe open."""
    if os.fork() == 0:
        time.sleep(6)
    os._exit(3)


WAYS = {
    "part": part,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: (faulthandler.disable(), os.kill(os.getpid(), signal.SIGSEGV)),
    "leave": lambda: os._exit(3),
    "delay": lambda: time.sleep(0.8),
    "hang": lambda: time.sleep(1000),
    "unpicklable": lambda: fail(UnpicklableError("a wheel came off")),
    "exit": lambda: sys.exit("enough of this"),
    "interrupt": lambda: fail(KeyboardInterrupt("of its own")),
    "raise": lambda: fail(OSError("the disk is gone")),
}
LENGTH = 10


def in_worker(number):
    return multiprocessing.current_process().name.endswith(f"-{number}")


class Wayward(gym.Env):
    """Ten steps to an episode; an observation is (a draw of the episode's start, age) / 10.

    `way`: what happens in worker 1 at `where` ("make", "reset", "step", "close"), in its step
    number `at`, or in its reset after so many. `mark`: a file that says it has happened; with one
    it happens once. `pause`: seconds that each step takes. Actions 0 and 1 are allowed where the
    age is even, else 1 and 2, if `masked`.
    """

    observation_space = spaces.Box(0, 10, (2,))

    def __init__(self, way="", where="step", at=0, mark="", pause=0.0, masked=False):
        assert way in ("", *WAYS)
        self.way, self.where, self.at, self.mark, self.pause = way, where, at, mark, pause
        self.action_space = spaces.Discrete(3 if masked else 2)
        self.masked = masked
        self.count = 0
        self.pass_by("make")

    def pass_by(self, where):
        if self.way and where == self.where and self.count >= self.at and in_worker(1):
            if self.mark and Path(self.mark).exists():
                return
            if self.mark:
                Path(self.mark).touch()
            WAYS[self.way]()

    def look(self):
        info = {"action_mask": np.roll([True, True, False], self.age % 2)} if self.masked else {}
        return np.array([self.start, self.age / 10], np.float32), info

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pass_by("reset")
        self.start, self.age = self.np_random.random(dtype=np.float32), 0
        return self.look()

    def step(self, action):
        time.sleep(self.pause)
        self.count += 1
        self.pass_by("step")
        self.age += 1
        obs, info = self.look()
        return obs, 1.0 + action, self.age == LENGTH, False, info

    def close(self):
        self.pass_by("close")


class Talking(Wayward):
    """Texts go through the pipes, not through shared memory."""

    observation_space = spaces.Text(20, charset="abcdefghijklmnopqrstuvwxyz ")

    def look(self):
        return "go on " + "abcdefghijk"[self.age], {}


class Kept(Wayward):
    """Its state can be saved."""

    def get_state(self):
        return {"start": float(self.start), "age": self.age, "count": self.count}

    def set_state(self, tree):
        self.start, self.age, self.count = np.float32(tree["start"]), tree["age"], tree["count"]
