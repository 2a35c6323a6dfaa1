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

from rlkit.errors import UsageError

# (∂L/∂log π, ∂L/∂H) → ∂L/∂(network output)
PullPolicy = Callable[[Tensor, Tensor], Tensor]


class Categorical(nn.Module):
    """A policy over n actions; the network gives logits (..., n), an action is int64 (...,)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.outputs = n

    def draw_noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard Gumbel noise, (*shape, n)."""
        noise = torch.empty((*shape, self.outputs), device=generator.device)
        return noise.exponential_(generator=generator).log_().neg_()

    def sample(self, logits: Tensor, noise: Tensor) -> Tensor:
        """argmax_a (logit_a + g_a) with Gumbel g is distributed as softmax(logits)."""
        return (logits + noise).argmax(-1)

    def mode(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def vjp(self, logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor, PullPolicy]:
        """log π(a|s) (...,), H(π(·|s)) (...,), and the way back to the logits."""
        log_p = logits.log_softmax(-1)  # (..., n)
        p = log_p.exp()
        taken = action.unsqueeze(-1)
        log_prob = log_p.gather(-1, taken).squeeze(-1)
        H = -(p * log_p).sum(-1)

        def pull(g_log_prob: Tensor, g_entropy: Tensor) -> Tensor:
            # ∂log π(a)/∂logits = 1_a − p;  ∂H/∂logits = −p·(log p + H)
            g = g_log_prob.unsqueeze(-1)
            score = (-p * g).scatter_add_(-1, taken, g)
            return score.sub_(g_entropy.unsqueeze(-1) * p * (log_p + H.unsqueeze(-1)))

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
        noise = torch.empty((*shape, self.outputs), device=generator.device)
        return noise.normal_(generator=generator)

    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        return mean + self.log_std.exp() * noise

    def mode(self, mean: Tensor) -> Tensor:
        return mean

    def vjp(self, mean: Tensor, action: Tensor) -> tuple[Tensor, Tensor, PullPolicy]:
        """log π(a|s) (...,), H(π(·|s)) (...,), and the way back to the means and log σ."""
        log_std = self.log_std.detach()
        z = (action - mean) / log_std.exp()  # (..., n)
        half_log_2pi = 0.5 * math.log(2 * math.pi)
        # Σ_i log N(a_i; μ_i, σ_i)  and  Σ_i (½ + ½·log 2π + log σ_i)
        log_prob = (-0.5 * z.square() - log_std - half_log_2pi).sum(-1)
        H = (0.5 + half_log_2pi + log_std).sum().expand(log_prob.shape)

        def pull(g_log_prob: Tensor, g_entropy: Tensor) -> Tensor:
            # ∂log π/∂μ = z/σ;  ∂log π/∂log σ = z² − 1;  ∂H/∂log σ = 1
            g = g_log_prob.unsqueeze(-1)
            assert self.log_std.grad is not None
            to_log_std = g * (z.square() - 1) + g_entropy.unsqueeze(-1)
            self.log_std.grad.add_(to_log_std.reshape(-1, self.outputs).sum(0))
            return g * z / log_std.exp()

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
