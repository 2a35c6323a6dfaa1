"""Models of operations research: a machine to be kept running, a forest, a stock of goods."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlkit.envs.limits import finite, probabilities, whole
from rlkit.envs.sutton_barto import poisson_up_to
from rlkit.mdp.generate import Generated
from rlkit.mdp.model import MDP, FloatArray, IntArray


def machine_replacement(gamma: float = 0.9) -> MDP:
    """The machine of Hillier and Lieberman, Introduction to Operations Research (chapter "Markov
    decision processes", prototype example), with rewards of minus the cost of a week.

    States are its condition: 0 as new, 1 minor, 2 major deterioration, 3 inoperable. Actions are 0
    leave it, 1 overhaul it (to condition 1), 2 replace it; bad items cost, and so does a week lost.
    """
    wear = [[0, 7 / 8, 1 / 16, 1 / 16], [0, 3 / 4, 1 / 8, 1 / 8], [0, 0, 1 / 2, 1 / 2]]
    P = np.zeros((4, 3, 4))
    P[:3, 0] = wear
    P[2, 1, 1] = 1.0
    P[1:, 2, 0] = 1.0
    costs = np.array([[0, 0, 0], [1000, 0, 6000], [3000, 4000, 6000], [0, 0, 6000]])
    return MDP.from_arrays(P, -costs, gamma, admissible=P.any(axis=2))


def forest(
    gamma: float = 0.96,
    ages: int = 3,
    old: float = 4.0,
    cut_old: float = 2.0,
    fire: float = 0.1,
) -> MDP:
    """Forest management, the example of the MDP toolbox (Chadès et al., MDPtoolbox: a
    multi-platform toolbox to solve stochastic dynamic programming problems, 2014).

    States are the age, the last one for good. Action 0 waits: a year older, or 0 after a fire, with
    probability `fire`; in the oldest state it earns `old`. Action 1 cuts, back to age 0; it earns
    1, or 0 at age 0, or `cut_old` in the oldest state.
    """
    return forest_in_parts(ages, old, cut_old, fire).mdp(gamma)


def forest_in_parts(ages: int, old: float, cut_old: float, fire: float) -> Generated:
    """`forest`, any part of which can be made alone."""
    whole(2, ages=ages)
    finite(old=old, cut_old=cut_old)
    probabilities(fire=fire)

    def f(states: IntArray) -> tuple[IntArray, FloatArray, FloatArray]:
        older = np.minimum(states + 1, ages - 1)
        young = np.zeros_like(states)
        successors = np.stack([young, older, young, young], axis=-1).reshape(-1, 2, 2)
        oldest = states == ages - 1
        wait = np.where(oldest, old, 0.0)
        cut = np.where(oldest, cut_old, np.where(states == 0, 0.0, 1.0))
        p = np.array([[fire, 1.0 - fire], [1.0, 0.0]])
        return successors, p, np.stack([wait, cut], axis=-1)

    return Generated(f, ages)


def inventory(
    gamma: float = 0.99,
    capacity: int = 3,
    mean: float | None = None,
    fixed: float = 4.0,
    unit: float = 2.0,
    holding: float = 1.0,
    price: float = 8.0,
) -> MDP:
    """Stochastic inventory control, Puterman, Markov Decision Processes (1994), §3.2.2.

    States are the stock, 0 to `capacity`. Action label a orders a units, which arrive at once and
    cost ``fixed + unit a`` where a > 0; holding u of them costs ``holding u``, each one sold earns
    `price`, and demand that can't be met is lost. Demand is 0, 1, 2 with probability 1/4, 1/2, 1/4,
    or with `mean` Poisson.
    """
    whole(1, capacity=capacity)
    finite(fixed=fixed, unit=unit, holding=holding, price=price)
    stock = np.arange(capacity + 1)
    if mean is None:
        sold = _sold(stock)
    else:
        finite(0.0, mean=mean)
        sold = poisson_up_to(mean, stock)
    earned = price * sold @ stock - holding * stock

    def f(states: IntArray) -> tuple[IntArray, FloatArray, FloatArray, NDArray[np.bool_]]:
        filled = states[:, None] + stock
        fits = filled <= capacity
        filled = np.minimum(filled, capacity)
        rewards = earned[filled] - np.where(stock > 0, fixed + unit * stock, 0.0)
        left = np.maximum(filled[..., None] - stock, 0)
        return left, sold[filled], rewards, fits

    return MDP.from_function(f, capacity + 1, gamma)


def _sold(stock: IntArray) -> FloatArray:
    """(n, n) P(sold = k | stock = u) in row u, column k, with Puterman's demand."""
    sold = np.zeros((stock.size, stock.size))
    for wanted, p in enumerate([0.25, 0.5, 0.25]):
        sold[stock, np.minimum(stock, wanted)] += p
    return sold
