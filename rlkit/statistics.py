"""Statistics of few runs: the interquartile mean, bootstrap intervals, probability of improvement.

Agarwal, Schwarzer, Castro, Courville and Bellemare, "Deep reinforcement learning at the edge of the
statistical precipice" (NeurIPS 2021), §4, say why: means follow single lucky runs, medians need
many of them, and a score without an interval says little. Pure functions of arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlkit.errors import UsageError

FloatArray = NDArray[np.float64]
RESAMPLES = 2000
CONFIDENCE = 0.95
_BLOCK = 4_000_000  # numbers that are resampled at a time


def interquartile_mean(scores: ArrayLike, axis: int = -1) -> FloatArray:
    """The mean of the middle half of n scores: ⌊n / 4⌋ go from either end.

    Which is the mean itself for n < 4, and SciPy's ``trim_mean(scores, 0.25)``, whose import alone
    would take longer than a comparison. Tasks' scores are pooled before they are trimmed (Agarwal
    et al. 2021, §4.3).

    Args:
        scores: float array with n ≥ 1 scores along `axis`.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=axis)
    n = ordered.shape[axis]
    middle: FloatArray = np.take(ordered, range(n // 4, n - n // 4), axis=axis)
    return np.asarray(middle.mean(axis=axis))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> FloatArray:
    """P(X > Y) + P(X = Y) / 2: how probably a run of X beats one of Y, ties counted half.

    The Mann–Whitney U statistic over n·m (Agarwal et al. 2021, §4.3).

    Args:
        x: (..., n) scores; y: (..., m), of the same leading shape.

    Returns:
        (...) float64 in [0, 1].
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    won = np.sign(x[..., :, None] - y[..., None, :])  # (..., n, m)
    return np.asarray((won.mean(axis=(-2, -1)) + 1.0) / 2.0)


def stratified_bootstrap(
    strata: Sequence[ArrayLike],
    statistic: Callable[[list[FloatArray]], FloatArray],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> FloatArray:
    """What a statistic comes to when the runs of each stratum are drawn anew, with replacement.

    A stratum is what is sampled apart: the runs of one setting on one task. It keeps its number of
    runs, and a run is drawn with all that was measured of it (Agarwal et al. 2021, §4.1).

    Args:
        strata: arrays (n_k, ...) with a run in each row.
        statistic: of a list of resampled strata, each (R, n_k, ...), as (R, ...): it is computed
            for many resamples at once, R ≤ `resamples` of them.
        resamples: how many.
        seed: of NumPy's generator; the same one gives the same replicates.

    Returns:
        (resamples, ...) float64.

    Raises:
        UsageError: a stratum is empty, or `resamples` or `seed` is not allowed.
    """
    arrays = [np.asarray(stratum, dtype=np.float64) for stratum in strata]
    if not arrays or not all(array.shape[:1] > (0,) for array in arrays):
        raise UsageError("a bootstrap needs strata of one run or more each; one of them is empty")
    if resamples < 1 or seed < 0:
        raise UsageError(
            f"resamples is {resamples} and seed {seed}; allowed: resamples >= 1, seed >= 0"
        )
    rng = np.random.default_rng(seed)
    runs = sum(len(array) for array in arrays)
    at_once = max(1, _BLOCK // max(sum(array.size for array in arrays), runs**2))
    replicates = []
    for done in range(0, resamples, at_once):
        R = min(at_once, resamples - done)
        drawn = [array[rng.integers(len(array), size=(R, len(array)))] for array in arrays]
        replicates.append(statistic(drawn))
    return np.concatenate(replicates)


def percentile_interval(
    replicates: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[FloatArray, FloatArray]:
    """The interval that holds the middle `confidence` of bootstrap replicates (R, ...), as ends.

    Efron's percentile interval, which Agarwal et al. (2021, §4.1) use.

    Raises UsageError unless 0 < `confidence` < 1.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence!r}; allowed: a number > 0 and < 1")
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.asarray(replicates), [tail, 1.0 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def pooled_interquartile_mean(strata: list[FloatArray]) -> FloatArray:
    """The interquartile mean of resampled strata [(R, n_k, ...)] taken together, as (R, ...)."""
    return interquartile_mean(np.concatenate(strata, axis=1), axis=1)
