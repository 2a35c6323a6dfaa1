"""A network of two queues that share a server."""

from __future__ import annotations

import numpy as np

from rlkit.envs.limits import finite, whole
from rlkit.errors import UsageError
from rlkit.mdp.generate import Generated
from rlkit.mdp.model import MDP, FloatArray, IntArray


def two_queues(
    gamma: float = 0.99,
    capacity: int = 20,
    arrival1: float = 0.2,
    arrival2: float = 0.2,
    service1: float = 0.5,
    service2: float = 0.8,
    cost1: float = 2.0,
    cost2: float = 1.0,
) -> MDP:
    """Which of two queues to serve (Baras, Ma and Makowski, K competing queues with geometric
    service requirements and linear costs: the μc-rule is always optimal, 1985).

    State (capacity + 1) n₁ + n₂: the customers waiting. Actions are 0 serve the first queue, 1 the
    second. A step is the time between events of the uniformised process: an arrival at either
    queue, lost where it is full, or the end of a service, with probabilities in proportion to the
    rates. Each customer of queue i costs cost_i a step.
    """
    generated = two_queues_in_parts(capacity, arrival1, arrival2, service1, service2, cost1, cost2)
    return generated.mdp(gamma)


def two_queues_in_parts(
    capacity: int,
    arrival1: float,
    arrival2: float,
    service1: float,
    service2: float,
    cost1: float,
    cost2: float,
) -> Generated:
    """`two_queues`, any part of which can be made alone."""
    whole(1, capacity=capacity)
    rates = {"arrival1": arrival1, "arrival2": arrival2, "service1": service1, "service2": service2}
    finite(0.0, **rates)
    finite(cost1=cost1, cost2=cost2)
    n, services = capacity + 1, np.array([service1, service2])
    total = arrival1 + arrival2 + services.max()
    if total == 0.0:
        raise UsageError("arrival1, arrival2, service1 and service2 are 0; give one that is not")
    # What comes: a customer of either queue, the end of a service, or none where it is the slower.
    p = np.stack(
        [np.full(2, arrival1), np.full(2, arrival2), services, services.max() - services], axis=-1
    )

    def f(states: IntArray) -> tuple[IntArray, FloatArray, FloatArray]:
        first, second = np.divmod(states, n)
        more1, more2 = np.minimum(first + 1, capacity), np.minimum(second + 1, capacity)
        less1, less2 = np.maximum(first - 1, 0), np.maximum(second - 1, 0)
        arrivals = [more1 * n + second, first * n + more2]
        successors = np.stack(
            [
                np.stack([*arrivals, less1 * n + second, states], axis=-1),
                np.stack([*arrivals, first * n + less2, states], axis=-1),
            ],
            axis=1,
        )
        waiting = cost1 * first + cost2 * second
        return successors, p / total, np.stack([-waiting, -waiting], axis=-1)

    return Generated(f, n * n, start=(0,))
