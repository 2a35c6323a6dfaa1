"""What a run that an error stopped leaves for inspection: its last transitions, and what to do.

On disk, in the run's folder::

    faults/
      step-000000000096.npz   the last steps, as arrays; nothing in it is pickled
      step-000000000096.json  the error, what the arrays are, the versions, the command to go on

The arrays of T steps of N environments are named as in `rlkit.experience.step.Step`; `step` (T,)
counts environment steps before each of them, `env` (N,) numbers the environments. Of Dict and Tuple
observations there is an array for each part, ``obs['camera']``. Where the environments failed
within a step, `sent_obs` and `sent_action` are what they were given, `returned_...` what came back.
"""

from __future__ import annotations

import io
import math
import traceback
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from rlkit.arrays import Array
from rlkit.carry import Carry, tensors
from rlkit.experience.step import Step
from rlkit.packing import is_composite, leaves, stored
from rlkit.run.files import json_bytes, write_atomically

FOLDER = "faults"
KEPT = 16  # vector steps
ROOM = 64 << 20  # bytes: of many or large observations fewer steps are kept

OBSERVED = ("obs", "next_obs")
COLUMNS = ("action", "reward", "terminated", "truncated", "valid", "mask", "next_mask")
RETURNED = ("obs", "reward", "terminated", "truncated")  # by a vector environment, before info

Arrays = dict[str, NDArray[Any]]


class Refused(NamedTuple):
    """A step that the environments failed in."""

    obs: Array  # that the action was for
    action: Array
    returned: Any  # by the vector environment, as it did; None where it raised


class BlackBox:
    """Holds the last steps of `n` environments by reference: a step costs an entry in a queue.

    `carry` is one of those that steps hold beside observations from `obs_space`. `add(step)` keeps
    a step.
    """

    def __init__(self, obs_space: spaces.Space[Any], n: int, carry: Carry) -> None:
        self._space, self._n = obs_space, n
        shape, dtype = stored(obs_space)
        each = n * math.prod(shape) * dtype.itemsize + sum(x.nbytes for x in tensors(carry))
        self._steps: deque[Step] = deque(maxlen=max(1, min(KEPT, ROOM // max(1, each))))
        self.add = self._steps.append

    def write(
        self, run: Path, at: int, error: Exception, refused: Refused | None, told: Mapping[str, Any]
    ) -> Path:
        """Write the files for an `error` at `at` environment steps, and return the .npz.

        `refused` is the step that was not accepted, if there was one; `told` holds what the JSON
        file says besides. Raises OSError where the disk doesn't take them.
        """
        arrays = self._columns(at)
        texts: dict[str, str] = {}
        if refused is not None:
            more, texts = self._of_refused(refused)
            arrays |= more
        home = run / FOLDER
        if home.is_symlink():
            raise OSError(f"{home} is a link: nothing is written through it")
        home.mkdir(exist_ok=True)
        path = home / f"step-{at:012d}.npz"
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        write_atomically(path, file.getvalue())
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        about = {
            "error": f"{type(error).__name__}: {error}",
            **told,
            **texts,
            "arrays": {name: f"{x.dtype} {x.shape}" for name, x in arrays.items()},
            "traceback": "".join(lines).splitlines(),
        }
        write_atomically(path.with_suffix(".json"), json_bytes(about))
        return path

    def _of_refused(self, refused: Refused) -> tuple[Arrays, dict[str, str]]:
        """Both sides of a step that was refused; as text, what came back that is no array."""
        arrays = readable("sent_obs", self._space, _read(refused.obs))
        arrays["sent_action"] = _read(refused.action)
        back = refused.returned
        if not isinstance(back, tuple) or len(back) != len(RETURNED) + 1:
            return arrays, {} if back is None else {"returned": repr(back)}
        texts = {"returned_info": repr(back[-1])}
        for name, value in zip(RETURNED, back[:-1], strict=True):
            for key, part in _flat(f"returned_{name}", value):
                if isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
                    arrays[key] = part
                else:
                    texts[key] = repr(part)
        return arrays, texts

    def _columns(self, at: int) -> Arrays:
        """The steps that are kept; `at` environment steps were done after the last of them."""
        steps = list(self._steps)
        if not steps:
            return {}
        arrays: Arrays = {"step": at - self._n * np.arange(len(steps), 0, -1)}
        arrays["env"] = np.arange(self._n)
        # what a step led to is what the next one began with; on a device, that alone is kept
        observed = [_read(step.obs) for step in steps] + [_read(steps[-1].next_obs)]
        for name, rows in zip(OBSERVED, (observed[:-1], observed[1:]), strict=True):
            arrays |= readable(name, self._space, np.stack(rows))
        for name in COLUMNS:
            column = [getattr(step, name) for step in steps]
            if all(row is not None for row in column):
                arrays[name] = np.stack([_read(row) for row in column])
        finals = [(t, step.final_obs) for t, step in enumerate(steps) if step.final_obs is not None]
        if finals:  # SAME_STEP: which row and environment each belongs to
            arrays["final_row"] = np.concatenate([np.full(len(f.index), t) for t, f in finals])
            arrays["final_env"] = np.concatenate([final.index for _, final in finals])
            final_obs = np.concatenate([final.obs for _, final in finals])
            arrays |= readable("final_obs", self._space, final_obs)
        return arrays


def readable(name: str, space: spaces.Space[Any], rows: NDArray[Any]) -> Arrays:
    """Observations (..., *obs) by name; of a Dict or Tuple, which travels packed, each part."""
    if not is_composite(space):
        return {name: rows}
    leading = rows.shape[:-1]
    return {
        f"{name}{leaf.key}": np.ascontiguousarray(rows[..., leaf.start : leaf.stop])
        .view(leaf.dtype)
        .reshape(*leading, *leaf.shape)
        for leaf in leaves(space)
    }


def _read(x: Array) -> NDArray[Any]:
    """Rows of a step as an array, from wherever they are."""
    return x.cpu().numpy() if isinstance(x, Tensor) else x


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    """The parts of what may be a nested dict or tuple, under names as in `readable`."""
    if isinstance(value, dict):
        return [x for key, part in value.items() for x in _flat(f"{name}[{key!r}]", part)]
    if isinstance(value, tuple):
        return [x for i, part in enumerate(value) for x in _flat(f"{name}[{i}]", part)]
    return [(name, value)]
