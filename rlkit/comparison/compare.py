"""Runs compared, as a library: `rlkit.compare`. torch is not imported."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rlkit.comparison.curves import Curve, find_runs, read_curve
from rlkit.comparison.groups import Members, group_runs, without_copies
from rlkit.comparison.measures import (
    FEWEST_SEEDS,
    Terms,
    aggregate,
    improvements,
    is_higher_better,
    normalised,
    summarise,
)
from rlkit.comparison.result import Comparison, Group, Optimum
from rlkit.envs.names import short_name
from rlkit.errors import UsageError
from rlkit.registry import did_you_mean
from rlkit.run.files import read_json
from rlkit.run.folder import CONFIG_LIMIT, ENV, RUN_DIR
from rlkit.run.metrics import EVALUATED, RETURN
from rlkit.statistics import CONFIDENCE, RESAMPLES

NEAR_OPTIMAL = 0.01  # of the optimum: as far below it counts as solved where nothing else says
RETURNS = (EVALUATED, RETURN, "rollout/ep_rew_mean")  # undiscounted, of whole episodes
EXACT_VALUES = ("exact/greedy_value", "exact/exploring_value")  # at the recipe's discount
_LISTED = 3  # that a note names

Runs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Scales = Literal["optimum"] | Mapping[str, tuple[float, float]]


def compare(
    runs: Runs,
    metric: str = EVALUATED,
    *,
    x: str = "steps",
    by: Sequence[str] = (),
    higher_is_better: bool | None = None,
    threshold: float | None = None,
    normalize: Scales | None = None,
    optimum: bool = True,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
    run_dir: str | Path = RUN_DIR,
) -> Comparison:
    """Compare runs by a metric: curves over seeds, final scores, and who probably beats whom.

    Intervals are percentile intervals of a bootstrap stratified by setting and task; settings with
    fewer than three seeds get none. docs/compare.md has the formulas and their sources.

    Args:
        runs: run folders, runs' names in `run_dir`, folders of runs, patterns, or beginnings of
            names.
        metric: any scalar of their metrics.jsonl.
        x: "steps", or "seconds" of training, the axis of the curves.
        by: fields of recipes or configs; runs that agree in them are a group. By default all that
            matters but the seed, see `rlkit.comparison.groups.group_runs`.
        higher_is_better: by default it is not of losses, regrets and errors.
        threshold: what counts as solved; by default the environment's reward threshold, else
            what comes within 1 % of the optimum.
        normalize: "optimum" turns values into shares of the way from uniformly random play to the
            optimum, a dict such as {"CartPole-v1": (0, 500)} of the way from low to high; several
            environments then get a common score.
        optimum: whether exact models are solved.
        confidence: of the intervals, in (0, 1).
        resamples: of the bootstrap, 100 or more.
        seed: of the bootstrap.
        run_dir: where names are looked up.

    Raises:
        UsageError: no such run, metric or field, a damaged file, a value that is not allowed, or an
            environment that can't be normalised.
    """
    terms = Terms(x, threshold, confidence, resamples, seed)
    given = [runs] if isinstance(runs, (str, os.PathLike)) else runs
    higher = is_higher_better(metric) if higher_is_better is None else higher_is_better
    if normalize is not None and not higher:
        raise UsageError(
            f"metric {metric} is better the lower it is, and can't be normalised; leave normalize "
            "(--normalize) out"
        )
    curves, notes = _measured(given, metric, Path(run_dir))
    curves, copies = without_copies(curves)
    members, mixed = group_runs(curves, by)
    relative = normalize == "optimum"
    optima, unsolved = _optima(members, metric, relative) if optimum or relative else ({}, [])
    thresholds = _thresholds(members, metric, optima)
    if normalize is not None:
        scales = _scales(members, metric, normalize, optima, unsolved)
        members = [normalised(group, *scales[group.name]) for group in members]
        thresholds = {name: _scaled(t, scales[name]) for name, t in thresholds.items()}
        optima = {name: _scaled_optimum(best, scales[name]) for name, best in optima.items()}
    if threshold is not None:
        thresholds = {group.name: threshold for group in members}
    groups = summarise(members, higher, terms, optima, thresholds)
    several = normalize is not None and len({group.task for group in groups}) > 1
    means, overall = aggregate(groups, higher, terms) if several else ([], [])
    return Comparison(
        metric,
        x,
        higher,
        normalize is not None,
        confidence,
        resamples,
        groups,
        [*improvements(groups, higher, terms), *overall],
        means,
        [*notes, *copies, *mixed, *unsolved, *_few(groups)],
    )


def _measured(
    given: Sequence[str | os.PathLike[str]], metric: str, run_dir: Path
) -> tuple[list[Curve], list[str]]:
    """The curves of the runs that have the metric, and notes on what is amiss with them."""
    folders, notes = find_runs(given, run_dir)
    curves = [read_curve(folder, metric) for folder in folders]
    measured = [curve for curve in curves if curve.values.size]
    if not measured:
        known = sorted(frozenset().union(*(curve.metrics for curve in curves)))
        listing = f"they have: {', '.join(known)}" if known else "nothing was measured in them yet"
        hint = did_you_mean(metric, known, listing)
        raise UsageError(f"none of {len(curves)} runs has a value of metric {metric!r}; {hint}")
    without = [str(curve.run.path) for curve in curves if not curve.values.size]
    if without:
        notes.append(f"left out, as there is no value of {metric} in them: {_listing(without)}")
    behind = [
        f"{curve.run.path} ({curve.reached:,} of {curve.planned:,} steps)"
        for curve in measured
        if not curve.finished
    ]
    if behind:
        notes.append(f"unfinished, counted with the last value so far: {_listing(behind)}")
    notes += [
        f"{curve.run.path}: {curve.dropped} values of {metric} are not finite, and left out"
        for curve in measured
        if curve.dropped
    ]
    return measured, notes


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _optima(
    members: Sequence[Members], metric: str, with_random: bool
) -> tuple[dict[str, Optimum], list[str]]:
    """Each group's optimum, by its name, and notes on why a task has none."""
    discounted = metric in EXACT_VALUES
    if metric not in (*RETURNS, *EXACT_VALUES):
        return {}, []
    from rlkit.comparison import optimum  # SciPy and environments: the slower part

    found: dict[str, Optimum] = {}
    notes: dict[str, str] = {}
    tasks = {group.task: group for group in members}
    models = {name: optimum.task_of(group.curves[0].run.config) for name, group in tasks.items()}
    solved: dict[tuple[str, float], Optimum] = {}
    for group in members:
        model, why = models[group.task]
        gammas = {_gamma(curve) for curve in group.curves} if discounted else {1.0}
        if model is not None and len(gammas) > 1:
            model, why = None, "its runs have several discounts"
        if model is None:
            notes[group.task] = why
            continue
        key = group.task, gammas.pop()
        try:
            if key not in solved:
                solved[key] = optimum.best_of(model, key[1], not discounted, with_random)
            found[group.name] = solved[key]
        except UsageError as error:
            notes[group.task] = str(error)
    return found, [f"no optimum for {task}: {why}" for task, why in notes.items() if why]


