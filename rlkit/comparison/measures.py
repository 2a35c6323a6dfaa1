"""Comparing runs: grids, interquartile means and bootstrap intervals of their curves and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from rlkit.comparison.curves import Curve
from rlkit.comparison.groups import Members
from rlkit.comparison.result import (
    ALL_TASKS,
    SECONDS,
    STEPS,
    Aggregate,
    Estimate,
    FloatArray,
    Group,
    Improvement,
    Optimum,
)
from rlkit.errors import UsageError
from rlkit.statistics import (
    CONFIDENCE,
    RESAMPLES,
    interquartile_mean,
    percentile_interval,
    pooled_interquartile_mean,
    probability_of_improvement,
    stratified_bootstrap,
)

FEWEST_SEEDS = 3  # with fewer, a bootstrap says next to nothing of its interval
_MOST_POINTS = 200  # of a curve
_LOWER_IS_BETTER = ("loss", "regret", "error", "overestimation")


@dataclass(frozen=True)
class Terms:
    """How runs are compared; see `rlkit.compare`. Raises UsageError for what is not allowed."""

    x: str = STEPS
    threshold: float | None = None
    confidence: float = CONFIDENCE
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.x not in (STEPS, SECONDS):
            raise UsageError(f"x (--x) is {self.x!r}; allowed: {STEPS} or {SECONDS}")
        if not 0 < self.confidence < 1:
            raise UsageError(
                f"confidence (--confidence) is {self.confidence}; allowed: a number > 0 and < 1"
            )
        if not 100 <= self.resamples <= 1_000_000:
            raise UsageError(
                f"resamples (--resamples) is {self.resamples}; allowed: a whole number >= 100 and "
                "<= 1000000"
            )
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}; allowed: a whole number >= 0")
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise UsageError(f"threshold (--threshold) is {self.threshold}; allowed: a number")

    def interval(
        self, strata: Sequence[FloatArray], statistic: Callable[[list[FloatArray]], FloatArray]
    ) -> tuple[FloatArray, FloatArray]:
        """The ends of a statistic's bootstrap interval."""
        drawn = stratified_bootstrap(strata, statistic, self.resamples, self.seed)
        return percentile_interval(drawn, self.confidence)

    def estimate(
        self, strata: Sequence[FloatArray], statistic: Callable[[list[FloatArray]], FloatArray]
    ) -> Estimate:
        """A statistic of strata (n_k,), with an interval where each has seeds enough."""
        value = float(statistic([stratum[None] for stratum in strata])[0])
        if min(map(len, strata)) < FEWEST_SEEDS:
            return Estimate(value)
        low, high = self.interval(strata, statistic)
        return Estimate(value, float(low), float(high))


def is_higher_better(metric: str) -> bool:
    """Whether more of it is better, by its name: not of a loss, a regret or an error."""
    return not any(word in metric for word in _LOWER_IS_BETTER)


def summarise(
    members: Sequence[Members],
    higher: bool,
    terms: Terms,
    optima: Mapping[str, Optimum],
    thresholds: Mapping[str, float],
) -> list[Group]:
    """Each group's curve and what it ended at; `optima` and `thresholds` are by the group's name.

    Raises UsageError where curves over seconds are asked for and a run has logged no speeds.
    """
    groups = []
    for task in dict.fromkeys(group.task for group in members):
        on_task = [group for group in members if group.task == task]
        grid = _grid([_axis(run, terms.x) for group in on_task for run in group.curves])
        for group in on_task:
            optimum, threshold = optima.get(group.name), thresholds.get(group.name)
            groups.append(_summary(group, grid, higher, terms, optimum, threshold))
    return groups


def _axis(run: Curve, x: str) -> FloatArray:
    if x == STEPS:
        return run.steps
    if np.isnan(run.seconds).any():
        raise UsageError(
            f"{run.run.path} has logged no time/fps, so its seconds are unknown; use --x steps, or "
            "leave this run out"
        )
    return run.seconds


def _grid(axes: Sequence[FloatArray]) -> FloatArray:
    """Where the curves of a task have points: where runs were measured, or evenly spaced."""
    measured = np.unique(np.concatenate(axes))
    if len(measured) <= _MOST_POINTS:
        return measured
    return np.asarray(np.linspace(measured[0], measured[-1], _MOST_POINTS))


