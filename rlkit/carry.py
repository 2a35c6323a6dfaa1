"""What a memory hands from step to step: a tensor, or several by name, with a row per environment.

A carry of zeros is the start of an episode: so anybody may begin one, whatever the memory is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

Carry: TypeAlias = Any  # Tensor (N, ...), a dict or tuple of them, or None without a memory


def mapped(f: Callable[[Tensor], Tensor], carry: Carry) -> Carry:
    """The carry with `f` of each of its tensors."""
    if carry is None:
        return None
    if isinstance(carry, dict):
        return {name: mapped(f, part) for name, part in carry.items()}
    if isinstance(carry, (tuple, list)):
        return tuple(mapped(f, part) for part in carry)
    return f(carry)


def tensors(carry: Carry) -> list[Tensor]:
    """The tensors of a carry, one after the other."""
    if carry is None:
        return []
    if isinstance(carry, dict):
        return [x for name in sorted(carry) for x in tensors(carry[name])]
    if isinstance(carry, (tuple, list)):
        return [x for part in carry for x in tensors(part)]
    return [carry]


def renewed(carry: Carry, begins: Tensor) -> Carry:
    """The carry with the rows of environments that begin an episode, (N,) bool, at its start."""

    def masked(x: Tensor) -> Tensor:
        return x.masked_fill(begins.to(x.device).view(-1, *[1] * (x.ndim - 1)), 0)

    return mapped(masked, carry)


def rows(carry: Carry, index: Any) -> Carry:
    """The carry of some of the environments."""
    return mapped(lambda x: x[index], carry)
