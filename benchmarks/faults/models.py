"""Faults 51 to 54: finite models. stable-baselines3 has none."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from causes import Fault, rlkit, say

import rlkit as library


def model(p: tuple[float, float], reward: float = 0.0, gamma: float = 0.9) -> None:
    """Two states; both actions of state 0 lead with `p` to states 0 and 1, which ends."""
    P = np.zeros((2, 2, 2))
    P[0, :] = p
    R = np.full((2, 2), reward)
    R[1] = 0
    solution = library.solve(library.MDP.from_arrays(P, R, gamma=gamma, terminal=[1]))
    say(f"solved: {solution!r}")


def file(name: str, text: str) -> None:
    Path(name).write_text(text)
    rlkit("solve", name)


CUT = "@type: MDP\n@parameters\n\n@reward_models\n\n@nr_states\n1000000000000\n@model\nstate 0\n"

FAULTS = [
    Fault(51, "probabilities that sum to 1.2", partial(model, (0.6, 0.6))),
    Fault(51, "a negative probability", partial(model, (1.2, -0.2))),
    Fault(51, "a NaN reward", partial(model, (0.5, 0.5), float("nan"))),
    Fault(53, "γ = 1 and a loop that never ends", partial(model, (1.0, 0.0), -1.0, 1.0)),
    Fault(54, "a model file that declares 10¹² states", partial(file, "big.drn", CUT)),
]
