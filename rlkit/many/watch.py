"""Following a run from outside, by what it measures; imports no torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from rlkit.run.folder import CONFIG
from rlkit.run.metrics import EVALUATED, METRICS

MEAN_RETURN = "rollout/ep_rew_mean"


def run_of(run_dir: Path, name: str) -> Path | None:
    """The newest run of that name in `run_dir`: `RunFolder.create` gives each a number."""
    numbered = [
        (int(match[1]), path)
        for path in run_dir.glob(f"{name}-*")
        if (match := re.fullmatch(re.escape(name) + r"-(\d{1,9})", path.name))
        and (path / CONFIG).is_file()
    ]
    return max(numbered)[1] if numbered else None


class Curve:
    """The learning curve of the run in `folder`, as far as it has come at the last `look`.

    Attributes:
        step: environment steps at the last measurement.
        mean_return: of the last episodes in training; None before one has ended.
        evaluations: (step, mean greedy return), oldest first.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS
        self._file: int | None = None  # a resumed run writes another one
        self._clear()

    def _clear(self) -> None:
        self._read = 0
        self.step = 0
        self.mean_return: float | None = None
        self.evaluations: list[tuple[int, float]] = []

    def look(self) -> Curve:
        """Read what has been written since the last look; returns itself."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno()).st_ino
                if found != self._file:
                    self._file = found
                    self._clear()
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):  # is being written
                        break
                    self._read += len(line)
                    self._take(line)
        except OSError:  # nothing is measured yet
            pass
        return self

    def _take(self, line: bytes) -> None:
        try:
            measured = json.loads(line)
            self.step = max(self.step, int(measured["step"]))
            if measured.get(MEAN_RETURN) is not None:
                self.mean_return = float(measured[MEAN_RETURN])
            if measured.get(EVALUATED) is not None:
                self.evaluations.append((self.step, float(measured[EVALUATED])))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass  # a line that a kill left broken
