"""Large tensors as raw files: the numbers' bytes and nothing else, read through a memory map.

What a file holds, its dtype and shape, stands elsewhere (rlkit.run.tree). Several files are hashed
and written at once, each hashed in memory, before it is written. A tensor whose bytes an earlier
file holds is not written but becomes a second name of that file (a hard link): a ring of steps in
which few rows changed costs its hashing.

Files that share bytes share damage too. So no link is made to a file that doesn't hold the bytes:
each save holds what it links against memory, and damage ends with it. Where the file system has no
links, everything is written.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.run.files import write_synced

LARGE = 1 << 23  # bytes; what is smaller goes into one file with others
NAME = re.compile(r"raw-\d{4,6}")
WRITERS = 2  # one hashes while the other waits for the disk

_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex64"),
    )
}


def is_large(tensor: Tensor) -> bool:
    """Whether a tensor is worth a file of its own."""
    return tensor.nbytes >= LARGE and _name_of(tensor.dtype) in _DTYPES


def described(tensor: Tensor) -> dict[str, Any]:
    """What `read_raw` has to know of a tensor, as JSON."""
    return {"dtype": _name_of(tensor.dtype), "shape": list(tensor.shape)}


def write_raw(
    tensors: Mapping[str, Tensor], folder: Path, earlier: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """Write each tensor (contiguous, on the CPU) to a new file of its name; {name: size and hash}.

    `earlier` says by their SHA-256 which files there are to be linked. Raises OSError where the
    disk doesn't take it.
    """

    def write(name: str) -> dict[str, Any]:
        data = tensors[name].flatten().view(torch.uint8).numpy()
        digest = hashlib.sha256(data.data).hexdigest()
        old = earlier.get(digest)
        if old is None or not _linked(old, folder / name, data):
            write_synced(folder / name, data.data)
        return {"bytes": data.nbytes, "sha256": digest}

    with ThreadPoolExecutor(WRITERS) as pool:
        return dict(zip(tensors, pool.map(write, tensors), strict=True))


def read_raw(path: Path, described: Mapping[str, Any]) -> Tensor:
    """The tensor in a file, mapped copy-on-write: it takes no memory until it is changed.

    Raises KeyError, TypeError or ValueError where the description is none, or the file is not of
    the size that it asks for, before anything is allocated; OSError where it can't be read.
    """
    dtype, shape = _DTYPES[described["dtype"]], described["shape"]
    if not shape or not all(type(length) is int and length > 0 for length in shape):
        raise ValueError(f"{path.name} has the shape {shape}")
    asked, size = math.prod(shape) * dtype.itemsize, path.stat().st_size
    if asked != size:
        raise ValueError(f"{path.name} is {size} bytes, of which a tensor of {asked} is made")
    mapped = np.memmap(path, np.uint8, "c")
    return torch.from_numpy(mapped).view(dtype).view(shape)


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _linked(old: Path, new: Path, data: NDArray[np.uint8]) -> bool:
    """Make `new` a second name of `old`, if that holds `data`; whether it is one."""
    try:
        # of a symbolic link this is the size of a name, so that none is followed
        if old.lstat().st_size != data.nbytes or not _holds(old, data):
            return False
        os.link(old, new)
    except OSError:
        return False
    return True


def _holds(path: Path, data: NDArray[np.uint8]) -> bool:
    found = np.empty(1 << 20, np.uint8)
    with path.open("rb") as file:
        for start in range(0, len(data), len(found)):
            part = data[start : start + len(found)]
            if file.readinto(found[: len(part)].data) < len(part):
                return False
            if not np.array_equal(found[: len(part)], part):
                return False
    return True
