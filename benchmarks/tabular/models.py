"""The classes of models that exact solvers are timed on, as arrays of state–action pairs.

Each function returns `Pairs`; `shuffled` renumbers the states at random, which guards against
orders that happen to suit a solver.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree

from rlkit import MDP

_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


@dataclass(frozen=True)
class Pairs:
    """P: csr_array (L, S); r: (L,); offsets: (S + 1,). See `rlkit.MDP`."""

    P: csr_array
    r: np.ndarray
    offsets: np.ndarray

    def mdp(self, gamma: float) -> MDP:
        return MDP.from_pairs(self.P, self.r, self.offsets, gamma)

    def discounted(self, gamma: float) -> MDP:
        """Costs instead of rewards, and no discount: each step ends with probability 1 - gamma."""
        return MDP.from_pairs(gamma * self.P, -self.r, self.offsets, 1.0)


def shuffled(model: Pairs, seed: int = 0) -> Pairs:
    """The same model with its states in random order."""
    S = model.offsets.size - 1
    order = np.random.default_rng(seed).permutation(S)  # order[new] = old
    new = np.empty(S, dtype=np.int64)
    new[order] = np.arange(S)
    counts = np.diff(model.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    rows = np.arange(offsets[-1]) + np.repeat(model.offsets[:-1][order] - offsets[:-1], counts)
    P = model.P[rows]
    P = csr_array((P.data, new[P.indices].astype(np.int32), P.indptr), shape=P.shape)
    return Pairs(P, model.r[rows], offsets)


def grid(n: int, slip: float = 0.2, walls: float = 0.1, goals: int = 1, seed: int = 0) -> Pairs:
    """n x n cells, a share of them walls, four moves at a cost of 1; goals end at random cells."""
    rng = np.random.default_rng(seed)
    free = rng.random((n, n)) >= walls
    labels, _ = ndimage.label(free)
    free = labels == np.bincount(labels[free]).argmax()
    cells = np.flatnonzero(free.ravel())
    ends = cells[[-1]] if goals == 1 else rng.choice(cells, size=goals, replace=False)
    end = np.zeros(n * n, dtype=bool)
    end[ends] = True
    return _moves(free, end.reshape(n, n), slip)


def maze(n: int, slip: float = 0.2, seed: int = 0) -> Pairs:
    """A perfect maze (exactly one way between any two cells) on about n x n cells, walls included.

    Its corridors are a random spanning tree of every second cell.
    """
    m = (n + 1) // 2
    rng = np.random.default_rng(seed)
    at = np.arange(m * m).reshape(m, m)
    a = np.concatenate([at[:, :-1].ravel(), at[:-1].ravel()])
    b = np.concatenate([at[:, 1:].ravel(), at[1:].ravel()])
    tree = minimum_spanning_tree(
        csr_array((rng.random(a.size) + 0.01, (a, b)), shape=(m * m, m * m))
    ).tocoo()
    free = np.zeros((2 * m - 1, 2 * m - 1), dtype=bool)
    free[::2, ::2] = True
    (i, j), (down, right) = np.divmod(tree.coords[0], m), np.divmod(tree.coords[1], m)
    free[i + down, j + right] = True
    end = np.zeros_like(free)
    end[-1, -1] = True
    return _moves(free, end, slip)


def _moves(free: np.ndarray, end: np.ndarray, slip: float) -> Pairs:
    """Four moves over the free cells; a slip goes to one side; what is blocked stays."""
    state = np.where(free, np.cumsum(free).reshape(free.shape) - 1, -1)
    S = int(free.sum())
    padded = np.pad(state, 1, constant_values=-1)
    inside = padded[1:-1, 1:-1]
    here = state[free]
    live = ~end[free]
    target = np.empty((S, 4), dtype=np.int32)
    for a, (di, dj) in enumerate(_MOVES):
        rows, cols = inside.shape
        to = padded[1 + di : 1 + di + rows, 1 + dj : 1 + dj + cols][free]
        target[:, a] = np.where(to >= 0, to, here)
    target = target[live]
    turns = ((0, 1.0 - slip), (1, slip / 2), (-1, slip / 2)) if slip else ((0, 1.0),)
    L = target.shape[0] * 4
    indices = np.empty((target.shape[0], 4, len(turns)), dtype=np.int32)
    for k, (turn, _) in enumerate(turns):
        indices[:, :, k] = target[:, (np.arange(4) + turn) % 4]
    data = np.broadcast_to([p for _, p in turns], indices.shape)
    indptr = np.arange(0, L * len(turns) + 1, len(turns), dtype=np.int32)
    P = csr_array((data.ravel(), indices.ravel(), indptr), shape=(L, S))
    offsets = np.concatenate([[0], np.cumsum(4 * live)])
    return Pairs(P, -np.ones(L), offsets)


def garnet(S: int, A: int, successors: int, seed: int = 0) -> Pairs:
    """Random successors with random probabilities and rewards (Archibald et al., 1995)."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, S, size=(S * A, successors), dtype=np.int32)
    data = rng.exponential(size=indices.shape)
    data /= data.sum(axis=1, keepdims=True)
    indptr = np.arange(0, indices.size + 1, successors, dtype=np.int32)
    P = csr_array((data.ravel(), indices.ravel(), indptr), shape=(S * A, S))
    return Pairs(P, rng.normal(size=S * A), np.arange(0, S * A + 1, A))


