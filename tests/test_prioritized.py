"""Prioritised draws, against the formulas of Schaul et al. 2016 and windows taken by hand."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from driven_replay import EPS, Driven
from scipy.stats import chisquare
from scripted_envs import MODES, random_ends

from rlkit.errors import RunError
from rlkit.experience.sum_tree import SumTree

ALPHA = 0.7


def tree_of(priorities):
    tree = SumTree(len(priorities))
    tree.fill(0, np.array(priorities, dtype=np.float64))
    return tree


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64, 65, 1000])
def test_draws_are_where_the_running_sum_passes_the_share(size):
    rng = np.random.default_rng(size)
    for zeros in (0.0, 0.5, 0.95):
        p = rng.integers(1, 100, size) * (rng.random(size) >= zeros).astype(float)
        p[rng.integers(size)] = 3
        u = rng.random((3, 40))
        cells, priorities = tree_of(p).draw(u)
        share = (np.arange(40) + u) / 40
        np.testing.assert_array_equal(
            cells, np.searchsorted(np.cumsum(p), share * p.sum(), side="right")
        )
        np.testing.assert_array_equal(priorities, p[cells])


def test_no_empty_cell_is_drawn_however_the_sums_round():
    rng = np.random.default_rng(0)
    ends = np.array([[0.0] * 5 + [np.nextafter(1, 0)] * 5])
    for _ in range(300):
        p = 10 ** rng.uniform(-200, 200, 70) * (rng.random(70) < 0.3)
        p[rng.integers(70)] = 10 ** rng.uniform(-300, 300)
        for u in (ends, rng.random((2, 10))):
            cells, _ = tree_of(p).draw(u)
            assert (p[cells] > 0).all()


def test_a_tree_that_grew_equals_one_built_from_its_leaves():
    rng = np.random.default_rng(1)
    p = rng.random(777) * (rng.random(777) < 0.8)
    grown = tree_of(p)
    for _ in range(200):
        cells, new = rng.integers(0, 777, 50), rng.random(50) * 1e3
        grown.change(cells, new)
        for cell, value in zip(cells, new, strict=True):
            p[cell] = value if p[cell] > 0 else 0
        start = rng.integers(0, 770)
        p[start : start + 7] = rng.random(7).round()
        grown.fill(start, p[start : start + 7].copy())
    np.testing.assert_array_equal(grown.leaves, p)
    np.testing.assert_array_equal(grown._tree, tree_of(p)._tree)


def priorities(driven):
    """The (rows, N) priorities p^α that the memory draws by."""
    leaves = driven.memory.draws.get_state(driven.memory.rows)["priority"]
    return leaves.reshape(driven.memory.rows, driven.n)


@pytest.mark.parametrize("n_step", [1, 3, 5])
@pytest.mark.parametrize("mode", MODES)
def test_what_can_be_drawn_are_the_windows_of_the_log(mode, n_step):
    """Small rings that wrap often and a large one, at every step, errors coming in all the time."""
    rng = np.random.default_rng(n_step)
    for capacity in (1, 23, 160):
        driven = Driven(random_ends(4, 60, n_step), mode, capacity, n_step, (2, 64), ALPHA)
        for taken in range(1, 55):
            driven.step()
            if taken in (20, 37):
                driven.break_off()
            if driven.memory.filled > n_step:
                driven.check()
                assert np.count_nonzero(priorities(driven)) == len(driven.windows())
                batch = driven.memory.sample()
                errors = torch.from_numpy(rng.normal(0, 10, batch.cell.shape))
                driven.memory.update_priorities(batch.cell, errors)


def learned(mode, draws, steps=37):
    """A memory of 15 rows whose steps have errors, and (rows, N) p^α by the formula."""
    driven = Driven(random_ends(4, 50, seed=8), mode, 60, 3, draws, ALPHA)
    for _ in range(steps):
        driven.step()
    cells = np.flatnonzero(priorities(driven))
    errors = np.random.default_rng(4).normal(0, 2, cells.size).astype(np.float32)
    expected = np.zeros(driven.memory.rows * 4)
    expected[cells] = (np.abs(errors.astype(np.float64)) + EPS) ** ALPHA
    driven.memory.update_priorities(torch.from_numpy(cells), torch.from_numpy(errors))
    np.testing.assert_allclose(priorities(driven).ravel(), expected, rtol=1e-12)
    return driven, expected


@pytest.mark.parametrize("steps", [12, 37])  # before and after the ring has wrapped
@pytest.mark.parametrize("mode", MODES)
def test_draws_follow_the_priorities(mode, steps):
    driven, p = learned(mode, (20_000, 1), steps)  # minibatches of 1: every draw by itself
    P = p / p.sum()
    counts = np.bincount(driven.memory.sample().cell.ravel(), minlength=P.size)
    assert counts[P == 0].sum() == 0
    assert chisquare(counts[P > 0], 20_000 * P[P > 0]).pvalue > 1e-3


def test_minibatches_are_stratified():
    """Of a share of 1/B each one step: none comes up two times more or less often than expected."""
    driven, p = learned("next_step", (50, 400))
    for cells in driven.memory.sample().cell:
        counts = np.bincount(cells, minlength=p.size)
        assert (np.abs(counts - 400 * p / p.sum()) < 2).all()


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_the_weights_are_those_of_the_paper(beta):
    driven, p = learned("same_step", (6, 32))
    driven.memory.beta = beta
    batch = driven.memory.sample()
    N, P = np.count_nonzero(p), (p / p.sum())[batch.cell]
    w = (N * P) ** -beta
    w /= w.max(axis=1, keepdims=True)
    assert batch.weight.dtype == torch.float32
    np.testing.assert_allclose(batch.weight, w, rtol=1e-6)


def test_new_steps_have_the_largest_priority_so_far():
    driven = Driven([[0], [0]], "next_step", 40, 2, (1, 8), ALPHA)
    for _ in range(8):
        driven.step()
    largest = 1.0
    for error in (0.1, -7.0, 2.0):
        p = priorities(driven)
        assert (p[driven.memory.head - 2] == largest).all()
        drawn = driven.memory.sample().cell[0, :1]
        driven.memory.update_priorities(drawn, torch.tensor([error]))
        largest = max(largest, (abs(error) + EPS) ** ALPHA)
        assert priorities(driven).ravel()[drawn] == pytest.approx((abs(error) + EPS) ** ALPHA)
        driven.step()


def test_errors_that_come_late_bring_nothing_back():
    driven = Driven(random_ends(4, 60, seed=2), "next_step", 40, 3, (1, 64), ALPHA)
    for _ in range(30):
        driven.step()
    everywhere = torch.arange(driven.memory.rows * 4)
    drawable = priorities(driven) > 0
    driven.memory.update_priorities(everywhere, torch.ones(everywhere.shape))
    np.testing.assert_array_equal(priorities(driven) > 0, drawable)
    driven.check()


def test_of_the_errors_of_a_step_the_last_one_counts():
    driven, _ = learned("next_step", (1, 8))
    cell = driven.memory.sample().cell[0, 0]
    for errors in ([3.0, 5.0], [[5.0], [3.0]]):  # drawn twice in a minibatch, or by two of a burst
        given = torch.tensor(errors)
        driven.memory.update_priorities(cell.expand(given.shape), given)
        expected = (given.flatten()[-1].item() + EPS) ** ALPHA
        assert priorities(driven).ravel()[cell] == pytest.approx(expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_error_that_is_not_finite_changes_nothing(bad):
    driven, _ = learned("next_step", (2, 8))
    before = priorities(driven).copy()
    batch = driven.memory.sample()
    errors = torch.ones(2, 8)
    errors[1, 3] = bad
    with pytest.raises(RunError, match="TD error of a replayed step is not finite"):
        driven.memory.update_priorities(batch.cell, errors)
    np.testing.assert_array_equal(priorities(driven), before)


def test_steps_without_error_are_not_lost():
    """Priorities that round to 0: the mark of what can't be drawn."""
    driven = Driven([[0], [0]], "next_step", 40, 1, (1, 8), alpha=200.0)
    for _ in range(5):
        driven.step()
    cells = torch.from_numpy(np.flatnonzero(priorities(driven)))
    driven.memory.update_priorities(cells, torch.zeros(cells.shape))
    assert np.count_nonzero(priorities(driven)) == len(cells)
    driven.check()


def test_uniform_memories_do_without_numba():
    script = """
import sys, torch
from driven_replay import Driven
for alpha in (0.0, 0.5):
    driven = Driven([[0]], "next_step", 40, 1, (1, 8), alpha)
    driven.step(), driven.step()
    driven.memory.update_priorities(driven.memory.sample().cell, torch.ones(1, 8))
    print("numba" in sys.modules)
"""
    told = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert told.stdout.split() == ["False", "True"], told.stderr
