"""A tree of tensors, arrays and plain values as two files: safetensors and JSON. No pickle.

Tensors go into the safetensors file under their path in the tree (``agent/policy.weight``); the
JSON document mirrors the tree, with a mark of one key beginning with ``$`` in place of what JSON
can't say:

====================================  ==============================================================
``{"$tensor": name}``                 a torch tensor, saved from any device, loaded onto the CPU
``{"$array": name}``                  a NumPy array
``{"$scalar": name}``                 a NumPy scalar
``{"$float": "nan"}``                 a float that is not finite: ``nan``, ``inf`` or ``-inf``
``{"$tuple": [...]}``                 a tuple
``{"$items": [[key, value], ...]}``   a dict with integer keys, or with keys that begin with ``$``
====================================  ==============================================================

Integers keep all their digits, as the 128-bit states of NumPy's generators need. Dtypes, shapes and
bits come back as they were; strides, devices, `requires_grad` and shared memory do not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlkit.errors import CheckpointError
from rlkit.run.files import read_json, sync, write_synced

STATE_LIMIT = 1 << 26  # bytes; what is larger belongs into arrays


def save_tree(tree: Mapping[str, Any], tensors_path: Path, state_path: Path) -> None:
    """Write `tree` to two new files.

    Raises CheckpointError for a value that can't be saved, named by its path in the tree, and
    OSError or SafetensorError where the disk doesn't take it.
    """
    tensors: dict[str, Tensor] = {}
    state = json.dumps(_pack(tree, "", tensors), allow_nan=False).encode()
    if len(state) > STATE_LIMIT:
        raise CheckpointError(
            f"{state_path}: {len(state)} bytes of plain values, at most {STATE_LIMIT} are saved; "
            "put them into arrays"
        )
    write_synced(state_path, state)
    try:
        save_file(_unshared(tensors), tensors_path)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{tensors_path}: a tensor can't be saved: {error}") from None
    sync(tensors_path)


def load_tree(tensors_path: Path, state_path: Path) -> dict[str, Any]:
    """The tree in the two files; its tensors map the file copy-on-write, so they may be changed.

    Nothing is allocated by what the header declares: safetensors first holds it against the file.
    Raises CheckpointError for files that are damaged or don't belong together.
    """
    document = read_json(state_path, CheckpointError, STATE_LIMIT)
    try:
        tensors = load_file(tensors_path)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{tensors_path}: not a whole safetensors file: {error}") from None
    try:
        tree = _unpack(document, tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{state_path}: not a tree of rlkit's: {error!r}") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{state_path}: holds a {type(tree).__name__}, expected a dict")
    return tree


def _pack(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON for `node`; its tensors are added to `tensors`."""
    if isinstance(node, Tensor):
        # a conjugate or negative view is a flag on another tensor's bits: those would be saved
        plain = node.detach().cpu().resolve_conj().resolve_neg().contiguous()
        return {"$tensor": _add(plain, path, tensors)}
    if isinstance(node, (np.ndarray, np.generic)):
        mark = "$array" if isinstance(node, np.ndarray) else "$scalar"
        try:
            plain = torch.from_numpy(np.require(np.asarray(node), requirements=["C", "W"]))
        except (TypeError, ValueError):
            raise CheckpointError(
                f"{path or 'the tree'}: an array of dtype {node.dtype.str} can't be saved; "
                "use a number type of this machine's byte order"
            ) from None
        return {mark: _add(plain, path, tensors)}
    if isinstance(node, float) and not math.isfinite(node):
        return {"$float": str(float(node))}
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if isinstance(node, (list, tuple)):
        items = [_pack(item, f"{path}/{i}", tensors) for i, item in enumerate(node)]
        return {"$tuple": items} if isinstance(node, tuple) else items
    if isinstance(node, Mapping):
        return _pack_mapping(node, path, tensors)
    raise CheckpointError(
        f"{path or 'the tree'}: a {type(node).__name__} can't be saved; use tensors, arrays, "
        "numbers, strings, lists and dicts"
    )


def _pack_mapping(node: Mapping[Any, Any], path: str, tensors: dict[str, Tensor]) -> Any:
    for key in node:
        if not isinstance(key, (str, int)):
            raise CheckpointError(
                f"{path or 'the tree'}: a dict with the key {key!r} can't be saved; "
                "keys are strings or integers"
            )
    items = [
        (key, _pack(value, f"{path}/{key}" if path else str(key), tensors))
        for key, value in node.items()
    ]
    if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
        return dict(items)
    return {"$items": items}


def _add(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    """Put `tensor` under a free name near `path`: keys may hold a slash themselves."""
    name = path = path.encode(errors="replace").decode()
    count = 1
    while name in tensors or name == "__metadata__":  # safetensors keeps that name to itself
        count += 1
        name = f"{path}~{count}"
    tensors[name] = tensor
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


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_unpack(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    mark = next(iter(node), "")
    if not mark.startswith("$"):
        return {key: _unpack(item, tensors) for key, item in node.items()}
    value = node[mark]
    if mark == "$tensor":
        return tensors[value]
    if mark == "$array":
        return tensors[value].numpy()
    if mark == "$scalar":
        return tensors[value].numpy()[()]
    if mark == "$float":
        return float(value)
    if mark == "$tuple":
        return tuple(_unpack(item, tensors) for item in value)
    if mark == "$items":
        return {key: _unpack(item, tensors) for key, item in value}
    raise ValueError(f"unknown mark {mark}")
