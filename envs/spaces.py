"""The two ports between an environment's spaces and an agent's: observations in, actions out.

environment                     agent
observes  Box of uint8          the same
          Box, other dtypes     the same bounds, as float32
          Discrete(n, start)    Discrete(n), int64
          MultiDiscrete         in one dimension, from 0, int64
          MultiBinary           the same, as float32 zeros and ones
acts in   Box, bounded          [-1, 1], scaled to the bounds
          Box, unbounded        the same, clipped where there is one bound
          Discrete(n, start)    Discrete(n)
          MultiDiscrete         in one dimension, from 0
          MultiBinary           the same
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.envs.checks import brief, cast, warn_cast
from rlkit.errors import EnvError, RlkitWarning, UsageError

SUPPORTED = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


class ObsPort:
    """Takes batches of observations, of any size but fastest of `n`.

    `space` is what an agent observes. `strict` makes an observation outside its Box an error;
    without it, it is one warning for all.
    """

    def __init__(self, space: spaces.Space[Any], n: int, strict: bool) -> None:
        _refuse_unsupported("observation", space)
        self.space = _observed(space)
        self.declared_space = space
        self._n = n
        self._shape: tuple[int, ...] = space.shape  # type: ignore[assignment]
        self._declared: np.dtype[Any] = space.dtype  # type: ignore[assignment]
        self._dtype: np.dtype[Any] = np.dtype(np.float32)
        if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
            self._dtype = np.dtype(np.int64)
        elif isinstance(space, spaces.Box) and space.dtype == np.uint8:
            self._dtype = np.dtype(np.uint8)
        self._start = _start(space)
        self._is_flattened = self.space.shape != self._shape
        self._is_box = isinstance(space, spaces.Box)
        self._strict = strict
        self._cast_said = False
        low, high = _bounds(self.space, self._dtype)
        self._bounds = (low, high)
        self._limits: _Limits | None = None
        if not _is_whole_range(low, high, self._dtype):
            self._limits = _Limits(low, high, n)

    def take(self, raw: Any, when: str, which: NDArray[np.intp] | None = None) -> NDArray[Any]:
        """A copy of `raw`, (K, *shape), as the agent sees it, after checking it.

        `when` ("vector step 7") and `which`, the (K,) environments it comes from (all of them
        unless given), name the place in errors. Raises EnvError for another shape, for something
        that is no number, for NaN and infinities, and for a value outside its space.
        """
        if type(raw) is not np.ndarray or raw.dtype != self._declared:
            raw = self._cast(raw, when)
        if raw.ndim != len(self._shape) + 1 or raw.shape[1:] != self._shape:
            raise EnvError(
                f"a batch of observations of shape {raw.shape} was returned at {when}; the space "
                f"says {self._shape} for each"
            )
        obs: NDArray[Any]
        if raw.dtype == np.float64:
            with np.errstate(over="ignore"):
                obs = np.array(raw, dtype=self._dtype, order="C")
        else:
            obs = np.array(raw, dtype=self._dtype, order="C")
        if self._start is not None:
            obs -= self._start
        if self._is_flattened:
            obs = obs.reshape(len(obs), -1)
        if self._limits is not None and not self._limits.hold(obs):
            self._complain(obs, when, which)
        return obs

    def _cast(self, raw: Any, when: str) -> NDArray[Any]:
        try:
            array = cast(raw, self._declared)
        except TypeError as error:
            raise EnvError(
                f"the environments returned observations that are {error} at {when}; their space "
                f"says {self._declared}"
            ) from error
        if not self._cast_said and self._is_box:
            self._cast_said = True
            found = str(raw.dtype) if hasattr(raw, "dtype") else f"a {type(raw).__name__}"
            warn_cast(found, self._declared)
        return array

    def _complain(self, obs: NDArray[Any], when: str, which: NDArray[np.intp] | None) -> None:
        """Find what is wrong with `obs`: raise, or warn and from here on look for less."""
        low, high = self._bounds
        finite = np.isfinite(obs)
        wrong = ~finite if not finite.all() else (obs < low) | (obs > high)
        row, *element = (int(i) for i in np.argwhere(wrong)[0])
        env = row if which is None else int(which[row])
        key = f"observation[{', '.join(map(str, element))}]" if element else "observation"
        value = obs[(row, *element)]
        if self._start is not None:
            value += self._start.ravel()[element[0] if element else 0]
        found = f"env {env} returned {key} = {value} at {when}"
        if not finite.all():
            raise EnvError(f"{found}; nothing was learned from that step: mend the environment")
        allowed = f"[{low[tuple(element)]}, {high[tuple(element)]}]"
        if not self._is_box:
            raise EnvError(
                f"{found}, outside its space {self.declared_space}; mend the environment"
            )
        if self._strict:
            raise EnvError(f"{found}, outside its Box {allowed}; clip it, or widen the space")
        warnings.warn(
            f"{found}, outside its Box {allowed}; clip it, or widen the space (said once; strict "
            "makes it an error)",
            RlkitWarning,
            stacklevel=2,
        )
        self._limits = None
        if self._dtype.kind == "f":
            everything = np.full(self._shape, np.inf, self._dtype)
            self._limits = _Limits(-everything, everything, self._n)


class _Limits:
    """One exact check of a batch for NaN, infinities and bounds together.

    A NaN fails both comparisons, and infinite bounds are replaced by the largest finite numbers.
    """

    def __init__(self, low: NDArray[Any], high: NDArray[Any], n: int) -> None:
        if low.dtype.kind == "f":
            largest = np.finfo(low.dtype).max
            low, high = np.maximum(low, -largest), np.minimum(high, largest)
        self._each = (low, high)
        # Broadcasting costs as much as the comparisons on a small batch.
        self._batch = (np.stack([low] * n), np.stack([high] * n))

    def hold(self, obs: NDArray[Any]) -> bool:
        low, high = self._batch if len(obs) == len(self._batch[0]) else self._each
        return bool(np.count_nonzero((obs >= low) & (obs <= high)) == obs.size)


class ActionPort:
    """Gives an agent's batches of actions to environments; `space` is what an agent acts in."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        _refuse_unsupported("action", space)
        self._shape: tuple[int, ...] = space.shape  # type: ignore[assignment]
        self._start = _start(space)
        self._box: _Scaling | None = None
        self.space: spaces.Space[Any] = _from_zero(space)
        if isinstance(space, spaces.Box):
            self._box = _Scaling(space)
            self.space = self._box.space
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
        if self._box is not None:
            return self._box.scale(action)
        if action.dtype.kind not in "biu":
            raise UsageError(f"the actions are {action.dtype}; {self.space} takes whole numbers")
        if shape != self._shape:
            action = action.reshape(len(action), *self._shape)
        return action if self._start is None else action + self._start


