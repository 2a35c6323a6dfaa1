"""The ε-greedy policy over action values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.agent import Estimates
from rlkit.arrays import Array, namespace
from rlkit.experience.noise import Noise
from rlkit.losses import greedy
from rlkit.networks.distributions import uniform_allowed


class EpsilonGreedy:
    """With probability ε a uniform action, else the greedy one; of the allowed ones only."""

    def __init__(self, n_actions: int, n_envs: int, generator: torch.Generator) -> None:
        self.n_actions = n_actions
        self.noise = Noise(_uniform_pairs, n_envs, generator)

    def __call__(self, q: Array, epsilon: float | Array, mask: Array | None) -> Array:
        """The actions (N,) int64 for the values q (N, A); mask (N, A) bool, None: all allowed.

        `epsilon` is of all environments or, (N,) of the kind of q, of each.
        """
        xp = namespace(q)
        u = self.noise.next(q)  # (N, 2): whether to explore, and with which action
        if mask is None:
            random_action = xp.asarray(u[:, 1] * self.n_actions, dtype=xp.int64)
        else:
            random_action = uniform_allowed(u[:, 1], mask)
        return xp.where(u[:, 0] < epsilon, random_action, greedy(q, mask))

    def get_state(self) -> dict[str, Any]:
        return self.noise.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self.noise.set_state(state)


def q_estimates(
    values: NDArray[np.floating[Any]],
    epsilon: float,
    mask: NDArray[np.bool_] | None,
    share_ties: bool = False,
) -> Estimates:
    """Of an agent that acts ε-greedily on values Q (N, A), in units of the environment's rewards.

    `share_ties`: as it explores, it takes equal values with equal probability; else the first.
    """
    q = np.asarray(values, dtype=np.float64)
    allowed = np.ones(q.shape, dtype=np.bool_) if mask is None else mask
    first = greedy(q, mask)[:, None] == np.arange(q.shape[1])  # (N, A)
    best = first
    if share_ties:
        best = allowed & (q == q[first][:, None])
    uniform = allowed / allowed.sum(-1, keepdims=True)
    exploring = (1 - epsilon) * best / best.sum(-1, keepdims=True) + epsilon * uniform
    return Estimates(first.astype(np.float64), exploring, q=q)


def _uniform_pairs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand((*shape, 2), generator=generator, device=generator.device)  # in [0, 1)
