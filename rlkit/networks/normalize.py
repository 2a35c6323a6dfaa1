"""Running moments of what an agent sees, and its observations and rewards on that scale.

The statistics follow the batches that an agent learns from, once per batch, so that a whole rollout
is acted on and learned from on one scale. They are buffers: saved with the weights, and frozen
wherever nothing is learned, as in evaluation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.arrays import Array, as_float, as_tensor, like
from rlkit.errors import UsageError
from rlkit.packing import is_composite
from rlkit.peers import Peers, merged

# As Gymnasium's wrappers have them (gymnasium.wrappers.utils.RunningMeanStd).
FIRST_COUNT = 1e-4
EPSILON = 1e-8


class Moments(nn.Module):
    """Mean and variance of all rows so far: Chan, Golub & LeVeque 1979, the parallel algorithm.

    With `peers`, those of all ranks' rows: every rank has to include its own at the same time.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], peers: Peers | None = None) -> None:
        super().__init__()
        self.peers = peers
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(FIRST_COUNT, dtype=torch.float64))

    def include(self, rows: Tensor, live: Tensor | None = None) -> None:
        """Count in `rows`, (K, *shape); with `live` (K,) bool those alone.

        To select them first is the same, and asks the device how many they are.
        """
        count: Tensor | int = rows.shape[0]
        if count == 0 and self.peers is None:
            return
        rows = rows.double()
        if live is not None:
            count, mean, var = _weighted(rows, live)
        elif count:
            var, mean = torch.var_mean(rows, 0, correction=0)
        else:
            var, mean = torch.zeros_like(self.var), torch.zeros_like(self.mean)
        if self.peers is not None:
            count, mean, var = merged(count, mean, var, self.peers)
        share = count / (self.count + count)
        delta = mean - self.mean
        # Written through a view: torch.compile loses what is added to a CPU scalar itself (2.13).
        self.var[...] = (1 - share) * self.var + share * (var + (1 - share) * delta * delta)
        self.mean[...] = self.mean + share * delta
        self.count[...] = self.count + count


def _weighted(rows: Tensor, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and variance of the rows that are live; 0 each where none is."""
    weight = live.to(rows.dtype).view(-1, *[1] * (rows.ndim - 1))
    count = weight.sum()
    share = weight / count.clamp(min=1)
    mean = (share * rows).sum(0)
    return count, mean, (share * (rows - mean) ** 2).sum(0)


class ObsNormalizer(nn.Module):
    """(obs − mean) / √(var + ε) elementwise, with the moments of the observations so far."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], peers: Peers | None = None) -> None:
        super().__init__()
        self.space: spaces.Space[Any] = spaces.Box(-math.inf, math.inf, shape)  # of what it gives
        self.moments = Moments(shape, peers)
        # The moments in the form in which acting uses them at every step.
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def forward(self, obs: Array) -> Array:
        """(..., *shape) → (..., *shape) float32, of the kind of `obs`."""
        return (obs - like(obs, self.shift)) * like(obs, self.scale)

    def include(self, obs: Array, live: Array | None = None) -> None:
        """Count in the observations (..., *shape); none in eval mode, for a frozen encoder.

        With `live` (...) bool those alone.
        """
        if not self.training:
            return
        if live is not None and isinstance(obs, np.ndarray):
            obs, live = obs[live], None
        rows = as_tensor(obs, self.shift.device).reshape(-1, *self.shift.shape)
        self.moments.include(rows, None if live is None else live.flatten())
        self.follow()

    def follow(self) -> None:
        """From now on by the moments as they are."""
        self.shift.copy_(self.moments.mean)
        self.scale.copy_((self.moments.var + EPSILON).rsqrt())


class Unchanged(nn.Module):
    """Observations as they are."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.space = space

    def forward(self, obs: Array) -> Array:
        return obs

    def include(self, obs: Array, live: Array | None = None) -> None:
        pass


def obs_normalizer(
    space: spaces.Space[Any], wanted: bool, peers: Peers | None = None
) -> ObsNormalizer | Unchanged:
    """What normalises observations of the space: only real numbers have a scale to take off.

    Raises UsageError where it is wanted of several parts at once.
    """
    if wanted and is_composite(space):
        raise UsageError(
            f"normalize_obs (--normalize-obs) is on, and the observations are a "
            f"{type(space).__name__} of several parts; only a Box of real numbers is normalised: "
            "leave it off"
        )
    if wanted and isinstance(space, spaces.Box) and space.dtype.kind == "f":
        return ObsNormalizer(space.shape, peers)
    return Unchanged(space)


class RewardScaler:
    """Rewards divided by the deviation of the discounted return so far.

    The return of environment i after step t is G_t = r_t + γ·G_{t−1}, afresh after either end of an
    episode. What its mean is doesn't matter: rewards keep their sign (gymnasium.wrappers.vector.
    NormalizeReward).
    """

    def __init__(
        self, n_envs: int, gamma: float, device: torch.device, peers: Peers | None = None
    ) -> None:
        self.gamma = gamma
        self.moments = Moments((), peers).to(device)
        self.G = torch.zeros(n_envs, dtype=torch.float64, device=device)

    def __call__(self, reward: Array, ended: Array, valid: Array) -> Array:
        """Count in a rollout's rewards (T, N), and give them on the scale that is then known."""
        device = self.G.device
        r, live, going_on = (
            as_tensor(x, device).double() for x in (reward, as_float(valid), 1 - as_float(ended))
        )
        returns, G = torch.empty_like(r), self.G
        for t in range(len(r)):
            G = live[t] * r[t] + self.gamma * G
            returns[t] = G
            G = G * going_on[t]
        self.G.copy_(G)
        if isinstance(reward, Tensor):
            self.moments.include(returns.flatten(), live.flatten())
            return reward * (self.moments.var + EPSILON).rsqrt().to(reward.dtype)
        self.moments.include(returns[live.bool()])
        return reward / self.scale

    @property
    def scale(self) -> float:
        """What rewards are divided by."""
        return math.sqrt(float(self.moments.var) + EPSILON)

    def get_state(self) -> dict[str, Any]:
        return {"moments": dict(self.moments.state_dict()), "G": self.G}

    def set_state(self, state: dict[str, Any]) -> None:
        self.moments.load_state_dict(state["moments"])
        self.G.copy_(state["G"])
