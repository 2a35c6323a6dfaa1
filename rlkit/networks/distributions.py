"""Action distributions: a network's output in; samples, log-probability, entropy and the way back.

Noise comes from outside, drawn for many steps at once: sampling a step is then one argmax or one
multiply-add (torch's own Categorical takes 25 times as long for the few rows of one step).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.arrays import Array, as_float, as_tensor, like, namespace
from rlkit.errors import UsageError

# (∂L/∂log π, ∂L/∂H) → ∂L/∂(network output)
PullPolicy = Callable[[Array, Array], Array]


class Categorical(nn.Module):
    """A policy over n actions; the network gives logits (..., n), an action is int64 (...,)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.outputs = n

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise, (*shape, n)."""
        noise = torch.empty((*shape, self.outputs))
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


class DiagonalGaussian(nn.Module):
    """A policy over real vectors: independent normals, their log-deviation a free parameter.

    The network gives means (..., n). An action is unbounded: the environment's adaptor clips and
    rescales it to its Box, and log π stays that of the action as drawn.
    """

    def __init__(self, n: int) -> None:
        super().__init__()
        self.outputs = n
        self.log_std = nn.Parameter(torch.zeros(n))

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise, (*shape, n)."""
        noise = torch.empty((*shape, self.outputs))
        return noise.normal_(generator=generator)

    def sample(self, mean: Array, noise: Array) -> Array:
        return mean + like(mean, self.log_std.detach().exp()) * noise

    def mode(self, mean: Array) -> Array:
        return mean

    def vjp(self, mean: Array, action: Array) -> tuple[Array, Array, PullPolicy]:
        """log π(a|s) (...,), H(π(·|s)) (...,), and the way back to the means and log σ."""
        log_std = like(mean, self.log_std.detach())
        std = like(mean, self.log_std.detach().exp())
        z = (action - mean) / std  # (..., n)
        half_log_2pi = 0.5 * math.log(2 * math.pi)
        # Σ_i log N(a_i; μ_i, σ_i)  and  Σ_i (½ + ½·log 2π + log σ_i)
        log_prob = (-0.5 * z * z - log_std - half_log_2pi).sum(-1)
        H = (0.5 + half_log_2pi + log_std).sum() + 0 * log_prob

        def pull(g_log_prob: Array, g_entropy: Array) -> Array:
            # ∂log π/∂μ = z/σ;  ∂log π/∂log σ = z² − 1;  ∂H/∂log σ = 1
            g = g_log_prob[..., None]
            to_log_std = (g * (z * z - 1) + g_entropy[..., None]).reshape(-1, self.outputs).sum(0)
            assert self.log_std.grad is not None
            self.log_std.grad += as_tensor(to_log_std, self.log_std.device)
            return g * z / std

        return log_prob, H, pull


def policy_for(space: spaces.Space[Any]) -> Categorical | DiagonalGaussian:
    """The distribution of an action space; raises UsageError where there is none."""
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n))
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.shape[0] > 0:
        return DiagonalGaussian(space.shape[0])
    raise UsageError(
        f"no policy for the action space {space}; there are policies for Discrete and Box vectors"
    )
