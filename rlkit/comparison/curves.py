"""Which runs are meant, and how one metric of a run went: what a comparison is made of.

A run may be a stranger's: its files are read as JSON, and nothing in them is executed.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import UsageError
from rlkit.run.folder import CONFIG, RUN_DIR, RunFolder
from rlkit.run.metrics import METRICS, read_metrics

FPS = "time/fps"
_ABOUT = ("step", "time")  # of a line, and no metric
_SPECIAL = frozenset("*?[")
_MOST_STEPS = float(1 << 53)  # that a float64 counts


@dataclass(frozen=True, eq=False)
class Curve:
    """One metric of one run, as measured.

    Fields:
        run: its folder and config.
        steps: (P,) float64, increasing: environment steps.
        values: (P,) float64, finite.
        seconds: (P,) float64: seconds of training by then, by the speeds that the run has logged;
            evaluations and pauses are not counted. NaN where it has logged none.
        reached: the last step that anything was measured at.
        dropped: how many values were not finite, and are left out.
        metrics: the names of all that the run has measured.
    """

    run: RunFolder
    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    seconds: NDArray[np.float64]
    reached: int
    dropped: int
    metrics: frozenset[str]

    @property
    def planned(self) -> int | None:
        """The steps that the run's recipe asks for, where it says."""
        recipe = self.run.config.get("recipe")
        steps = recipe.get("steps") if isinstance(recipe, dict) else None
        return steps if type(steps) is int else None

    @property
    def finished(self) -> bool:
        """Whether it came as far as its recipe asks; a run that doesn't say counts as finished."""
        return self.planned is None or self.reached >= self.planned


def find_runs(
    given: Sequence[str | os.PathLike[str]], run_dir: Path = RUN_DIR
) -> tuple[list[RunFolder], list[str]]:
    """The runs that are meant, in the order given, and notes on those that were given twice.

    Each of `given` is a run's folder, a run's name in `run_dir`, a folder of runs, a pattern with
    ``*``, or the beginning of names: "a2c-CartPole" stands for "a2c-CartPole-v1-0" and its like.

    Raises UsageError for what stands for no run, and where nothing is given.
    """
    if not given:
        raise UsageError(
            f"no runs to compare; name run folders, runs in {run_dir}, a folder of runs, or the "
            "beginning of their names"
        )
    found: dict[Path, RunFolder] = {}
    notes = []
    for name in given:
        for path in _meant(str(name), run_dir):
            run = RunFolder.open(path, run_dir)
            place = run.path.resolve()
            if place in found:
                notes.append(f"{run.path} is given twice; it counts once")
            found.setdefault(place, run)
    return [*found.values()], notes


def _meant(name: str, run_dir: Path) -> list[Path]:
    """The runs' folders that `name` stands for; itself where it stands for none."""
    if not name:
        raise UsageError(f"a run name is ''; name a run, or the folder {run_dir} for all in it")
    bare = os.path.basename(name) == name
    places = [Path(name), run_dir / name] if bare else [Path(name)]
    for place in places:
        if _is_run(place):
            return [place]
    for place in places:
        if place.is_dir():
            inside = _runs_in(place)
            if inside:
                return inside
    if _SPECIAL.intersection(name):
        for place in places:
            matching = sorted(path for path in map(Path, glob.glob(str(place))) if _is_run(path))
            if matching:
                return matching
    for place in places:
        begun = sorted(path for path in _beside(place) if _begins(path.name, place.name))
        if begun:
            return begun
    return [Path(name)]


def _runs_in(folder: Path) -> list[Path]:
    """The runs in a folder, and in the sweeps there."""
    found = sorted(path for path in folder.iterdir() if _is_run(path))
    for sweep in sorted(folder.glob("*/sweep.json")):
        found += sorted(path for path in sweep.parent.iterdir() if _is_run(path))
    return found


def _beside(place: Path) -> Iterator[Path]:
    if place.parent.is_dir():
        yield from (path for path in place.parent.iterdir() if _is_run(path))


def _begins(name: str, prefix: str) -> bool:
    """Whether `prefix` is the first words of `name`: "a2c-CartPole" begins no CartPoleHidden."""
    rest = name.removeprefix(prefix)
    return bool(prefix) and rest != name and not rest[:1].isalnum()


def _is_run(path: Path) -> bool:
    try:
        return (path / CONFIG).is_file()
    except (OSError, ValueError):  # nobody may look in, or there is a NUL in the name
        return False


def read_curve(run: RunFolder, metric: str) -> Curve:
    """How `metric` went in `run`; without any points where it was not measured.

    Of several lines at one step the last one counts, and a line that steps back, as of a run that
    was resumed, takes the place of those at its step and beyond. A last line that a kill has cut
    off is left out.

    Raises UsageError where the file can't be read or another line of it is damaged.
    """
    points: list[tuple[float, float]] = []
    speeds: list[tuple[float, float]] = []
    names: set[str] = set()
    reached, dropped = 0.0, 0
    for record in _records(run.path / METRICS):
        step = _number(record.get("step"))
        names.update(record)
        if not 0 <= step <= _MOST_STEPS:
            continue
        reached = max(reached, step)
        if metric in record:
            value = _number(record[metric])
            dropped += not np.isfinite(value)
            _put(points, step, value)
        if _number(record.get(FPS)) > 0:
            _put(speeds, step, _number(record[FPS]))
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    kept = np.isfinite(values)
    return Curve(
        run,
        steps[kept],
        values[kept],
        _seconds_at(steps[kept], speeds),
        int(reached),
        dropped,
        frozenset(names.difference(_ABOUT)),
    )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    if not path.is_file():
        raise UsageError(f"{path}: is no file; it is not rlkit's; leave this run out")
    try:
        yield from read_metrics(path)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}; leave this run out") from None
    except UsageError as error:
        raise UsageError(
            f"{error}; take that line out of the file, or leave this run out"
        ) from None


def _put(points: list[tuple[float, float]], step: float, value: float) -> None:
    while points and points[-1][0] >= step:
        points.pop()
    points.append((step, value))


def _number(value: Any) -> float:
    """`value` as a float; NaN for what is no number, or beyond floats."""
    if not isinstance(value, (int, float)):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.nan


def _seconds_at(
    steps: NDArray[np.float64], speeds: Sequence[tuple[float, float]]
) -> NDArray[np.float64]:
    """Training seconds by `steps`, from (step, steps per second since the last one) pairs."""
    if not speeds:
        return np.full(len(steps), np.nan)
    logged, fps = np.array([(0.0, 1.0), *speeds]).T
    elapsed = np.cumsum(np.diff(logged, prepend=0.0) / fps)
    return np.asarray(np.interp(steps, logged, elapsed))
