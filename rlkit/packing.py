"""How values of a space are kept: one array for all of them, whatever the space.

A Dict or a Tuple, nested or not, travels as one row of bytes: its leaves one after another, each as
it is, behind the other's end. So memories, environments and checkpoints treat it like any other
array, and a frame beside a few numbers still takes one byte per pixel. Encoders look into the row
again (`rlkit.networks.numbers`). A text is kept as numbers of words.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ALIGNED = 8  # bytes: every leaf begins at a multiple, so that it is read in place

# A word's number is its checksum's remainder: nothing to collect before training and nothing to
# save after it. Two words of a vocabulary of 30 share one of 4095 numbers in one of ten cases.
VOCABULARY = 4096
LONGEST_TEXT = 64  # words and signs


@dataclass(frozen=True)
class Leaf:
    """A part of a Dict or a Tuple that is neither, and its place in the row."""

    path: tuple[str | int, ...]
    space: spaces.Space[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int  # the first byte, and the one after the last
    stop: int

    @property
    def key(self) -> str:
        """As a user writes it: ``['camera'][0]``."""
        return "".join(f"[{part!r}]" for part in self.path)

    def of(self, tree: Any) -> Any:
        """The leaf's value in a nested dict or tuple."""
        for part in self.path:
            tree = tree[part]
        return tree


def is_composite(space: spaces.Space[Any]) -> bool:
    return isinstance(space, (spaces.Dict, spaces.Tuple))


def is_text(space: spaces.Space[Any]) -> bool:
    """Whether the space's values are strings: a Text, or a space of an environment's own."""
    return space.dtype is not None and space.dtype.kind == "U"


def has_text(space: spaces.Space[Any]) -> bool:
    """Whether the space is of strings, or a part of it is."""
    return any(is_text(leaf) for _, leaf in parts_of(space))


def described(space: spaces.Space[Any]) -> str:
    """The space in words that are the same in every process.

    Gymnasium writes a Text with its characters in the order of a set, and a space of an
    environment's own may show where its functions lie in memory.
    """
    if isinstance(space, spaces.Dict):
        parts = ", ".join(f"{key!r}: {described(part)}" for key, part in space.spaces.items())
        return f"Dict({parts})"
    if isinstance(space, spaces.Tuple):
        return f"Tuple({', '.join(map(described, space.spaces))})"
    if is_text(space):
        return f"Text of {words_of(space)} words"
    return " ".join(str(space).split())  # NumPy breaks long bounds into lines


def leaves(space: spaces.Space[Any]) -> list[Leaf]:
    """The leaves of a Dict or a Tuple, in the order of the space; their places in a row."""
    found: list[Leaf] = []
    stop = 0
    for path, leaf in parts_of(space):
        shape, dtype = stored(leaf)
        start = _aligned(stop)
        stop = start + int(np.prod(shape)) * dtype.itemsize
        found.append(Leaf(path, leaf, shape, dtype, start, stop))
    return found


def is_numbered(space: spaces.Space[Any]) -> bool:
    """Whether observations can be numbered: Discrete, MultiDiscrete, Tuples and Dicts of them."""
    parts = [part for _, part in parts_of(space)] if is_composite(space) else [space]
    return all(isinstance(part, (spaces.Discrete, spaces.MultiDiscrete)) for part in parts)


def stored(space: spaces.Space[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and dtype in which a value of the space is kept."""
    if is_composite(space):
        return (_aligned(leaves(space)[-1].stop),), np.dtype(np.uint8)
    if is_text(space):
        return (words_of(space),), np.dtype(np.int32)
    assert space.shape is not None, f"{space} has no fixed shape"
    assert space.dtype is not None
    return space.shape, space.dtype


def space_array(space: spaces.Space[Any], leading: tuple[int, ...]) -> NDArray[Any]:
    """Zeros for `leading` many values of a space."""
    shape, dtype = stored(space)
    return np.zeros((*leading, *shape), dtype)


def pack(parts: Sequence[Leaf], values: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
    """The rows (K, bytes) of K values, given the (K, *shape) of each leaf."""
    count = len(values[0])
    rows = np.zeros((count, _aligned(parts[-1].stop)), np.uint8)
    for leaf, value in zip(parts, values, strict=True):
        rows[:, leaf.start : leaf.stop].view(leaf.dtype)[:] = value.reshape(count, -1)
    return rows


def words_of(space: spaces.Space[Any]) -> int:
    """How many words and signs of a text are kept: as many as may stand in it, up to 64."""
    characters = getattr(space, "max_length", None)  # a Text has it
    return LONGEST_TEXT if characters is None else min(LONGEST_TEXT, characters)


@lru_cache(maxsize=4096)
def word_numbers(text: str, length: int) -> NDArray[np.int32]:
    """The first `length` words and signs of a text as numbers from 1; 0 after its end: (length,).

    Upper and lower case are one.
    """
    words = re.findall(r"\w+|[^\w\s]", text.lower())[:length]
    numbers = np.zeros(length, np.int32)
    numbers[: len(words)] = [zlib.crc32(word.encode()) % (VOCABULARY - 1) + 1 for word in words]
    numbers.flags.writeable = False
    return numbers


def parts_of(
    space: spaces.Space[Any], path: tuple[str | int, ...] = ()
) -> list[tuple[tuple[str | int, ...], spaces.Space[Any]]]:
    """The leaves of a Dict or a Tuple, nested or not, and where they are; of others themselves."""
    if isinstance(space, spaces.Dict):
        children: list[tuple[str | int, spaces.Space[Any]]] = list(space.spaces.items())
    elif isinstance(space, spaces.Tuple):
        children = list(enumerate(space.spaces))
    else:
        return [(path, space)]
    return [found for part, child in children for found in parts_of(child, (*path, part))]


def _aligned(position: int) -> int:
    return -(-position // ALIGNED) * ALIGNED
