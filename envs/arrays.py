"""Observations that are arrays: checked, cast, and brought to the form that agents see."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.envs.checks import cast, warn_cast
from rlkit.envs.spaces import float32_box, from_zero, refuse_unsupported, start_of
from rlkit.errors import EnvError, RlkitWarning, UsageError


class ArrayPort:
    """Observations that are arrays: Box, Discrete, MultiDiscrete, MultiBinary."""

    def __init__(self, space: spaces.Space[Any], n: int, strict: bool, key: str = "") -> None:
        refuse_unsupported("observation", space)
        self._name = f"observation{key}"
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
        self._start = start_of(space)
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
                f"a batch of {self._name}s of shape {raw.shape} was returned at {when}; the space "
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

    def collate(self, rows: Sequence[Any], which: NDArray[np.intp], when: str) -> NDArray[Any]:
        each = [np.asarray(row) for row in rows]
        for env, row in zip(which, each, strict=True):
            if row.shape != self._shape:
                raise EnvError(
                    f"env {env} returned a final {self._name} of shape {row.shape} at {when}, its "
                    f"space says {self._shape}"
                )
        return np.stack(each)

    def batch(self, obs: Any) -> tuple[NDArray[Any], bool]:
        allowed = f"allowed: numbers of shape {self._shape}, or (N, *shape) of them"
        try:
            batch = cast(obs, self._declared)
        except TypeError as error:
            raise UsageError(
                f"the {self._name} is {error}; {allowed}, as {self._declared}"
            ) from None
        single = batch.ndim == len(self._shape)
        rows = batch[None] if single else batch
        if rows.shape[1:] != self._shape:
            raise UsageError(f"the {self._name} has shape {batch.shape}; {allowed}")
        if not (finite := np.isfinite(batch)).all():
            where = [int(i) for i in np.argwhere(~finite)[0]]
            raise UsageError(
                f"the {self._name} is {batch[tuple(where)]} at index {where}; "
                "allowed: finite numbers"
            )
        return rows, single

    def _cast(self, raw: Any, when: str) -> NDArray[Any]:
        try:
            array = cast(raw, self._declared)
        except TypeError as error:
            raise EnvError(
                f"the environments returned {self._name}s that are {error} at {when}; their space "
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
        key = f"{self._name}[{', '.join(map(str, element))}]" if element else self._name
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


def _observed(space: spaces.Space[Any]) -> spaces.Space[Any]:
    if isinstance(space, spaces.Box) and space.dtype not in (np.uint8, np.float32):
        return float32_box(space.low, space.high)
    return from_zero(space)


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
