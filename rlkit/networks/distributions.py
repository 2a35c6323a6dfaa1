"""Action distributions: a network's output in; samples, log-probability, entropy and the way back.

Noise comes from outside, drawn for many steps at once: sampling a step is then one argmax or one
multiply-add (torch's own Categorical takes 25 times as long for the few rows of one step).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.arrays import Array, as_float, as_tensor, like, namespace
from rlkit.errors import UsageError

# (∂L/∂log π, ∂L/∂H) → ∂L/∂(network output)
PullPolicy = Callable[[Array, Array], Array]

# The logit of an action that is not allowed. Its exponential is 0, and 0·log 0 stays 0, which an
# infinite one would make NaN.
DISALLOWED = -1e30


def masked(logits: Array, mask: Array | None) -> Array:
    """`logits` (..., n) with those of the actions that `mask` (..., n) bool disallows out of reach.

    The softmax is then the distribution renormalised over the allowed actions, and the gradient of
    its log-probability and entropy with respect to the others' logits is 0 (Huang & Ontañón 2022,
    §3). Serves an argmax over action values too.
    """
    return logits if mask is None else namespace(logits).where(mask, logits, DISALLOWED)


def uniform_allowed(u: Array, mask: Array) -> Array:
    """The uniform draw among the actions that `mask` (..., n) allows: int64 (...,).

    Args: `u` (...,) in [0, 1): index ⌊u·m⌋ of the m allowed ones.
    """
    xp = namespace(u)
    rank = mask.cumsum(-1)  # (..., n): how many are allowed up to each action
    index = xp.floor(u * rank[..., -1])
    return (rank <= index[..., None]).sum(-1)


class Categorical(nn.Module):
    """A policy over n actions; the network gives logits (..., n), an action is int64 (...,)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.outputs = n

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise, (*shape, n)."""
        noise = torch.empty((*shape, self.outputs), device=generator.device)
        return noise.exponential_(generator=generator).log_().neg_()

    def sample(self, logits: Array, noise: Array) -> Array:
        """argmax_a (logit_a + g_a) with Gumbel g is distributed as softmax(logits)."""
        return (logits + noise).argmax(-1)

    def mode(self, logits: Array) -> Array:
        return logits.argmax(-1)

    def vjp(self, logits: Array, action: Array) -> tuple[Array, Array, PullPolicy]:
        """log π(a|s) (...,), H(π(·|s)) (...,), and the way back to the logits."""
        xp = namespace(logits)
        z = logits - xp.amax(logits, axis=-1, keepdims=True)
        p = xp.exp(z)
        total = p.sum(axis=-1, keepdims=True)
        p = p / total
        log_p = z - xp.log(total)  # (..., n)
        one_hot = action[..., None] == xp.arange(self.outputs, device=logits.device)
        log_prob = (log_p * one_hot).sum(-1)
        H = -(p * log_p).sum(-1)

        def pull(g_log_prob: Array, g_entropy: Array) -> Array:
            # ∂log π(a)/∂logits = 1_a − p;  ∂H/∂logits = −p·(log p + H)
            score = g_log_prob[..., None] * (as_float(one_hot) - p)
            return score - g_entropy[..., None] * p * (log_p + H[..., None])

        return log_prob, H, pull


class MultiCategorical(nn.Module):
    """A policy over k independent choices, the i-th among nvec[i].

    The network gives the logits of all choices one after another, (..., Σ nvec); an action is int64
    (..., k). Inside, the choices stand side by side as rows of max(nvec) logits, of which the
    shorter ones' last are disallowed: one Categorical serves them all.
    """

    def __init__(self, nvec: Sequence[int]) -> None:
        super().__init__()
        self.outputs, k, width = sum(nvec), len(nvec), max(nvec)
        self._each = Categorical(width)
        self._shape = (k, width)
        sizes = np.asarray(nvec)
        first = np.cumsum(sizes) - sizes
        real = np.arange(width) < sizes[:, None]  # (k, width)
        self._is_ragged = not real.all()
        # Which of the network's logits each cell shows, and which cell shows each logit.
        self._source: Tensor
        self._real: Tensor
        self._cell: Tensor
        source = np.where(real, first[:, None] + np.arange(width), 0)
        self.register_buffer("_source", torch.from_numpy(source), persistent=False)
        self.register_buffer("_real", torch.from_numpy(real), persistent=False)
        cell = torch.from_numpy(np.flatnonzero(real))
        self.register_buffer("_cell", cell, persistent=False)

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise, (*shape, k, max nvec)."""
        return self._each.draw_noise((*shape, self._shape[0]), generator)

    def sample(self, logits: Array, noise: Array) -> Array:
        return self._each.sample(self._rows(logits), noise)

    def mode(self, logits: Array) -> Array:
        return self._each.mode(self._rows(logits))

    def vjp(self, logits: Array, action: Array) -> tuple[Array, Array, PullPolicy]:
        """log π(a|s) (...,), H(π(·|s)) (...,), and the way back to the logits."""
        log_prob, H, pull_each = self._each.vjp(self._rows(logits), action)  # (..., k) both

        def pull(g_log_prob: Array, g_entropy: Array) -> Array:
            # log π and H are sums over the choices: each gets the whole gradient
            g = pull_each(g_log_prob[..., None], g_entropy[..., None])  # (..., k, width)
            flat = g.reshape(*g.shape[:-2], -1)
            return flat[..., like(flat, self._cell)] if self._is_ragged else flat

        return log_prob.sum(-1), H.sum(-1), pull

    def _rows(self, logits: Array) -> Array:
        """(..., Σ nvec) → (..., k, max nvec)."""
        if not self._is_ragged:
            return logits.reshape(*logits.shape[:-1], *self._shape)
        return masked(logits[..., like(logits, self._source)], like(logits, self._real))


