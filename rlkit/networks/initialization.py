"""How weights start, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from rlkit.registry import unknown

Weighted: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
AnyWeighted = TypeVar("AnyWeighted", bound=Weighted)

ORTHOGONAL = "orthogonal"


def _kaiming(weight: Tensor, gain: float) -> Tensor:
    nn.init.kaiming_normal_(weight, nonlinearity="linear")
    with torch.no_grad():
        return weight.mul_(gain)


# Each writes over a weight (out, in, *kernel); its bias starts at zero.
INITS: dict[str, Callable[[Tensor, float], Tensor]] = {
    # (semi-)orthogonal rows of (out, in·kernel), times the gain (Saxe et al. 2014)
    ORTHOGONAL: nn.init.orthogonal_,
    # normal with σ = gain/√fan_in: keeps the variance on the way forward (He et al. 2015, eq. 10)
    "kaiming": _kaiming,
    # uniform with σ = gain·√(2/(fan_in + fan_out)): both ways (Glorot & Bengio 2010, eq. 16)
    "xavier": nn.init.xavier_uniform_,
}

_RELU_GAIN = math.sqrt(2)
_GAINS = {
    "sigmoid": nn.init.calculate_gain("sigmoid"),
    "tanh": nn.init.calculate_gain("tanh"),
    # The gain g that He et al.'s condition asks for: E[f(g·z)²] = 1 for a standard normal z. It is
    # √2 for ReLU, as in their paper, and √(2/(1 + a²)) for leaky ReLU (eq. 15).
    "elu": 1.278,
    "gelu": 1.468,
    "glu": 1.727,
    "leaky-relu": nn.init.calculate_gain("leaky_relu"),
    "mish": 1.451,
    "relu": _RELU_GAIN,
    "silu": 1.559,
    "swish": 1.559,
}


def gain_before(activation: str, init: str = ORTHOGONAL) -> float:
    """The gain of a layer that the activation follows.

    Orthogonal weights have √2 whatever follows, as actor-critic baselines use it (Andrychowicz et
    al. 2021, §3.2). The others have the gain that keeps the mean square of what goes on, and
    before tanh and sigmoid, for which there is none, `torch.nn.init.calculate_gain`'s.
    """
    return _RELU_GAIN if init == ORTHOGONAL else _GAINS[activation]


def initialize(layer: AnyWeighted, init: str, gain: float) -> AnyWeighted:
    """Weights by the method of that name and zero bias, in place; raises UsageError for others."""
    if init not in INITS:
        raise unknown("initialization", init, INITS)
    INITS[init](layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def orthogonal(layer: AnyWeighted, gain: float) -> AnyWeighted:
    """Orthogonal weights and zero bias (Saxe et al. 2014), in place."""
    return initialize(layer, ORTHOGONAL, gain)
