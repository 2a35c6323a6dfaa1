"""A checkpoint's manifest: what it is of, and how each of its files was when it was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlkit.errors import CheckpointError
from rlkit.run.files import json_bytes, read_json, sha256, write_synced
from rlkit.run.migrations import FORMAT
from rlkit.run.raw import NAME as RAW
from rlkit.run.tree import STATE, TENSORS

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 1 << 20  # bytes


@dataclass(frozen=True)
class Manifest:
    """The manifest in a checkpoint's folder."""

    folder: Path
    format: int
    step: int
    about: dict[str, Any]
    files: dict[str, dict[str, Any]]  # bytes and sha256 of each file, by its name

    def checked(self, name: str) -> Path:
        """The path of a file that is as it was written; CheckpointError where it is not."""
        if name not in self.files:
            raise CheckpointError(f"{self.folder / MANIFEST}: says nothing of the file {name}")
        path, written = self.folder / name, self.files[name]
        try:
            size = path.stat().st_size
            if not path.is_file():  # a pipe, or a link to one, is never read to its end
                raise CheckpointError(f"{path}: is no file; it is not rlkit's")
            if size != written["bytes"]:
                raise CheckpointError(f"{path}: {size} bytes, {written['bytes']} were written")
            if sha256(path) != written["sha256"]:
                raise CheckpointError(f"{path}: changed since it was written (checksum)")
        except OSError as error:
            raise CheckpointError(f"{path}: can't be read: {error.strerror}") from None
        return path

    def raw(self) -> dict[str, Path]:
        """The raw files, by their SHA-256."""
        names = filter(RAW.fullmatch, self.files)
        return {self.files[name]["sha256"]: self.folder / name for name in names}


def write_manifest(
    folder: Path, step: int, about: Mapping[str, Any], raw: Mapping[str, dict[str, Any]]
) -> None:
    """Write down the files in a checkpoint's folder, of which the raw ones are known."""
    small = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in (TENSORS, STATE)
    }
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "step": step,
        "about": dict(about),
        "files": small | dict(raw),
    }
    manifest["sha256"] = _digest(manifest)
    write_synced(folder / MANIFEST, json_bytes(manifest))


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a checkpoint's folder; the files it names are not looked at.

    Raises CheckpointError where it is damaged, or of a format that this rlkit doesn't know.
    """
    path = folder / MANIFEST
    told = read_json(path, CheckpointError, MANIFEST_LIMIT)
    if told.pop("sha256", None) != _digest(told):
        raise CheckpointError(f"{path}: changed since it was written (checksum)")
    version, step, about, files = (told.get(k) for k in ("format", "step", "about", "files"))
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise CheckpointError(
            f"{path}: format {version}, this rlkit reads 1 to {FORMAT}; "
            "load it with the rlkit that wrote it"
        )
    if not (type(step) is int and isinstance(about, dict) and isinstance(files, dict)):
        raise CheckpointError(f"{path}: not a manifest of rlkit's")
    for name, written in files.items():
        if not _is_file(name, written):
            raise CheckpointError(f"{path}: not a manifest of rlkit's (file {name[:40]!r})")
    return Manifest(folder, version, step, about, files)


def _is_file(name: str, written: Any) -> bool:
    """Whether a manifest may say this of a file; no name of one leads out of the folder."""
    return (
        (name in (TENSORS, STATE) or RAW.fullmatch(name) is not None)
        and isinstance(written, dict)
        and type(written.get("bytes")) is int
        and isinstance(written.get("sha256"), str)
    )


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
