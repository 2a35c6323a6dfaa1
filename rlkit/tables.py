"""Tables of values over finitely many states: how states are numbered, and parts of the updates.

Sutton & Barto, Reinforcement Learning: An Introduction, 2nd edition (2018), is "the book" here and
in the tabular agents' files. Their updates are kernels that go through the N environments'
transitions one after another, so that two that meet in a state both count, as they would in one
long episode. Each takes the columns of `rlkit.experience.latest.Transitions` first, and then what
is its own; the functions at the end are what they share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit.arrays import Array
from rlkit.compiled import compiled
from rlkit.errors import UsageError
from rlkit.experience.latest import Bools, Floats, Ints
from rlkit.packing import Leaf, is_composite, leaves, stored

LARGEST_TABLE = 10**8  # numbers, of 8 bytes each

# Types in numba's words; those of what is only read take read-only arrays too.
INTS, FLOATS, UNIFORM, BOOLS, MASK = (
    f"Array({dtype}, {ndim}, 'C', readonly=True)"
    for dtype, ndim in (("int64", 1), ("float64", 1), ("float32", 1), ("bool", 1), ("bool", 2))
)
TABLE, TABLES = "f8[:,::1], i8[:,::1]", "f8[:,:,::1], i8[:,:,::1]"  # with their visits
TRANSITIONS = f"{INTS}, {INTS}, {FLOATS}, {INTS}, {', '.join([BOOLS] * 4)}, {MASK}"

Kernel = TypeVar("Kernel", bound=Callable[..., object])


class StateNumber:
    """Numbers the values of a Discrete or MultiDiscrete space, and of Tuples and Dicts of such.

    The parts of a value are the digits of its number, the first one the most significant; `count`
    is how many numbers there are. Raises UsageError for other spaces.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._is_packed = is_composite(space)
        self._leaves = leaves(space) if self._is_packed else [Leaf((), space, *stored(space), 0, 0)]
        sizes = [_sizes(leaf.space, space) for leaf in self._leaves]
        self.count = weight = math.prod(size for each in sizes for size in each)
        self._weights: list[list[int]] = []
        for each in sizes:
            self._weights.append([weight := weight // size for size in each])

    def __call__(self, obs: Array) -> Array:
        """The numbers (N,) int64 of observations (N, ...)."""
        if self._weights == [[1]] and not self._is_packed:
            return obs
        number = 0
        for leaf, weights in zip(self._leaves, self._weights, strict=True):
            value = self._read(leaf, obs)  # (N,), or (N, k)
            if leaf.shape == ():
                number = number + value * weights[0]
            else:
                for k, weight in enumerate(weights):
                    number = number + value[..., k] * weight
        return number

    def _read(self, leaf: Leaf, obs: Array) -> Array:
        if not self._is_packed:
            return obs
        if not isinstance(obs, (np.ndarray, Tensor)):  # the nested parts themselves
            return leaf.of(obs)
        dtype: Any = leaf.dtype if isinstance(obs, np.ndarray) else getattr(torch, leaf.dtype.name)
        part: Array = obs[..., leaf.start : leaf.stop].view(dtype)
        return part.reshape(*obs.shape[:-1], *leaf.shape)


def _sizes(part: spaces.Space[Any], space: spaces.Space[Any]) -> list[int]:
    if isinstance(part, spaces.Discrete):
        return [int(part.n)]
    if isinstance(part, spaces.MultiDiscrete):
        return [int(n) for n in part.nvec.ravel()]
    raise UsageError(
        f"the observation space is {space}; tabular agents take Discrete and MultiDiscrete, and "
        "Tuples and Dicts of them: for others take dqn, ppo or another agent that generalises"
    )


def check_size(what: str, *shape: int) -> None:
    """Raises UsageError where a table of this shape, which `what` asks for, is too large."""
    if math.prod(shape) > LARGEST_TABLE:
        sizes = " x ".join(f"{size:,}" for size in shape)
        raise UsageError(
            f"{what} makes a table of {sizes} numbers; allowed: up to {LARGEST_TABLE:,} in all; "
            "take fewer environments, or an agent that generalises, such as dqn or ppo"
        )


def kernel(function: Kernel, arguments: str) -> Kernel:
    """`function`, which returns a float, compiled for arguments in numba's words."""
    _make_callable_from_kernels()
    return compiled(function, f"f8({arguments})")


def update_kernel(
    function: Kernel, arguments: str, part: Callable[..., object] | None = None
) -> Kernel:
    """The same of one that takes transitions and then its own arguments, and may call `part`."""
    from numba.extending import register_jitable

    if part is not None:
        register_jitable(part)
    return kernel(function, f"{TRANSITIONS}, {arguments}")


@cache
def load_choose() -> Callable[..., float]:
    """`choose`, compiled."""
    uniform = "Array(float32, 2, 'C', readonly=True)"
    return kernel(choose, f"Array(float64, 2, 'C', readonly=True), {uniform}, f8, {MASK}, i8[::1]")


@cache
def _make_callable_from_kernels() -> None:
    # numba keeps compiled agents by the time at which their own files changed: after a change of
    # these functions, touch agents/*.py.
    from numba.extending import register_jitable

    for function in (is_allowed, highest, expected, step_size):
        register_jitable(function)


def choose(q: Floats, u: NDArray[np.float32], epsilon: float, mask: Bools, action: Ints) -> float:
    """Write the ε-greedy actions (N,) for q (N, A) by uniform numbers u (N, 2)."""
    n_actions = q.shape[1]
    for i in range(len(q)):
        explores = u[i, 0] < epsilon
        best = -math.inf if explores else highest(q, i, mask, i)
        count = 0
        for a in range(n_actions):
            count += is_allowed(mask, i, a) and (explores or q[i, a] == best)
        place = int(u[i, 1] * count)  # among them
        for a in range(n_actions):
            if is_allowed(mask, i, a) and (explores or q[i, a] == best):
                if place == 0:
                    action[i] = a
                    break
                place -= 1
    return 0.0


def is_allowed(mask: Bools, i: int, a: int) -> bool:
    """Whether `mask` (N, A), or (0, 0) for everything, allows action a in row i."""
    return len(mask) == 0 or mask[i, a]


def highest(q: Floats, s: int, mask: Bools, i: int) -> float:
    """max_a q[s, a] over what row i of `mask` allows."""
    best = -math.inf
    for a in range(q.shape[1]):
        if is_allowed(mask, i, a) and q[s, a] > best:
            best = q[s, a]
    return best


def expected(q: Floats, s: int, mask: Bools, i: int, epsilon: float) -> float:
    """Σ_a π(a|s)·q[s, a] for the ε-greedy π over what row i of `mask` allows."""
    total, count = 0.0, 0
    for a in range(q.shape[1]):
        if is_allowed(mask, i, a):
            total += q[s, a]
            count += 1
    return (1 - epsilon) * highest(q, s, mask, i) + epsilon * total / count


def step_size(visits: Ints, s: int, a: int, alpha: float, omega: float) -> float:
    """Count an update of (s, a); its step size α·N(s, a)^−ω: α for ω = 0, for 1 sample averages."""
    visits[s, a] += 1
    return alpha if omega == 0 else alpha * float(visits[s, a]) ** -omega
