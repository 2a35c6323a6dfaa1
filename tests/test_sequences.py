"""The memory of sequences, against what the environments logged, step by step."""

import copy
import re
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from scripted_envs import TERMINATED, TRUNCATED, Scripted, allowed, random_ends

from rlkit import system
from rlkit.carry import mapped, renewed, tensors
from rlkit.envs.make import make_envs
from rlkit.errors import UsageError
from rlkit.experience.sequences import Sequences, SequenceSampling
from rlkit.run.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
EPS = 1e-6
FRESH = {
    "sum": (torch.zeros(1, 2, 3), torch.zeros(1, 1, dtype=torch.int64)),
    "going_on": torch.zeros(1, 4, dtype=torch.bool),
}


def fresh(n):
    return mapped(lambda x: x.repeat(n, *[1] * (x.ndim - 1)), FRESH)


def memory_for(capacity, n, spec, k=1, obs_space=None, actions=3):
    obs_space = obs_space or spaces.Box(0, 1e6, (3,) if k == 1 else (k, 3))
    memory = Sequences(
        *(capacity, n, obs_space, spaces.Discrete(actions), fresh(n), spec, CPU),
        *(torch.Generator().manual_seed(5), k),
    )
    memory.allocate()
    return memory


def spec_of(length, stride, alpha=0.0, batch_size=64):
    return SequenceSampling(0, 1, 1, batch_size, length, stride, alpha)


def summed(place):
    """What a memory holds that adds up an episode's observations so far, and counts them."""
    env, episode, age = place
    count = round(8 * age)
    return count * env, count * episode, count * (count - 1) / 16, count


@dataclass
class Row:
    """What one environment did between two rows of the ring, and what stood in the first."""

    place: tuple[float, ...]  # (environment, episode, age) / 8
    carry: tuple[float, ...]
    mask: list[bool]
    action: int = 0
    reward: float = 0.0
    terminated: bool = False
    ended: bool = False
    valid: bool = False