def chain(S: int) -> Pairs:
    """On with 0.8 or back with 0.2, or the other way; a cost of 1; ends past the last state."""
    i = np.arange(S)
    on, back = np.minimum(i + 1, S), np.maximum(i - 1, 0)
    indices = np.stack([back, on, back, on], axis=1)
    data = np.broadcast_to([0.8, 0.2, 0.2, 0.8], indices.shape)
    P = csr_array((data.ravel(), indices.ravel(), np.arange(0, 4 * S + 1, 2)), shape=(2 * S, S + 1))
    return Pairs(P, -np.ones(2 * S), np.append(np.arange(0, 2 * S + 1, 2), 2 * S))


def forest(S: int, fire: float = 0.1) -> Pairs:
    """A forest that grows a year older or burns; cut it (1, or 2 when grown) or wait (4 then)."""
    i = np.arange(S)
    wait = csr_array(
        (
            np.concatenate([np.full(S, fire), np.full(S, 1 - fire)]),
            (np.concatenate([2 * i, 2 * i]), np.concatenate([0 * i, np.minimum(i + 1, S - 1)])),
        ),
        shape=(2 * S, S),
    )
    cut = csr_array((np.ones(S), (2 * i + 1, 0 * i)), shape=(2 * S, S))
    r = np.zeros((S, 2))
    r[-1, 0], r[1:, 1], r[-1, 1] = 4.0, 1.0, 2.0
    return Pairs((wait + cut).tocsr(), r.ravel(), np.arange(0, 2 * S + 1, 2))


def inventory(M: int, demand: float = 0.7, order: float = 3.0) -> Pairs:
    """Levels 0..M, order up to M, geometric demand; revenue 8 a unit, holding cost 1."""
    probability = demand ** np.arange(M + 1) * (1 - demand)
    rows, r, counts = [], [], []
    for level in range(M + 1):
        for bought in range(M - level + 1):
            stock = level + bought
            row = np.zeros(M + 1)
            row[stock - np.arange(stock)] = probability[:stock]
            row[0] = demand**stock
            sold = stock - row @ np.arange(M + 1)
            rows.append(csr_array(row))
            r.append(8.0 * sold - 2.0 * bought - order * (bought > 0) - stock)
        counts.append(M - level + 1)
    indptr = np.concatenate([[0], np.cumsum([row.nnz for row in rows])])
    P = csr_array(
        (np.concatenate([x.data for x in rows]), np.concatenate([x.indices for x in rows]), indptr),
        shape=(len(rows), M + 1),
    )
    return Pairs(P, np.array(r), np.concatenate([[0], np.cumsum(counts)]))


def queues(n: int, arrival: float = 0.2, service: float = 0.3) -> Pairs:
    """Two queues of up to n - 1 customers; serve one of them; both empty is the end of the day."""
    i, j = np.divmod(np.arange(n * n), n)

    def at(di: int, dj: int) -> np.ndarray:
        return np.clip(i + di, 0, n - 1) * n + np.clip(j + dj, 0, n - 1)

    outcomes = [(1, 0, arrival / 2), (0, 1, arrival / 2), (0, 0, 1 - arrival - service)]
    indices = np.empty((n * n, 2, 4), dtype=np.int32)
    data = np.empty(indices.shape)
    for k, (di, dj, p) in enumerate(outcomes):
        indices[:, :, k], data[:, :, k] = at(di, dj)[:, None], p
    indices[:, 0, 3], indices[:, 1, 3], data[:, :, 3] = at(-1, 0), at(0, -1), service
    r = np.repeat(-(1.0 * i + 1.5 * j)[:, None] / n, 2, axis=1)
    P = csr_array(
        (data[1:].ravel(), indices[1:].ravel(), np.arange(0, 8 * (n * n - 1) + 1, 4)),
        shape=(2 * (n * n - 1), n * n),
    )
    offsets = np.append(0, np.arange(0, 2 * (n * n - 1) + 1, 2))
    return Pairs(P, r[1:].ravel(), offsets)


def layered(layers: int, width: int, A: int = 4, successors: int = 5, seed: int = 0) -> Pairs:
    """A directed acyclic graph: each layer leads to the next, the last to the end."""
    rng = np.random.default_rng(seed)
    n = (layers - 1) * width
    first = np.repeat(np.arange(1, layers) * width, width * A)[:, None]
    indices = (first + rng.integers(0, width, size=(n * A, successors))).astype(np.int32)
    data = rng.exponential(size=indices.shape)
    data /= data.sum(axis=1, keepdims=True)
    P = csr_array(
        (data.ravel(), indices.ravel(), np.arange(0, indices.size + 1, successors, dtype=np.int32)),
        shape=(n * A, layers * width),
    )
    offsets = np.concatenate([np.arange(0, n * A + 1, A), np.full(width, n * A)])
    return Pairs(P, rng.normal(size=n * A), offsets)
