"""Actions on their way from agents to environments.

environment                     agent
Box, bounded                    [-1, 1], scaled to the bounds
Box, unbounded                  the same, clipped where there is one bound
Discrete(n, start)              Discrete(n)
MultiDiscrete                   in one dimension, from 0
MultiBinary                     the same
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.envs.checks import brief
from rlkit.errors import UsageError

SUPPORTED = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
NESTED = ", Text, and Dict and Tuple of them"


class ActionPort:
    """Gives an agent's batches of actions to environments.

    `space` is what an agent acts in, `declared_space` what the environment says; `scaling` leads
    from the one to the other where they are Boxes.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        refuse_unsupported("action", space)
        self.declared_space = space
        self._shape: tuple[int, ...] = space.shape  # type: ignore[assignment]
        self._start = start_of(space)
        self.scaling: Scaling | None = None
        self.space: spaces.Space[Any] = from_zero(space)
        if isinstance(space, spaces.Box):
            self.scaling = Scaling(space)
            self.space = self.scaling.space
        self._agents_shape: tuple[int, ...] = self.space.shape  # type: ignore[assignment]

    def give(self, action: NDArray[Any]) -> NDArray[Any]:
        """The environments' actions for the agents' `action`, (N, *action), as many.

        Raises UsageError for another shape, for fractions where the space is of whole numbers,
        and for a NaN.
        """
        action = np.asarray(action)
        shape = self._agents_shape
        if action.ndim != len(shape) + 1 or action.shape[1:] != shape:
            raise UsageError(
                f"a batch of actions of shape {action.shape} was given; the space says {shape} for "
                "each"
            )
        if self.scaling is not None:
            return self.scaling.scale(action)
        if action.dtype.kind not in "biu":
            raise UsageError(f"the actions are {action.dtype}; {self.space} takes whole numbers")
        if shape != self._shape:
            action = action.reshape(len(action), *self._shape)
        return action if self._start is None else action + self._start


class Scaling:
    """An affine map per dimension: from [-1, 1] to finite bounds, the identity elsewhere.

    A Box's action is `factor`·action + `middle`, rounded where it is of integers, and clipped to
    `low` and `high`: float64 each, of the space's shape.
    """

    def __init__(self, space: spaces.Box) -> None:
        finite = np.isfinite(space.low) & np.isfinite(space.high)
        self.space = float32_box(
            np.where(finite, -1.0, space.low), np.where(finite, 1.0, space.high)
        )
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        half_low = np.where(finite, self.low, -1.0) / 2
        half_high = np.where(finite, self.high, 1.0) / 2
        self.factor, self.middle = half_high - half_low, half_high + half_low
        self._dtype: np.dtype[Any] = space.dtype

    def scale(self, action: NDArray[Any]) -> NDArray[Any]:
        if np.count_nonzero(np.isfinite(action)) != action.size:
            row = int(np.argwhere(~np.isfinite(action))[0][0])
            raise UsageError(f"the action for env {row} is {brief(action[row])}; it must be finite")
        scaled = action * self.factor + self.middle
        if self._dtype.kind in "iu":
            scaled = np.rint(scaled)
        bounded: NDArray[Any] = np.clip(scaled, self.low, self.high).astype(self._dtype)
        return bounded


def refuse_unsupported(kind: str, space: spaces.Space[Any]) -> None:
    """Raise UsageError for a space, or a leaf of one, that rlkit does not know."""
    if not isinstance(space, SUPPORTED):
        names = ", ".join(supported.__name__ for supported in SUPPORTED)
        raise UsageError(
            f"the {kind} space is a {type(space).__name__}, {brief(space)}; supported are {names}"
            f"{NESTED if kind == 'observation' else ''}"
        )
    if 0 in (space.shape or ()):
        raise UsageError(f"the {kind} space {brief(space)} is empty; give it a size above 0")


def start_of(space: spaces.Space[Any]) -> NDArray[np.int64] | None:
    """What a space's values begin at, of the space's shape; None for 0 and for other spaces."""
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return None
    start = np.asarray(space.start, dtype=np.int64)
    return start if start.any() else None


def from_zero(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """A Discrete or MultiDiscrete space as an agent sees it; other spaces as they are."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and (space.nvec.ndim != 1 or space.start.any()):
        return spaces.MultiDiscrete(space.nvec.ravel())
    return space


def float32_box(low: NDArray[Any], high: NDArray[Any]) -> spaces.Box:
    with np.errstate(over="ignore"):
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
