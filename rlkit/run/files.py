"""How the files of a run are written and read: whole or not at all, and never executed.

A file is written beside its place, synced to the disk and renamed into it, so that a reader finds
the old content or the new one, whatever is killed. JSON is strict: no NaN, no infinity.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

from rlkit.errors import RlkitError


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows can't open a folder, and needs no such sync
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Write a file that nobody reads yet, and wait until it is on the disk."""
    path.unlink(missing_ok=True)  # a link that lies there is not followed
    with path.open("xb") as file:
        file.write(data)
    sync(path)


def write_atomically(path: Path, data: bytes) -> None:
    """Give `path` new content in one step: it never holds a part of `data`."""
    aside = path.with_name(f".tmp-{path.name}")
    try:
        write_synced(aside, data)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link but nothing of what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def json_bytes(value: Any) -> bytes:
    """`value` as indented strict JSON.

    Raises TypeError for what JSON can't hold and ValueError for a NaN or an infinity.
    """
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_json(path: Path, error: type[RlkitError], limit: int) -> dict[str, Any]:
    """The JSON object in a file of at most `limit` bytes; every failure is an `error`."""
    try:
        size = path.stat().st_size
        # a pipe would never end, nor would a link to /dev/zero
        is_file = path.is_file()
        data = path.read_bytes() if is_file and size <= limit else b""
    except OSError as failure:
        raise error(f"{path}: can't be read: {failure.strerror}") from None
    if not is_file:
        raise error(f"{path}: is no file; it is not rlkit's")
    if size > limit:
        raise error(f"{path}: {size} bytes, at most {limit} are read; it is not rlkit's")
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as failure:
        raise error(f"{path}: not JSON: {failure}") from None
    if not isinstance(value, dict):
        raise error(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
