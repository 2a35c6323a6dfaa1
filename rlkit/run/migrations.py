"""Checkpoints of earlier formats: what their JSON documents have to become.

====== =============================================================================================
format what came with it
====== =============================================================================================
1      safetensors, JSON and a manifest
2      raw files for large tensors; replay memories keep their columns in blocks of rows, which such
       files hold; a checksum in `best`
====== =============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

FORMAT = 2  # of the checkpoints that are written


def migrated(document: dict[str, Any], version: int) -> dict[str, Any]:
    """The JSON document (rlkit.run.tree) of a checkpoint of format `version` in the present one.

    Changes `document`. Raises KeyError, TypeError, ValueError or AttributeError where it is none.
    """
    for past in range(version, FORMAT):
        MIGRATIONS[past](document)
    return document


def _in_blocks(document: dict[str, Any]) -> None:
    """1 to 2: each column of a replay memory was one tensor, and is a list of blocks."""
    memory = document.get("agent", {}).get("parts", {}).get("memory", {})
    if "restarted" not in memory:  # the memory of an on-policy agent
        return
    memory["rows"] = {name: [column] for name, column in memory["rows"].items()}
    if "carries" in memory:
        memory["carries"] = [[carry] for carry in _marks(memory["carries"])]


def _marks(node: Any) -> list[dict[str, Any]]:
    """The tensors of what an agent carries, in the order of `rlkit.carry.tensors`."""
    if node is None:
        return []
    if isinstance(node, list):
        return [mark for item in node for mark in _marks(item)]
    if "$tensor" in node:
        return [node]
    if "$tuple" in node:
        return _marks(node["$tuple"])
    return [mark for name in sorted(node) for mark in _marks(node[name])]


MIGRATIONS: dict[int, Callable[[dict[str, Any]], None]] = {1: _in_blocks}
