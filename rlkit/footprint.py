"""How much memory the members of a population take, estimated before there is one.

A captured graph keeps all that one iteration needs at its most, and a sweep that runs out of memory
after an hour has trained nothing. What is counted follows `rlkit.population`: change both together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlkit.experience.minibatches import parts_of

FLOAT = 4  # bytes of a float32
DOUBLE = 8
NUMBERS = 4 + 4 + 4 + 1 + 1 + 1  # log π, V, reward and three flags of a step
COLUMNS = 5 * FLOAT  # what is learned from beside observations, actions and masks
ORDER = 2 * DOUBLE  # of a minibatch's rows: random numbers, sorted
PROBE = 2  # rows that a network is tried with


def member_bytes(agent: Any, obs: Tensor, mask: Tensor | None) -> int:
    """Bytes that a seed takes on the device at the most, about, its environments not among them.

    Args:
        agent: a `rlkit.population.Learner`, which need be of one environment alone.
        obs, mask: what is observed there, (n, *obs), and which actions are allowed (n, A).
    """
    recipe = agent.recipe
    K = recipe.n_steps * recipe.envs
    rows = -(-K // parts_of(K, recipe.minibatch_size))  # of the largest minibatch
    raw, allowed = _row(obs), 0 if mask is None else _row(mask)
    seen = FLOAT * obs[0].numel() if recipe.normalize_obs else raw
    step = DOUBLE + NUMBERS + allowed  # the action is an int64

    collecting = 2 * raw + (2 if recipe.normalize_obs else 1) * seen + 2 * step  # and stacked
    kept = raw + seen + step
    column = seen + DOUBLE + COLUMNS + allowed  # of a member behind one another
    moments = 3 * DOUBLE * obs[0].numel() if recipe.normalize_obs else 0  # in float64, and squared
    minibatch = rows * (column + 2 * activation_bytes(agent.ac.nets, obs))
    learning = K * (kept + column + ORDER) + max(minibatch, K * moments)
    own = K * (raw + step) if obs.device.type == "cpu" else 0  # the agent's rollout, on the host
    largest: int = max(K * collecting, learning)
    return weight_bytes(agent) + largest + own


def weight_bytes(agent: Any) -> int:
    """Of an agent and of its place in a population: weights, gradients, optimiser."""
    weights: Tensor = agent.ac.flat.values
    state = agent.ac.optimizer.get_state().values()
    vectors = 2 + sum(isinstance(x, Tensor) and x.shape == weights.shape for x in state)
    # twice those; and of a step the members' gradients, clipped, and what the optimiser makes of it
    return (2 * vectors + 4) * weights.nbytes


def activation_bytes(nets: nn.Module, obs: Tensor) -> int:
    """What a row of observations leaves in the networks for the way back."""
    parameters = {p.data_ptr() for p in nets.parameters()}
    found: dict[int, int] = {}

    def noted(x: Tensor) -> Tensor:
        if x.data_ptr() not in parameters:
            found[x.data_ptr()] = x.untyped_storage().nbytes()
        return x

    rows = torch.zeros((PROBE, *obs.shape[1:]), dtype=obs.dtype, device=obs.device)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(noted, lambda x: x):
        outputs = nets(rows)
    kept: int = sum(found.values()) + sum(x.nbytes for x in outputs)
    return kept // PROBE


def _row(x: Tensor) -> int:
    size: int = x[0].nbytes
    return size
