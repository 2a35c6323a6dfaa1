"""Value iteration's γ^k against policy iteration's few steps.

    python benchmarks/figures/iterations.py [--out FILE.png]

Value iteration, V ← TV, comes closer by a factor of γ in each sweep at least:

    ‖V_k − V*‖∞ ≤ γ^k·‖V_0 − V*‖∞                  (Puterman 1994, §6.2 and §6.3)

Policy iteration evaluates each policy exactly, and ends at the solution itself: for Jack's car
rental Sutton & Barto (2018) draw five policies in figure 4.2, π₀ to π₄, of which the last is the
best. Value iteration begins at V = 0, policy iteration as the book does, by moving no car, and in
the maze by going up everywhere. V* is rlkit's, to 10⁻⁶.

In the car rental, which never ends, the error falls by γ a sweep and no faster. In the maze, where
episodes end, value iteration is faster than its bound; policy iteration takes more steps there, as
the way out of it is found from its end, a few cells in each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from drawing import COLOURS, arguments, canvas, finish, line, rule, save, table
from numpy.typing import NDArray

import rlkit
from rlkit.envs.models import make_model
from rlkit.mdp.bellman import backup, greedy, policy_rewards, q_values, rounding
from rlkit.mdp.linear import policy_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CASES = (("jacks-car-rental", 0.9), ("jacks-car-rental", 0.99), ("maze", 0.99))
FIRST = {"jacks-car-rental": 5, "maze": 0}  # the action of the first policy: move no car; up
TOLERANCE = 1e-4
EXACT = 1e-6
SOURCE = "rlkit · Puterman (1994), §6.2 to §6.4 · benchmarks/figures/iterations.py"


@dataclass(frozen=True)
class Errors:
    """‖V_k − V*‖∞ for k = 0, 1, ... of both methods, and the bound on value iteration's."""

    model: str
    gamma: float
    states: int
    value_iteration: NDArray[np.float64]
    policy_iteration: NDArray[np.float64]

    @property
    def bound(self) -> NDArray[np.float64]:
        """γ^k·‖V_0 − V*‖∞ for every k of value iteration."""
        k = np.arange(self.value_iteration.size)
        return np.asarray(self.gamma**k * self.value_iteration[0])

    @property
    def promised(self) -> int:
        """The sweeps after which the bound is the tolerance."""
        return math.ceil(math.log(TOLERANCE / self.value_iteration[0]) / math.log(self.gamma))


def measure(model: str, gamma: float, tol: float = TOLERANCE) -> Errors:
    """Value iteration until its error is `tol`, and policy iteration to its end."""
    mdp = make_model(model, gamma).mdp
    exact = rlkit.solve(mdp, tol=EXACT).values

    def error(V: NDArray[np.float64]) -> float:
        return float(np.abs(V - exact).max())

    V = np.zeros(mdp.n_states)
    sweeps = [error(V)]
    while sweeps[-1] > tol:
        V = backup(mdp, V)[1]
        sweeps.append(error(V))
    policies = steps(mdp, FIRST[model], error)
    return Errors(model, gamma, mdp.n_states, np.array(sweeps), np.array(policies))


def steps(mdp: rlkit.MDP, first: int, error: Callable[[NDArray[np.float64]], float]) -> list[float]:
    """The errors of π₀, π₁, ... of policy iteration, until the policy stays as it is."""
    policy = np.flatnonzero(mdp.actions == first)  # the numbers of its pairs
    errors: list[float] = []
    while True:
        V = policy_values(mdp, policy, policy_rewards(mdp, policy))
        errors.append(error(V))
        improved = greedy(mdp, q_values(mdp, V), 4 * rounding(mdp, V), incumbent=policy)
        if np.array_equal(improved, policy):
            return errors
        policy = improved


def figure(found: Sequence[Errors]) -> Figure:
    """The errors, a panel for each model and γ."""
    drawn, panels = canvas(len(found), "Value iteration and policy iteration", SOURCE)
    for axes, it in zip(panels, found, strict=True):
        sweeps, steps = it.value_iteration.size - 1, it.policy_iteration.size - 1
        axes.plot(it.bound, ":", color="black", linewidth=1.2, label="the bound γ^k·‖V₀ − V*‖")
        line(
            axes, 0, np.arange(sweeps + 1), it.value_iteration, f"value iteration: {sweeps} sweeps"
        )
        few = f"policy iteration: {steps} steps"
        axes.plot(it.policy_iteration, "--o", color=COLOURS[1], markersize=4, label=few)
        rule(axes, TOLERANCE, "solved to 10⁻⁴", below=True)
        # What policy iteration ends with is rounding, which no scale need show.
        top = max(it.value_iteration[0], it.policy_iteration[0])
        axes.set(yscale="log", xlim=(-0.02 * sweeps, None), ylim=(TOLERANCE / 10, 1e4 * top))
        finish(axes, f"{it.model}, γ = {it.gamma}", "sweep or step k", "")
        axes.legend(frameon=False, handlelength=3, fontsize=8, loc="upper right")
    panels[0].set_ylabel("‖V_k − V*‖∞, in units of reward")
    return drawn


def main() -> None:
    told = arguments(__doc__, "iterations")
    found = [measure(model, gamma) for model, gamma in CASES]
    table(
        [
            "model",
            "γ",
            "states",
            f"sweeps to {TOLERANCE:g}",
            "sweeps by the bound",
            "steps of policy iteration",
        ],
        [
            [
                it.model,
                f"{it.gamma}",
                str(it.states),
                str(it.value_iteration.size - 1),
                str(it.promised),
                str(it.policy_iteration.size - 1),
            ]
            for it in found
        ],
    )
    save(figure(found), told.out)


if __name__ == "__main__":
    main()