class Bernoulli(nn.Module):
    """A policy over n independent bits; the network gives the logit of each being 1, (..., n).

    An action is int8 (..., n).
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.outputs = n

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard logistic noise, (*shape, n)."""
        u = torch.rand((*shape, self.outputs), generator=generator, device=generator.device)
        return u.logit_()

    def sample(self, logits: Array, noise: Array) -> Array:
        """Logistic noise exceeds −x with probability σ(x)."""
        return self.mode(logits + noise)

    def mode(self, logits: Array) -> Array:
        xp = namespace(logits)
        return xp.asarray(logits > 0, dtype=xp.int8)

    def vjp(self, logits: Array, action: Array) -> tuple[Array, Array, PullPolicy]:
        """log π(a|s) (...,), H(π(·|s)) (...,), and the way back to the logits."""
        xp = namespace(logits)
        softplus = xp.logaddexp(logits, 0 * logits)  # −log(1 − p), (..., n)
        p = xp.exp(logits - softplus)
        log_prob = (action * logits - softplus).sum(-1)
        H = (softplus - p * logits).sum(-1)

        def pull(g_log_prob: Array, g_entropy: Array) -> Array:
            # ∂log π/∂x = a − p;  ∂H/∂x = −x·p·(1 − p)
            score = g_log_prob[..., None] * (action - p)
            return score - g_entropy[..., None] * logits * p * (1 - p)

        return log_prob, H, pull


class DiagonalGaussian(nn.Module):
    """A policy over real arrays: independent normals, their log-deviation a free parameter.

    The network gives means (..., n), n the product of `shape`; an action is (..., *shape). It is
    unbounded: the environment's adaptor clips and rescales it to its Box, and log π stays that of
    the action as drawn.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.outputs = math.prod(shape)
        self.shape = shape
        self.log_std = nn.Parameter(torch.zeros(self.outputs))

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise, (*shape, n)."""
        noise = torch.empty((*shape, self.outputs), device=generator.device)
        return noise.normal_(generator=generator)

    def sample(self, mean: Array, noise: Array) -> Array:
        return self.mode(mean + like(mean, self.log_std.detach().exp()) * noise)

    def mode(self, mean: Array) -> Array:
        return mean if len(self.shape) == 1 else mean.reshape(*mean.shape[:-1], *self.shape)

    def vjp(self, mean: Array, action: Array) -> tuple[Array, Array, PullPolicy]:
        """log π(a|s) (...,), H(π(·|s)) (...,), and the way back to the means and log σ."""
        log_std = like(mean, self.log_std.detach())
        std = like(mean, self.log_std.detach().exp())
        z = (action.reshape(mean.shape) - mean) / std  # (..., n)
        half_log_2pi = 0.5 * math.log(2 * math.pi)
        # Σ_i log N(a_i; μ_i, σ_i)  and  Σ_i (½ + ½·log 2π + log σ_i)
        log_prob = (-0.5 * z * z - log_std - half_log_2pi).sum(-1)
        H = (0.5 + half_log_2pi + log_std).sum() + 0 * log_prob

        def pull(g_log_prob: Array, g_entropy: Array) -> Array:
            # ∂log π/∂μ = z/σ;  ∂log π/∂log σ = z² − 1;  ∂H/∂log σ = 1
            g = g_log_prob[..., None]
            self.add_log_std_gradient(g * (z * z - 1) + g_entropy[..., None])
            return g * z / std

        return log_prob, H, pull

    def add_log_std_gradient(self, g: Array) -> None:
        """∂L/∂log σ += Σ g over all but the last dimension of g (..., n)."""
        assert self.log_std.grad is not None
        self.log_std.grad += as_tensor(g.reshape(-1, self.outputs).sum(0), self.log_std.device)


