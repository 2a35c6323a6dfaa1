"""The sweeps of a VI module on the CPU, compiled: as convolutions they take several times as long.

A convolution from one channel to ten is small work, repeated K times; so here an image goes through
all of its sweeps while it lies in the cache. No sweep's Q̄ is kept: of each cell, V̄ has a gradient
by its best channel alone, and which one that is is all that the way back needs.

Images have a rim of 0 and lie row after row in one line, in which a neighbour is as far off from
any cell. A line of V̄ has a row and a cell to spare at either end: V̄ of cell m is at m + width + 1,
and of its neighbour in row u − 1 and column v − 1 from there, at m + u·width + v.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rlkit.compiled import compiled

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_FLOATS = "float32[:, :, ::1]"


def sweep(r: Floats, w: Floats, width: int, V: Floats, best: Ints) -> None:
    """V̄_{k+1} = max_ā r(ā) + w(ā)·V̄_k, from V̄_0 = 0, and the first ā that attains it.

    Args:
        r: (N, A, M) images of `width` cells a row, with their rims.
        w: (A, 9) weights of the neighbours.
        V: (N, K + 1, M + 2·width + 2) zeros, where V̄ is written.
        best: (N, K, M), to be written; on the rim it says nothing.
    """
    N, A, M = r.shape
    top = np.empty(M, np.float32)
    for n in range(N):
        for k in range(best.shape[1]):
            above, here, below = V[n, k], V[n, k, width:], V[n, k, 2 * width :]
            channel = best[n, k]
            top[:] = -np.inf
            for a in range(A):
                r_a = r[n, a]
                w0, w1, w2 = w[a, 0], w[a, 1], w[a, 2]
                w3, w4, w5 = w[a, 3], w[a, 4], w[a, 5]
                w6, w7, w8 = w[a, 6], w[a, 7], w[a, 8]
                for m in range(M):
                    q = r_a[m] + w0 * above[m] + w1 * above[m + 1] + w2 * above[m + 2]
                    q += w3 * here[m] + w4 * here[m + 1] + w5 * here[m + 2]
                    q += w6 * below[m] + w7 * below[m + 1] + w8 * below[m + 2]
                    better = q > top[m]
                    channel[m] = a if better else channel[m]
                    top[m] = q if better else top[m]
            for row in range(width + 1, M - width, width):
                for m in range(row, row + width - 2):
                    V[n, k + 1, m + width + 1] = top[m]


def sweep_back(
    dV: Floats, w: Floats, width: int, V: Floats, best: Ints, dr: Floats, dw: NDArray[np.float64]
) -> None:
    """Add to the gradients of r (N, A, M) and w (A, 9), by that of V̄_K, (N, M)."""
    M = best.shape[2]
    d, before = np.empty(M, np.float32), np.empty(V.shape[2], np.float32)
    for n in range(V.shape[0]):
        d[:] = dV[n]
        for k in range(best.shape[1] - 1, -1, -1):
            before[:] = 0.0
            for row in range(width + 1, M - width, width):
                for m in range(row, row + width - 2):
                    a, d_m = best[n, k, m], d[m]
                    dr[n, a, m] += d_m
                    for u in range(3):
                        for v in range(3):
                            there = m + u * width + v
                            dw[a, 3 * u + v] += d_m * V[n, k, there]
                            before[there] += d_m * w[a, 3 * u + v]
            d[:] = before[width + 1 : width + 1 + M]


@cache
def _load() -> tuple[Any, Any]:
    """Both kernels, compiled."""
    told = f"float32[:, ::1], int64, {_FLOATS}, int32[:, :, ::1]"
    forward = compiled(sweep, f"void({_FLOATS}, {told})", release_gil=True)
    back = f"void(float32[:, ::1], {told}, {_FLOATS}, float64[:, ::1])"
    return forward, compiled(sweep_back, back, release_gil=True)


def is_compiled_for(r: Tensor) -> bool:
    """Whether `Sweeps` takes such images: not while they are traced for an export."""
    return r.device.type == "cpu" and r.dtype == torch.float32 and not torch.compiler.is_compiling()


class Sweeps(torch.autograd.Function):
    """V̄ (N, 1, H, W) after K sweeps over r̄'s part in Q̄, (N, A, H, W), with weights (A, 1, 3, 3).

    All float32 on the CPU.
    """

    @staticmethod
    def forward(ctx: Any, r: Tensor, w: Tensor, k: int) -> Tensor:
        N, A, H, W = r.shape
        size, width = (H + 2) * (W + 2), W + 2
        rimmed = F.pad(r, (1, 1, 1, 1)).contiguous().view(N, A, size).numpy()
        V = np.zeros((N, k + 1, size + 2 * width + 2), dtype=np.float32)
        best = np.zeros((N, k, size), dtype=np.int32)
        weights = w.contiguous().view(A, 9).numpy()
        sweep, _ = _load()
        sweep(rimmed, weights, width, V, best)
        ctx.kept = weights, width, V, best
        last = torch.from_numpy(V[:, -1, width + 1 : width + 1 + size])
        return last.view(N, 1, H + 2, width)[:, :, 1:-1, 1:-1].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dV: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, width, V, best = ctx.kept
        N, A, H = len(V), len(weights), dV.shape[2]
        rimmed = F.pad(dV, (1, 1, 1, 1)).contiguous().view(N, -1).numpy()
        dr = np.zeros((N, A, best.shape[2]), dtype=np.float32)
        dw = np.zeros((A, 9))
        _, sweep_back = _load()
        sweep_back(rimmed, weights, width, V, best, dr, dw)
        inside = torch.from_numpy(dr).view(N, A, H + 2, width)[:, :, 1:-1, 1:-1]
        return inside, torch.from_numpy(dw).float().view(A, 1, 3, 3), None


def swept(r: Tensor, w: Tensor, k: int) -> Tensor:
    """V̄ (N, 1, H, W) after k sweeps; see `Sweeps`."""
    V: Tensor = Sweeps.apply(r, w, k)  # type: ignore[no-untyped-call]
    return V
