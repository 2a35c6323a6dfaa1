"""Environments with one fault each, for both libraries alike: `faulty.py:Faulty`, `symptom=nan`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

BOX = spaces.Box(-10, 10, (4,))
ONSET = 20  # the step from which on a symptom shows
SPACES: dict[str, tuple[spaces.Space[Any], spaces.Space[Any]]] = {  # what is seen, what is done
    "action-start": (BOX, spaces.Discrete(2, start=5)),
    "obs-start": (spaces.Discrete(4, start=3), spaces.Discrete(2)),
    "nested": (
        spaces.Dict({"a": BOX, "b": spaces.Tuple([spaces.Discrete(3), BOX])}),
        spaces.Discrete(2),
    ),
    "box-action": (BOX, spaces.Box(-1, 1, (1,))),
    "empty": (spaces.Box(-1, 1, (0,)), spaces.Discrete(2)),
    "text": (spaces.Text(20), spaces.Discrete(2)),
    "huge": (spaces.Discrete(10**9), spaces.Discrete(2)),
    "wide": (spaces.Box(-1, 1, (200, 200, 50)), spaces.Discrete(2)),
}


class Faulty(gym.Env[Any, Any]):
    """Episodes of ten random observations, and a reward of 1 for action 1, but for the symptom."""

    def __init__(self, symptom: str = "", render_mode: str | None = None) -> None:
        self.symptom = symptom
        self.observation_space, self.action_space = SPACES.get(symptom, (BOX, spaces.Discrete(2)))
        self.buffer = np.zeros(4, np.float32)
        self.render_mode = render_mode
        self.steps = self.age = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.age = 0
        if self.symptom == "old-reset":
            return self._look()
        return self._look(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.age += 1
        over = self.age == 10 and self.symptom != "endless"
        low = int(getattr(self.action_space, "start", 0))
        if isinstance(self.action_space, spaces.Discrete) and not self.action_space.contains(
            self.action_space.dtype.type(action)
        ):
            raise ValueError(f"action {action} is none of {self.action_space}")
        done = (
            self._look(),
            float(np.sum(action) - low),
            over,
            over and self.symptom == "both",
            {},
        )
        return self._ill(done) if self.steps >= ONSET else done

    def _look(self) -> Any:
        if isinstance(self.observation_space, spaces.Box) and self.observation_space == BOX:
            seen = self.np_random.random(4, np.float32)
            if self.symptom == "list":
                return seen.tolist()
            if self.symptom == "reuse":
                self.buffer[:] = seen
                return self.buffer
            return seen
        return self.observation_space.sample()

    def _ill(self, done: tuple[Any, ...]) -> Any:
        obs, reward, *rest = done
        match self.symptom:
            case "nan":
                return (np.array([0, np.nan, 0, 0], np.float32), reward, *rest)
            case "inf":
                return (np.array([0, 0, np.inf, 0], np.float32), reward, *rest)
            case "nan-reward":
                return (obs, np.nan, *rest)
            case "inf-reward":
                return (obs, np.inf, *rest)
            case "huge-reward":
                return (obs, 1e38, *rest)
            case "outside":
                return (np.full(4, 77, np.float32), reward, *rest)
            case "five":
                return (np.zeros(5, np.float32), reward, *rest)
            case "one":
                return (np.zeros(1, np.float32), reward, *rest)
            case "string":
                return ("left", reward, *rest)
            case "no-reward":
                return (obs, None, *rest)
            case "four-values":
                return (obs, reward, rest[0], {})
            case "raise":
                raise RuntimeError("the simulator lost its licence")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "slow":
                time.sleep(0.01)
                Path(f"worker-{os.getpid()}").touch()
        return done
