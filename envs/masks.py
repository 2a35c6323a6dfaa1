"""Invalid-action masks: which actions environments allow at their current observations.

An environment gives its mask as `info["action_mask"]`, from reset and step alike (Gymnasium's Taxi,
PettingZoo), or by a method `action_masks()` (sb3-contrib). A mask is 1 or True for each action that
is allowed: (n,) for a Discrete space, and for a MultiDiscrete one those of its choices one after
another, (Σ nvec,).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeAlias

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from rlkit.envs.foreign import describe
from rlkit.errors import EnvError, UsageError
from rlkit.registry import AGENTS

Mask: TypeAlias = NDArray[np.bool_]

KEY, METHOD = "action_mask", "action_masks"  # as environments spell them
MASKED = ("Discrete", "MultiDiscrete")


def choices(space: spaces.Space[Any]) -> NDArray[np.int64] | None:
    """How many actions each choice of an action space has; None for spaces without masks."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.n], dtype=np.int64)
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec.ravel().astype(np.int64)
    return None


def as_mask(value: object, shape: tuple[int, ...]) -> Mask:
    """`value` as an array of bool. Raises TypeError, saying what it is, where it is no mask."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise TypeError("of ragged lists") from None
    if array.shape != shape:
        raise TypeError(f"of shape {array.shape}")
    if array.dtype.kind not in "biu":
        raise TypeError(f"of dtype {array.dtype}")
    mask = array.astype(np.bool_)
    if array.dtype.kind != "b" and not np.array_equal(mask, array):
        raise TypeError(f"with the value {array[mask != array][0]}")
    return mask


def expected(space: spaces.Space[Any], sizes: NDArray[np.int64]) -> str:
    """What a mask of an action space must be, for errors."""
    one_by_one, each = (
        (" (its choices one after another)", " of each") if len(sizes) > 1 else ("", "")
    )
    return (
        f"{space} needs shape ({sizes.sum()},){one_by_one} of bool, or of integers 0 and 1, and an "
        f"action{each} that is allowed"
    )


def leaves_a_choice(mask: Mask, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether (..., Σ sizes) allow at least one action of every choice: (...,)."""
    first = np.cumsum(sizes) - sizes
    return np.asarray(np.logical_or.reduceat(mask, first, axis=-1).all(-1))


class MaskPort:
    """Takes the masks of N environments, whichever way they give them.

    The way is found out once, and costs environments without masks nothing from then on.
    """

    def __init__(self, venv: VectorEnv[Any, Any, Any], name: str) -> None:
        self._venv = venv
        self._space = venv.single_action_space
        self._n = int(venv.num_envs)
        self._everybody = np.ones(self._n, dtype=np.bool_)
        self._name = name
        self._sizes = choices(self._space)
        self._method: Callable[[], Any] | None = None
        self._looked_for_method = False
        self._seen = False

    def take(self, info: Any, when: str, ended: NDArray[np.bool_] | None = None) -> Mask | None:
        """What is allowed at the observations that came with `info`: (N, n), None without masks.

        `when` ("vector step 7") names the place in errors. Where `ended`, (N,), no action need be
        allowed. Raises EnvError for a mask of another shape or dtype, and for one that allows
        nothing; UsageError for an action space that has no masks.
        """
        if isinstance(info, dict) and KEY in info:
            mask = self._rows(info, when)
        elif (method := self._found_method()) is not None:
            mask = self._rows({KEY: _asked(method, when)}, when)
        elif self._seen:
            mask = np.ones((self._n, self._width), dtype=np.bool_)
        else:
            return None
        self._seen = True
        self._check_choices(mask, when, ended)
        return mask

    def take_final(self, info: dict[str, Any], which: NDArray[np.intp], when: str) -> Mask | None:
        """SAME_STEP: what is allowed at the final observations of environments `which`: (K, n)."""
        final = info.get("final_info")
        if not self._seen or not isinstance(final, dict) or KEY not in final:
            return None
        mask = self._rows(final, when)
        self._check_choices(mask, when, self._everybody)
        return mask[which]

    def resume(self, mask: NDArray[np.bool_] | None) -> None:
        """Go on after `mask`, the last that was taken."""
        self._seen = mask is not None

    @property
    def _width(self) -> int:
        if self._sizes is None:
            takers = [name for name, agent in AGENTS.items() if set(MASKED) & set(agent.actions)]
            raise UsageError(
                f"env {self._name} gives action masks, and its action space is {self._space}; "
                f"masks are for {' and '.join(MASKED)} actions, which {', '.join(takers)} take: "
                f"leave {KEY} out of info, or change the space"
            )
        return int(self._sizes.sum())

    def _rows(self, info: dict[str, Any], when: str) -> Mask:
        """Every environment's mask; all is allowed to those that gave none."""
        raw, given = info[KEY], np.asarray(info.get(f"_{KEY}", self._everybody), dtype=np.bool_)
        shape = (self._n, self._width)
        if isinstance(raw, np.ndarray) and raw.shape == shape and raw.dtype.kind in "biu":
            mask = raw.astype(np.bool_)
            if np.array_equal(mask, raw):
                mask[~given] = True
                return mask
        if not hasattr(raw, "__len__") or len(raw) != self._n:
            raise EnvError(
                f"env {self._name} gave action masks of shape {np.shape(raw)} at {when}; give one "
                f"for each of its {self._n} environments"
            )
        mask = np.ones(shape, dtype=np.bool_)
        for i in np.flatnonzero(given):
            mask[i] = self._row(int(i), raw[i], when)
        return mask

    def _row(self, env: int, value: object, when: str) -> Mask:
        try:
            return as_mask(value, (self._width,))
        except TypeError as error:
            return self._refuse(env, str(error), when)

    def _check_choices(self, mask: Mask, when: str, ended: NDArray[np.bool_] | None) -> None:
        """Refuse a choice without an allowed action; where it is `ended`, allow all instead."""
        assert self._sizes is not None
        stuck = ~leaves_a_choice(mask, self._sizes)
        if not np.count_nonzero(stuck):
            return
        if ended is not None:
            mask[stuck & ended] = True
            stuck &= ~ended
        if stuck.any():
            self._refuse(int(stuck.argmax()), "that allows nothing", when)

    def _refuse(self, env: int, found: str, when: str) -> NoReturn:
        assert self._sizes is not None
        raise EnvError(
            f"env {env} of {self._name} gave an action mask {found} at {when}; "
            f"{expected(self._space, self._sizes)}"
        )

    def _found_method(self) -> Callable[[], Any] | None:
        if not self._looked_for_method:
            self._looked_for_method = True
            self._method = _method_of(self._venv)
        return self._method


def _asked(method: Callable[[], Any], when: str) -> Any:
    try:
        return method()
    except Exception as error:
        raise EnvError(f"{METHOD}() raised {describe(error)} at {when}") from error


def _method_of(venv: VectorEnv[Any, Any, Any]) -> Callable[[], Any] | None:
    """What returns the masks of all environments; None where no method does."""
    core = venv.unwrapped
    for layer in (venv, core):
        own = getattr(layer, METHOD, None)
        if callable(own):
            found: Callable[[], Any] = own
            return found
    if not isinstance(core, (SyncVectorEnv, AsyncVectorEnv)):
        return None
    return partial(core.call, METHOD) if all(core.call("has_wrapper_attr", METHOD)) else None
