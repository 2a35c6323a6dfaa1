"""Checkpoints: everything a run needs to go on, saved so that no moment of failure loses it.

On disk, in the run's folder::

    checkpoints/
      000000100000/          one checkpoint, named by its environment steps
        tensors.safetensors  tensors and arrays             \\
        raw-0000, ...        those of 8 MiB and more          one tree: see rlkit.run.tree
        state.json           numbers, names, generators     /
        manifest.json        format, step, what it is a checkpoint of, size and SHA-256 of the files
      latest                 the name of the newest checkpoint, for whoever looks in from outside
      best                   the name of the best one and a checksum, once there is one

A checkpoint is written into a folder `.tmp-...` beside its place, synced to the disk and renamed
once: under its name it is complete or not there, and loading goes by these names. Another save of
the same step is `000000100000-1`; the first goes when the second is complete. A save ends any
history that went beyond its step (a run that was resumed from an earlier checkpoint), keeps the
last few and the best, and clears away what killed saves left. One process at a time may save into a
run.

Of raw files that are as they were in the checkpoint before only a link is made. Each folder is
complete in itself all the same, may be moved alone, and outlives the others; but what damages a
file on the disk damages it in all checkpoints that share it, until the next save, which links no
file without reading it. The weights, which evaluation needs, are outside such files and are written
each time.

Loading first checks the sizes and hashes of all that it will read, and executes nothing. Older
formats are read too: see rlkit.run.migrations.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlkit.errors import CheckpointError, RlkitWarning
from rlkit.run.files import remove, sync, write_atomically
from rlkit.run.manifest import MANIFEST, read_manifest, write_manifest
from rlkit.run.migrations import migrated
from rlkit.run.tree import load_tree, save_tree

FOLDER = "checkpoints"
LATEST, BEST = "latest", "best"

_NAME = re.compile(r"(\d{12,})(?:-(\d+))?")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: `tree`, or a part of it, as it was saved at `step`.

    `about` says of what. The tensors of 8 MiB and more map their files.
    """

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
            raw = save_tree(tree, aside, _earlier(home))
            write_manifest(aside, step, about, raw)
            sync(aside)
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
        write_atomically(checkpoint.parent / BEST, _mark(checkpoint.name).encode())
    except OSError as error:
        raise CheckpointError(f"{checkpoint}: could not be marked as best: {error}") from error


def load_checkpoint(
    folder: str | os.PathLike[str], best: bool = False, part: Sequence[str] = ()
) -> Checkpoint:
    """Load a run's newest checkpoint, or with `best` the one marked so, onto the CPU.

    `folder` is the run's folder, or the folder of one checkpoint, which is then loaded and no
    other. In a run's folder a damaged checkpoint is passed over with an RlkitWarning for the next
    older one, the best one for the newest. With `part` the tree is the one under these keys, and
    the raw files of other parts are neither read nor checked.

    Raises CheckpointError where there is none, or none that is whole.
    """
    folder = Path(folder)
    home = folder / FOLDER
    if (folder / MANIFEST).exists() or (_NAME.fullmatch(folder.name) and not home.is_dir()):
        return _read(folder, part)
    candidates = _complete(home)[::-1]
    if not candidates:
        raise CheckpointError(
            f"{folder}: holds no checkpoint; the run stopped before its first save"
        )
    problems: list[str] = []
    if best:
        if marked := _marked(home):
            candidates = [marked, *(path for path in candidates if path != marked)]
        else:
            problems.append(f"{home / BEST}: not written yet, or changed since (checksum)")
    for path in candidates:
        try:
            checkpoint = _read(path, part)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem}; took {path} instead", RlkitWarning, stacklevel=2)
        return checkpoint
    raise CheckpointError(f"{folder}: no checkpoint is whole: {'; '.join(problems)}")


def _read(path: Path, part: Sequence[str]) -> Checkpoint:
    """The checkpoint in one folder, or CheckpointError with the file that is not as it was."""
    manifest = read_manifest(path)
    tree = load_tree(manifest.checked, partial(migrated, version=manifest.format), part)
    return Checkpoint(path, manifest.step, tree, manifest.about)


def _earlier(home: Path) -> dict[str, Path]:
    """The raw files of the newest checkpoint, by their SHA-256."""
    try:
        return read_manifest(_complete(home)[-1]).raw()
    except (IndexError, CheckpointError):
        return {}


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


def _mark(name: str) -> str:
    """What `best` holds: a flipped bit in it, or a copy of `latest`, must not name another one."""
    return f"{name} {hashlib.sha256(f'{BEST} {name}'.encode()).hexdigest()}"


def _marked(home: Path) -> Path | None:
    """The checkpoint that `best` names, if there is one."""
    if not (home / BEST).is_file():  # a pipe would be waited for
        return None
    try:
        with (home / BEST).open("rb") as file:
            text = file.read(200).decode(errors="replace")
    except OSError:
        return None
    name = text.partition(" ")[0]
    # the pattern keeps a forged pointer from leading out of the folder
    if not _NAME.fullmatch(name) or not (home / name).is_dir():
        return None
    if text == name:  # as format 1 wrote it
        try:
            return home / name if read_manifest(home / name).format == 1 else None
        except CheckpointError:
            return None
    return home / name if text == _mark(name) else None


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
            remove(doomed)


def _clear_leftovers(home: Path) -> None:
    for path in home.glob(".tmp-*"):
        remove(path)
