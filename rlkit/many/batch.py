"""Running many jobs to their ends, and keeping what came of each; imports no torch."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rlkit.envs.worker_process import cause
from rlkit.errors import RlkitWarning, UsageError
from rlkit.many.board import Board, Row
from rlkit.many.child import MODULE, is_of
from rlkit.many.jobs import Ended, Job, Jobs
from rlkit.many.watch import Curve, run_of
from rlkit.run.files import json_bytes, read_json, write_atomically
from rlkit.run.folder import RunFolder
from rlkit.run.signals import StopSignals

DONE, FAILED, STOPPED = "done", "failed", "stopped"
TICK = 0.1  # seconds between two looks at the children
LIMIT = 1 << 26  # bytes of a ledger
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """What came of a run: `state` is done, failed or stopped."""

    state: str
    run: str | None = None  # its folder
    steps: int | None = None  # environment steps in all
    seconds: float | None = None  # of training, as far as is known
    final_return: float | None = None  # mean greedy return at the end
    error: str | None = None


class Ledger:
    """The records of many runs, by name, in a JSON file; `sweep` and `tune` go on from it.

    Raises UsageError where the file is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: dict[str, Record] = {}
        if not path.exists():
            return
        found = read_json(path, UsageError, LIMIT)
        known = {field.name for field in fields(Record)}
        try:
            for name, record in found["runs"].items():
                told = Record(**{k: v for k, v in record.items() if k in known})
                _check(told)
                self.records[name] = told
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"{path}: not as the results of runs are written ({error!r}); move it away, and "
                "they are found again from the runs"
            ) from None

    def put(self, name: str, record: Record) -> None:
        """Keep a record; a disk that doesn't take it costs a warning, not the runs."""
        self.records[name] = record
        told = {"format": FORMAT, "runs": {k: asdict(v) for k, v in self.records.items()}}
        try:
            write_atomically(self._path, json_bytes(told))
        except OSError as error:
            warnings.warn(
                f"{self._path} can't be written: {error.strerror}; free some disk space",
                RlkitWarning,
                stacklevel=2,
            )

    def done(self, job: Job) -> Record | None:
        """The record of a job's run, if that is done, and still there, and of this very job."""
        record = self.records.get(job.name)
        if record is None or record.state != DONE or record.run is None:
            return None
        try:
            run = RunFolder.open(self._path.parent / Path(record.run).name)
        except UsageError:
            return None
        return record if is_of(run, job.document) else None


def _check(record: Record) -> None:
    """Raise ValueError for a record that `Ledger.put` can't have written."""
    numbers = record.steps, record.seconds, record.final_return
    if record.state not in (DONE, FAILED, STOPPED):
        raise ValueError(f"the state {record.state!r}")
    if not all(number is None or isinstance(number, (int, float)) for number in numbers):
        raise ValueError(f"the numbers {numbers}")


class Watched:
    """The runs of jobs that are under way in `home`, as rows of a `Board`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._told: dict[str, Mapping[str, Any]] = {}
        self._curves: dict[str, tuple[Curve, int]] = {}  # and how many steps the run is to take

    def begin(self, job: Job) -> None:
        """Follow a job's run from now on."""
        self._told[job.name] = job.document
        self._curves.pop(job.name, None)

    def row(self, name: str, seconds: float) -> Row:
        """How far the job is that has been running for so long."""
        if name not in self._curves and (run := self._find(name)) is not None:
            self._curves[name] = Curve(run.path), int(run.config["recipe"]["steps"])
        if name not in self._curves:
            return Row(name, None, None, None, seconds)
        curve, total = self._curves[name]
        curve.look()
        return Row(name, curve.step, total, curve.mean_return, seconds)

    def _find(self, name: str) -> RunFolder | None:
        path = run_of(self._home, name)
        try:
            run = None if path is None else RunFolder.open(path)
        except UsageError:  # its config is being written
            return None
        return run if run is not None and is_of(run, self._told[name]) else None

    def evaluations(self, name: str) -> Sequence[tuple[int, float]]:
        """The (step, mean return) of the run's evaluations, as of the last `row`."""
        return self._curves[name][0].evaluations if name in self._curves else []


def run_all(
    home: Path,
    jobs: Sequence[Job],
    slots: Sequence[Mapping[str, str]],
    ledger: Ledger,
    board: Board,
    stop: StopSignals,
) -> None:
    """Run the jobs, whose runs lie in `home`, one in each slot; `stop` has them save and end."""
    pending, watched, asked = deque(jobs), Watched(home), False
    done = 0
    logs = {job.name: job.log for job in jobs}
    with Jobs(MODULE, slots) as pool:
        while pool.running or (pending and not stop.received):
            if stop.received and not asked:
                asked = True
                pool.stop()
                board.event(f"stopping {len(pool.running)} runs, which save; Ctrl-C kills them")
            while pending and pool.free and not stop.received:
                job = pending.popleft()
                pool.start(job)
                watched.begin(job)
                board.event(f"{job.name}: started", minor=True)
            for ended in pool.ended():
                done += 1
                earlier = ledger.records.get(ended.name)
                record = recorded(ended, earlier, asked, logs[ended.name])
                ledger.put(ended.name, record)
                board.event(f"{ended.name}: {in_words(record)}  ({done} of {len(jobs)})")
            running = pool.running.items()
            rows = [watched.row(name, seconds) for name, seconds in running]
            board.show(f"{done} of {len(jobs)} runs over, {len(rows)} running", rows)
            time.sleep(TICK)


def recorded(ended: Ended, earlier: Record | None, asked: bool, log: Path) -> Record:
    """The record of a job that has ended; `asked`: it was asked to stop."""
    answer = ended.answer
    if answer is None:
        if asked:
            return Record(STOPPED)
        return Record(FAILED, error=f"{cause(ended.code)}; what it printed: {log}")
    if "error" in answer:
        return Record(FAILED, error=str(answer["error"]))
    seconds: Any = answer.get("seconds")
    if earlier is not None and earlier.seconds is not None:
        seconds = earlier.seconds + (seconds or 0.0)
    reached = answer.get("run"), answer.get("steps"), seconds, answer.get("final_return")
    return Record(DONE if answer["status"] == 0 else STOPPED, *reached)


def in_words(record: Record) -> str:
    """What came of a run, in a line."""
    if record.state == FAILED:
        return f"failed: {record.error}"
    if record.state == STOPPED:
        return "stopped" if record.steps is None else f"stopped at step {record.steps:,}"
    reached = "not evaluated" if record.final_return is None else f"{record.final_return:.2f}"
    took = "" if record.seconds is None else f", {record.seconds:.1f} s"
    return f"return {reached}, {record.steps:,} steps{took}"
