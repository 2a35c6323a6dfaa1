"""A replay memory that scripted environments fill, and what may be drawn from it, by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scripted_envs import Scripted

from rlkit.envs.make import make_envs
from rlkit.experience.replay import Replay, Sampling

CPU = torch.device("cpu")
GAMMA, EPS = 0.9, 1e-3


class Driven:
    """Scripted environments that fill a replay memory with random actions."""

    def __init__(self, ends, mode, capacity, n_step, draws=(2, 128), alpha=0.0, masked=False):
        self.script = Scripted(ends, mode, spaces.Discrete(3 if masked else 5), masked)
        self.n, self.capacity, self.n_step = len(ends), capacity, n_step
        self.alpha = alpha
        self.envs = make_envs(self.script, self.n, 0)
        self.envs.reset()
        self.memory = self.another(draws)
        self.rng = np.random.default_rng(1)

    def another(self, draws):
        sampling = Sampling(0, 1, *draws, self.n_step, GAMMA, self.alpha, EPS)
        script, generator = self.script, torch.Generator().manual_seed(7)
        memory = Replay(
            self.capacity,
            self.n,
            script.single_observation_space,
            script.single_action_space,
            sampling,
            CPU,
            generator,
        )
        memory.allocate()
        return memory

    def step(self, *memories):
        actions = self.rng.integers(0, self.script.single_action_space.n, self.n)
        if self.envs.mask is not None:
            actions = np.where(self.envs.mask[np.arange(self.n), actions], actions, -1)
            actions = np.where(actions < 0, self.envs.mask.argmax(axis=1), actions)
        step = self.envs.step(actions)
        for memory in (self.memory, *memories):
            memory.add(step)

    def break_off(self):
        """All episodes break off: what was running counts as truncated; a dead row follows."""
        self.memory.restart()
        script = self.script
        for i, log in enumerate(script.log):
            last = log[-1]
            if last.row == script.row - 1 and not last.ended:
                log[-1] = replace(last, truncated=True)
            script._begin(i)
        script.row += 1
        self.envs._obs, self.envs._ended = script._all(), np.zeros(self.n, dtype=bool)

    def windows(self):
        """What may be sampled: (environment, episode, age) / 8 → what must come with it.

        The ring holds the newest `capacity` steps or, if that is more, the n + 2 rows without
        which all its windows might start at dead steps.
        """
        rows = max(self.capacity // self.n, self.n_step + 2)
        oldest = max(0, self.script.row - rows)
        found = {}
        for log in self.script.log:
            for k, start in enumerate(log):
                if not oldest <= start.row <= self.script.row - self.n_step:
                    continue
                window = [x for x in log[k : k + self.n_step] if x.episode == start.episode]
                gain = 0.0
                for j, x in enumerate(window):
                    gain += GAMMA**j * x.reward
                last = window[-1]
                discount = 0.0 if last.terminated else GAMMA ** len(window)
                found[start.obs] = (start.action, gain, discount, *last.next_obs)
        return found

    def check(self, memory=None):
        """Every sampled window is what the log says; returns how often each was drawn."""
        windows = self.windows()
        batch = (memory or self.memory).sample()
        counts = dict.fromkeys(windows, 0)
        names = ("obs", "action", "reward", "discount", "next_obs")
        columns = [getattr(batch, name).flatten(0, 1) for name in names]
        for obs, action, reward, discount, next_obs in zip(*columns, strict=True):
            place = tuple(obs.tolist())
            assert place in windows, f"{place} is dead, or its window is not in the ring"
            expected = windows[place]
            found = (action.item(), reward.item(), discount.item(), *next_obs.tolist())
            assert found == pytest.approx(expected, abs=1e-5), f"the window at {place}"
            counts[place] += 1
        return counts
