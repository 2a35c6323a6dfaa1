"""Models in files: one reader per format, found by the file's ending.

A reader returns `Contents`. It takes nothing on trust: what a file declares is compared with what
it holds before an array of that size is made, and errors name the file and the line. Nothing that
stands in a file is ever evaluated.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from rlkit.errors import UsageError
from rlkit.mdp.formats.contents import Choice, Contents
from rlkit.mdp.model import MDP
from rlkit.registry import did_you_mean

# By the file's ending: the module whose `read(path, choice)` gives its `Contents`.
READERS = {
    ".npz": "rlkit.mdp.formats.npz",
    ".csv": "rlkit.mdp.formats.csv",
    ".drn": "rlkit.mdp.formats.drn",
    ".tra": "rlkit.mdp.formats.prism",
    ".mdp": "rlkit.mdp.formats.cassandra",
    ".pomdp": "rlkit.mdp.formats.cassandra",
}
# Those whose module can also `write(mdp, path)`.
WRITERS = (".npz", ".drn")


def is_model_file(name: str) -> bool:
    """Whether `name` ends as a model's file does, or is a file that is there."""
    path = Path(name)
    return path.suffix.lower() in READERS or (path.suffix not in ("", ".py") and path.is_file())


def load(
    path: str | os.PathLike[str],
    gamma: float | None,
    *,
    rewards: str | None = None,
    goal: str | None = None,
    costs: bool = False,
    otherwise: float | None = None,
) -> MDP:
    """The MDP in a file; see `MDP.load`. `otherwise` is the discount where none is named at all."""
    try:
        contents = read(path, Choice(rewards, goal))
        gamma = contents.gamma if gamma is None else gamma
        gamma = otherwise if gamma is None else gamma
        if gamma is None:
            raise UsageError(f"model file {str(path)!r} names no discount; give gamma (--gamma)")
        P, r, offsets, actions = contents.pairs
        r = -r if costs else r
        return MDP.from_pairs(P, r, offsets, gamma, actions, contents.start, copy=False)
    except UsageError as error:
        if str(error).startswith("model file"):
            raise
        raise type(error)(f"model file {str(path)!r}: {error}") from error


def read(path: str | os.PathLike[str], choice: Choice) -> Contents:
    """What is in a file, by its ending."""
    file = Path(path)
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise UsageError(
            f"model file {str(file)!r} ends in {file.suffix!r}; "
            f"{did_you_mean(file.suffix, READERS, 'known: ' + ', '.join(READERS))}"
        )
    if not file.is_file():
        beside = [str(other) for other in file.parent.glob("*") if other.suffix in READERS]
        raise UsageError(
            f"model file {str(file)!r} was not found; "
            f"{did_you_mean(str(file), beside, 'name a file that is there')}"
        )
    contents: Contents = importlib.import_module(reader).read(file, choice)
    return contents


def save(mdp: MDP, path: str | os.PathLike[str]) -> None:
    """Write an MDP to a file; see `MDP.save`."""
    file = Path(path)
    if file.suffix.lower() not in WRITERS:
        raise UsageError(
            f"model file {str(file)!r} can't be written; its name must end in "
            f"{' or '.join(WRITERS)}"
        )
    importlib.import_module(READERS[file.suffix.lower()]).write(mdp, file)
