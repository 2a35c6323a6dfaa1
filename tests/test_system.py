"""What doesn't fit into memory is refused before it is allocated, with the size that would fit."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlkit import system
from rlkit.errors import UsageError
from rlkit.experience.replay import Replay, Sampling
from rlkit.experience.rollout import Rollout
from rlkit.experience.step import Step
from rlkit.system import available_memory, require_memory

CPU = torch.device("cpu")
FREE = 3_000_000
VECTOR, PIXELS = spaces.Box(-1, 1, (4,)), spaces.Box(0, 255, (4, 6, 6), np.uint8)


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(system, "available_memory", lambda: FREE)


def replay(capacity, n, space=VECTOR, alpha=0.0, frame_stack=1):
    sampling = Sampling(0, 1, 1, 1, 3, 0.9, alpha, 1e-6)
    generator = torch.Generator()
    return Replay(
        capacity, n, space, spaces.Discrete(2), sampling, CPU, generator, frame_stack=frame_stack
    )


def refused(memory):
    """The largest size that would fit, according to the error."""
    with pytest.raises(UsageError) as error:
        memory.allocate()
    assert "\n" not in str(error.value)
    (fits,) = re.findall(r"0\.0 GiB are free; allowed: up to (\d+)$", str(error.value))
    return int(fits)


def step_for(space, n, mask=None):
    flags = np.zeros(n, dtype=bool)
    obs = np.zeros((n, *space.shape), dtype=space.dtype)
    action, reward = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.float32)
    return Step(obs, action, reward, flags, flags, ~flags, obs, None, mask, mask)


def test_a_line_names_what_was_asked_and_what_fits(little_memory):
    def fits(free):
        return free // 10

    require_memory(FREE, "x (--x) is 1", "it", fits)
    with pytest.raises(UsageError) as error:
        require_memory(2**42, "x (--x) is 1", "it", fits)
    assert str(error.value) == (
        "x (--x) is 1: it would take 4,096.0 GiB and 0.0 GiB are free; allowed: up to 300000"
    )


def test_nothing_is_refused_where_nobody_knows_what_is_free(monkeypatch):
    monkeypatch.setattr(system, "available_memory", lambda: None)
    require_memory(2**80, "x", "it", str)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="no Linux")
def test_what_is_free_is_about_what_the_kernel_says():
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(fields["MemTotal"].split()[0]) * 1024
    assert 2**20 < available_memory() <= total


@pytest.mark.parametrize(
    ("space", "alpha", "frame_stack"),
    [(VECTOR, 0.0, 1), (VECTOR, 0.6, 1), (PIXELS, 0.0, 1), (PIXELS, 0.0, 4), (PIXELS, 0.6, 4)],
)
def test_the_largest_replay_memory_fits_and_one_larger_does_not(
    little_memory, space, alpha, frame_stack
):
    n = 8
    how = (n, space, alpha, frame_stack)
    fits = refused(replay(10**13, *how))
    memory = replay(fits, *how)
    memory.allocate()
    step = step_for(space, n)
    while memory.filled < memory.limit:
        memory.add(step)
    held = sum(x.nbytes for column in memory.get_state()["rows"].values() for x in column)
    if alpha:
        held += memory.draws._tree._tree.nbytes
    assert FREE * 0.96 < held <= FREE
    assert refused(replay(fits + n, *how)) == fits


def test_masks_count_too(little_memory):
    memory = replay(8 * 10_000, 8)
    memory.allocate()
    with pytest.raises(UsageError, match=r"buffer_size \(--buffer-size\) is 80000: the replay mem"):
        memory.add(step_for(VECTOR, 8, np.ones((8, 100), dtype=bool)))


def test_the_longest_rollout_fits_and_one_longer_does_not(little_memory):
    def rollout(n_steps):
        return Rollout(n_steps, 8, VECTOR, spaces.Discrete(2), CPU)

    fits = refused(rollout(10**13))
    memory = rollout(fits)
    memory.allocate()
    columns = (getattr(memory.storage, name) for name in memory.get_state()["rows"])
    assert FREE * 0.99 < sum(column.nbytes for column in columns) <= FREE
    assert refused(rollout(fits + 1)) == fits


def test_a_rollout_longer_than_memory(cli):
    done = cli("train", "a2c", "CartPole", "--n-steps", 10**12)
    assert done.status == 2
    assert done.error.startswith("n_steps (--n-steps) is 1000000000000: the rollout would take ")
    assert 10**4 < int(done.error.rpartition(" ")[2]) < 10**12
    assert not Path("runs").exists()
