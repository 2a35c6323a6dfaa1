"""Advantages and n-step returns, against their definitions over what the environments logged."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scripted_envs import MODES, TERMINATED, Scripted, advantage, random_ends, segments

from rlkit.arrays import namespace
from rlkit.envs.make import make_envs
from rlkit.experience import rollout
from rlkit.experience.rollout import Rollout
from rlkit.returns import discounts, gae, n_step, rescaled, traces, unrescaled

T = 4
WEIGHTS = (0.1, 2.4, 5.6)
KINDS = ("arrays", "tensors")
CPU = torch.device("cpu")


def value(obs):
    """A critic that tells every observation from every other."""
    return math.sin(sum(w * x for w, x in zip(WEIGHTS, obs, strict=True)))


def critic(obs):
    """`value` of arrays or of tensors."""
    xp = namespace(obs)
    return xp.sin(obs @ xp.asarray(WEIGHTS, dtype=xp.float32))


def as_kind(batch, kind):
    """A batch as the agent of another device would get it, or as it is."""
    return batch if kind == "arrays" else rollout._moved(batch, CPU)


def advantages(batch, gamma, lam):
    v = critic(batch.obs)
    v_next = batch.next_values(v, critic)
    discount = discounts(gamma, batch.terminated)
    trace = traces(lam, batch.terminated, batch.truncated)
    return gae(batch.reward, v[:-1], v_next, discount, trace)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_gae_of_every_way_in_which_four_steps_can_end(mode, kind):
    """All 4⁴ scripts at once, each with a quiet step after it.

    The first of five rollouts has every one whole; then ends and dead steps move over its borders.
    """
    script = Scripted([(*ends, 0) for ends in product(range(4), repeat=4)], mode)
    memory = Rollout(T, script.num_envs, *_spaces(script), CPU)
    memory.allocate()
    kinds, checked = set(), 0
    with make_envs(script, script.num_envs, 0) as envs:
        envs.reset()
        for first in range(0, 5 * T, T):
            for t in range(T):
                memory.add(envs.step(np.full(script.num_envs, (first + t) % 3)))
            (batch,) = memory.batches()
            for gamma, lam in product((0.9, 1.0), (0.0, 0.5, 1.0)):
                A = advantages(as_kind(batch, kind), gamma, lam).tolist()
                for i, log in enumerate(script.log):
                    for start, rest in segments(log, first, first + T):
                        found = A[start.row - first][i]
                        brute = advantage(rest, value, gamma, lam)
                        where = f"env {i}, row {start.row}, γ {gamma}, λ {lam}: {rest}"
                        assert abs(found - brute) < 2e-5, where
                        checked += 1
            logged = {(x.row - first, i) for i, log in enumerate(script.log) for x in log}
            assert set(zip(*map(list, batch.valid.nonzero()), strict=True)) == {
                (t, i) for t, i in logged if t >= 0
            }
            kinds |= set(zip(batch.terminated.ravel(), batch.truncated.ravel(), strict=True))
    assert kinds == set(product((False, True), repeat=2))
    assert checked > 10_000


def _spaces(script):
    return script.single_observation_space, script.single_action_space


def test_a_rollout_keeps_what_was_done_in_order():
    script = Scripted(random_ends(3, 20, 5), "next_step")
    memory = Rollout(5, 3, *_spaces(script), CPU)
    memory.allocate()
    rng = np.random.default_rng(0)
    columns = ("obs", "action", "reward", "terminated", "truncated")
    with make_envs(script, 3, 0) as envs:
        envs.reset()
        for first in (0, 5, 10):
            for _ in range(5):
                assert not list(memory.batches())
                memory.add(envs.step(rng.integers(0, 3, 3)))
            (batch,) = memory.batches()
            for i, log in enumerate(script.log):
                for x in (x for x in log if x.row >= first):
                    t = x.row - first
                    found = [getattr(batch, name)[t, i].tolist() for name in columns]
                    assert found == [list(x.obs), *(getattr(x, name) for name in columns[1:])]
                    assert batch.obs[t + 1, i].tolist() == list(x.next_obs)


@pytest.mark.parametrize("mode", MODES)
def test_a_rollout_resumed_in_its_middle_goes_on_as_if_it_had_not_stopped(mode):
    script = Scripted(random_ends(3, 20, 6, how_often=0.6), mode)
    whole, resumed = (Rollout(6, 3, *_spaces(script), CPU) for _ in range(2))
    whole.allocate()
    resumed.allocate()
    with make_envs(script, 3, 0) as envs:
        envs.reset()
        steps = [envs.step(np.zeros(3, dtype=np.int64)) for _ in range(6)]
    for step in steps[:4]:
        whole.add(step)
    resumed.set_state(whole.get_state())
    for step in steps[4:]:
        whole.add(step)
        resumed.add(step)
    (a,), (b,) = whole.batches(), resumed.batches()
    assert (a.final_at is None) == (mode == "next_step")
    for name in a.__slots__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_a_rollout_that_broke_off_starts_again():
    script = Scripted([[TERMINATED], [0]], "same_step")
    memory = Rollout(3, 2, *_spaces(script), CPU)
    memory.allocate()
    with make_envs(script, 2, 0) as envs:
        envs.reset()
        steps = [envs.step(np.zeros(2, dtype=np.int64)) for _ in range(5)]
    for k, step in enumerate(steps):
        if k == 2:
            memory.restart()
            assert not list(memory.batches())
        memory.add(step)
    (batch,) = memory.batches()
    assert batch.obs.tolist() == [
        *(step.obs.tolist() for step in steps[2:]),
        steps[-1].next_obs.tolist(),
    ]
    assert [index.tolist() for index in batch.final_at] == [[0, 1, 2], [0, 0, 0]]


def test_terminated_and_truncated_at_once_is_terminal():
    both, (r, v, v_next) = np.array([[True]]), np.array([[[2.0]], [[0.5]], [[100.0]]])
    assert discounts(0.9, both).item() == 0
    assert gae(r, v, v_next, discounts(0.9, both), traces(1.0, both, both)).item() == 1.5


def test_n_step_returns_worked_by_hand():
    """γ = ½. Columns: no end; terminated at once; truncated at the second step; terminated last."""
    r = torch.tensor([[1.0] * 4, [2.0] * 4, [4.0] * 4])
    terminated = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]], dtype=torch.bool)
    truncated = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    g, discount, m = n_step(r, terminated, terminated | truncated, 0.5)
    assert g.tolist() == [3.0, 1.0, 2.0, 3.0]
    assert discount.tolist() == [0.125, 0.0, 0.25, 0.0]
    assert m.tolist() == [3, 1, 2, 3]


def numbers(most):
    """Of both signs, from 1e-7 up, in float32 and rising."""
    half = np.logspace(-7, np.log10(most), 20_000, dtype=np.float32)
    return torch.from_numpy(np.concatenate([-half[::-1], np.zeros(1, np.float32), half]))


def test_values_are_rescaled_by_the_formula():
    """As printed (Pohlen et al. 2018, eq. 1), with more digits than it takes."""
    x = numbers(1e6)
    wide = x.numpy().astype(np.longdouble)
    h = np.sign(wide) * (np.sqrt(np.abs(wide) + 1) - 1) + np.longdouble("1e-3") * wide
    found = rescaled(x)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, h.astype(np.float64), rtol=3e-7, atol=0)
    assert (found.diff() >= 0).all()
    assert rescaled(torch.tensor([8.0, -99.0])).tolist() == pytest.approx([2.008, -9.099])


def test_rescaling_and_its_inverse_undo_each_other():
    for x in (numbers(1e6), numbers(1e6).double()):
        back, forth = unrescaled(rescaled(x)), rescaled(unrescaled(x.clamp(-2e3, 2e3)))
        assert back.dtype == x.dtype
        digits = 6e-7 if x.dtype == torch.float32 else 2e-15
        np.testing.assert_allclose(back, x, rtol=digits, atol=0)
        np.testing.assert_allclose(forth, x.clamp(-2e3, 2e3), rtol=digits, atol=0)
    y = numbers(2e3)
    assert (unrescaled(y).diff() >= 0).all()
