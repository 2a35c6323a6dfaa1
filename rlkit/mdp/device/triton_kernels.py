# mypy: disable-error-code="misc,untyped-decorator,no-untyped-def,no-untyped-call,no-any-return"
"""A sweep as one Triton kernel: each number of the model is read once, and nothing else is stored.

torch's operations store what they find in between: products, their sums, Q. A row of K successors
takes 12 K + 8 bytes here; there V is looked up into 8 K bytes, which are read, multiplied into
another 8 K and read again, and Q is written and read: more than three times as many.

Arrays and results are those of rlkit/mdp/device/rows.py. Triton makes a 32-bit number of every
float argument, so that the discount comes in a tensor.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlkit.mdp.device.rows import Csr, Ell

_STATES = 256  # of a program that goes through columns
_LANES = 1024  # of a program that goes through compressed rows: states times successors
_MOST_SIDE_BY_SIDE = 128  # successors of a row


@triton.jit
def _finish(
    s, inside, best, arg, V, TV, choice, low, high, CHOOSE: tl.constexpr
):  # pragma: no cover - compiled
    change = best - tl.load(V + s, mask=inside, other=0.0)
    tl.store(TV + s, best, mask=inside)
    if CHOOSE:
        tl.store(choice + s, arg, mask=inside)
    part = tl.program_id(0)
    tl.store(low + part, tl.min(tl.where(inside, change, float("inf")), 0))
    tl.store(high + part, tl.max(tl.where(inside, change, float("-inf")), 0))


@triton.jit
def _ell(
    successors,
    p,
    r,
    gamma_at,
    V,
    TV,
    choice,
    low,
    high,
    n_states,
    p_action,
    p_outcome,
    p_state,
    A: tl.constexpr,
    K: tl.constexpr,
    STATES: tl.constexpr,
    CHOOSE: tl.constexpr,
):  # pragma: no cover - compiled
    s = tl.program_id(0) * STATES + tl.arange(0, STATES)
    inside = s < n_states
    gamma = tl.load(gamma_at)
    best = tl.full((STATES,), float("-inf"), tl.float64)
    arg = tl.zeros((STATES,), tl.int64)
    # Pointers go from column to column: a product of their numbers may not fit into 32 bits.
    successor_at, p_row, r_at = successors + s, p + s * p_state, r + s
    for a in range(A):
        total = tl.zeros((STATES,), tl.float64)
        p_at = p_row
        for _ in tl.static_range(K):
            successor = tl.load(successor_at, mask=inside, other=0)
            weight = tl.load(p_at, mask=inside, other=0.0)
            total += weight * tl.load(V + successor, mask=inside, other=0.0)
            successor_at += n_states
            p_at += p_outcome
        q = tl.load(r_at, mask=inside, other=0.0) + gamma * total
        better = q > best
        arg = tl.where(better, a, arg)
        best = tl.where(better, q, best)
        r_at += n_states
        p_row += p_action
    _finish(s, inside, best, arg, V, TV, choice, low, high, CHOOSE)


@triton.jit
def _csr(
    off,
    ptr,
    successors,
    p,
    r,
    gamma_at,
    V,
    TV,
    choice,
    low,
    high,
    n_states,
    STATES: tl.constexpr,
    WIDTH: tl.constexpr,
    CHOOSE: tl.constexpr,
):  # pragma: no cover - compiled
    s = tl.program_id(0) * STATES + tl.arange(0, STATES)
    inside = s < n_states
    first = tl.load(off + s, mask=inside, other=0)
    last = tl.load(off + s + 1, mask=inside, other=0)
    gamma = tl.load(gamma_at)
    best = tl.full((STATES,), float("-inf"), tl.float64)
    arg = first
    lane = tl.arange(0, WIDTH)[None, :]
    for j in range(tl.max(last - first, 0)):
        pair = first + j
        real = pair < last
        begin = tl.load(ptr + pair, mask=real, other=0)
        end = tl.load(ptr + pair + 1, mask=real, other=0)
        total = tl.zeros((STATES, WIDTH), tl.float64)
        for k in range(0, tl.max(end - begin, 0), WIDTH):
            at = begin[:, None] + k + lane
            there = at < end[:, None]
            successor = tl.load(successors + at, mask=there, other=0)
            weight = tl.load(p + at, mask=there, other=0.0)
            total += weight * tl.load(V + successor, mask=there, other=0.0)
        q = tl.load(r + pair, mask=real, other=float("-inf")) + gamma * tl.sum(total, 1)
        better = q > best
        arg = tl.where(better, pair, arg)
        best = tl.where(better, q, best)
    _finish(s, inside, best, arg, V, TV, choice, low, high, CHOOSE)


def backup(rows: Ell | Csr, V: Tensor, TV: Tensor, choice: Tensor | None = None) -> Tensor:
    """As `Ell.backup`, of either layout; returns (2, parts), of each part of the states."""
    states = _STATES if isinstance(rows, Ell) else _LANES // _side_by_side(rows)
    parts = torch.empty(2, triton.cdiv(rows.n_states, states), dtype=V.dtype, device=V.device)
    chosen = V if choice is None else choice  # which is not touched then
    shared = (rows.gamma, V, TV, chosen, parts[0], parts[1], rows.n_states)
    grid, choose = (parts.shape[1],), choice is not None
    with torch.cuda.device_of(V):
        if isinstance(rows, Ell):
            columns = (rows.successors, rows.p, rows.r)
            A, K, _ = rows.successors.shape
            _ell[grid](*columns, *shared, *rows.p.stride(), A, K, states, choose)
        else:
            arrays = (rows.off, rows.ptr, rows.successors, rows.p, rows.r)
            _csr[grid](*arrays, *shared, states, _side_by_side(rows), choose)
    return parts


def _side_by_side(rows: Csr) -> int:
    return min(max(2, triton.next_power_of_2(rows.width)), _MOST_SIDE_BY_SIDE)