def _gamma(curve: Curve) -> float:
    gamma = curve.run.config["recipe"].get("gamma")
    return float(gamma) if isinstance(gamma, (int, float)) else math.nan


def _thresholds(
    members: Sequence[Members], metric: str, optima: Mapping[str, Optimum]
) -> dict[str, float]:
    """What counts as solved for each group, by its name, where something says."""
    found = {}
    for group in members:
        registered = _reward_threshold(group.curves[0]) if metric in RETURNS else None
        if registered is not None:
            found[group.name] = registered
        elif group.name in optima:
            best = optima[group.name].value
            found[group.name] = best - NEAR_OPTIMAL * abs(best)
    return found


def _reward_threshold(curve: Curve) -> float | None:
    """The return at which the environment counts as solved, by the run's own record of it."""
    path = curve.run.path / ENV
    if not path.exists():
        return None
    value = read_json(path, UsageError, CONFIG_LIMIT).get("reward_threshold")
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _scales(
    members: Sequence[Members],
    metric: str,
    normalize: Scales,
    optima: Mapping[str, Optimum],
    unsolved: Sequence[str],
) -> dict[str, tuple[float, float]]:
    """What 0 and 1 stand for in each group, by its name."""
    if isinstance(normalize, str):
        return {group.name: _by_optimum(group, metric, optima, unsolved) for group in members}
    tasks = {group.task: str(group.curves[0].run.config["env"]) for group in members}
    normalize = {_full_name(name, tasks): scale for name, scale in normalize.items()}
    for name in normalize:
        if name not in {*tasks, *tasks.values()}:
            hint = did_you_mean(name, tasks, f"there are: {', '.join(tasks)}")
            raise UsageError(f"normalize (--normalize) names {name!r}, and no run is on it; {hint}")
    found = {}
    for group in members:
        scale = normalize.get(group.task, normalize.get(tasks[group.task]))
        if scale is None:
            raise UsageError(
                f"normalize (--normalize) does not say what 0 and 1 are on {group.task}; add "
                f"--normalize {tasks[group.task]}=LOW:HIGH, or leave its runs out"
            )
        low, high = scale
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UsageError(
                f"normalize (--normalize) is {low}:{high} on {group.task}; allowed: two numbers, "
                "the lower one first"
            )
        found[group.name] = low, high
    return found


def _full_name(name: str, tasks: Mapping[str, str]) -> str:
    """An environment's name in full, where runs are on it: "CartPole" is "CartPole-v1"."""
    if name in tasks:
        return name
    return next((env for env in tasks.values() if short_name(env) == short_name(name)), name)


def _by_optimum(
    group: Members, metric: str, optima: Mapping[str, Optimum], unsolved: Sequence[str]
) -> tuple[float, float]:
    best = optima.get(group.name)
    if best is None or best.random is None or not best.random < best.value:
        why = next((note for note in unsolved if group.task in note), "it has no exact model")
        if metric not in (*RETURNS, *EXACT_VALUES):
            why = f"no model says what is the best {metric}"
        elif best is not None:
            why = f"the best policy gets {best.value:g}, as does playing at random"
        raise UsageError(
            f"{group.task} can't be normalised by its optimum: {why}; give --normalize "
            f"{group.curves[0].run.config['env']}=LOW:HIGH"
        )
    return best.random, best.value


def _scaled(value: float, scale: tuple[float, float]) -> float:
    low, high = scale
    return (value - low) / (high - low)


def _scaled_optimum(best: Optimum, scale: tuple[float, float]) -> Optimum:
    low, high = scale
    random = None if best.random is None else _scaled(best.random, scale)
    error = best.error / (high - low)
    return replace(best, value=_scaled(best.value, scale), error=error, random=random)


def _few(groups: Sequence[Group]) -> list[str]:
    few = [f"{g.name} ({len(g.scores)})" for g in groups if len(g.scores) < FEWEST_SEEDS]
    if not few:
        return []
    return [f"no interval with fewer than {FEWEST_SEEDS} seeds: {_listing(few)}"]
