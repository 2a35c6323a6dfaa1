"""Results as NumPy archives: a dataclass of numbers and arrays, one entry for each field."""

from __future__ import annotations

import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import UsageError


def read_only(result: Any) -> None:
    """Make the arrays of a frozen dataclass read-only, but not those that it was made of."""
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, np.ndarray):
            value = value.view()
            value.flags.writeable = False
            object.__setattr__(result, field.name, value)


def save_fields(result: Any, path: str | Path) -> None:
    """Write the fields of a dataclass, those that are None left out, to a compressed archive."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    arrays: dict[str, Any] = {
        name: np.asarray(value) for name, value in values.items() if value is not None
    }
    with Path(path).open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_fields(kind: Any, path: str | Path, what: str) -> Any:
    """The dataclass `kind` that `save_fields` wrote to `path`; `what` names it in errors.

    No pickle is ever read. Raises UsageError where the file is no such archive.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: _plain(archive[name]) for name in archive.files}
        hints = get_type_hints(kind)
        left_out = {f.name: None for f in fields(kind) if type(None) in get_args(hints[f.name])}
        return kind(**{**left_out, **found})
    except (OSError, ValueError, TypeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} is not {what} ({error}); give a file that {kind.__name__}.save wrote"
        ) from error


def _plain(array: NDArray[Any]) -> Any:
    return array.item() if array.ndim == 0 else array
