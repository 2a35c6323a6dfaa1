"""What a run measures, twice: JSON lines for programs, events for TensorBoard.

On disk, in the run's folder::

    metrics.jsonl               one object a line: {"step": 400, "time": 1.7e9, "loss/value": 0.3}
    events.out.tfevents.0000    TensorBoard's records; each resumption opens the next number

`step` counts environment steps, `time` is in seconds since 1970, a value that is not finite is
null. Each line is written at once, so a kill loses at most the line that is being written. On
resumption the lines beyond the resumed step go, and TensorBoard is told to drop what it had there:
curves go on without a fold.

Events are written through TensorBoard's own protocol buffers and record writer. Its EventFileWriter
costs 2.4 times as much a call (a queue and a thread), torch.utils.tensorboard seconds to import.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from rlkit.errors import RlkitWarning, RunError, UsageError

METRICS = "metrics.jsonl"
EVENTS = "events.out.tfevents."  # TensorBoard looks for "tfevents" and reads in the names' order
RETURN, LENGTH = "episode/return", "episode/length"
EVALUATED = "eval/mean_reward"
FLUSH_SECONDS = 5.0
TAIL_BYTES = 1 << 16


class Metrics:
    """The measurements of the run in `folder`; close it, or use it as a context manager.

    `resume_step`: the run goes on from here; None for a new run.

    A disk that is full stops no training: what can't be written is dropped, with one RlkitWarning.
    """

    def __init__(self, folder: str | os.PathLike[str], resume_step: int | None = None) -> None:
        folder = Path(folder)
        lines = folder / METRICS
        if lines.is_symlink() or (lines.exists() and not lines.is_file()):
            raise RunError(f"{lines}: a link, or no file: nothing is written to it; take it away")
        if resume_step is not None and lines.exists():
            try:
                cut_metrics(lines, resume_step)
            except OSError as error:
                raise RunError(
                    f"{lines}: can't be cut back to step {resume_step}: "
                    f"{error.strerror}; free some disk space"
                ) from error
        # unbuffered: one write a line, which a kill can't lose
        self._lines = lines.open("ab", buffering=0)
        self._end = self._lines.seek(0, os.SEEK_END)
        self._warned = False
        self._events: EventFile | None = EventFile(folder, resume_step)
        self._step = resume_step or 0

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` at `step`; a value is whatever `float` takes, such as a 0-d tensor."""
        now = time.time()
        numbers = {name: float(value) for name, value in values.items()}
        self._write_line(step, now, numbers)
        self._write_event(step, now, _scalars(numbers))

    def episode(self, step: int, return_: float, length: float) -> None:
        """Record that an episode of `length` steps has ended with the sum of rewards `return_`.

        Of several that are recorded together, their means.
        """
        self.scalars(step, {RETURN: return_, LENGTH: length})

    def text(self, name: str, markdown: str) -> None:
        """Record a text, such as the config, for TensorBoard's TEXT tab."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._write_event(self._step, time.time(), text_pb(name, markdown))

    def hparams(self, config: Mapping[str, Any], results: Collection[str]) -> None:
        """Record the run's line in TensorBoard's HPARAMS tab: flat `config`, and its results.

        `results` names scalars: the tab shows the last value that each of them has got. Bools,
        numbers and strings in `config` stand as they are, other values as text.
        """
        from tensorboard.plugins.hparams.summary_v2 import (
            HParam,
            Metric,
            hparams_config_pb,
            hparams_pb,
        )

        flat = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in config.items()
        }
        now = time.time()
        columns = [HParam(name) for name in flat], [Metric(name) for name in results]
        self._write_event(0, now, hparams_config_pb(*columns))
        self._write_event(0, now, hparams_pb(flat))

    def close(self) -> None:
        """Write out what is buffered and close the files."""
        try:
            self._lines.close()
            if self._events:
                self._events.close()
        except OSError as error:
            self._warn(error)
        self._events = None

    def _write_line(self, step: int, now: float, numbers: Mapping[str, float]) -> None:
        record: dict[str, Any] = {"step": step, "time": round(now, 3)}
        for name, number in numbers.items():
            record[name] = number if math.isfinite(number) else None
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            written = self._lines.write(line)
            if written != len(line):
                raise OSError("the disk is full")
            self._end += written
        except OSError as error:
            with suppress(OSError):  # where the folder itself is gone, as on a network
                # a part of the line would spoil the next one
                self._lines.truncate(self._end)
            self._warn(error)

    def _write_event(self, step: int, now: float, summary: Any) -> None:
        self._step = max(self._step, step)
        if self._events is None:
            return
        try:
            self._events.write(now, step=step, summary=summary)
        except OSError as error:
            # after a part of a record TensorBoard reads no further: leave the file at that
            with suppress(OSError):
                self._events.close()
            self._events = None
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"measurements are lost: {error}; free some disk space", RlkitWarning, stacklevel=4
            )


class Unrecorded:
    """Takes what `Metrics` takes, of a process that records nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def episode(self, step: int, return_: float, length: float) -> None:
        pass

    def text(self, name: str, markdown: str) -> None:
        pass

    def hparams(self, config: Mapping[str, Any], results: Collection[str]) -> None:
        pass

    def close(self) -> None:
        pass


class EventFile:
    """The next numbered TensorBoard file in `folder`, opened for writing."""

    def __init__(self, folder: Path, resume_step: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        taken = [int(path.suffix[1:]) for path in folder.glob(f"{EVENTS}[0-9]*")]
        number = max(taken, default=-1) + 1
        self._event = Event
        self._file: BinaryIO = (folder / f"{EVENTS}{number:04d}").open("xb")
        self._records = RecordWriter(self._file)
        self._flushed = 0.0
        self.write(time.time(), file_version="brain.Event:2")
        if resume_step is not None:
            # TensorBoard drops what it has from this step on
            start = SessionLog(status=SessionLog.START)
            self.write(time.time(), step=resume_step + 1, session_log=start)

    def write(self, now: float, **fields: Any) -> None:
        """Append an Event with these fields; the file is flushed every few seconds."""
        self._records.write(self._event(wall_time=now, **fields).SerializeToString())
        passed = time.monotonic()  # the wall clock may be set back
        if passed - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = passed

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl, in order; a last line cut off by a kill is left out.

    Raises UsageError, with the line's number, for any other line that is not a JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                record = _parse(line)
                if record is None:
                    raise UsageError(f"{path}:{number}: not a line of metrics: {line[:40]!r}")
                yield record


def read_tail(path: Path) -> list[dict[str, Any]]:
    """The whole lines in the last part of a metrics.jsonl, however long the file is."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
        file.seek(start)
        lines = file.read(TAIL_BYTES).splitlines(keepends=True)
    whole = lines[1:] if start else lines
    return [record for line in whole if (record := _parse(line)) is not None]


def cut_metrics(path: Path, step: int) -> None:
    """Keep the lines up to `step`, and drop those beyond it and those that a kill left broken."""
    aside = path.with_name(f".tmp-{path.name}")
    aside.unlink(missing_ok=True)  # a link that lies there is not followed
    with path.open("rb") as old, aside.open("xb") as new:
        for line in old:
            record = _parse(line)
            if record is not None and _step_of(record) <= step:
                new.write(line)
        new.flush()
        os.fsync(new.fileno())
    os.replace(aside, path)


def _step_of(record: Mapping[str, Any]) -> float:
    """The step of a line; one that says none is before all steps, one that says nonsense after."""
    step = record.get("step", 0)
    return step if isinstance(step, (int, float)) else math.inf


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _scalars(numbers: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(
        value=[Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
    )