class Driven:
    """Scripted environments that fill a memory of sequences, and the rows they should leave."""

    def __init__(self, ends, capacity, spec, k=1, padding="reset", masks_from=None):
        self.n, self.spec, self.k, self.padding = len(ends), spec, k, padding
        self.capacity, self.masks_from = capacity, masks_from
        masked = masks_from is not None
        self.script = Scripted(ends, "next_step", spaces.Discrete(3), masked)
        self.envs = make_envs(self.script, self.n, 0)
        self.obs = self.envs.reset()
        self.memory = self.another()
        self.carry, self.stacks = fresh(self.n), None
        self.rng = np.random.default_rng(2)
        self.rows = [[] for _ in range(self.n)]
        self.steps, self.broke_off = 0, False

    def another(self):
        return memory_for(self.capacity, self.n, self.spec, self.k)

    def step(self, *others):
        mask = self.envs.mask
        scores = self.rng.random((self.n, 3))
        step = self.envs.step((scores if mask is None else scores * mask).argmax(axis=1))
        for i, log in enumerate(self.script.log):
            place = self.place(i)
            row = Row(place, summed(place), self.allowed(i, place))
            if log[-1].row == self.script.row - 1:
                x = log[-1]
                row.action, row.reward, row.valid = x.action, x.reward, True
                row.terminated, row.ended = x.terminated, x.ended
            self.rows[i].append(row)
        step.carry = self.carry
        if self.masks_from is not None and self.steps < self.masks_from:
            step.mask = step.next_mask = None
        if self.k > 1:
            step = self.stacked(step)
        for memory in (self.memory, *others):
            memory.add(step)
        self.remember(torch.from_numpy(self.obs), torch.from_numpy(step.begins))
        self.obs, self.steps = self.script._all(), self.steps + 1
        self.broke_off = False

    def place(self, i):
        """Where environment i stands: its last observation, where it has ended."""
        return tuple(map(float, self.obs[i]))

    def remember(self, obs, begins):
        kept = self.carry
        total, count = kept["sum"]
        total = total + obs[:, None].repeat(1, 2, 1)
        going_on = torch.ones(self.n, 4, dtype=torch.bool)
        self.carry = renewed({"sum": (total, count + 1), "going_on": going_on}, begins)
        for x in tensors(kept):
            x.fill_(1)  # the memory has a copy

    def allowed(self, i, place):
        if self.masks_from is None or self.steps < self.masks_from:
            return [True] * 3
        if self.steps == self.masks_from and self.rows[i] and not self.broke_off:
            return [True] * 3  # it came with the step before, which gave no mask
        log = self.script.log[i]
        over = log and log[-1].terminated and log[-1].next_obs == place
        return [True] * 3 if over else allowed(place)

    def stacked(self, step):
        def begin(frame):
            fill = frame if self.padding == "reset" else np.zeros_like(frame)
            return deque([fill] * (self.k - 1) + [frame], maxlen=self.k)

        if self.stacks is None:
            self.stacks = [begin(frame) for frame in step.obs]
        before = np.array(self.stacks)
        for i, frame in enumerate(step.next_obs):
            if step.valid[i]:
                self.stacks[i].append(frame)
            else:
                self.stacks[i] = begin(frame)
        return replace(step, obs=before, next_obs=np.array(self.stacks))

    def break_off(self, *others):
        """All episodes break off: what was running counts as truncated; a dead row follows."""
        for memory in (self.memory, *others):
            memory.restart()
        for i, rows in enumerate(self.rows):
            rows[-1].ended = True
            place = self.place(i)
            rows.append(Row(place, (0.0, 0.0, 0.0, 0), self.allowed(i, place)))
            self.script._begin(i)
        self.script.row += 1
        self.obs = self.script._all()
        self.envs._obs, self.envs._ended = self.obs.copy(), np.zeros(self.n, dtype=bool)
        if self.envs.mask is not None:
            self.envs.mask = self.script._masks()["action_mask"].astype(bool)
        self.carry, self.stacks, self.broke_off = fresh(self.n), None, True

    def whole(self):
        """The rows at which sequences begin that are in the ring with all they need."""
        L, stride, older = self.spec.length, self.spec.stride, self.k - 1
        size = self.capacity // self.n // stride * stride
        while size < L + stride + older:
            size += stride
        now = len(self.rows[0])  # where the newest observation stands
        return [s for s in range(0, now, stride) if s - older > now - size and s + L <= now]

    def check(self, memory=None):
        """Every drawn sequence is what the log says; how often each (row, environment) came."""
        batch = (memory or self.memory).sample()
        counts = {(s, i): 0 for s in self.whole() for i in range(self.n)}
        where = {self.rows[i][s].place: (s, i) for s, i in counts}
        assert len(where) == len(counts)
        L, frames = self.spec.length, batch.obs if self.k == 1 else batch.obs[:, :, -1]
        assert batch.obs.shape[:2] == (L + 1, self.spec.batch_size)
        for b in range(self.spec.batch_size):
            place = tuple(frames[0, b].tolist())
            assert place in where, f"{place} begins no sequence that is whole"
            s, i = where[place]
            counts[s, i] += 1
            newest = Row(self.place(i), (), self.allowed(i, self.place(i)))
            rows = [*self.rows[i], newest][s : s + L + 1]
            self.compare(batch, b, rows)
        return counts

    def compare(self, batch, b, rows):
        """The b-th sequence is these rows."""
        places = [row.place for row in rows]
        stacks = places if self.k == 1 else [self.stack_of(place) for place in places]
        assert batch.obs[:, b].tolist() == [list(x) for x in stacks]
        valid = batch.valid[:, b]
        assert valid.tolist() == [row.valid for row in rows[:-1]]
        for name in ("action", "reward", "terminated", "ended"):
            found = getattr(batch, name)[valid, b].tolist()
            assert found == pytest.approx([getattr(x, name) for x in rows[:-1] if x.valid]), name
        assert batch.reset[:, b].tolist() == [False] + [age == 0 for _, _, age in places[1:]]
        *sums, count = rows[0].carry
        total, counted = batch.carry["sum"]
        assert total[b].tolist() == [sums] * 2
        assert counted[b].tolist() == [count]
        assert batch.carry["going_on"][b].tolist() == [count > 0] * 4
        if self.masks_from is None or self.steps <= self.masks_from:
            assert batch.mask is None
        else:
            assert batch.mask[:, b].tolist() == [row.mask for row in rows]

    def stack_of(self, place):
        """The stack of which that is the newest frame, by its definition."""
        env, episode, age = place
        first = [0.0, 0.0, 0.0] if self.padding == "zero" else [env, episode, 0.0]
        ages = [age - back / 8 for back in range(self.k - 1, -1, -1)]
        return [[env, episode, a] if a >= 0 else first for a in ages]


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 4),
    padding=st.sampled_from(["reset", "zero"]),
    length=st.integers(1, 9),
    stride=st.integers(1, 6),
    n=st.integers(1, 4),
    capacity=st.integers(1, 80),
    how_often=st.sampled_from([0.02, 0.35, 1.0]),
    alpha=st.sampled_from([0.0, 0.6]),
    masks_from=st.sampled_from([None, 0, 1, 17]),
)
@example(0, 1, "reset", 9, 4, 1, 60, 0.35, 0.6, 17)
@example(0, 4, "zero", 3, 1, 2, 1, 0.02, 0.0, 0)  # older frames in the smallest ring
@example(1, 4, "reset", 6, 2, 3, 60, 0.02, 0.6, None)
def test_every_sequence_drawn_is_what_the_log_says(
    seed, k, padding, length, stride, n, capacity, how_often, alpha, masks_from
):
    """From the first one on, through ends, breaks, and several rounds of the ring."""
    ends = random_ends(n, 70, seed, how_often)
    spec = spec_of(length, stride, alpha, batch_size=12)
    driven = Driven(ends, capacity, spec, k, padding, masks_from)
    breaks = np.random.default_rng(seed).integers(1, 70, 3)
    for taken in range(70):
        driven.step()
        assert any(driven.memory.batches()) == bool(driven.whole())
        if driven.whole():
            driven.check()
            batch = driven.memory.sample()
            driven.memory.update_priorities(batch.cell, batch.reward.sum(0))
        if taken in breaks:
            driven.break_off()
            driven.memory.restart()  # once more is no second break


