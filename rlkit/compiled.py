"""Kernels: plain Python functions that numba compiles when they are first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

Kernel = TypeVar("Kernel", bound=Callable[..., object])


def compiled(kernel: Kernel, signature: str, release_gil: bool = False) -> Kernel:
    """`kernel` compiled for a signature in numba's words, or loaded from numba's cache on disk.

    release_gil: let other threads of Python run meanwhile.

    numba is imported here and nowhere else: that takes longer than loading. Where the cache can't
    be written or read, every process compiles the kernel anew.
    """
    import numba

    compile_with = partial(numba.njit, signature, error_model="numpy", nogil=release_gil)
    fast: Any
    try:
        fast = compile_with(cache=True)(kernel)
    except Exception:  # a folder, a disk or a file of the cache, in one of many ways
        fast = compile_with()(kernel)
    return cast("Kernel", fast)
