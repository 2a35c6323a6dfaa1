"""The statistics of few runs, against SciPy, rliable's numbers and all resamples counted out."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlkit.errors import UsageError
from rlkit.statistics import (
    interquartile_mean,
    percentile_interval,
    pooled_interquartile_mean,
    probability_of_improvement,
    stratified_bootstrap,
)

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


@given(SCORES)
@settings(max_examples=100, deadline=None)
def test_the_interquartile_mean_is_scipys_trimmed_mean(scores):
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25))


def test_the_interquartile_mean_of_numbers_worked_by_hand():
    assert interquartile_mean([1, 2, 3]) == 2  # nothing to trim: the mean
    assert interquartile_mean([0, 2, 4, 100]) == 3
    assert interquartile_mean([-100, 1, 2, 3, 4, 5, 6, 100]) == 3.5
    by_column = interquartile_mean([[0, 5], [2, 5], [4, 6], [100, 6]], axis=0)
    np.testing.assert_allclose(by_column, [3, 5.5])


@given(SCORES, SCORES)
@settings(max_examples=100, deadline=None)
def test_the_probability_of_improvement_is_mann_and_whitneys_u(x, y):
    found = probability_of_improvement(x, y)
    u = stats.mannwhitneyu(x, y, method="asymptotic").statistic if len({*x, *y}) > 1 else 0
    expected = u / (len(x) * len(y)) if len({*x, *y}) > 1 else 0.5
    assert found == pytest.approx(expected)
    assert found + probability_of_improvement(y, x) == pytest.approx(1)


def test_scores_of_several_tasks_are_rliables():
    """rliable 1.2.0, the code of Agarwal et al. (2021), on the same scores (runs, tasks)."""
    theirs = {  # by runs: aggregate_iqm, probability_of_improvement
        3: (0.2201086360615796, 0.5555555555555557),
        4: (-0.19618561045153657, 0.15),
        5: (0.029165551625243948, 0.3222222222222222),
        8: (-0.09093189651477385, 0.40277777777777773),
        10: (0.05520634662450256, 0.34545454545454546),
        13: (-0.11709109748283766, 0.41391941391941395),
    }
    rng = np.random.default_rng(0)
    for n, (iqm, improvement) in theirs.items():
        X, Y = rng.normal(size=(n, 3)), rng.normal(0.5, size=(n + 1, 3))
        assert interquartile_mean(X.ravel()) == pytest.approx(iqm, rel=1e-12)
        assert probability_of_improvement(X.T, Y.T).mean() == pytest.approx(improvement, rel=1e-12)


def test_rows_of_scores_are_compared_row_by_row():
    x, y = np.array([[1.0, 2.0], [5.0, 5.0]]), np.array([[0.0, 0.0, 2.0], [5.0, 6.0, 7.0]])
    np.testing.assert_allclose(probability_of_improvement(x, y), [4.5 / 6, 1 / 6])


def test_the_bootstrap_draws_every_resample_equally_often():
    """Of three runs there are 27 resamples: their means, counted out, are what must be drawn."""
    scores = np.array([0.0, 1.0, 5.0])
    drawn = stratified_bootstrap([scores], lambda s: s[0].mean(axis=1), 60_000, seed=1)
    values, counts = np.unique(np.round(drawn, 9), return_counts=True)
    exact = np.round([np.mean(pick) for pick in product(scores, repeat=3)], 9)
    expected, weights = np.unique(exact, return_counts=True)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_allclose(counts / 60_000, weights / 27, atol=0.006)


def test_strata_keep_their_sizes_and_stay_apart():
    strata = [np.zeros(2), np.full(3, 7.0)]

    def statistic(resampled):
        assert [one.shape[1:] for one in resampled] == [(2,), (3,)]
        return np.concatenate(resampled, axis=1).sum(axis=1)

    np.testing.assert_array_equal(stratified_bootstrap(strata, statistic, 50), np.full(50, 21.0))


def test_a_run_is_drawn_with_its_whole_curve():
    curves = np.arange(4.0)[:, None] + np.array([0.0, 10.0, 20.0])
    drawn = stratified_bootstrap([curves], lambda s: s[0].mean(axis=1), 200)
    np.testing.assert_allclose(drawn[:, 1:] - drawn[:, :1], np.broadcast_to([10, 20], (200, 2)))


def test_percentile_intervals_agree_with_scipys():
    scores = np.random.default_rng(0).normal(size=12)
    drawn = stratified_bootstrap([scores], pooled_interquartile_mean, 40_000)
    found = percentile_interval(drawn, 0.9)
    theirs = stats.bootstrap(
        (scores,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        method="percentile",
        confidence_level=0.9,
        n_resamples=40_000,
        rng=1,
    ).confidence_interval
    np.testing.assert_allclose(found, theirs, atol=0.02)


def test_the_same_seed_draws_the_same():
    scores = np.random.default_rng(0).normal(size=(9, 5))
    first, again, other = (
        stratified_bootstrap([scores], pooled_interquartile_mean, 300, seed) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_blocks_of_resamples_are_joined(monkeypatch):
    monkeypatch.setattr("rlkit.statistics._BLOCK", 100)
    drawn = stratified_bootstrap([np.arange(5.0)], pooled_interquartile_mean, 1001)
    assert drawn.shape == (1001,)
    assert abs(drawn.mean() - 2) < 0.1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: stratified_bootstrap([], pooled_interquartile_mean), "one of them is empty"),
        (lambda: stratified_bootstrap([[]], pooled_interquartile_mean), "one of them is empty"),
        (lambda: stratified_bootstrap([[1]], pooled_interquartile_mean, 0), "resamples is 0"),
        (lambda: stratified_bootstrap([[1]], pooled_interquartile_mean, 1, -1), "seed -1"),
        (lambda: percentile_interval([1.0], 1.0), "confidence is 1.0"),
    ],
)
def test_what_can_not_be_drawn_is_refused(call, words):
    with pytest.raises(UsageError, match=words):
        call()
