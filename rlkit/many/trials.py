"""The trials of a study that this process works on: each takes a slot, its seeds one by one.

So a poor trial is often seen, and pruned, in the first of its seeds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from rlkit.many.batch import DONE, FAILED, TICK, Watched, recorded
from rlkit.many.board import Board, Row
from rlkit.many.child import MODULE
from rlkit.many.jobs import Ended, Jobs
from rlkit.many.plans import field_of
from rlkit.many.study import BEAT_SECONDS, SharedStudy, distribution, runs_of
from rlkit.many.task import Task
from rlkit.run.signals import StopSignals

ASK_SECONDS = 2.0  # between two looks for a trial to do, while others do theirs
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class TrialResult:
    """What a trial came to: `state` is complete, pruned, failed, running or waiting."""

    number: int
    state: str
    value: float | None  # mean final greedy return over its seeds; of a pruned one the last seen
    changes: Mapping[str, Any]  # to the recipe, in JSON values
    returns: Sequence[float]  # of each seed
    seconds: float | None  # of training
    error: str | None


@dataclass
class _Active:
    """A trial that is being worked on."""

    trial: Trial
    changes: Mapping[str, Any]
    returns: list[float] = field(default_factory=list)
    seconds: float = 0.0
    reported: int = 0  # evaluations of all seeds, so far
    pruned: bool = False
    beat_at: float = field(default_factory=time.monotonic)


class Trials:
    """Works on the trials of `shared`, with runs in `home`, until `stop` says to."""

    def __init__(
        self, task: Task, shared: SharedStudy, home: Path, board: Board, stop: StopSignals
    ) -> None:
        self.task, self.shared, self.home = task, shared, home
        self.board, self.stop = board, stop
        agent = task.training.agent
        self._space = {
            name: distribution(field_of(agent, name), dimension)
            for name, dimension in task.search.items()
        }
        self._active: dict[str, _Active] = {}  # by the name of the run that is under way
        self._watched = Watched(home)
        self._rows: dict[str, Row] = {}
        self._over = 0

    def results(self) -> Sequence[TrialResult]:
        """All trials of the study: the complete ones first, the best of them at the head."""
        found = [self._result(trial) for trial in self.shared.trials()]
        order = list(STATES.values())
        return sorted(
            found, key=lambda one: (order.index(one.state), -(one.value or 0.0), one.number)
        )

    def _result(self, trial: FrozenTrial) -> TrialResult:
        told = trial.user_attrs
        changes = self.task.changes(trial.params) if trial.params else {}
        return TrialResult(
            trial.number,
            STATES[trial.state],
            trial.value,
            changes,
            told.get("returns", []),
            told.get("seconds"),
            told.get("error"),
        )

    def run(self, count: int, slots: Sequence[Mapping[str, str]]) -> None:
        """Work until there are `count` trials in all, or no more to begin here."""
        stopping, ask_at = False, 0.0
        if stale := self.shared.hand_back_stale():
            self.board.event(f"{stale} trials whose process has ended go on")
        with Jobs(MODULE, slots) as pool:
            while True:
                if self.stop.received and not stopping:
                    stopping = True
                    pool.stop()
                    self.board.event(f"stopping {len(pool.running)} runs, which save")
                if not stopping and time.monotonic() >= ask_at:
                    self._fill(pool, count)
                    ask_at = time.monotonic() + ASK_SECONDS
                for ended in pool.ended():
                    self._end(pool, ended, stopping)
                    ask_at = 0.0
                if not pool.running and (stopping or ask_at):
                    return
                self._watch(pool)
                self._show(pool, count)
                time.sleep(TICK)

    def _fill(self, pool: Jobs, count: int) -> None:
        """Begin trials in the free slots."""
        while pool.free and (trial := self.shared.next(count, self._space)) is not None:
            active = _Active(trial, self.task.changes(trial.params))
            told = ", ".join(f"{name} {active.changes[name]}" for name in self.task.search)
            self.board.event(f"trial {trial.number}: {told}", minor=True)
            self._start(pool, active)

    def _start(self, pool: Jobs, active: _Active) -> None:
        """Start the next seed of a trial."""
        seed = self.task.seeds[len(active.returns)]
        name = f"trial={runs_of(active.trial):04d},seed={seed}"
        self._active[name] = active
        whole = self.task.base.but(active.changes).to_json()
        job = self.task.training.job(self.home, name, whole, seed)
        pool.start(job)
        self._watched.begin(job)

    def _end(self, pool: Jobs, ended: Ended, stopping: bool) -> None:
        """A run has ended: the next seed begins, or the trial is closed or handed back."""
        active = self._active.pop(ended.name)
        log = self.home / "logs" / f"{ended.name}.log"
        record = recorded(ended, None, stopping or active.pruned, log)
        active.seconds += record.seconds or 0.0
        if record.state == DONE and record.final_return is not None:
            active.returns.append(record.final_return)
            self._report(active, len(active.returns) * self.task.evaluations, mean(active.returns))
            if len(active.returns) == len(self.task.seeds):
                self._close(active, TrialState.COMPLETE)
            elif active.pruned:
                self._close(active, TrialState.PRUNED)
            elif stopping:
                self.shared.hand_back(active.trial)
            else:
                self._start(pool, active)
        elif active.pruned:
            self._close(active, TrialState.PRUNED)
        elif record.state == FAILED:
            self._close(active, TrialState.FAIL, record.error)
        else:
            self.shared.hand_back(active.trial)

    def _close(self, active: _Active, state: TrialState, error: str | None = None) -> None:
        value = mean(active.returns) if active.returns else None
        told = {"returns": active.returns, "seconds": active.seconds, "error": error}
        self.shared.finish(active.trial, state, value, told)
        self._over += 1
        said = STATES[state] if error is None else f"{STATES[state]}: {error}"
        if state == TrialState.COMPLETE and value is not None:
            said = f"return {value:.2f}"
        self.board.event(f"trial {active.trial.number}: {said}, {active.seconds:.1f} s")

    def _watch(self, pool: Jobs) -> None:
        """Report the learning curves, prune what is poor, and say that the trials are alive."""
        on_the_way = self.task.evaluations - 1
        for name, seconds in pool.running.items():
            active = self._active[name]
            self._rows[name] = self._watched.row(name, seconds)
            before = len(active.returns) * self.task.evaluations
            for i, (_, value) in enumerate(self._watched.evaluations(name)[:on_the_way], start=1):
                so_far = mean([*active.returns, value])
                if not active.pruned and self._report(active, before + i, so_far):
                    pool.stop([name])
            if time.monotonic() - active.beat_at > BEAT_SECONDS:
                active.beat_at = time.monotonic()
                self.shared.beat(active.trial)

    def _report(self, active: _Active, step: int, value: float) -> bool:
        """Tell of a new point of a trial's curve, the mean over its seeds; whether it is pruned."""
        if step > active.reported:
            active.reported = step
            active.pruned = self.shared.prunes(active.trial, step, value)
        return active.pruned

    def _show(self, pool: Jobs, count: int) -> None:
        rows = [row for name, row in self._rows.items() if name in pool.running]
        over = f"{self._over} trials over here, {len(rows)} running, {count} in all"
        self.board.show(over, rows)
