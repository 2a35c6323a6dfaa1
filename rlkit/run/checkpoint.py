"""Checkpoints: everything a run needs to go on, saved so that no moment of failure loses it.

On disk, in the run's folder::

    checkpoints/
      000000100000/          one checkpoint, named by its environment steps
        tensors.safetensors  tensors and arrays           \\ one tree: see rlkit.run.tree
        state.json           numbers, names, generators   /
        manifest.json        format, step, what it is a checkpoint of, size and SHA-256 of the files
      latest                 the name of the newest checkpoint, as text
      best                   the name of the best one, as text, once there is one

A checkpoint is written into a folder `.tmp-...` beside its place, synced to the disk and renamed
once: under its name it is complete or not there. Another save of the same step is
`000000100000-1`; the first goes when the second is complete. A save ends any history that went
beyond its step (a run that was resumed from an earlier checkpoint), keeps the last few and the
best, and clears away what killed saves left. One process at a time may save into a run.

Loading checks sizes and hashes before it reads anything else, and executes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlkit.errors import CheckpointError, RlkitWarning
from rlkit.run.files import json_bytes, read_json, sha256, sync, write_atomically, write_synced
from rlkit.run.tree import load_tree, save_tree

FORMAT = 1
FOLDER = "checkpoints"
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
LATEST, BEST = "latest", "best"
MANIFEST_LIMIT = 1 << 20  # bytes

_NAME = re.compile(r"(\d{12,})(?:-(\d+))?")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: `tree` as it was saved at `step`, of what `about` says."""

    path: Path
    step: int
    tree: dict[str, Any]
    about: dict[str, Any]

    def expect(self, about: Mapping[str, Any]) -> None:
        """Raise CheckpointError, showing both sides, where this is a checkpoint of another thing.

        `about` holds what is wanted, under the keys that `save_checkpoint` was given.
        """
        for key, wanted in about.items():
            found = self.about.get(key)
            if found != wanted:
                what = key.replace("_", " ")
                raise CheckpointError(
                    f"{self.path}: holds the {what} {found}, but {wanted} is wanted; "
                    "take another checkpoint or the settings it was trained with"
                )


def save_checkpoint(
    folder: str | os.PathLike[str],
    step: int,
    tree: Mapping[str, Any],
    about: Mapping[str, Any],
    keep: int = 3,
) -> Path:
    """Save `tree` as the run's newest checkpoint and return the checkpoint's folder.

    `folder` is the run's folder, `step` counts environment steps, `tree` is a dict of whatever
    rlkit.run.tree saves, `about` says in JSON values what is saved (agent, spaces as text). Beside
    the best one the last `keep` >= 1 checkpoints stay.

    Raises CheckpointError where `tree` holds what can't be saved or the disk doesn't take it;
    earlier checkpoints then stand as they were.
    """
    home = Path(folder) / FOLDER
    if home.is_symlink():
        raise CheckpointError(f"{home} is a link: nothing is saved through it; make it a folder")
    try:
        home.mkdir(exist_ok=True)
        _clear_leftovers(home)
        aside = home / ".tmp-new"
        aside.mkdir()
        try:
            _write(aside, step, tree, about)
            target = _free_name(home, step)
            os.rename(aside, target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync(home)
        write_atomically(home / LATEST, target.name.encode())
        _prune(home, target, keep)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{home}: step {step} could not be saved: {error}; earlier checkpoints stand; "
            "free some disk space"
        ) from error
    return target


def mark_best(checkpoint: Path) -> None:
    """Point `best` at a checkpoint: it stays until another one is marked.

    Raises CheckpointError where the disk doesn't take it; the earlier mark then stands.
    """
    try:
        write_atomically(checkpoint.parent / BEST, checkpoint.name.encode())
    except OSError as error:
        raise CheckpointError(f"{checkpoint}: could not be marked as best: {error}") from error


