"""Models of chapters 3 to 7 of Sutton and Barto, Reinforcement Learning: An Introduction (2nd
edition, 2018)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from rlkit.envs.grids import layout, moved, only
from rlkit.envs.limits import finite, probabilities, whole
from rlkit.mdp.draw_grid import GridLayout
from rlkit.mdp.model import MDP, FloatArray, IntArray


def example_3_5(gamma: float = 0.9) -> MDP:
    """The gridworld of examples 3.5 and 3.8: 5 x 5 cells without an end.

    From A every move leads to A' and earns 10, from B to B' and earns 5; a move off the grid stays
    and costs 1. Moves are 0 up, 1 right, 2 down, 3 left.
    """
    jumps = {1: (21, 10.0), 3: (13, 5.0)}  # A to A', B to B'

    def f(states: IntArray) -> tuple[IntArray, float, FloatArray]:
        row, col, inside = moved(states, (5, 5))
        successors, rewards = row * 5 + col, np.where(inside, 0.0, -1.0)
        for state, (successor, reward) in jumps.items():
            successors[states == state], rewards[states == state] = successor, reward
        return successors[..., None], 1.0, rewards

    return MDP.from_function(f, 25, gamma)


def example_3_5_layout() -> GridLayout:
    """Where the states of `example_3_5` lie."""
    return layout([" A B ", *[" " * 5] * 4])


def example_4_1(gamma: float = 1.0) -> MDP:
    """The gridworld of example 4.1: 4 x 4 cells, ends in two corners, every move costs 1.

    Moves are 0 up, 1 right, 2 down, 3 left; those off the grid stay.
    """

    def f(states: IntArray) -> tuple[IntArray, float, float, NDArray[np.bool_]]:
        row, col, _ = moved(states, (4, 4))
        return (row * 4 + col)[..., None], 1.0, -1.0, ((states > 0) & (states < 15))[:, None]

    return MDP.from_function(f, 16, gamma)


def example_4_1_layout() -> GridLayout:
    """Where the states of `example_4_1` lie."""
    return layout(["G   ", "    ", "    ", "   G"])


def jacks_car_rental(
    gamma: float = 0.9, max_cars: int = 20, max_moves: int = 5, move_cost: float = 2.0
) -> MDP:
    """Jack's car rental, example 4.2.

    State (max_cars + 1) n₁ + n₂: the cars at the two locations in the evening. Action label
    max_moves + a: a cars are moved overnight from the first to the second (a < 0: back), at
    `move_cost` each. Next day customers come (Poisson, 3 and 4) and earn 10 each where a car is
    left, then cars are returned (Poisson, 3 and 2); what exceeds max_cars disappears.
    """
    whole(1, max_cars=max_cars)
    whole(0, max_moves=max_moves)
    finite(0.0, move_cost=move_cost)
    n = max_cars + 1
    first, second = _location(3.0, 3.0, max_cars), _location(4.0, 2.0, max_cars)
    moves = np.arange(-max_moves, max_moves + 1)

    def f(states: IntArray) -> tuple[IntArray, FloatArray, FloatArray, NDArray[np.bool_]]:
        here, there = np.divmod(states[:, None], n)
        possible = (moves <= here) & (-moves <= there)
        morning = [np.clip(cars, 0, max_cars) for cars in (here - moves, there + moves)]
        p = first[0][morning[0]][..., :, None] * second[0][morning[1]][..., None, :]
        p = p.reshape(*possible.shape, n * n)
        rewards = first[1][morning[0]] + second[1][morning[1]] - move_cost * np.abs(moves)
        return np.broadcast_to(np.arange(n * n), p.shape), p, rewards, possible

    return MDP.from_function(f, n * n, gamma)


def _location(requests: float, returns: float, most: int) -> tuple[FloatArray, FloatArray]:
    """P(cars in the evening | cars in the morning) (n, n), and the expected earnings (n,)."""
    cars = np.arange(most + 1)
    rented = poisson_up_to(requests, cars)  # (n, n): of so many cars, so many are rented out
    left = np.zeros_like(rented)
    for many in cars:
        left[many, : many + 1] = rented[many, many::-1]
    returned = poisson_up_to(returns, cars)
    evening = np.zeros_like(rented)  # P(cars in the evening | cars left)
    for many in cars:
        evening[many, many:] = returned[most - many, : most - many + 1]
    return left @ evening, 10.0 * rented @ cars


def poisson_up_to(mean: float, limits: IntArray) -> FloatArray:
    """(n, n) P(min(N, m) = k) of a Poisson N in row m, column k, for m and k in 0, ..., n - 1."""
    k = np.arange(limits.size)
    pmf = np.exp(xlogy(k, mean) - mean - gammaln(k + 1))
    at_least = 1.0 - np.concatenate([[0.0], np.cumsum(pmf)[:-1]])
    below = np.where(k < limits[:, None], pmf, 0.0)
    return np.where(k == limits[:, None], np.maximum(at_least, 0.0), below)


def gambler(gamma: float = 1.0, goal: int = 100, heads: float = 0.4) -> MDP:
    """The gambler's problem, example 4.3.

    States are the capital, 0 to `goal`, both of which end; action label a stakes a, at least 1 and
    no more than is there or than is needed. Heads doubles the stake; reaching the goal earns 1.
    """
    whole(2, goal=goal)
    probabilities(heads=heads)
    stakes = np.arange(goal // 2 + 1)

    def f(states: IntArray) -> tuple[IntArray, FloatArray, FloatArray, NDArray[np.bool_]]:
        capital = states[:, None]
        possible = (stakes > 0) & (stakes <= np.minimum(capital, goal - capital))
        after = np.where(
            possible[..., None], capital[..., None] + np.stack([stakes, -stakes], -1), 0
        )
        rewards = (after == goal).astype(np.float64)
        return after, np.array([heads, 1.0 - heads]), rewards, possible

    return MDP.from_function(f, goal + 1, gamma)


def maximisation_bias(gamma: float = 1.0, actions: int = 10, mean: float = -0.1) -> MDP:
    """The model of example 6.7 and figure 6.5: A is state 0, where one begins, and B state 1.

    From A, action 0 (left) leads to B and action 1 (right) ends, both with 0. In B every one of
    `actions` ends with a reward of that mean. The book draws it from N(mean, 1); a model, and the
    environment that is made of it, knows what is expected alone, by which nobody is misled.
    """
    whole(1, actions=actions)
    finite(mean=mean)
    number = np.arange(max(2, actions))

    def f(states: IntArray) -> tuple[IntArray, float, FloatArray, NDArray[np.bool_]]:
        in_b = (states == 1)[:, None]
        successors = np.where(~in_b & (number == 0), 1, -1)[..., None]
        return successors, 1.0, np.where(in_b, mean, 0.0), number < np.where(in_b, actions, 2)

    return MDP.from_function(f, 2, gamma, start=only(0, 2))


def random_walk(gamma: float = 1.0, length: int = 19, left: float = -1.0) -> MDP:
    """The random walk of example 7.1 (and with length=5, left=0 that of example 6.2).

    From the middle of `length` states a step goes left or right by a coin, whatever one does; the
    end on the left pays `left`, that on the right 1. There is one action, so that control agents
    (n-step SARSA) learn the values of the states here, as does TD(λ).
    """
    whole(1, length=length)
    finite(left=left)

    def f(states: IntArray) -> tuple[IntArray, float, FloatArray]:
        successors = np.stack([states - 1, states + 1], axis=-1)[:, None, :]
        rewards = np.select([successors < 0, successors == length], [left, 1.0], 0.0)
        return np.where(successors == length, -1, successors), 0.5, rewards

    return MDP.from_function(f, length, gamma, start=only(length // 2, length))
