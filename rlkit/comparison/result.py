"""What a comparison of runs finds: curves over seeds, final scores, and who probably beats whom."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.comparison.curves import Curve
from rlkit.errors import UsageError

FloatArray = NDArray[np.float64]

STEPS, SECONDS = "steps", "seconds"
ALL_TASKS = "all environments"


@dataclass(frozen=True)
class Optimum:
    """What the best policy of a task's exact model gets, on the metric's scale.

    Fields:
        value: the expected return of the first state, within `error`.
        what: how it is meant, in words: its discount, or the number of steps.
        error: a certified bound on the error of `value`.
        random: what playing uniformly at random gets; None where it was not asked for.
    """

    value: float
    what: str
    error: float = 0.0
    random: float | None = None


@dataclass(frozen=True)
class Estimate:
    """A statistic with its bootstrap interval; `low` and `high` are None for too few seeds."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """The seeds of one setting on one task.

    Fields:
        label, task, name: what was run, on what, and both.
        runs: each run's own curve.
        x: (G,) float64, where the curve has points: steps or seconds that every run of the group
            has come to.
        curve, low, high: (G,) float64: the interquartile mean over the runs, and its pointwise
            interval; `low` and `high` are empty for too few seeds.
        scores: (n,) float64: the last value of each run.
        iqm: the interquartile mean of `scores`.
        mean, median, worst, best: of `scores`.
        steps: (least, most) steps at the last values.
        seconds: the median training time until then; None where the runs have logged no speed.
        threshold: what counts as solved; None where nothing says.
        passed: how many runs have had a value that good.
        passed_at: the median over all runs of the first step at which they did, where that is a
            step: more than half of them passed.
        optimum: what the best policy gets; None where that is unknown.
        fraction: `iqm` over the optimum, where neither is negative and higher is better.
        gap: how much better than `iqm` the optimum is, in the metric's units.
    """

    label: str
    task: str
    runs: Sequence[Curve]
    x: FloatArray
    curve: FloatArray
    low: FloatArray
    high: FloatArray
    scores: FloatArray
    iqm: Estimate
    mean: float
    median: float
    worst: float
    best: float
    steps: tuple[int, int]
    seconds: float | None
    threshold: float | None
    passed: int
    passed_at: float | None
    optimum: Optimum | None
    fraction: float | None
    gap: float | None

    @property
    def name(self) -> str:
        return f"{self.label} on {self.task}"


@dataclass(frozen=True)
class Improvement:
    """How probably a run of `better` ends better than one of `worse`, ties counted half."""

    task: str
    better: str
    worse: str
    probability: Estimate


@dataclass(frozen=True)
class Aggregate:
    """A setting over all tasks: the interquartile mean of its normalised scores, pooled."""

    label: str
    iqm: Estimate
    runs: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `rlkit.compare` found.

    Fields:
        metric: its name.
        x: "steps" or "seconds", the axis of the curves.
        higher_is_better: whether it is.
        normalized: whether values are shares of the way from a low to a high score.
        confidence, resamples: of all intervals.
        groups: of one task after the other.
        improvements: of each two groups on a task; with several normalised tasks, and of the
            settings that are on all of them, also over ALL_TASKS.
        aggregates: over all tasks, where values are normalised and there are several.
        notes: what else there is to say, each in a line.
    """

    metric: str
    x: str
    higher_is_better: bool
    normalized: bool
    confidence: float
    resamples: int
    groups: Sequence[Group]
    improvements: Sequence[Improvement]
    aggregates: Sequence[Aggregate]
    notes: Sequence[str]

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order of their groups."""
        return [*dict.fromkeys(group.task for group in self.groups)]

    def on(self, task: str) -> list[Group]:
        """The groups on a task."""
        return [group for group in self.groups if group.task == task]

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the learning curves; see `rlkit.comparison.plot.plot_comparison`."""
        from rlkit.comparison.plot import plot_comparison

        plot_comparison(self, path)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, the curves of groups and runs included."""
        return {
            "metric": self.metric,
            "x": self.x,
            "higher_is_better": self.higher_is_better,
            "normalized": self.normalized,
            "confidence": self.confidence,
            "resamples": self.resamples,
            "groups": [_group_json(group) for group in self.groups],
            "improvements": [asdict(found) for found in self.improvements],
            "aggregates": [asdict(found) for found in self.aggregates],
            "notes": [*self.notes],
        }

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each group: what `rlkit compare` prints of it.

        Raises UsageError where pandas is not installed.
        """
        if importlib.util.find_spec("pandas") is None:
            raise UsageError("to_frame needs pandas, which is not installed: pip install pandas")
        rows = [_row(group) for group in self.groups]
        return importlib.import_module("pandas").DataFrame(rows)


_PLAIN = (
    *("task", "label", "mean", "median", "worst", "best", "seconds", "threshold", "passed"),
    *("passed_at", "fraction", "gap"),
)


def _group_json(group: Group) -> dict[str, Any]:
    curve = {"x": group.x, "iqm": group.curve, "low": group.low, "high": group.high}
    return {
        **{name: getattr(group, name) for name in _PLAIN},
        "seeds": len(group.scores),
        "steps": [*group.steps],
        "iqm": asdict(group.iqm),
        "scores": group.scores.tolist(),
        "optimum": None if group.optimum is None else asdict(group.optimum),
        "curve": {name: array.tolist() for name, array in curve.items()},
        "runs": [_run_json(run) for run in group.runs],
    }


def _row(group: Group) -> dict[str, Any]:
    """A group as a row of a DataFrame."""
    return {
        **{name: getattr(group, name) for name in _PLAIN[:2]},
        "seeds": len(group.scores),
        "steps": group.steps[1],
        "iqm": group.iqm.value,
        "low": group.iqm.low,
        "high": group.iqm.high,
        **{name: getattr(group, name) for name in _PLAIN[2:]},
        "optimum": None if group.optimum is None else group.optimum.value,
    }


def _run_json(run: Curve) -> dict[str, Any]:
    return {
        "run": str(run.run.path),
        "seed": run.run.config.get("seed"),
        "reached": run.reached,
        "planned": run.planned,
        "finished": run.finished,
        "steps": run.steps.tolist(),
        "values": run.values.tolist(),
        "seconds": run.seconds.tolist(),
    }