@pytest.mark.parametrize("end", [TERMINATED, TRUNCATED])
def test_episodes_of_one_step(end):
    driven = Driven([[end], [end, 0], [0, end]], 40, spec_of(5, 3))
    for _ in range(40):
        driven.step()
        if driven.whole():
            driven.check()


@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("steps", [14, 61])  # before and after the ring of 30 rows has wrapped
def test_every_whole_sequence_is_drawn_as_often_as_it_should(alpha, steps):
    driven = Driven(random_ends(4, 50, seed=8), 120, spec_of(7, 3, alpha, 2000))
    for _ in range(steps):
        driven.step()
    first = driven.memory.sample()
    errors = first.reward.abs().sum(0)
    driven.memory.update_priorities(first.cell, errors)
    p = {}
    for place, error in zip(first.obs[0].tolist(), errors.tolist(), strict=True):
        p[tuple(place)] = (error + EPS) ** alpha
    counts = driven.check()
    assert len(p) == len(counts)
    expected = np.array([p[driven.rows[i][s].place] for s, i in counts])
    expected *= 2000 / expected.sum()
    found = list(counts.values())
    if alpha:  # stratified: never far from what is expected
        assert np.abs(found - expected).max() <= 2
    else:
        assert chisquare(found, expected).pvalue > 1e-3
    driven.memory.beta = 0.4
    batch = driven.memory.sample()
    assert (batch.weight is None) == (alpha == 0)
    if alpha:
        P = np.array([p[tuple(x)] for x in batch.obs[0].tolist()])
        np.testing.assert_allclose(batch.weight, (P / P.min()) ** -0.4, rtol=1e-5)