class _Scaling:
    """An affine map per dimension: from [-1, 1] to finite bounds, the identity elsewhere."""

    def __init__(self, space: spaces.Box) -> None:
        finite = np.isfinite(space.low) & np.isfinite(space.high)
        self.space = _float32_box(
            np.where(finite, -1.0, space.low), np.where(finite, 1.0, space.high)
        )
        self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
        half_low = np.where(finite, self._low, -1.0) / 2
        half_high = np.where(finite, self._high, 1.0) / 2
        self._scale, self._middle = half_high - half_low, half_high + half_low
        self._dtype: np.dtype[Any] = space.dtype

    def scale(self, action: NDArray[Any]) -> NDArray[Any]:
        if np.count_nonzero(np.isfinite(action)) != action.size:
            row = int(np.argwhere(~np.isfinite(action))[0][0])
            raise UsageError(f"the action for env {row} is {brief(action[row])}; it must be finite")
        scaled = action * self._scale + self._middle
        if self._dtype.kind in "iu":
            scaled = np.rint(scaled)
        bounded: NDArray[Any] = np.clip(scaled, self._low, self._high).astype(self._dtype)
        return bounded


def _refuse_unsupported(kind: str, space: spaces.Space[Any]) -> None:
    if not isinstance(space, SUPPORTED):
        names = ", ".join(supported.__name__ for supported in SUPPORTED)
        raise UsageError(
            f"the {kind} space is a {type(space).__name__}, {brief(space)}; supported are {names} "
            "(gymnasium.wrappers.FlattenObservation makes one Box of a Dict or a Tuple)"
        )
    if 0 in (space.shape or ()):
        raise UsageError(f"the {kind} space {brief(space)} is empty; give it a size above 0")


def _start(space: spaces.Space[Any]) -> NDArray[np.int64] | None:
    """What a space's values begin at, of the space's shape; None for 0 and for other spaces."""
    if not isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return None
    start = np.asarray(space.start, dtype=np.int64)
    return start if start.any() else None


def _from_zero(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """A Discrete or MultiDiscrete space as an agent sees it; other spaces as they are."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and (space.nvec.ndim != 1 or space.start.any()):
        return spaces.MultiDiscrete(space.nvec.ravel())
    return space


def _observed(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Box) and space.dtype not in (np.uint8, np.float32):
        return _float32_box(space.low, space.high)
    return _from_zero(space)


def _float32_box(low: NDArray[Any], high: NDArray[Any]) -> spaces.Box:
    with np.errstate(over="ignore"):
        return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def _bounds(space: spaces.Space[Any], dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The least and the greatest observation, elementwise, in the dtype of the batch.

    Rounding is monotonic: a float64 within its float64 bounds stays within them as float32.
    """
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.MultiDiscrete):
        low, size = np.asarray(space.start), np.asarray(space.nvec)
    elif isinstance(space, spaces.Discrete):
        low, size = np.asarray(0), np.asarray(space.n)
    else:
        low, size = np.zeros(space.shape), np.full(space.shape, 2)  # type: ignore[arg-type]
    return low.astype(dtype), (low + size - 1).astype(dtype)


def _is_whole_range(low: NDArray[Any], high: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether the bounds hold for every value of an integer dtype."""
    if dtype.kind == "f":
        return False
    limits = np.iinfo(dtype)
    return bool((low == limits.min).all() and (high == limits.max).all())
