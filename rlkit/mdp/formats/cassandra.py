"""Cassandra's format of .MDP and .POMDP files (https://www.pomdp.org/code/pomdp-file-spec.html).

    discount: 0.95
    values: reward
    states: left right
    actions: stay go
    start: left
    T: stay identity
    T: go : left : right 1.0
    T: go : right uniform
    R: go : left : * : * 1.0

Of a POMDP the fully observable model is read: observations count only where rewards depend on them,
by their expectation. With ``values: cost`` the rewards are the negatives. What is specified twice
holds as it was specified last, and ``*`` is everything. A state whose every action stays there with
reward 0 is terminal.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import ModelError
from rlkit.mdp.build import arrays_to_pairs
from rlkit.mdp.formats.contents import FILE_TOLERANCE, Choice, Contents, uniform
from rlkit.mdp.formats.text import Text, integer, read_text
from rlkit.mdp.model import FloatArray
from rlkit.registry import did_you_mean
from rlkit.system import require_memory

_BYTES_PER_NAME = 200
_TOKEN = re.compile(r"[^\s:]+|:")
_SETS = ("states", "actions", "observations")
_PREAMBLE = ("discount", "values", *_SETS)
_TABLES = {  # the sets that the tables are indexed by
    "T": ("actions", "states", "states"),
    "O": ("actions", "states", "observations"),
    "R": ("actions", "states", "states", "observations"),
}
_KEYWORDS = (*_PREAMBLE, "start", *_TABLES)
_ENTRY = re.compile(rf"({'|'.join(_KEYWORDS)})\s*:|start\s+(include|exclude)\s*:")


def read(path: Path, choice: Choice) -> Contents:
    """The model in a .MDP or .POMDP file."""
    choice.refuse(path, path.suffix)
    parser = _Parser(read_text(path, comment="#"))
    parser.parse()
    return parser.contents()


@dataclass
class _Parser:
    """Reads a file entry by entry: a keyword at the beginning of a line, and what follows it.

    `number` is the line that the entry begins in; `words` are its words, the next one last.
    """

    text: Text
    sets: dict[str, dict[str, int]] = field(default_factory=dict)  # places by name and by number
    tables: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    gamma: float | None = None
    sign: float = 1.0
    start: FloatArray | None = None
    number: int = 0
    words: list[str] = field(default_factory=list)

    def parse(self) -> None:
        """Take in the whole file."""
        lines = self.text.lines
        begins = [i for i, line in enumerate(lines) if _ENTRY.match(line)]
        if lines and (not begins or begins[0] > 0):
            self.number = int(self.text.numbers[0])
            word = _TOKEN.findall(lines[0])[0]
            hint = did_you_mean(word, _KEYWORDS, f"one of {', '.join(_KEYWORDS)}")
            raise self._refusal(word, f"{hint} with a colon")
        cells = _Cells(self)
        numbers = self.text.numbers.tolist()
        for begin, end in itertools.pairwise([*begins, len(lines)]):
            self.number = numbers[begin]
            if end == begin + 1 and cells.take(lines[begin]):
                continue
            cells.begin("")
            entry = " ".join(line.partition("#")[0] for line in lines[begin:end])
            self.words = _TOKEN.findall(entry)[::-1]
            self._entry(self._next())
        cells.write()

    def contents(self) -> Contents:
        """What was taken in, as pairs."""
        P = self.table("T")
        sums = P.sum(axis=2)
        near = (sums != 1.0) & (np.abs(sums - 1.0) <= FILE_TOLERANCE)
        P[near] /= sums[near][:, None]
        short = np.argwhere(~(np.abs(sums - 1.0) <= FILE_TOLERANCE))
        if short.size:
            a, s = (int(i) for i in short[0])
            raise ModelError(
                f"{self.text.name}: state {self._called('states', s)}, action "
                f"{self._called('actions', a)}: probabilities sum to {sums[a, s]:.9g}; in this "
                "format they must sum to 1"
            )
        R = self.sign * self._expected_rewards()
        pairs = arrays_to_pairs(P, R, True, None, None)
        return Contents(pairs, self.gamma, self.start)

    def _expected_rewards(self) -> FloatArray:
        """(A, S, S), rewards that depend on the observation weighted by its probability."""
        R = self.table("R")
        if R.ndim == 3:
            return R
        return np.asarray(np.einsum("asto,ato->ast", R, self.table("O")))

    def _next(self) -> str:
        """The next word, taken out."""
        if not self.words:
            raise ModelError(f"{self.text.name} line {self.number}: ends too soon; expected more")
        return self.words.pop()

    def _rest(self) -> list[str]:
        """The words that are left, taken out."""
        words, self.words = self.words[::-1], []
        return words

    def _refusal(self, found: str, expected: str) -> ModelError:
        return ModelError(
            f"{self.text.name} line {self.number}: found {found!r}; expected {expected}"
        )

    def _entry(self, keyword: str) -> None:
        mode = self._next()
        if keyword == "start" and mode in ("include", "exclude"):
            self._next()
        if keyword == "start":
            self._start(mode)
        elif keyword in _TABLES:
            self._table_entry(keyword)
        else:
            self._preamble(keyword)
        if self.words:
            raise self._refusal(self.words[-1], "the next entry to begin a line of its own")

    def _preamble(self, keyword: str) -> None:
        if keyword == "discount":
            word = self._next()
            self.gamma = self._float(word)
            if not 0.0 <= self.gamma <= 1.0:
                raise self._refusal(word, "a discount, 0 to 1")
        elif keyword == "values":
            word = self._next()
            if word not in ("reward", "cost"):
                raise self._refusal(word, "reward or cost")
            self.sign = 1.0 if word == "reward" else -1.0
        else:
            names = self._rest()
            if not names or ":" in names:
                raise self._refusal(" ".join(names[:3]), f"the number of {keyword}, or their names")
            counted = len(names) == 1 and names[0].isdigit()
            size = self._size(keyword, names[0]) if counted else len(names)
            self.sets[keyword] = {str(place): place for place in range(size)}
            if not counted:
                self.sets[keyword].update(zip(names, range(size), strict=True))

    def _size(self, keyword: str, word: str) -> int:
        try:
            size = integer(word)
        except ValueError:
            size = 0
        # Each has a row at least in the tables, so that more of them could not be held.
        require_memory(
            size * _BYTES_PER_NAME,
            f"{self.text.name} line {self.number} declares {word} {keyword}",
            "the model",
            lambda free: f"{free // _BYTES_PER_NAME:,}",
        )
        if size < 1:
            raise self._refusal(word, f"a number of {keyword}, 1 or more")
        return size

    def _count(self, name: str) -> int:
        if name not in self.sets:
            raise ModelError(
                f"{self.text.name} line {self.number}: found no '{name}:' so far; expected it "
                "before what is said of them"
            )
        return max(self.sets[name].values()) + 1

    def _called(self, name: str, place: int) -> str:
        """The name of a state or an action, or its number where it has none."""
        return [word for word, i in self.sets[name].items() if i == place][-1]

    def _member(self, name: str, word: str) -> slice | int:
        """The place of a state, an action or an observation; all of them for ``*``."""
        if word == "*":
            return slice(None)
        known = self.sets[name]
        if word not in known:
            names = [key for key in known if not key.isdigit()]
            hint = did_you_mean(word, names, f"one of the {self._count(name)} {name}")
            raise self._refusal(word, hint)
        return known[word]

    def _float(self, word: str) -> float:
        try:
            value = float(word)
        except ValueError as error:
            raise self._refusal(word, "a number") from error
        if not math.isfinite(value):
            raise self._refusal(word, "a finite number")
        return value

    def _start(self, mode: str) -> None:
        size = self._count("states")
        words = self._rest()
        if words == ["uniform"]:
            self.start = uniform(np.arange(size), size)
        elif mode != ":" or len(words) == 1:
            named = np.zeros(size, dtype=bool)
            for word in words:
                named[self._member("states", word)] = True
            self.start = uniform(np.flatnonzero(named != (mode == "exclude")), size)
        else:
            self.start = self._numbers(words, (size,))
            total = float(self.start.sum())
            if abs(total - 1.0) <= FILE_TOLERANCE:
                self.start /= total

    def _numbers(self, words: list[str], shape: tuple[int, ...]) -> FloatArray:
        if len(words) != math.prod(shape):
            raise self._refusal(f"{len(words)} values", f"{math.prod(shape)} values")
        try:
            values = np.array(words, dtype=np.float64)
        except ValueError as error:
            raise self._refusal(" ".join(words[:3]), "numbers") from error
        if not np.all(np.isfinite(values)):
            raise self._refusal(words[int(np.argmin(np.isfinite(values)))], "a finite number")
        return values.reshape(shape)

    def sets_of(self, table: str) -> tuple[str, ...]:
        """The sets a table is indexed by; an .MDP file knows no observations."""
        return tuple(name for name in _TABLES[table] if name in self.sets or name != _SETS[2])

    def _table_entry(self, name: str) -> None:
        """T, O or R with the places of some of its indices, then the values of the others."""
        sets = self.sets_of(name)
        if name == "O":
            self._count("observations")
        where: list[slice | int] = []
        while len(where) < len(sets):
            self._count(sets[len(where)])
            where.append(self._member(sets[len(where)], self._next()))
            if self.words[-1:] != [":"]:
                break
            self._next()
        shape = tuple(self._count(other) for other in sets[len(where) :])
        words = self._rest()
        # first the table, which is refused where it doesn't fit: the values may be as many
        table = self.table(name, observed=len(where) < 4 or where[-1] != slice(None))
        values = self._values(words, shape, name)
        if table.ndim < len(sets):  # rewards that so far depend on no observation
            where = where[: table.ndim]
        table[tuple(where)] = values

    def _values(self, words: list[str], shape: tuple[int, ...], name: str) -> FloatArray:
        if words == ["uniform"] and shape and name != "R":
            return np.full(shape, 1.0 / shape[-1])
        if words == ["identity"] and name == "T" and len(shape) == 2:
            return np.eye(shape[0])
        if words == ["reset"] and name == "T" and len(shape) == 1 and self.start is not None:
            return self.start
        values = self._numbers(words, shape)
        if name != "R" and not (values.min() >= 0.0 and values.max() <= 1.0 + FILE_TOLERANCE):
            raise self._refusal(
                str(words[int(np.argmax(~((values >= 0) & (values <= 1.0))))]),
                "a probability, 0 to 1",
            )
        return values

    def table(self, name: str, observed: bool = False) -> NDArray[np.float64]:
        """The table, made where it is first needed; of rewards a larger one once `observed`."""
        sets = self.sets_of(name)
        if name == "R" and not observed and len(sets) == 4:
            sets = sets[:3]
        table = self.tables.get(name)
        if table is None or table.ndim < len(sets):
            shape = tuple(self._count(other) for other in sets)
            require_memory(
                16 * math.prod(shape),
                f"{self.text.name} line {self.number}: {' x '.join(str(n) for n in shape)} entries",
                f"the table {name}",
                lambda free: f"{free // 16:,} entries",
            )
            made = np.zeros(shape)
            if table is not None:
                made[:] = table[..., None]
            self.tables[name] = table = made
        return table


class _Cells:
    """Entries of a single number, gathered: by far the most lines of a large file are such."""

    def __init__(self, parser: _Parser) -> None:
        self.parser = parser
        self.name = ""
        self.known: list[dict[str, int]] = []  # the places of the table's indices, by name
        self.where: list[tuple[int, ...]] = []
        self.values: list[float] = []

    def take(self, line: str) -> bool:
        """Whether the line is such an entry of the table that is gathered; it then is taken in."""
        name, *words = line.split(":")
        name = name.strip()
        if name != self.name:
            self.begin(name)
        try:
            words[-1], value = words[-1].split()
            if name == "R" and len(words) > len(self.known) and words[-1] == "*":
                words.pop()  # an observation that does not matter
            place = [known[word.strip()] for known, word in zip(self.known, words, strict=True)]
            number = float(value)
        except (KeyError, ValueError, IndexError):
            return False  # with a wildcard, a row, a comment, a mistake: that takes a closer look
        if not (0.0 <= number <= 1.0 if name != "R" else math.isfinite(number)):
            return False
        self.where.append(tuple(place))
        self.values.append(number)
        return True

    def begin(self, name: str) -> None:
        """Gather for the table `name`."""
        self.write()
        self.name, self.known = name, []
        if name in _TABLES:
            ndim = self.parser.table(name).ndim
            self.known = [self.parser.sets[key] for key in _TABLES[name][:ndim]]

    def write(self) -> None:
        """Put what is gathered into its table, in order."""
        if self.where:
            table = self.parser.table(self.name)
            table[tuple(np.array(self.where).T)] = self.values
            self.where, self.values = [], []
