"""Replay memory, against windows taken by hand from what the environments logged."""

import copy
import re

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import chisquare
from scripted_envs import MODES, TERMINATED, TRUNCATED, Scripted, random_ends

from rlkit.envs.make import make_envs
from rlkit.errors import UsageError
from rlkit.experience import replay
from rlkit.experience.replay import Replay, Sampling

CPU = torch.device("cpu")
GAMMA = 0.9


class Driven:
    """Scripted environments that fill a replay memory with random actions."""

    def __init__(self, ends, mode, capacity, n_step, draws=(2, 128)):
        self.script = Scripted(ends, mode, spaces.Discrete(5))
        self.n, self.capacity, self.n_step = len(ends), capacity, n_step
        self.envs = make_envs(self.script, self.n, 0)
        self.envs.reset()
        self.memory = self.another(draws)
        self.rng = np.random.default_rng(1)

    def another(self, draws):
        sampling = Sampling(0, 1, *draws, n_step=self.n_step, gamma=GAMMA)
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
        step = self.envs.step(self.rng.integers(0, 5, self.n))
        for memory in (self.memory, *memories):
            memory.add(step)

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
        columns = [getattr(batch, name).flatten(0, 1) for name in batch.__slots__]
        for obs, action, reward, discount, next_obs in zip(*columns, strict=True):
            place = tuple(obs.tolist())
            assert place in windows, f"{place} is dead, or its window is not in the ring"
            expected = windows[place]
            found = (action.item(), reward.item(), discount.item(), *next_obs.tolist())
            assert found == pytest.approx(expected, abs=1e-5), f"the window at {place}"
            counts[place] += 1
        return counts


@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize("mode", MODES)
def test_every_sample_is_a_window_of_the_log(mode, n_step):
    """Rings of 5 to 6 rows (wrapping 9 times) and of 40, at every step from the first window on."""
    ends = random_ends(4, 60, seed=n_step)
    for capacity in (23, 160):
        driven = Driven(ends, mode, capacity, n_step)
        for taken in range(1, 55):
            driven.step()
            if taken > n_step:
                driven.check()


@pytest.mark.parametrize("end", [TERMINATED, TRUNCATED, TERMINATED | TRUNCATED])
@pytest.mark.parametrize("mode", MODES)
def test_windows_over_episodes_of_one_step(mode, end):
    """A window in which a later episode ends too still stops at the first end."""
    driven = Driven([[end], [end, 0, 0], [0, end]], mode, 30, 5)
    for _ in range(25):
        driven.step()
        if driven.script.row > 5:
            driven.check()


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_starts_are_uniform_over_the_valid_ones(mode, n_step):
    for steps in (12, 37):  # before and after the ring of 15 rows has wrapped
        driven = Driven(random_ends(4, 50, seed=8), mode, 60, n_step, draws=(4, 2000))
        for _ in range(steps):
            driven.step()
        counts = list(driven.check().values())
        assert chisquare(counts).pvalue > 1e-3, f"{steps} steps: {counts}"


