"""Models without a story: random ones, and a chain that punishes impatience."""

from __future__ import annotations

import numpy as np

from rlkit.envs.limits import probabilities, whole
from rlkit.errors import UsageError
from rlkit.mdp.generate import Generated
from rlkit.mdp.model import MDP, FloatArray, IntArray


def garnet(
    gamma: float = 0.99, states: int = 1000, actions: int = 10, branching: int = 10, seed: int = 0
) -> MDP:
    """A random model (Archibald, McKinnon and Thomas, On the generation of Markov decision
    processes, 1995; with the rewards of Bhatnagar et al., Natural actor-critic algorithms, 2009).

    Args:
        gamma: discount per step.
        states, actions: how many.
        branching: successors of each pair, all different, with probabilities that are the lengths
            between `branching` - 1 uniform cuts of [0, 1]; expected rewards are standard normal.
        seed: the same seed gives the same model.
    """
    return garnet_in_parts(states, actions, branching, seed).mdp(gamma)


def garnet_in_parts(states: int, actions: int, branching: int, seed: int) -> Generated:
    """`garnet`, of which every rank has to draw all, and keeps a part."""
    whole(1, states=states, actions=actions, branching=branching)
    whole(0, seed=seed)
    if branching > states:
        raise UsageError(f"branching is {branching}; allowed: up to the number of states, {states}")
    rng = np.random.default_rng(seed)

    def f(block: IntArray) -> tuple[IntArray, FloatArray, FloatArray]:
        shape = (block.size, actions, branching)
        cuts = np.sort(rng.random((block.size, actions, branching - 1)), axis=-1)
        p = np.diff(cuts, axis=-1, prepend=0.0, append=1.0)
        return _distinct(rng, states, shape), p, rng.normal(size=shape[:2])

    # Blocks of a size of their own, lest the same seed give another model one day.
    block = max(1, 2**18 // (actions * branching))
    return Generated(f, states, block=block, sequential=True)


def _distinct(rng: np.random.Generator, n: int, shape: tuple[int, ...]) -> IntArray:
    """Draws from 0, ..., n - 1, different ones along the last axis."""
    k = shape[-1]
    if 2 * k > n:
        keys = rng.random((*shape[:-1], n))
        return np.argpartition(keys, k - 1, axis=-1)[..., :k]
    drawn = np.sort(rng.integers(0, n, size=shape), axis=-1)
    while True:
        again = np.zeros(shape, dtype=bool)
        again[..., 1:] = np.diff(drawn, axis=-1) == 0
        if not again.any():
            return drawn
        drawn[again] = rng.integers(0, n, size=int(again.sum()))
        drawn.sort(axis=-1)


def chain(gamma: float = 0.99, length: int = 5, slip: float = 0.2) -> MDP:
    """The chain of Strens, A Bayesian Framework for Reinforcement Learning (2000), §4, figure 2.

    Action 0 goes one state on, and earns 10 in the last one, where it stays; action 1 goes back to
    the first and earns 2. With probability `slip` either has the effect of the other.
    """
    return chain_in_parts(length, slip).mdp(gamma)


def chain_in_parts(length: int, slip: float) -> Generated:
    """`chain`, any part of which can be made alone."""
    whole(2, length=length)
    probabilities(slip=slip)

    def f(states: IntArray) -> tuple[IntArray, FloatArray, FloatArray]:
        onward = np.minimum(states + 1, length - 1)
        successors = np.stack([onward, np.zeros_like(states)], axis=-1)[:, None, :]
        rewards = np.stack(
            [np.where(states == length - 1, 10.0, 0.0), np.full(states.size, 2.0)], -1
        )
        p = np.array([[1.0 - slip, slip], [slip, 1.0 - slip]])
        return np.tile(successors, (1, 2, 1)), p, np.tile(rewards[:, None, :], (1, 2, 1))

    return Generated(f, length, start=(0,))
