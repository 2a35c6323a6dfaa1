"""Returns and advantages: one pure function per equation, over time-major tensors.

Two per-step factors keep the two ways in which an episode can end apart (design: time limits):

    discount_t = γ·(1 − terminated_t)                  a terminal state has no value
    trace_t    = λ·(1 − terminated_t − truncated_t)    credit stops at either end

With them every function here is right across terminations, truncations and resets without asking
which happened: the dead step after an end (NEXT_STEP autoreset) receives no credit from what
follows, gives none to what came before, and is masked by the caller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlkit.arrays import Array, as_float


def discounts(gamma: float, terminated: Array) -> Array:
    """discount_t = γ·(1 − terminated_t): (T, N) bool → (T, N) float32."""
    return gamma * (1 - as_float(terminated))


def traces(lam: float, terminated: Array, truncated: Array) -> Array:
    """trace_t = λ·(1 − (terminated_t or truncated_t)): (T, N) bool → (T, N) float32."""
    return lam * (1 - as_float(terminated | truncated))


def gae(r: Array, v: Array, v_next: Array, discount: Array, trace: Array) -> Array:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 11–16).

        δ_t = r_t + discount_t·V(s_{t+1}) − V(s_t)
        A_t = δ_t + discount_t·trace_t·A_{t+1},  A_T = 0

    λ = 1 is the n-step advantage of A3C (Mnih et al. 2016, alg. S3): every A_t looks ahead to the
    end of the rollout.

    Args: all (T, N) float32; `v_next[t]` is the value of the state that followed action t, before
    any reset. Returns A, (T, N).
    """
    A = r + discount * v_next - v  # δ, turned into A from the end
    decay = discount * trace
    for t in reversed(range(len(A) - 1)):
        A[t] += decay[t] * A[t + 1]
    return A


def n_step(
    r: Tensor, terminated: Tensor, ended: Tensor, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The n-step return of replayed windows (Sutton & Barto 2018, eq. 7.1), stopped at an end.

        G = Σ_{k<m} γ^k·r_k,  to be completed by γ^m·(1 − terminated_{m−1})·V(s_m)

    Args: r (n, B) float32, terminated and ended (terminated or truncated) (n, B) bool: n
    consecutive steps of B windows. A window's m is n, or the step count up to its first end.
    Returns G (B,), the discount of the value that completes it (B,), and m (B,) int64.
    """
    alive = torch.ones_like(r[0])  # 1 until the window's episode has ended
    g, m, terminal = torch.zeros_like(alive), torch.zeros_like(alive), torch.zeros_like(alive)
    for k in range(r.shape[0]):
        g = g + gamma**k * alive * r[k]
        m = m + alive
        terminal = terminal + alive * terminated[k]
        alive = torch.where(ended[k], 0.0, alive)
    return g, gamma**m * (1 - terminal), m.long()


# ε of h below: it bounds the slope of h⁻¹.
RESCALING_EPS = 1e-3


def rescaled(x: Tensor) -> Tensor:
    """h(x) = sign(x)·(√(|x| + 1) − 1) + ε·x: values of any scale, near each other (Pohlen et al.
    2018, eq. 1; ε of Kapturowski et al. 2019, §2.3).

    As x/(√(|x| + 1) + 1) + ε·x, which is the same: for small x the root minus 1 would cancel.
    """
    return x / ((x.abs() + 1).sqrt() + 1) + RESCALING_EPS * x


def unrescaled(x: Tensor) -> Tensor:
    """h⁻¹(x) = sign(x)·(s² − 1), s = (√(1 + 4ε·(|x| + 1 + ε)) − 1)/2ε (Pohlen et al. 2018, prop.
    A.2).

    As d·(d + 2) with d = s − 1 = 2|x|/(√(1 + 4ε·(|x| + 1 + ε)) + 1 + 2ε): nothing cancels there
    either.
    """
    eps = RESCALING_EPS
    d = 2 * x / ((1 + 4 * eps * (x.abs() + 1 + eps)).sqrt() + 1 + 2 * eps)  # of x's sign
    return d * (d.abs() + 2)