def _summary(
    group: Members,
    grid: FloatArray,
    higher: bool,
    terms: Terms,
    optimum: Optimum | None,
    threshold: float | None,
) -> Group:
    scores = np.array([run.values[-1] for run in group.curves])
    x, curve, low, high = _curve(group.curves, grid, terms)
    iqm = terms.estimate([scores], pooled_interquartile_mean)
    last = [int(run.steps[-1]) for run in group.curves]
    seconds = float(np.median([run.seconds[-1] for run in group.curves]))
    first = [_first_passed(run, threshold, higher) for run in group.curves]
    passed_at = float(np.median(first))
    gap = None if optimum is None else (optimum.value - iqm.value) * (1 if higher else -1)
    shares = optimum is not None and higher and optimum.value > 0 and iqm.value >= 0
    return Group(
        label=group.label,
        task=group.task,
        runs=group.curves,
        x=x,
        curve=curve,
        low=low,
        high=high,
        scores=scores,
        iqm=iqm,
        mean=float(scores.mean()),
        median=float(np.median(scores)),
        worst=float(scores.min() if higher else scores.max()),
        best=float(scores.max() if higher else scores.min()),
        steps=(min(last), max(last)),
        seconds=seconds if np.isfinite(seconds) else None,
        threshold=threshold,
        passed=int(np.isfinite(first).sum()),
        passed_at=passed_at if np.isfinite(passed_at) else None,
        optimum=optimum,
        fraction=iqm.value / optimum.value if shares and optimum is not None else None,
        gap=gap,
    )


def _curve(
    runs: Sequence[Curve], grid: FloatArray, terms: Terms
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Points, interquartile means and interval ends, where all runs have been.

    Elsewhere the mean would jump where a run begins or ends.
    """
    axes = [_axis(run, terms.x) for run in runs]
    x = grid[(grid >= max(a[0] for a in axes)) & (grid <= min(a[-1] for a in axes))]
    values = np.array([np.interp(x, a, run.values) for a, run in zip(axes, runs, strict=True)])
    if len(runs) < FEWEST_SEEDS or not x.size:
        return x, interquartile_mean(values, axis=0), np.empty(0), np.empty(0)
    low, high = terms.interval([values], pooled_interquartile_mean)
    return x, interquartile_mean(values, axis=0), low, high


def _first_passed(run: Curve, threshold: float | None, higher: bool) -> float:
    """The first step with a value as good as the threshold; infinity where there is none."""
    if threshold is None:
        return np.inf
    good = run.values >= threshold if higher else run.values <= threshold
    return float(run.steps[np.argmax(good)]) if good.any() else np.inf


def improvements(groups: Sequence[Group], higher: bool, terms: Terms) -> list[Improvement]:
    """Who probably beats whom, for each two groups on one task, the likelier winner first."""
    found = []
    for task in dict.fromkeys(group.task for group in groups):
        on_task = [group for group in groups if group.task == task]
        for one, other in combinations(on_task, 2):
            pair = (one.label, [one.scores]), (other.label, [other.scores])
            found.append(_improvement(task, *pair, higher, terms))
    return found


def aggregate(
    groups: Sequence[Group], higher: bool, terms: Terms
) -> tuple[list[Aggregate], list[Improvement]]:
    """The settings that are on every task, over all of them together.

    Scores must be normalised. Seeds are resampled on each task apart, scores pooled over the tasks,
    and a probability of improvement is the mean of the tasks' (Agarwal et al. 2021, §4.3).
    """
    tasks = dict.fromkeys(group.task for group in groups)
    by_label: dict[str, list[FloatArray]] = {}
    for group in groups:
        by_label.setdefault(group.label, []).append(group.scores)
    everywhere = {label: s for label, s in by_label.items() if len(s) == len(tasks)}
    means = [
        Aggregate(label, terms.estimate(scores, pooled_interquartile_mean), sum(map(len, scores)))
        for label, scores in everywhere.items()
    ]
    pairs = combinations(everywhere.items(), 2)
    return means, [_improvement(ALL_TASKS, *pair, higher, terms) for pair in pairs]


def _improvement(
    task: str,
    one: tuple[str, list[FloatArray]],
    other: tuple[str, list[FloatArray]],
    higher: bool,
    terms: Terms,
) -> Improvement:
    (label, scores), (other_label, other_scores) = one, other
    k, sign = len(scores), 1.0 if higher else -1.0

    def mean_probability(strata: list[FloatArray]) -> FloatArray:
        pairs = zip(strata[:k], strata[k:], strict=True)
        each = [probability_of_improvement(sign * x, sign * y) for x, y in pairs]
        return np.asarray(np.mean(each, axis=0))

    found = terms.estimate([*scores, *other_scores], mean_probability)
    if found.value >= 0.5:
        return Improvement(task, label, other_label, found)
    turned = Estimate(1.0 - found.value, _from_one(found.high), _from_one(found.low))
    return Improvement(task, other_label, label, turned)


def _from_one(p: float | None) -> float | None:
    return None if p is None else 1.0 - p


def normalised(group: Members, low: float, high: float) -> Members:
    """The same runs with values as shares of the way from `low` to `high`."""
    curves = [replace(run, values=(run.values - low) / (high - low)) for run in group.curves]
    return replace(group, curves=curves)
