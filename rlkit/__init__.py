"""rlkit: exact and deep reinforcement learning under one roof.

The public names below are imported on first use, so that ``import rlkit`` costs nothing and solving
a finite MDP never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rlkit.comparison.compare import compare as compare
    from rlkit.many.sweep import sweep as sweep
    from rlkit.many.tune import tune as tune
    from rlkit.mdp.evaluation import evaluate_policy as evaluate_policy
    from rlkit.mdp.model import MDP as MDP
    from rlkit.mdp.solution import Solution as Solution
    from rlkit.mdp.solve import solve as solve
    from rlkit.training.api import evaluate as evaluate
    from rlkit.training.api import load as load
    from rlkit.training.api import resume as resume
    from rlkit.training.api import train as train
    from rlkit.training.check import check as check
    from rlkit.training.export import export as export
    from rlkit.training.measure import measure as measure

_HOME = {
    "MDP": "rlkit.mdp.model",
    "Solution": "rlkit.mdp.solution",
    "check": "rlkit.training.check",
    "compare": "rlkit.comparison.compare",
    "evaluate": "rlkit.training.api",
    "evaluate_policy": "rlkit.mdp.evaluation",
    "export": "rlkit.training.export",
    "load": "rlkit.training.api",
    "measure": "rlkit.training.measure",
    "resume": "rlkit.training.api",
    "solve": "rlkit.mdp.solve",
    "sweep": "rlkit.many.sweep",
    "train": "rlkit.training.api",
    "tune": "rlkit.many.tune",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'rlkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
