"""What one environment returns, held to what its spaces and Gymnasium's API say.

`CheckedEnv` stands around each environment of a sync or async vector environment. Shapes, dtypes,
rewards and flags are checked here, where the environment's number is known; values that only need
the batch (NaN, infinities, bounds) are checked once for all environments, in `rlkit.envs.arrays`.
"""

from __future__ import annotations

import multiprocessing
import traceback
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlkit.envs.foreign import describe
from rlkit.envs.masks import KEY, METHOD, as_mask, choices, expected
from rlkit.envs.names import Facts, facts_of
from rlkit.errors import EnvError, RlkitWarning, UsageError
from rlkit.packing import is_text

RESET = "reset(seed=..., options=...) returns (observation, info)"
STEP = "step(action) returns (observation, reward, terminated, truncated, info)"
T = TypeVar("T")


def cast(values: object, dtype: np.dtype[Any]) -> NDArray[Any]:
    """`values` as an array of `dtype`. Raises TypeError, saying why, where no number is meant."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise TypeError("a ragged list") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"the {type(values).__name__} {brief(values)}")
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(result, array):
        raise TypeError(f"{array.dtype}, with values that {dtype} can't hold")
    return result


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Environment number `index` of a vector environment.

    Observations leave as fresh arrays of the declared shape and dtype; a list or another dtype is
    cast, which environment 0 says once for all of them. An action mask, whichever way the
    environment gives it, leaves in info, as bools. Whatever breaks Gymnasium's API, and whatever
    the environment raises, becomes an EnvError that names the environment.
    """

    def __init__(self, env: gym.Env[Any, Any], index: int) -> None:
        if not isinstance(env, gym.Env):
            raise UsageError(
                f"the function that makes the environment returned a {type(env).__name__}; it must "
                "return a gymnasium.Env"
            )
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(env, name, None), spaces.Space):
                raise UsageError(
                    f"{type(env.unwrapped).__name__} has no {name}; set self.{name} in __init__ to "
                    "a space of gymnasium.spaces"
                )
        super().__init__(env)
        self._index = index
        self._steps = 0
        # What is the environment's failure. Ctrl-C is not, and never comes to a worker process.
        self._failures: tuple[type[BaseException], ...] = (Exception, SystemExit)
        if multiprocessing.parent_process() is not None:
            self._failures += (KeyboardInterrupt,)
        self._cast_said: set[str] = set()  # of which parts
        self._shape = self.observation_space.shape
        self._dtype = self.observation_space.dtype
        self._choices = choices(self.action_space)
        self._masks = env.get_wrapper_attr(METHOD) if env.has_wrapper_attr(METHOD) else None

    def facts(self) -> Facts:
        """What is known of the environment, in a form that crosses processes."""
        spec = self.env.spec
        name = type(self.env.unwrapped).__name__ if spec is None else spec.id
        return facts_of(name, spec, {})

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        try:
            result: object = self.env.reset(seed=seed, options=options)
        except self._failures as error:
            if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
                self._refuse(f"reset refused its arguments ({error}); in Gymnasium {RESET}", error)
            self._refuse(f"reset raised {describe(error)}", error)
        if type(result) is not tuple or len(result) != 2:
            self._refuse(f"reset returned {_shape_of(result)}; in Gymnasium {RESET}")
        obs, info = result
        if not isinstance(info, dict):
            self._refuse(f"reset returned {brief(info)} for info; return a dict, {{}} at least")
        return self._observation(obs), self._with_mask(info)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._steps += 1
        try:
            result: object = self.env.step(action)
        except self._failures as error:
            if _is_old_api(error):
                self._refuse(f"step failed ({error}); in Gymnasium {STEP}", error)
            self._refuse(f"step raised {describe(error)} for action {brief(action)}", error)
        if type(result) is not tuple or len(result) != 5:
            self._refuse(f"step returned {_shape_of(result)}; in Gymnasium {STEP}")
        obs, reward, terminated, truncated, info = result
        if not isinstance(reward, (float, int, np.floating, np.integer, np.bool_)):
            self._refuse(f"step returned {brief(reward)} for the reward; return float(reward)")
        if type(terminated) is not bool:
            terminated = self._flag("terminated", terminated)
        if type(truncated) is not bool:
            truncated = self._flag("truncated", truncated)
        if not isinstance(info, dict):
            self._refuse(f"step returned {brief(info)} for info; return a dict, {{}} at least")
        return self._observation(obs), reward, terminated, truncated, self._with_mask(info)

    def close(self) -> None:
        try:
            super().close()
        except Exception as error:
            warnings.warn(
                f"env {self._index} raised {describe(error)} in close; it is left as it is",
                RlkitWarning,
                stacklevel=2,
            )

    def apply(self, function: Callable[..., T], *values: Any) -> T:
        """`function(self, *values)`, in the process that the environment lives in."""
        return function(self, *values)

    def _with_mask(self, info: dict[str, Any]) -> dict[str, Any]:
        """`info` with the action mask as bools; as it is where there is none."""
        if KEY in info:
            mask = info[KEY]
        elif self._masks is not None:
            try:
                mask = self._masks()
            except Exception as error:
                self._refuse(f"raised {describe(error)} in {METHOD}()", error)
        else:
            return info
        if self._choices is not None:  # another space has no masks, which the port says
            try:
                mask = as_mask(mask, (int(self._choices.sum()),))
            except TypeError as error:
                needed = expected(self.action_space, self._choices)
                self._refuse(f"gave an action mask {error}; {needed}")
        return {**info, KEY: mask}

    def _observation(self, obs: Any) -> Any:
        if type(obs) is np.ndarray and obs.dtype == self._dtype and obs.shape == self._shape:
            return obs.copy()  # the environment may write its next observation over this one
        return self._part(obs, self.observation_space, "")

    def _part(self, obs: Any, space: spaces.Space[Any], key: str) -> Any:
        """An observation, or the part of one under `key`, in arrays of its own."""
        if isinstance(space, spaces.Dict):
            if not isinstance(obs, Mapping) or set(obs) != set(space.spaces):
                found = sorted(map(str, obs)) if isinstance(obs, Mapping) else brief(obs)
                self._refuse(
                    f"returned observation{key} = {found}; its space says a dict with the keys "
                    f"{sorted(map(str, space.spaces))}"
                )
            parts = space.spaces.items()
            return {name: self._part(obs[name], part, f"{key}[{name!r}]") for name, part in parts}
        if isinstance(space, spaces.Tuple):
            if not isinstance(obs, (tuple, list)) or len(obs) != len(space.spaces):
                self._refuse(
                    f"returned observation{key} = {brief(obs)}; its space says a tuple of "
                    f"{len(space.spaces)}"
                )
            each = zip(obs, space.spaces, strict=True)
            return tuple(self._part(o, part, f"{key}[{i}]") for i, (o, part) in enumerate(each))
        if isinstance(obs, str) and is_text(space):
            return obs
        return self._array(obs, space, key)

    def _array(self, obs: Any, space: spaces.Space[Any], key: str) -> Any:
        shape, dtype = space.shape, space.dtype
        name = f"observation{key}"
        if shape is None or dtype is None:
            return obs  # a space that the maker of the vector environment refuses
        if shape == () and isinstance(obs, (int, np.integer)) and dtype.kind == "i":
            return obs
        try:
            array = cast(obs, dtype)
        except TypeError as error:
            self._refuse(f"returned an {name} that is {error}; its space says {space}")
        if array.shape != shape:
            self._refuse(f"returned an {name} of shape {array.shape}, its space says {shape}")
        if (
            key not in self._cast_said
            and isinstance(space, spaces.Box)
            and (not isinstance(obs, np.ndarray) or obs.dtype != dtype)
        ):
            self._cast_said.add(key)
            found = str(obs.dtype) if isinstance(obs, np.ndarray) else f"a {type(obs).__name__}"
            if self._index == 0:
                warn_cast(found, dtype)
        return array

    def _flag(self, name: str, value: object) -> bool:
        if isinstance(value, (np.bool_, int, np.integer, np.ndarray)) and np.shape(value) == ():
            flag = np.asarray(value)
            if flag.dtype.kind in "biu" and flag in (0, 1):
                return bool(flag)
        return self._refuse(f"step returned {brief(value)} for {name}; return bool({name})")

    def _refuse(self, complaint: str, cause: BaseException | None = None) -> NoReturn:
        at = f"step {self._steps}" if self._steps else "its first reset"
        error = EnvError(f"env {self._index} {complaint} (at {at} of this environment)")
        if cause is not None and multiprocessing.parent_process() is not None:
            # A cause does not travel between processes; notes do, and tracebacks show them.
            error.__notes__ = [traceback.format_exc()]
        raise error from cause


def warn_cast(found: str, declared: np.dtype[Any]) -> None:
    """Say that observations come in another dtype than declared."""
    warnings.warn(
        f"observations are {found} where the space declares {declared}; they are cast (said once)",
        RlkitWarning,
        stacklevel=2,
    )


def brief(value: object) -> str:
    """`value` as Python writes it, on one short line."""
    plain = value.item() if isinstance(value, np.generic) else value
    text = " ".join(repr(plain).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shape_of(result: object) -> str:
    if isinstance(result, tuple):
        return f"{len(result)} values"
    return f"one {type(result).__name__}"


def _is_old_api(error: BaseException) -> bool:
    """Whether one of Gymnasium's wrappers failed to unpack what the environment inside returned."""
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = "" if last is None else last.tb_frame.f_globals.get("__name__", "")
    unpacking = isinstance(error, ValueError) and "values to unpack" in str(error)
    return unpacking and module.startswith("gymnasium.")
