"""Results of criteria other than the total reward: a finite horizon, an average."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlkit.mdp.archive import load_fields, read_only, save_fields
from rlkit.mdp.model import FloatArray, IntArray


@dataclass(frozen=True, eq=False, repr=False)
class FiniteHorizonSolution:
    """Optimal values and policies with a number of steps to go; read-only.

    Fields:
        values: (H + 1, S) float64; row t holds the best expected reward from step t on, discounted
            to step t, and row H what is left at the end.
        policy: (H, S) int64, the label of the action to take at step t; -1 at terminal states.
            Among actions that float64 cannot tell apart, the one of lowest label.
        error_bound: a bound on the error of any value, which is rounding alone.
        gamma: the model's discount.
        start_value: the expected value of the first state; None where the model names no start.
        seconds: wall-clock time of the solver.
    """

    values: FloatArray
    policy: IntArray
    error_bound: float
    gamma: float
    start_value: float | None
    seconds: float

    method = "backward-induction"

    def __post_init__(self) -> None:
        read_only(self)

    @property
    def horizon(self) -> int:
        """H, the number of steps."""
        return len(self.policy)

    def save(self, path: str | Path) -> None:
        """Write everything to a compressed NumPy archive (.npz); the name is taken as it is."""
        save_fields(self, path)

    @classmethod
    def load(cls, path: str | Path) -> FiniteHorizonSolution:
        """The solution saved at `path`; UsageError where the file is none. Reads no pickle."""
        found: FiniteHorizonSolution = load_fields(cls, path, "a saved finite-horizon solution")
        return found

    def __repr__(self) -> str:
        start = "" if self.start_value is None else f"start value {self.start_value:.6g}, "
        return (
            f"FiniteHorizonSolution({self.values.shape[1]} states, {self.horizon} steps, {start}"
            f"error ≤ {self.error_bound:.2g}, {self.seconds:.3g} s)"
        )


@dataclass(frozen=True, eq=False, repr=False)
class AverageSolution:
    """The best average reward per step, and a policy that earns it within the bounds; read-only.

    Fields:
        lower, upper: bounds on the optimal gain, rounding included. The policy's own gain is at
            least `lower` from every state.
        bias: (S,) float64, relative values: how much more is earned from a state than from the
            first one in the long run. Approximate; the bounds are on the gain.
        policy: (S,) int64, the label of the action to take.
        sweeps: how often every state was backed up.
        seconds: wall-clock time of the solver.
    """

    lower: float
    upper: float
    bias: FloatArray
    policy: IntArray
    sweeps: int
    seconds: float

    method = "relative-value-iteration"

    def __post_init__(self) -> None:
        read_only(self)

    @property
    def gain(self) -> float:
        """The middle of the bounds."""
        return (self.lower + self.upper) / 2

    @property
    def error_bound(self) -> float:
        """A bound on the error of `gain`, in units of reward per step."""
        return (self.upper - self.lower) / 2

    def save(self, path: str | Path) -> None:
        """Write everything to a compressed NumPy archive (.npz); the name is taken as it is."""
        save_fields(self, path)

    @classmethod
    def load(cls, path: str | Path) -> AverageSolution:
        """The solution saved at `path`; UsageError where the file is none. Reads no pickle."""
        found: AverageSolution = load_fields(cls, path, "a saved average-reward solution")
        return found

    def __repr__(self) -> str:
        return (
            f"AverageSolution({self.bias.size} states, gain {self.gain:.6g} ± "
            f"{self.error_bound:.2g}, {self.sweeps} sweeps, {self.seconds:.3g} s)"
        )