def test_a_new_sequence_has_the_largest_priority_so_far_and_the_others_keep_theirs():
    driven = Driven([[0]], 6, spec_of(2, 1, 0.5, 4))
    for _ in range(4):
        driven.step()
    driven.memory.update_priorities(torch.tensor([0, 1]), torch.tensor([225.0, 4.0]))
    driven.step()
    leaves = driven.memory.draws.get_state(driven.memory.slots)["priority"]
    np.testing.assert_allclose(leaves, [15, 2, 1, 15, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("steps", [6, 12, 61])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("broken_off", [True, False])
def test_a_restored_memory_goes_on_bit_for_bit(broken_off, alpha, k, steps, tmp_path):
    ends = random_ends(3, 60, seed=2)
    driven = Driven(ends, 60, spec_of(6, 4, alpha), k, masks_from=0)
    for _ in range(steps):
        driven.step()
        if driven.whole():
            learn(driven.memory)
    if broken_off:
        driven.break_off()
    restored = driven.another()
    save_checkpoint(tmp_path, 1, driven.memory.get_state(), {})
    restored.set_state(load_checkpoint(tmp_path).tree)
    restored.generator.set_state(driven.memory.generator.get_state())
    for _ in range(15):
        driven.step(restored)
        assert restored.due == driven.memory.due
        if driven.whole():
            driven.check(restored)
            driven.memory.generator.set_state(restored.generator.get_state())
            a, b = learn(driven.memory), learn(restored)
            for name in a.__slots__:
                one, other = tensors(getattr(a, name)), tensors(getattr(b, name))
                assert all(map(torch.equal, one, other)), name
                assert len(one) == len(other)
    assert_same(driven.memory.get_state(), restored.get_state())


def assert_same(one, other):
    one, other = copy.deepcopy(one), copy.deepcopy(other)
    for x, y in zip(tensors(one.pop("rows")), tensors(other.pop("rows")), strict=True):
        assert torch.equal(x, y)
    for x, y in zip(tensors(one.pop("carries")), tensors(other.pop("carries")), strict=True):
        assert torch.equal(x, y)
    for name, x in one.pop("draws").items():
        assert np.array_equal(x, other["draws"][name])
    del other["draws"]
    assert one == other


def learn(memory):
    """Draw a batch, and give its sequences errors that depend on it."""
    memory.beta = 0.3 + 0.01 * (memory.added % 50)
    batch = memory.sample()
    memory.update_priorities(batch.cell, batch.reward.sum(0) * 3)
    return batch


def test_a_small_state_is_saved_of_a_large_memory():
    driven = Driven([[0, TERMINATED]] * 2, 10**6, spec_of(5, 2, 0.5), masks_from=0)
    for _ in range(8):
        driven.step()
    state = driven.memory.get_state()
    assert all(len(x) == 9 for x in tensors(state["rows"]))
    assert all(len(x) == 5 for x in tensors(state["carries"]))
    assert len(state["draws"]["priority"]) == 10


def bursts(n, start, every, steps, minibatches=1):
    driven = Driven([[0]] * n, 1000, SequenceSampling(start, every, minibatches, 2, 3, 2, 0.0))
    seen = []
    for _ in range(steps):
        driven.step()
        seen += [driven.memory.added for _ in driven.memory.batches()]
    return seen


def test_bursts_come_once_in_every_so_many_steps():
    assert bursts(8, 64, 32, 20) == [64, 96, 128, 160]
    assert bursts(3, 10, 10, 14) == [12, 21, 30, 42]
    assert bursts(8, 32, 4, 5) == [32, 32 + 8, 32 + 8]
    assert bursts(2, 8, 4, 5, minibatches=3) == [8] * 3
    assert bursts(2, 0, 4, 8) == [6, 10, 14]  # not before a sequence is whole
    assert bursts(1, 1000, 1, 40) == []


def test_same_step_autoreset_is_refused():
    script = Scripted([[TERMINATED]], "same_step")
    memory = memory_for(10, 1, spec_of(2, 1))
    with make_envs(script, 1, 0) as envs:
        envs.reset()
        step = envs.step(np.zeros(1, dtype=np.int64))
        with pytest.raises(UsageError, match=r"autoreset is SAME_STEP.*; make it with NEXT_STEP$"):
            memory.add(replace(step, carry=fresh(1)))


FREE = 3_000_000
PIXELS = spaces.Box(0, 255, (4, 6, 6), np.uint8)


def refused(call):
    """The largest size that would fit, according to the error."""
    with pytest.raises(UsageError) as error:
        call()
    assert str(error.value).startswith("buffer_size (--buffer-size) is ")
    (fits,) = re.findall(r"0\.0 GiB are free; allowed: up to (\d+)$", str(error.value))
    return int(fits)


@pytest.mark.parametrize(("space", "k"), [(spaces.Box(-1, 1, (4,)), 1), (PIXELS, 1), (PIXELS, 4)])
@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_the_largest_memory_fits_and_one_larger_does_not(monkeypatch, space, k, alpha):
    """All that a full memory holds was counted: its carries, its priorities, its masks."""
    monkeypatch.setattr(system, "available_memory", lambda: FREE)
    spec = spec_of(6, 3, alpha)
    fits = refused(lambda: memory_for(10**13, 8, spec, k, space))
    memory = memory_for(fits, 8, spec, k, space)
    assert memory.rows * 8 == fits
    held = nbytes(memory)
    assert FREE * 0.96 < held <= FREE
    assert refused(lambda: memory_for(fits + 3 * 8, 8, spec, k, space)) == fits
    memory = memory_for(fits // 2, 8, spec, k, space)
    assert nbytes(memory) * 1.9 < FREE
    assert refused(lambda: memory._put_mask(0, np.ones((8, 500), dtype=bool))) < fits // 2


def nbytes(memory):
    columns = ("action", "reward", "terminated", "ended", "valid", "begins")
    held = [*(getattr(memory, name) for name in columns), *tensors(memory.carries)]
    held += memory.observations.arrays().values()
    if memory.sampling.priority_exponent:
        held.append(memory.draws._tree._tree)
    return sum(x.nbytes for x in held)