class SquashedGaussian(nn.Module):
    """A policy over the cube (−1, 1)ⁿ: a = tanh(u), where u is a `DiagonalGaussian`'s action.

    (Haarnoja et al. 2018, appendix C.) An action is stored as a; u is recovered by atanh, with a
    held one float's spacing away from ±1, so that log π loses accuracy as |a| nears 1.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.normal = DiagonalGaussian(shape)
        self.outputs = self.normal.outputs

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise, (*shape, n)."""
        return self.normal.draw_noise(shape, generator)

    def sample(self, mean: Array, noise: Array) -> Array:
        return _inside(namespace(mean).tanh(self.normal.sample(mean, noise)))

    def mode(self, mean: Array) -> Array:
        return _inside(namespace(mean).tanh(self.normal.mode(mean)))

    def vjp(self, mean: Array, action: Array) -> tuple[Array, Array, PullPolicy]:
        """log π(a|s) (...,), an estimate of H(π(·|s)) (...,), and the way back to μ and log σ.

        The entropy has no closed form. With u = μ + σ·ε it is H(N) + E_ε[Σ log(1 − tanh² u)], of
        which the given action is one unbiased sample; its gradient holds ε fixed.
        """
        xp = namespace(mean)
        a = _inside(action.reshape(mean.shape))
        u = xp.arctanh(a)
        log_prob, H, pull_normal = self.normal.vjp(mean, u)
        # log da/du = log(1 − tanh² u) = 2·(log 2 − u − softplus(−2u)), which does not cancel
        log_slope = (2 * (math.log(2) - u - xp.logaddexp(-2 * u, 0 * u))).sum(-1)

        def pull(g_log_prob: Array, g_entropy: Array) -> Array:
            # ∂log π/∂(μ, log σ) at a fixed a is the normal's at a fixed u. For the entropy:
            # ∂log(1 − tanh² u)/∂u = −2·tanh u;  ∂u/∂μ = 1;  ∂u/∂log σ = σ·ε = u − μ
            g_u = -2 * g_entropy[..., None] * a
            self.normal.add_log_std_gradient(g_u * (u - mean))
            return pull_normal(g_log_prob, g_entropy) + g_u

        return log_prob - log_slope, H + log_slope, pull


def _inside(a: Array) -> Array:
    """`a` within (−1, 1), where atanh is finite: rounding takes tanh to ±1 from |u| ≈ 9 on."""
    limit = 1 - float(namespace(a).finfo(a.dtype).eps)
    return a.clip(-limit, limit)


Distribution: TypeAlias = (
    Categorical | MultiCategorical | Bernoulli | DiagonalGaussian | SquashedGaussian
)


def policy_for(space: spaces.Space[Any], squash: bool = False) -> Distribution:
    """The distribution of an action space; raises UsageError where there is none.

    Args:
        space: as an agent sees it, so that a bounded Box is [−1, 1] (`rlkit.envs.spaces`).
        squash: a bounded Box gets a Gaussian squashed into its bounds instead of one that is
            clipped to them.
    """
    if squash and not (isinstance(space, spaces.Box) and space.is_bounded()):
        raise UsageError(
            f"no squashed policy for the action space {space}; tanh squashes into a Box with "
            "finite bounds on both sides; leave squash off"
        )
    if isinstance(space, spaces.Box) and math.prod(space.shape) > 0:
        return SquashedGaussian(space.shape) if squash else DiagonalGaussian(space.shape)
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return MultiCategorical([int(n) for n in space.nvec])
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return Bernoulli(space.shape[0])
    raise UsageError(
        f"no policy for the action space {space}; there are policies for Discrete, Box, and "
        "MultiDiscrete and MultiBinary of one dimension"
    )
