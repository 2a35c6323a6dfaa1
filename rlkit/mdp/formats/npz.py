"""NumPy archives (.npz): what `MDP.save` writes, or transitions as five arrays.

Of `MDP.save`: P_data, P_indices, P_indptr, offsets, r, actions, gamma, and start where there is
one; the fields of `rlkit.MDP`, P in CSR form.

Transitions: states, actions, successors, probabilities, rewards, each (N,), and if wanted n_states,
gamma and start (S,); as the arguments of `MDP.from_triplets`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rlkit.errors import ModelError, UsageError
from rlkit.mdp.formats.contents import Choice, Contents
from rlkit.mdp.model import MDP
from rlkit.mdp.triplets import triplets_to_pairs
from rlkit.system import require_memory

FIELDS = ("P_data", "P_indices", "P_indptr", "offsets", "r", "actions", "gamma")
TRIPLETS = ("states", "actions", "successors", "probabilities", "rewards")


def write(mdp: MDP, path: Path) -> None:
    """Write an MDP, compressed; the name is taken as it is."""
    arrays: dict[str, Any] = {
        "P_data": mdp.P.data,
        "P_indices": mdp.P.indices,
        "P_indptr": mdp.P.indptr,
        "offsets": mdp.offsets,
        "r": mdp.r,
        "actions": mdp.actions,
        "gamma": np.float64(mdp.gamma),
    }
    if mdp.start is not None:
        arrays["start"] = mdp.start
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read(path: Path, choice: Choice) -> Contents:
    """The model in a .npz file. No pickle is ever read."""
    choice.refuse(path, ".npz")
    name = f"model file {str(path)!r}"
    found = _arrays(path, name)
    if {"values", "policy", "lower"} <= found.keys():
        raise ModelError(f"{name} holds a solution, not a model; read it with rlkit.Solution.load")
    fields = FIELDS if "P_data" in found else TRIPLETS
    for field in fields:
        if field not in found:
            raise ModelError(
                f"{name} holds {', '.join(sorted(found)) or 'nothing'}; expected {field} too: "
                f"either {', '.join(FIELDS)}, or {', '.join(TRIPLETS)}"
            )
    gamma = float(_scalar(found, "gamma", name)) if "gamma" in found else None
    start = found["start"].astype(np.float64) if "start" in found else None
    if fields is TRIPLETS:
        n_states = int(_scalar(found, "n_states", name)) if "n_states" in found else None
        pairs = triplets_to_pairs([found[field] for field in TRIPLETS], n_states)
        return Contents(pairs, gamma, start)
    n_states = found["offsets"].size - 1
    try:
        P = csr_array(
            (found["P_data"], found["P_indices"], found["P_indptr"]),
            shape=(found["P_indptr"].size - 1, n_states),
        )
        P.check_format(full_check=True)
    except (ValueError, TypeError) as error:
        raise ModelError(f"{name}: P is no CSR matrix ({error}); write it with MDP.save") from error
    return Contents((P, found["r"], found["offsets"], found["actions"]), gamma, start)


def _arrays(path: Path, name: str) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        require_memory(
            2 * size,
            f"{name} unpacks to {size:,} bytes",
            "reading it",
            lambda free: f"{free // 2:,} bytes",
        )
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {field: archive[field] for field in archive.files}
    except UsageError:
        raise
    except (OSError, ValueError, EOFError, MemoryError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{name} is no NumPy archive ({error})") from error


def _scalar(found: dict[str, NDArray[Any]], field: str, name: str) -> Any:
    if found[field].size != 1 or found[field].dtype.kind not in "iuf":
        raise ModelError(f"{name}: {field} has shape {found[field].shape}; expected one number")
    return found[field].reshape(()).item()
