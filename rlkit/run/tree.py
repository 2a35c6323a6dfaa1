"""A tree of tensors, arrays and plain values as files: safetensors, raw bytes and JSON. No pickle.

Tensors go into the safetensors file under their path in the tree (``agent/policy.weight``), those
of 8 MiB and more into raw files of their own (rlkit.run.raw); the JSON document mirrors the tree,
with a mark of one key beginning with ``$`` in place of what JSON can't say:

====================================  ==============================================================
``{"$tensor": name}``                 a torch tensor, saved from any device, loaded onto the CPU
``{"$array": name}``                  a NumPy array
``{"$scalar": name}``                 a NumPy scalar
``{"$float": "nan"}``                 a float that is not finite: ``nan``, ``inf`` or ``-inf``
``{"$tuple": [...]}``                 a tuple
``{"$items": [[key, value], ...]}``   a dict with integer keys, or with keys that begin with ``$``
====================================  ==============================================================

The name is the one in the safetensors file, or for a raw file ``{"file": its name, "dtype":
"uint8", "shape": [2000, 1, 84, 84]}``.

Integers keep all their digits, as the 128-bit states of NumPy's generators need. Dtypes, shapes and
bits come back as they were; strides, devices, `requires_grad` and shared memory do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlkit.errors import CheckpointError
from rlkit.run.files import read_json, sync, write_synced
from rlkit.run.raw import described, is_large, read_raw, write_raw

TENSORS, STATE = "tensors.safetensors", "state.json"
STATE_LIMIT = 1 << 26  # bytes; what is larger belongs into arrays


@dataclass
class _Leaves:
    """The tensors of a tree, by the names they are saved under."""

    small: dict[str, Tensor] = field(default_factory=dict)  # go into the safetensors file
    large: dict[str, Tensor] = field(default_factory=dict)  # have a raw file each


def save_tree(
    tree: Mapping[str, Any], folder: Path, earlier: Mapping[str, Path]
) -> dict[str, dict[str, Any]]:
    """Write `tree` to new files in `folder`; sizes and hashes of the raw ones, by name.

    `earlier` says by their SHA-256 which raw files there are already (`write_raw`).

    Raises CheckpointError for a value that can't be saved, named by its path in the tree, and
    OSError or SafetensorError where the disk doesn't take it.
    """
    leaves = _Leaves()
    state = json.dumps(_pack(tree, "", leaves), allow_nan=False).encode()
    if len(state) > STATE_LIMIT:
        raise CheckpointError(
            f"{folder / STATE}: {len(state)} bytes of plain values, at most {STATE_LIMIT} are "
            "saved; put them into arrays"
        )
    write_synced(folder / STATE, state)
    try:
        save_file(_unshared(leaves.small), folder / TENSORS)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder / TENSORS}: a tensor can't be saved: {error}") from None
    sync(folder / TENSORS)
    return write_raw(leaves.large, folder, earlier)


def load_tree(
    checked: Callable[[str], Path],
    migrated: Callable[[dict[str, Any]], dict[str, Any]],
    part: Sequence[str] = (),
) -> dict[str, Any]:
    """The tree, or the part of it under these keys; its tensors may be changed.

    They map their files copy-on-write, and take no memory before. Nothing is allocated by what a
    header declares: it is first held against the size of the file.

    Args:
        checked: the path of a file, by its name, after a look at whether it is as it was written.
            Only what the part needs is asked for.
        migrated: brings the JSON document of an older format up to the present one.

    Raises CheckpointError for files that are damaged or don't belong together.
    """
    state_path, tensors_path = checked(STATE), checked(TENSORS)
    document: Any = read_json(state_path, CheckpointError, STATE_LIMIT)
    try:
        tensors = load_file(tensors_path)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{tensors_path}: not a whole safetensors file: {error}") from None

    def tensor(name: str | dict[str, Any]) -> Tensor:
        return tensors[name] if isinstance(name, str) else read_raw(checked(name["file"]), name)

    try:
        document = migrated(document)
        for key in part:
            document = document[key]
        tree = _unpack(document, tensor)
    except (
        *(AttributeError, KeyError, OSError, OverflowError, RecursionError, RuntimeError),
        *(TypeError, ValueError),
    ) as error:
        raise CheckpointError(f"{state_path}: not a tree of rlkit's: {error!r:.200}") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{state_path}: holds a {type(tree).__name__}, expected a dict")
    return tree


def _pack(node: Any, path: str, leaves: _Leaves) -> Any:
    """The JSON for `node`; its tensors are added to `leaves`."""
    if isinstance(node, Tensor):
        # a conjugate or negative view is a flag on another tensor's bits: those would be saved
        plain = node.detach().cpu().resolve_conj().resolve_neg().contiguous()
        return {"$tensor": _add(plain, path, leaves)}
    if isinstance(node, (np.ndarray, np.generic)):
        mark = "$array" if isinstance(node, np.ndarray) else "$scalar"
        try:
            plain = torch.from_numpy(np.require(np.asarray(node), requirements=["C", "W"]))
        except (TypeError, ValueError):
            raise CheckpointError(
                f"{path or 'the tree'}: an array of dtype {node.dtype.str} can't be saved; "
                "use a number type of this machine's byte order"
            ) from None
        return {mark: _add(plain, path, leaves)}
    if isinstance(node, float) and not math.isfinite(node):
        return {"$float": str(float(node))}
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if isinstance(node, (list, tuple)):
        items = [_pack(item, f"{path}/{i}", leaves) for i, item in enumerate(node)]
        return {"$tuple": items} if isinstance(node, tuple) else items
    if isinstance(node, Mapping):
        return _pack_mapping(node, path, leaves)
    raise CheckpointError(
        f"{path or 'the tree'}: a {type(node).__name__} can't be saved; use tensors, arrays, "
        "numbers, strings, lists and dicts"
    )


def _pack_mapping(node: Mapping[Any, Any], path: str, leaves: _Leaves) -> Any:
    for key in node:
        if not isinstance(key, (str, int)):
            raise CheckpointError(
                f"{path or 'the tree'}: a dict with the key {key!r} can't be saved; "
                "keys are strings or integers"
            )
    items = [
        (key, _pack(value, f"{path}/{key}" if path else str(key), leaves))
        for key, value in node.items()
    ]
    if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
        return dict(items)
    return {"$items": items}


def _add(tensor: Tensor, path: str, leaves: _Leaves) -> str | dict[str, Any]:
    """Have `tensor` saved; the name to find it by."""
    if is_large(tensor):
        file = f"raw-{len(leaves.large):04d}"
        leaves.large[file] = tensor
        return {"file": file, **described(tensor)}
    name = path = path.encode(errors="replace").decode()
    count = 1
    # keys may hold a slash themselves, and safetensors keeps the one name to itself
    while name in leaves.small or name == "__metadata__":
        count += 1
        name = f"{path}~{count}"
    leaves.small[name] = tensor
    return name


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors`, with a copy of each that lies in the memory of an earlier one.

    safetensors refuses shared memory; tied weights and views of one flat buffer are saved apart.
    """
    seen: set[int] = set()
    unshared: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        unshared[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return unshared


def _unpack(node: Any, tensor: Callable[[Any], Tensor]) -> Any:
    if isinstance(node, list):
        return [_unpack(item, tensor) for item in node]
    if not isinstance(node, dict):
        return node
    mark = next(iter(node), "")
    if not mark.startswith("$"):
        return {key: _unpack(item, tensor) for key, item in node.items()}
    value = node[mark]
    if mark == "$tensor":
        return tensor(value)
    if mark == "$array":
        return tensor(value).numpy()
    if mark == "$scalar":
        return tensor(value).numpy()[()]
    if mark == "$float":
        return float(value)
    if mark == "$tuple":
        return tuple(_unpack(item, tensor) for item in value)
    if mark == "$items":
        return {key: _unpack(item, tensor) for key, item in value}
    raise ValueError(f"unknown mark {mark}")
