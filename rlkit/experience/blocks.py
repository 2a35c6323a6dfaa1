"""A memory's columns in blocks of rows, as they are saved.

A ring changes where it is being filled. What is saved in blocks of fixed rows has blocks that did
not change since the last save, and need not be written again.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rlkit.errors import CheckpointError

BLOCK = 1 << 24  # bytes


def split(column: Tensor) -> list[Tensor]:
    """Rows (R, ...) in blocks of at most 16 MiB, or one row; they are views."""
    rows = max(1, BLOCK // max(1, column[:1].nbytes))
    return [column[start : start + rows] for start in range(0, len(column), rows)]


def fill(column: Tensor, blocks: Sequence[Tensor]) -> None:
    """Copy blocks into the rows (R, ...), one block at a time: they may lie on the disk.

    Raises CheckpointError where they are not as many rows, or other ones.
    """
    wanted = column.shape[1:], column.dtype
    others = [block for block in blocks if (block.shape[1:], block.dtype) != wanted]
    rows = sum(map(len, blocks))
    if rows != len(column) or others:
        held = f"{rows} rows" + "".join(f" of {list(x.shape[1:])} {x.dtype}" for x in others[:1])
        raise CheckpointError(
            f"the checkpoint's memory holds {held} where the run's config.json asks for "
            f"{len(column)} of {list(wanted[0])} {wanted[1]}; undo what was changed in it"
        )
    start = 0
    for block in blocks:
        column[start : start + len(block)].copy_(block)
        start += len(block)