def load_checkpoint(folder: str | os.PathLike[str], best: bool = False) -> Checkpoint:
    """Load a run's newest checkpoint, or with `best` the one marked so, onto the CPU.

    `folder` is the run's folder, or the folder of one checkpoint, which is then loaded and no
    other. In a run's folder a damaged checkpoint is passed over with an RlkitWarning for the next
    older one, the best one for the newest.

    Raises CheckpointError where there is none, or none that is whole.
    """
    folder = Path(folder)
    if _NAME.fullmatch(folder.name) or (folder / MANIFEST).exists():
        return _read(folder)
    candidates = _complete(folder / FOLDER)[::-1]
    if best and (marked := _marked(folder / FOLDER)):
        candidates = [marked, *(path for path in candidates if path != marked)]
    if not candidates:
        raise CheckpointError(
            f"{folder}: holds no checkpoint; the run stopped before its first save"
        )
    problems: list[str] = []
    for path in candidates:
        try:
            checkpoint = _read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem}; took {path} instead", RlkitWarning, stacklevel=2)
        return checkpoint
    raise CheckpointError(f"{folder}: no checkpoint is whole: {'; '.join(problems)}")


def _write(aside: Path, step: int, tree: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    save_tree(tree, aside / TENSORS, aside / STATE)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "step": step,
        "about": dict(about),
        "files": {
            name: {"bytes": (aside / name).stat().st_size, "sha256": sha256(aside / name)}
            for name in (TENSORS, STATE)
        },
    }
    manifest["sha256"] = _digest(manifest)
    write_synced(aside / MANIFEST, json_bytes(manifest))
    sync(aside)


def _read(path: Path) -> Checkpoint:
    """The checkpoint in one folder, or CheckpointError with the file that is not as it was."""
    manifest = read_json(path / MANIFEST, CheckpointError, MANIFEST_LIMIT)
    if manifest.pop("sha256", None) != _digest(manifest):
        raise CheckpointError(f"{path / MANIFEST}: changed since it was written (checksum)")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path / MANIFEST}: format {manifest.get('format')}, this rlkit reads {FORMAT}; "
            "load it with the rlkit that wrote it"
        )
    try:
        step, about = int(manifest["step"]), dict(manifest["about"])
        for name in (TENSORS, STATE):
            _check(path / name, manifest["files"][name])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path / MANIFEST}: not a manifest of rlkit's: {error!r}") from None
    return Checkpoint(path, step, load_tree(path / TENSORS, path / STATE), about)


def _check(path: Path, written: Mapping[str, Any]) -> None:
    try:
        size = path.stat().st_size
        if size != written["bytes"]:
            raise CheckpointError(f"{path}: {size} bytes, {written['bytes']} were written")
        if sha256(path) != written["sha256"]:
            raise CheckpointError(f"{path}: changed since it was written (checksum)")
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from None


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _order(path: Path) -> tuple[int, int]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _complete(home: Path) -> list[Path]:
    """The checkpoints in `home`, oldest first."""
    if not home.is_dir():
        return []
    return sorted((path for path in home.iterdir() if _NAME.fullmatch(path.name)), key=_order)


def _free_name(home: Path, step: int) -> Path:
    orders = [_order(path) for path in _complete(home)]
    attempts = [attempt for taken, attempt in orders if taken == step]
    return home / (f"{step:012d}-{max(attempts) + 1}" if attempts else f"{step:012d}")


def _marked(home: Path) -> Path | None:
    """The checkpoint that `best` names, if there is one."""
    try:
        name = (home / BEST).read_bytes()[:100].decode(errors="replace")
    except OSError:
        return None
    # the pattern keeps a forged pointer from leading out of the folder
    return home / name if _NAME.fullmatch(name) and (home / name).is_dir() else None


def _prune(home: Path, newest: Path, keep: int) -> None:
    """Remove all but the last `keep` and the best of the history that ends in `newest`."""
    step = _order(newest)[0]
    history = [path for path in _complete(home) if _order(path)[0] < step]
    kept = {newest, *history[max(0, len(history) - (keep - 1)) :]}
    best = _marked(home)
    if best and _order(best)[0] <= step:
        kept.add(best)
    for path in _complete(home):
        if path not in kept:
            # renamed first: what is half removed must not look like a checkpoint
            doomed = path.with_name(f".tmp-{path.name}")
            os.rename(path, doomed)
            shutil.rmtree(doomed)


def _clear_leftovers(home: Path) -> None:
    for path in home.glob(".tmp-*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
