"""What an exact solver returns."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import UsageError
from rlkit.mdp.bounds import Bounds
from rlkit.mdp.model import FloatArray, IntArray


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """Optimal values, a policy that is greedy for them, and certified bounds; read-only.

    `error_bound` is at most the tolerance that was asked for, unless a warning said otherwise.

    Fields:
        values: (S,) float64, within `error_bound` of V* at every state.
        policy: (S,) int64, the label of the action to take; -1 at terminal states. Among actions
            that float64 cannot tell apart, the one of lowest label (at γ = 1: that also ends).
        q: (L,) float64, Q of each pair with respect to `values`.
        lower, upper: (S,) float64 with lower ≤ V* ≤ upper, rounding included.
        offsets, actions: (S + 1,) and (L,) int64, the model's pairs, which `q` is over.
        gamma: the model's discount.
        start_value: the expected value of the first state; None where the model names no start.
        method: the name of the solver.
        reason: why this solver, in words, and what else there is to say of its way.
        sweeps: how often every state was backed up, by T (over all its actions) or by T_π (over
            the policy's). The exact linear solves of policy iteration do not count.
        seconds: wall-clock time of the solver.
    """

    values: FloatArray
    policy: IntArray
    q: FloatArray
    lower: FloatArray
    upper: FloatArray
    offsets: IntArray
    actions: IntArray
    gamma: float
    start_value: float | None
    method: str
    sweeps: int
    seconds: float
    reason: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value = value.view()
                value.flags.writeable = False
                object.__setattr__(self, field.name, value)

    @property
    def error_bound(self) -> float:
        """A bound on ‖values − V*‖∞, in units of reward."""
        return Bounds(self.values, self.lower, self.upper).error

    def q_table(self) -> FloatArray:
        """(S, A) Q values with a column per action label; -inf where there is no such action."""
        table = np.full((self.values.size, int(self.actions.max(initial=-1)) + 1), -np.inf)
        states = np.repeat(np.arange(self.values.size), np.diff(self.offsets))
        table[states, self.actions] = self.q
        return table

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each state; see `rlkit.mdp.frame.to_frame`."""
        from rlkit.mdp.frame import to_frame

        return to_frame(self)

    def save(self, path: str | Path) -> None:
        """Write everything to a compressed NumPy archive (.npz); the name is taken as it is."""
        arrays = {
            field.name: np.asarray(getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name) is not None
        }
        with Path(path).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Solution:
        """The solution saved at `path`. No pickle is ever read.

        Raises:
            UsageError: the file cannot be read, or is not a solution.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
            return cls._from_arrays(found)
        except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{path} is not a saved solution ({error}); give a file that Solution.save wrote"
            ) from error

    @classmethod
    def _from_arrays(cls, found: dict[str, NDArray[np.generic]]) -> Solution:
        start_value = found.get("start_value")
        return cls(
            values=found["values"].astype(np.float64),
            policy=found["policy"].astype(np.int64),
            q=found["q"].astype(np.float64),
            lower=found["lower"].astype(np.float64),
            upper=found["upper"].astype(np.float64),
            offsets=found["offsets"].astype(np.int64),
            actions=found["actions"].astype(np.int64),
            gamma=float(found["gamma"].item()),
            start_value=None if start_value is None else float(start_value.item()),
            method=str(found["method"].item()),
            sweeps=int(found["sweeps"].item()),
            seconds=float(found["seconds"].item()),
            reason=str(found["reason"].item()),
        )

    def __repr__(self) -> str:
        start = "" if self.start_value is None else f"start value {self.start_value:.6g}, "
        return (
            f"Solution({self.values.size} states, {start}error ≤ {self.error_bound:.2g}, "
            f"{self.method}, {self.sweeps} sweeps, {self.seconds:.3g} s)"
        )
