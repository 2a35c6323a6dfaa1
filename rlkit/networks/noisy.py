"""Noisy linear layers: exploration that is learnt (Fortunato et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SIGMA0 = 0.5  # σ₀ of factorised noise (Fortunato et al. 2018, §3.2)


class NoisyLinear(nn.Module):
    """y = (μ + σ∘ε)·x + μᵇ + σᵇ∘εᵇ with factorised Gaussian noise (Fortunato et al. 2018, eq. 9).

    ε_ij = f(ε_i)·f(ε_j) and εᵇ_j = f(ε_j), with f(x) = sign(x)·√|x| (eq. 10 and 11). One sample
    holds for all rows until `resample` draws the next one; before the first it is 0.

    The noise is part of `state_dict`, so that a run which is resumed between two samples goes on
    bit for bit; it is no parameter, so copies of parameters (a target network's) leave it alone.
    """

    noise_in: Tensor
    noise_out: Tensor

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        # μ and μᵇ, named as in nn.Linear; then σ and σᵇ
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(fan_out).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((fan_out, fan_in), SIGMA0 * bound))
        self.bias_sigma = nn.Parameter(torch.full((fan_out,), SIGMA0 * bound))
        self.register_buffer("noise_in", torch.zeros(fan_in))  # f(ε_i)
        self.register_buffer("noise_out", torch.zeros(fan_out))  # f(ε_j)

    def sampled(self) -> tuple[Tensor, Tensor]:
        """The weights and the bias under the present noise, (out, in) and (out,)."""
        noise_out = self.noise_out
        epsilon = torch.outer(noise_out, self.noise_in)
        W = torch.addcmul(self.weight, self.weight_sigma, epsilon)
        return W, torch.addcmul(self.bias, self.bias_sigma, noise_out)


def resample(layers: Sequence[NoisyLinear], generator: torch.Generator | None) -> None:
    """Draw the noise of all `layers` anew, where the generator is; None: where they are."""
    vectors = [noise for layer in layers for noise in (layer.noise_in, layer.noise_out)]
    if not vectors:
        return
    sizes = [noise.shape[0] for noise in vectors]
    device = vectors[0].device
    # one draw: calls are what costs
    x = torch.empty(sum(sizes), device=device if generator is None else generator.device)
    x.normal_(generator=generator)
    f = (x.sign() * x.abs().sqrt_()).to(device)
    for noise, drawn in zip(vectors, torch.split(f, sizes), strict=True):
        noise.copy_(drawn)
