"""Observations on their way from environments to agents: checked, cast, and one array of them.

environment                     agent
Box of uint8                    the same
Box, other dtypes               the same bounds, as float32
Discrete(n, start)              Discrete(n), int64
MultiDiscrete                   in one dimension, from 0, int64
MultiBinary                     the same, as float32 zeros and ones
Text                            the same, as the numbers of its words, int32
Dict, Tuple, of all of these    the same of theirs, as one row of bytes
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.envs.arrays import ArrayPort
from rlkit.envs.checks import brief
from rlkit.envs.spaces import refuse_unsupported
from rlkit.errors import EnvError, RlkitError, UsageError
from rlkit.packing import is_composite, is_text, leaves, pack, parts_of, word_numbers, words_of


class ObsPort(Protocol):
    """Takes batches of observations, of any size but fastest of the number that it was made for.

    `space` is what an agent observes, `declared_space` what the environment says. A port that is
    strict makes an observation outside its Box an error; another warns once for all.
    """

    space: spaces.Space[Any]
    declared_space: spaces.Space[Any]

    def take(self, raw: Any, when: str, which: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """A copy of a raw batch of K as the agent sees it, one array (K, ...), after checking it.

        `when` ("vector step 7") and `which`, the (K,) environments it comes from (all of them
        unless given), name the place in errors. Raises EnvError for another shape, for something
        that is no number, for NaN and infinities, and for a value outside its space.
        """

    def collate(self, rows: Sequence[Any], which: NDArray[np.intp], when: str) -> Any:
        """The raw batch of K raw observations; `which` are the environments they come from."""

    def batch(self, obs: Any) -> tuple[Any, bool]:
        """A user's observation, or N of them, as a raw batch, and whether it was but one.

        Raises UsageError for another shape and for what is no number or not finite.
        """


class TextPort:
    """Observations that are texts, as the numbers of their words (`rlkit.packing`)."""

    def __init__(self, space: spaces.Space[Any], key: str = "") -> None:
        self.declared_space = space
        self.space: spaces.Space[Any] = space
        self._name = f"observation{key}"
        self._length = words_of(space)

    def take(self, raw: Any, when: str, which: NDArray[np.intp] | None = None) -> NDArray[Any]:
        for row, text in enumerate(raw):
            if not isinstance(text, str):
                env = row if which is None else int(which[row])
                raise EnvError(
                    f"env {env} returned {self._name} = {brief(text)} at {when}; its space says a "
                    "text"
                )
        return np.stack([word_numbers(text, self._length) for text in raw])

    def collate(self, rows: Sequence[Any], which: NDArray[np.intp], when: str) -> list[Any]:
        return list(rows)

    def batch(self, obs: Any) -> tuple[list[str], bool]:
        single = isinstance(obs, str)
        texts = [obs] if single else list(obs) if isinstance(obs, (list, tuple, np.ndarray)) else []
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"the {self._name} is {brief(obs)}; allowed: a text, or N of them")
        return texts, single


class PartsPort:
    """Observations that are dicts or tuples, nested or not, as rows of bytes (`rlkit.packing`)."""

    def __init__(self, space: spaces.Space[Any], n: int, strict: bool) -> None:
        self.declared_space = space
        for _, part in parts_of(space):
            if not is_text(part):
                refuse_unsupported("observation", part)
        self._ports = [port_of(leaf.space, n, strict, leaf.key) for leaf in leaves(space)]
        if not self._ports:
            raise UsageError(f"the observation space {brief(space)} is empty; give it a part")
        self._raw = leaves(space)
        self.space = _with_leaves(space, iter([port.space for port in self._ports]))
        self._packed = leaves(self.space)

    def take(self, raw: Any, when: str, which: NDArray[np.intp] | None = None) -> NDArray[Any]:
        values = [
            port.take(part, when, which)
            for port, part in zip(self._ports, self._split(raw, EnvError, when), strict=True)
        ]
        return pack(self._packed, values)

    def collate(self, rows: Sequence[Any], which: NDArray[np.intp], when: str) -> Any:
        each = [self._split(row, EnvError, when) for row in rows]
        columns = zip(*each, strict=True)
        return self._joined(
            port.collate(column, which, when)
            for port, column in zip(self._ports, columns, strict=True)
        )

    def batch(self, obs: Any) -> tuple[Any, bool]:
        found = [
            port.batch(part)
            for port, part in zip(self._ports, self._split(obs, UsageError, "act"), strict=True)
        ]
        counts = {(len(rows), single) for rows, single in found}
        if len(counts) != 1:
            raise UsageError(
                f"the parts of the observation {brief(obs)} are of different numbers of "
                "environments; allowed: one observation, or N with every part stacked"
            )
        return self._joined(rows for rows, _ in found), found[0][1]

    def _split(self, raw: Any, error: type[RlkitError], when: str) -> list[Any]:
        """The leaves of a nested dict or tuple."""
        try:
            return [leaf.of(raw) for leaf in self._raw]
        except (KeyError, IndexError, TypeError):
            raise error(
                f"the observation {brief(raw)} at {when} lacks a part of {brief(self.space)}"
            ) from None

    def _joined(self, values: Iterable[Any]) -> Any:
        """The leaves' values in the nesting of the space."""
        return _with_values(self.declared_space, iter(values))


def obs_port(space: spaces.Space[Any], n: int, strict: bool) -> ObsPort:
    """The port of an observation space. Raises UsageError where rlkit has none."""
    if is_composite(space):
        return PartsPort(space, n, strict)
    return port_of(space, n, strict, "")


def port_of(space: spaces.Space[Any], n: int, strict: bool, key: str) -> ArrayPort | TextPort:
    return TextPort(space, key) if is_text(space) else ArrayPort(space, n, strict, key)


def _with_leaves(space: spaces.Space[Any], found: Iterator[spaces.Space[Any]]) -> spaces.Space[Any]:
    """A Dict or Tuple with other leaves."""
    if isinstance(space, spaces.Dict):
        # as pairs: of a dict, Gymnasium would sort the keys
        pairs = [(key, _with_leaves(child, found)) for key, child in space.spaces.items()]
        return spaces.Dict(pairs)
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([_with_leaves(child, found) for child in space.spaces])
    return next(found)


def _with_values(space: spaces.Space[Any], found: Iterator[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {k: _with_values(child, found) for k, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_with_values(child, found) for child in space.spaces)
    return next(found)
