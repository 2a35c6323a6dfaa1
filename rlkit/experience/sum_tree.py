"""A sum tree: cells with priorities, drawn in proportion to them (Schaul et al. 2016, app. B.2.1).

Each node is the sum of eight below it, which share a line of the processor's cache: a tree over a
million cells is seven levels deep, where one of pairs would be twenty. A sum is always taken anew
from the eight below, never corrected by a difference, so that no error builds up, and a tree that
is built from the leaves alone equals the one that grew. numba is imported when a tree is made.

The kernels are plain Python until `load` compiles them. They share

    tree   (nodes,) float64: the leaves, then the sums of eight leaves, and so on up to one level
           of eight
    first  (levels,) int64: where in `tree` each level begins
"""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.compiled import compiled

FAN = 8
BYTES_PER_CELL = 10  # 8·(1 + 1/8 + 1/64 + ...), rounded up

load = cache(compiled)


class SumTree:
    """The priorities of `size` cells, all 0 at first."""

    def __init__(self, size: int) -> None:
        widths = widths_of(size)
        self._tree = np.zeros(sum(widths))
        self._first = np.array([0, *accumulate(widths[:-1])], dtype=np.int64)
        self.leaves: NDArray[np.float64] = self._tree[:size]  # (size,), to read only
        levels = "f8[::1], i8[::1]"
        self._fill = load(_fill, f"void({levels}, i8, f8[::1])")
        self._change = load(_change, f"void({levels}, i8[::1], f8[::1])")
        self._draw = load(_draw, f"void({levels}, f8[:,::1], i8[:,::1], f8[:,::1])")

    def fill(self, start: int, priorities: NDArray[np.float64]) -> None:
        """Give the cells from `start` on these priorities, (K,), each 0 or more."""
        self._fill(self._tree, self._first, start, priorities)

    def change(self, cells: NDArray[np.int64], priorities: NDArray[np.float64]) -> None:
        """Give the cells (K,) priorities (K,) > 0, the last one where a cell comes up twice.

        A cell whose priority is 0 keeps it.
        """
        assert cells.shape == priorities.shape, f"{cells.shape} cells, {priorities.shape} errors"
        self._change(self._tree, self._first, cells, priorities)

    def draw(self, u: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """For each of G rows B cells and their priorities, (G, B), by stratified sampling.

        Args: u (G, B) in [0, 1): the b-th cell of a row is the one at the share (b + u)/B of the
        sum of all priorities, which must not be 0. A cell of priority 0 is never drawn.
        """
        cells, priorities = np.empty(u.shape, dtype=np.int64), np.empty(u.shape)
        self._draw(self._tree, self._first, u, cells, priorities)
        return cells, priorities


def widths_of(size: int) -> list[int]:
    """How wide the levels are, from the leaves up to one of eight."""
    widths = [_padded(size)]
    while widths[-1] > FAN:
        widths.append(_padded(widths[-1] // FAN))
    return widths


def _padded(width: int) -> int:
    return -(-width // FAN) * FAN


def _fill(tree: Any, first: Any, start: int, priorities: Any) -> None:
    tree[start : start + len(priorities)] = priorities
    low, high = start, start + len(priorities) - 1
    for level in range(1, len(first)):
        low, high = low // FAN, high // FAN
        for node in range(low, high + 1):
            below = first[level - 1] + FAN * node
            total = 0.0
            for child in range(below, below + FAN):
                total += tree[child]
            tree[first[level] + node] = total


def _change(tree: Any, first: Any, cells: Any, priorities: Any) -> None:
    nodes = cells.copy()
    for k in range(len(cells)):
        if tree[cells[k]] > 0:
            tree[cells[k]] = priorities[k]
    # Level by level: what the cells wait for in memory, they wait for together.
    for level in range(1, len(first)):
        for k in range(len(cells)):
            nodes[k] //= FAN
            below = first[level - 1] + FAN * nodes[k]
            total = 0.0
            for child in range(below, below + FAN):
                total += tree[child]
            tree[first[level] + nodes[k]] = total


def _draw(tree: Any, first: Any, u: Any, cells: Any, priorities: Any) -> None:
    groups, count = u.shape
    total = 0.0
    for node in range(first[-1], len(tree)):
        total += tree[node]
    for g in range(groups):
        node_of, rest_of = cells[g], priorities[g]
        for b in range(count):
            node_of[b], rest_of[b] = 0, (b + u[g, b]) / count * total
        for level in range(len(first) - 1, -1, -1):
            for b in range(count):
                below = first[level] + FAN * node_of[b]
                rest, running, before, chosen = rest_of[b], 0.0, 0.0, 0
                for child in range(below, below + FAN):  # counted, as guessed branches cost more
                    running += tree[child]
                    if rest >= running:
                        before = running
                        chosen += 1
                if chosen == FAN:  # rounding has left a rest: it belongs to the last cell
                    chosen -= 1
                    while tree[below + chosen] == 0:
                        chosen -= 1
                    rest, before = tree[below + chosen], 0.0
                rest_of[b] = rest - before
                node_of[b] = below - first[level] + chosen
        for b in range(count):
            priorities[g, b] = tree[cells[g, b]]
