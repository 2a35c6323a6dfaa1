"""Advantages and n-step returns, against their definitions over what the environments logged."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scripted_envs import MODES, Scripted, advantage, random_ends, segments

from rlkit.envs.make import make_envs
from rlkit.experience.rollout import Rollout
from rlkit.returns import discounts, gae, n_step, traces

T = 4
WEIGHTS = (0.1, 2.4, 5.6)
CPU = torch.device("cpu")


def value(obs):
    """A critic that tells every observation from every other."""
    return math.sin(sum(w * x for w, x in zip(WEIGHTS, obs, strict=True)))


def critic(obs):
    return torch.sin(obs @ torch.tensor(WEIGHTS))


def advantages(batch, gamma, lam):
    v = critic(batch.obs)
    v_next = batch.next_values(v, critic)
    discount = discounts(gamma, batch.terminated)
    trace = traces(lam, batch.terminated, batch.truncated)
    return gae(batch.reward, v[:-1], v_next, discount, trace)


@pytest.mark.parametrize("mode", MODES)
def test_gae_of_every_way_in_which_four_steps_can_end(mode):
    """All 4⁴ scripts at once, over five rollouts, so that ends and dead steps meet every border."""
    script = Scripted(list(product(range(4), repeat=4)), mode)
    rollout = Rollout(T, script.num_envs, *_spaces(script), CPU)
    rollout.allocate()
    kinds, checked = set(), 0
    with make_envs(script, script.num_envs, 0) as envs:
        envs.reset()
        for first in range(0, 5 * T, T):
            for t in range(T):
                rollout.add(envs.step(np.full(script.num_envs, (first + t) % 3)))
            (batch,) = rollout.batches()
            for gamma, lam in product((0.9, 1.0), (0.0, 0.5, 1.0)):
                A = advantages(batch, gamma, lam)
                for i, log in enumerate(script.log):
                    for start, rest in segments(log, first, first + T):
                        found = float(A[start.row - first, i])
                        brute = advantage(rest, value, gamma, lam)
                        where = f"env {i}, row {start.row}, γ {gamma}, λ {lam}: {rest}"
                        assert found == pytest.approx(brute, abs=2e-5), where
                        checked += 1
            valid = {(x.row - first, i) for i, log in enumerate(script.log) for x in log}
            assert {(t, i) for t, i in valid if t >= 0} == set(map(tuple, batch.valid.nonzero().tolist()))
            kinds |= {tuple(end) for end in torch.stack([batch.terminated, batch.truncated], -1).view(-1, 2).tolist()}
    assert kinds == set(product((False, True), repeat=2))
    assert checked > 10_000


def _spaces(script):
    return script.single_observation_space, script.single_action_space


def test_a_rollout_keeps_what_was_done_in_order():
    script = Scripted(random_ends(3, 20, 5), "next_step")
    rollout = Rollout(5, 3, *_spaces(script), CPU)
    rollout.allocate()
    rng = np.random.default_rng(0)
    with make_envs(script, 3, 0) as envs:
        envs.reset()
        for first in (0, 5, 10):
            for _ in range(5):
                assert not list(rollout.batches())
                rollout.add(envs.step(rng.integers(0, 3, 3)))
            (batch,) = rollout.batches()
            for i, log in enumerate(script.log):
                for x in (x for x in log if x.row >= first):
                    t = x.row - first
                    row = [getattr(batch, name)[t, i] for name in ("obs", "action", "reward", "terminated", "truncated")]
                    assert [y.tolist() for y in row] == [list(x.obs), x.action, x.reward, x.terminated, x.truncated]
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
    for name in a.__slots__:
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None and y is None) or torch.equal(x, y), name


def test_terminated_and_truncated_at_once_is_terminal():
    both = torch.tensor([[True]])
    assert discounts(0.9, both).item() == 0
    A = gae(torch.tensor([[2.0]]), torch.tensor([[0.5]]), torch.tensor([[100.0]]), discounts(0.9, both), traces(1.0, both, both))
    assert A.item() == 1.5


def test_n_step_returns_worked_by_hand():
    """γ = ½. Columns: no end; terminated at once; truncated at the second step; terminated last."""
    r = torch.tensor([[1.0] * 4, [2.0] * 4, [4.0] * 4])
    terminated = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]], dtype=torch.bool)
    truncated = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    g, discount, m = n_step(r, terminated, terminated | truncated, 0.5)
    assert g.tolist() == [3.0, 1.0, 2.0, 3.0]
    assert discount.tolist() == [0.125, 0.0, 0.25, 0.0]
    assert m.tolist() == [3, 1, 2, 3]