@pytest.mark.parametrize(("capacity", "n"), [(1, 1), (2, 1), (3, 5), (5, 5), (1, 2)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.timeout(20)
def test_buffers_smaller_than_a_window_or_than_the_environments(mode, capacity, n):
    for ends in ([[TERMINATED]] * n, random_ends(n, 30, seed=n)):
        driven = Driven(ends, mode, capacity, 4, draws=(1, 8))
        for _ in range(30):
            driven.step()
            if driven.memory.filled > 4:
                driven.check()


@pytest.mark.parametrize("steps", [6, 50])  # a ring that is partly filled, and one that wrapped
@pytest.mark.parametrize("mode", MODES)
def test_a_restored_memory_goes_on_bit_for_bit(mode, steps):
    driven = Driven(random_ends(3, 60, seed=2), mode, 30, 3)
    for _ in range(steps):
        driven.step()
    restored = driven.another((2, 128))
    restored.set_state(copy.deepcopy(driven.memory.get_state()))
    restored.generator.set_state(driven.memory.generator.get_state())
    for _ in range(15):
        driven.step(restored)
        assert restored.due == driven.memory.due
        driven.check(restored)
        driven.memory.generator.set_state(restored.generator.get_state())
        a, b = driven.memory.sample(), restored.sample()
        for name in a.__slots__:
            assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("mode", MODES)
def test_episodes_that_broke_off_are_cut_there(mode):
    """What was running counts as truncated, and no window reaches across."""
    driven = Driven([[0], [0, 0, TERMINATED], [0, TRUNCATED]], mode, 60, 3)
    for restart_after in (5, 7, 30):
        for _ in range(restart_after):
            driven.step()
        driven.memory.restart()
        script = driven.script
        for i, log in enumerate(script.log):
            last = log[-1]
            if last.row == script.row - 1 and not last.ended:
                log[-1] = type(last)(**{**vars(last), "truncated": True})
            script._begin(i)
        script.row += 1  # the dead row in between
        driven.envs._obs, driven.envs._ended = script._all(), np.zeros(3, dtype=bool)
        for _ in range(5):
            driven.step()
            driven.check()


@pytest.mark.timeout(20)
def test_the_smallest_ring_has_a_window_after_an_end_and_a_break():
    """Two dead rows in succession: that of NEXT_STEP autoreset, and that of the break."""
    driven = Driven([[0, 0, 0, TERMINATED]], "next_step", 1, 3, draws=(1, 8))
    for _ in range(5):
        driven.step()
    driven.memory.restart()
    driven.script.row += 1
    for _ in range(3):
        driven.step()
        driven.check()


def bursts(n, start, every, n_step=1, steps=40):
    """The steps added when each burst comes."""
    space = spaces.Discrete(2)
    sampling = Sampling(start, every, 1, 1, n_step, GAMMA)
    memory = Replay(1000, n, space, space, sampling, CPU, torch.Generator())
    memory.allocate()
    script = Scripted([[0]] * n, "next_step")
    with make_envs(script, n, 0) as envs:
        envs.reset()
        step = envs.step(np.zeros(n, dtype=np.int64))
    step.obs = step.next_obs = np.zeros(n, dtype=np.int64)
    seen = []
    for taken in range(n, n * steps + 1, n):
        memory.add(step)
        seen += [taken for _ in memory.batches()]
    return seen


def test_bursts_come_once_in_every_so_many_steps():
    assert bursts(8, 64, 32, steps=20) == [64, 96, 128, 160]
    # 10 is no multiple of 3: each comes with the first step that is not too early; none is lost.
    assert bursts(3, 10, 10, steps=14) == [12, 21, 30, 42]
    assert bursts(1, 5, 1, steps=9) == [5, 6, 7, 8, 9]
    # several bursts in one vector step
    assert bursts(8, 16, 4, steps=4) == [16, 24, 24, 32, 32]


def test_the_first_burst_waits_for_a_window_and_its_neighbour():
    assert bursts(2, 0, 4, n_step=3, steps=8) == [8, 12, 16]
    assert bursts(1, 0, 1, n_step=1, steps=5) == [2, 3, 4, 5]
    assert bursts(1, 1000, 1, steps=40) == []


def test_a_ring_larger_than_memory_is_refused_before_it_is_allocated(monkeypatch):
    n, free = 8, 1_000_000
    monkeypatch.setattr(replay, "available_memory", lambda: free)

    def made(capacity):
        space, sampling = spaces.Box(-1, 1, (4,)), Sampling(0, 1, 1, 1, 3, GAMMA)
        return Replay(capacity, n, space, spaces.Discrete(2), sampling, CPU, torch.Generator())

    with pytest.raises(UsageError) as refused:
        made(10**13).allocate()  # 300 TB: a MemoryError, had it been tried
    message = str(refused.value)
    assert re.match(r"buffer_size \(--buffer-size\) is 10000000000000: ", message), message
    (fits,) = map(int, re.findall(r"up to (\d+)", message))
    assert fits > 30_000 - 2 * n  # 4 floats, an action of 8 bytes, 7 of reward and flags: 31
    memory = made(fits)
    memory.allocate()
    held = sum(getattr(memory, name).nbytes for name in replay.COLUMNS)
    assert free * 0.99 < held <= free
    with pytest.raises(UsageError, match="allowed: up to"):
        made(fits + n).allocate()
