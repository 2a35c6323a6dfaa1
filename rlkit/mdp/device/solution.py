"""What is found of a model that lives on a device: a solution that stays there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.mdp.device.model import DeviceMDP
from rlkit.mdp.device.proof import Certified
from rlkit.mdp.generate import starts_of
from rlkit.mdp.goal import Goal
from rlkit.mdp.solution import Solution
from rlkit.system import require_memory


@dataclass(frozen=True, eq=False, repr=False)
class DeviceSolution:
    """Optimal values, a greedy policy and certified bounds, in the device's memory.

    Fields:
        model: what was solved.
        values, lower, upper: (S,) float64 with lower ≤ V* ≤ upper, rounding included.
        policy: (S,) int64, the number of the action to take; -1 at terminal states. Among actions
            that float64 cannot tell apart, the first one. Actions are numbered as by the function
            that made the model; those of a copied one are counted in each state from 0.
        error_bound: a bound on ‖values − V*‖∞.
        start_value, method, reason, sweeps, seconds: as of `Solution`.
    """

    model: DeviceMDP
    values: Tensor
    lower: Tensor
    upper: Tensor
    policy: Tensor
    error_bound: float
    start_value: float | None
    method: str
    reason: str
    sweeps: int
    seconds: float

    @classmethod
    def of(cls, model: DeviceMDP, found: Certified, method: str, goal: Goal) -> DeviceSolution:
        """With the policy that is greedy for what was found."""
        V = with_end(found.values)
        slack = 4.0 * model.rounding(float(V.abs().max()))
        policy = model.rows.first_best(V, slack).masked_fill_(~model.live, -1)
        start = None
        if model.start:
            start = float(found.values[torch.tensor(model.start, device=V.device)].mean())
        return cls(
            model=model,
            values=found.values,
            lower=found.lower,
            upper=found.upper,
            policy=policy,
            error_bound=found.error,
            start_value=start,
            method=method,
            reason="; ".join(goal.notes),
            sweeps=math.ceil(goal.sweeps),
            seconds=goal.seconds,
        )

    def on_host(self) -> Solution:
        """All of it in the host's memory, with Q.

        Raises UsageError where the host's memory has no room for it.
        """
        model = self.model
        need = 48 * model.n_states + 16 * model.n_pairs
        require_memory(
            need,
            f"the model has {model.n_states:,} states",
            "its solution on the host",
            lambda free: f"about {int(model.n_states * free / need):,}; use the tensors here",
        )
        counts = model.rows.counts * model.live
        return Solution(
            values=to_host(self.values),
            policy=to_host(self.policy),
            q=to_host(model.in_order(model.rows.q(with_end(self.values)))),
            lower=to_host(self.lower),
            upper=to_host(self.upper),
            offsets=starts_of(to_host(counts), np.dtype(np.int64)),
            actions=to_host(model.in_order(model.rows.labels)),
            gamma=model.gamma,
            start_value=self.start_value,
            method=self.method,
            sweeps=self.sweeps,
            seconds=self.seconds,
            reason=self.reason,
        )

    def __repr__(self) -> str:
        start = "" if self.start_value is None else f"start value {self.start_value:.6g}, "
        return (
            f"DeviceSolution({self.model.n_states} states, {start}error ≤ {self.error_bound:.2g}, "
            f"{self.method}, {self.sweeps} sweeps, {self.seconds:.3g} s)"
        )


def with_end(x: Tensor) -> Tensor:
    """x (S,) and a 0 for the end."""
    return torch.cat([x, x.new_zeros(1)])


def to_host(x: Tensor) -> NDArray[Any]:
    """A copy in the host's memory."""
    copied: NDArray[Any] = x.cpu().numpy().copy() if x.device.type == "cpu" else x.cpu().numpy()
    return copied


def far(error: float) -> str:
    """How far values are certified, in words."""
    return f"to within {error:.2g}" if error < math.inf else "to nothing yet"
