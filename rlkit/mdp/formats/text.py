"""Lines of numbers, read at C speed; a slow look only at what is not as it should be."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import ModelError, UsageError
from rlkit.mdp.model import BoolArray, IntArray
from rlkit.system import require_memory

_BYTES_PER_BYTE = 12  # measured: what a line takes as text and as numbers, over its bytes


@dataclass(frozen=True, eq=False)
class Text:
    """The lines of a file that say something.

    Fields:
        name: the file, as errors call it.
        lines: the lines, less comments and blank ones.
        numbers: (N,) their numbers in the file, counted from 1.
    """

    name: str
    lines: list[str]
    numbers: IntArray

    def place(self, i: int) -> str:
        """File and line of the i-th of the lines, as errors call it."""
        return f"{self.name} line {self.numbers[i]}"

    def part(self, kept: slice | IntArray) -> Text:
        """Some of the lines."""
        places = np.arange(len(self.lines))[kept]
        return Text(self.name, [self.lines[i] for i in places], self.numbers[kept])

    def refuse(self, wrong: BoolArray, found: NDArray[Any], expected: str) -> None:
        """Raise for the first line where `wrong` (N,) holds; `found` (N,) is what stands there."""
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise ModelError(f"{self.place(i)}: found {found[i]}; expected {expected}")


def read_text(path: Path, comment: str) -> Text:
    """The lines of a UTF-8 file; those that begin with `comment` are left out."""
    size = path.stat().st_size
    require_memory(
        size * _BYTES_PER_BYTE,
        f"model file {str(path)!r} has {size:,} bytes",
        "reading it",
        lambda free: f"{free // _BYTES_PER_BYTE:,} bytes",
    )
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"model file {str(path)!r} is not UTF-8 text (byte {error.start})"
        ) from error
    except OSError as error:
        raise UsageError(f"model file {str(path)!r} can't be read: {error.strerror}") from error
    bare = [line.strip() for line in lines]
    kept = [i for i, line in enumerate(bare) if line and not line.startswith(comment)]
    return Text(f"model file {str(path)!r}", [bare[i] for i in kept], np.array(kept, np.int64) + 1)


def columns(
    text: Text,
    kinds: Sequence[type],
    expected: str,
    delimiter: str | None = None,
    places: Sequence[int] | None = None,
) -> list[NDArray[Any]]:
    """Columns of every line, one array for each of `kinds` (int or float).

    They stand at `places`, without which they are the first ones; others are ignored. A float may
    be a fraction, such as 2/3. Raises ModelError for a line with fewer columns, or with one that is
    no number.
    """
    places = range(len(kinds)) if places is None else places
    dtype = np.dtype(
        [(str(i), np.int64 if kind is int else np.float64) for i, kind in enumerate(kinds)]
    )
    if not text.lines:
        return [np.empty(0, dtype=dtype[i]) for i in range(len(kinds))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as for an integer with a point
            table = np.loadtxt(
                text.lines,
                dtype,
                comments=None,
                delimiter=delimiter,
                usecols=places,
                ndmin=1,
            )
        return [table[str(i)] for i in range(len(kinds))]
    except (ValueError, DeprecationWarning):
        return _columns_slowly(text, kinds, expected, delimiter, places)


def _columns_slowly(
    text: Text,
    kinds: Sequence[type],
    expected: str,
    delimiter: str | None,
    places: Sequence[int],
) -> list[NDArray[Any]]:
    """The same, one number at a time: finds the line that is wrong, or reads fractions."""
    found: list[list[float]] = [[] for _ in kinds]
    for i, line in enumerate(text.lines):
        words = line.split(delimiter)
        try:
            for column, kind, place in zip(found, kinds, places, strict=True):
                column.append(integer(words[place]) if kind is int else number(words[place]))
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise ModelError(f"{text.place(i)}: found {line!r}; expected {expected}") from error
    return [np.array(column, dtype=kind) for column, kind in zip(found, kinds, strict=True)]


def integer(word: str) -> int:
    """A whole number of at most 18 digits."""
    if len(word.strip()) > 18:
        raise ValueError(word)
    return int(word)


def number(word: str) -> float:
    """A decimal number, or a fraction of two whole ones."""
    return float(Fraction(word.strip())) if "/" in word else float(word)


def header(text: Text, expected: str) -> list[int]:
    """The whole numbers in the first line."""
    if not text.lines:
        raise ModelError(f"{text.name} is empty; expected {expected} in its first line")
    try:
        return [integer(word) for word in text.lines[0].split()]
    except ValueError as error:
        raise ModelError(
            f"{text.place(0)}: found {text.lines[0]!r}; expected {expected}"
        ) from error
