"""Replay memory, against windows taken by hand from what the environments logged."""

import numpy as np
import pytest
import torch
from driven_replay import CPU, GAMMA, Driven
from gymnasium import spaces
from scipy.stats import chisquare
from scripted_envs import MODES, TERMINATED, TRUNCATED, Scripted, allowed, random_ends

from rlkit.envs.make import make_envs
from rlkit.experience.replay import Replay, Sampling
from rlkit.run.checkpoint import load_checkpoint, save_checkpoint


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
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_a_restored_memory_goes_on_bit_for_bit(alpha, mode, steps, tmp_path):
    driven = Driven(random_ends(3, 60, seed=2), mode, 30, 3, alpha=alpha, masked=True)
    for taken in range(steps):
        driven.step()
        if taken > 3:
            learn(driven.memory)
    restored = driven.another((2, 128))
    save_checkpoint(tmp_path, 1, driven.memory.get_state(), {})
    restored.set_state(load_checkpoint(tmp_path).tree)
    restored.generator.set_state(driven.memory.generator.get_state())
    for _ in range(15):
        driven.step(restored)
        assert restored.due == driven.memory.due
        driven.check(restored)
        driven.memory.generator.set_state(restored.generator.get_state())
        a, b = learn(driven.memory), learn(restored)
        for name in a.__slots__:
            one, other = getattr(a, name), getattr(b, name)
            assert (one is other is None) or torch.equal(one, other), name


def learn(memory):
    """Draw a batch, and give its steps errors that depend on it."""
    memory.beta = 0.3 + 0.01 * (memory.added % 50)
    batch = memory.sample()
    memory.update_priorities(batch.cell, batch.reward * 3)
    return batch


@pytest.mark.parametrize("mode", MODES)
def test_episodes_that_broke_off_are_cut_there(mode):
    """What was running counts as truncated, and no window reaches across."""
    driven = Driven([[0], [0, 0, TERMINATED], [0, TRUNCATED]], mode, 60, 3)
    for restart_after in (5, 7, 30):
        for _ in range(restart_after):
            driven.step()
        driven.break_off()
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


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_the_masks_are_those_of_the_next_observations(mode, n_step):
    driven = Driven(random_ends(4, 60, seed=3), mode, 40, n_step, masked=True)
    forbidden = 0
    for taken in range(40):
        driven.step()
        if taken > n_step:
            driven.check()
            batch = driven.memory.sample()
            assert batch.next_mask.dtype == torch.bool
            for column in zip(
                *(x.flatten(0, 1) for x in (batch.discount, batch.next_obs, batch.next_mask)),
                strict=True,
            ):
                discount, next_obs, mask = (x.tolist() for x in column)
                if discount or mode == "same_step":
                    assert mask == allowed(next_obs)
                else:  # the environments allow nothing in terminal states, which is read as all
                    assert mask == [True] * 3
                forbidden += not all(mask)
    assert forbidden > 1000
    finals = driven.memory.finals
    assert finals.masks.keys() == finals.obs.keys()  # those of rows that are gone, too


def test_steps_without_masks_allow_all_actions():
    driven = Driven([[TERMINATED, 0, 0]], "same_step", 12, 1, masked=True)
    driven.step()
    driven.memory.masks = None  # as if masks came with the next step first
    driven.memory.finals.masks.clear()
    driven.step()
    driven.step()
    batch = driven.memory.sample()
    unmasked = batch.obs[..., 1] == 0  # of the first episode, which had one step
    assert batch.next_mask[unmasked].all()
    assert unmasked.any()
    assert not batch.next_mask[~unmasked].all()
    assert Driven([[0]], "next_step", 12, 1).memory.masks is None


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
