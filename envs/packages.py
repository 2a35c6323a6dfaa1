"""Packages of environments that register theirs when rlkit asks, by what their names begin with."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from dataclasses import dataclass

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from rlkit.envs.foreign import quiet_gymnasium


@dataclass(frozen=True)
class Package:
    """Attributes:
    module: what to import.
    install: what pip is asked for.
    prefixes: how the names of its environments begin, in lower case.
    entry: what the entry points of its environments begin with.
    summary: what the environments are.
    example: one of them, by its id.
    registers: the module's function that registers them; None where importing it does.
    """

    module: str
    install: str
    prefixes: tuple[str, ...]
    entry: str
    summary: str
    example: str
    registers: str | None = None

    def installed(self) -> bool:
        return importlib.util.find_spec(self.module.partition(".")[0]) is not None

    def register(self) -> None:
        """Put its environments into Gymnasium's registry; nothing where it is not installed."""
        if self.example in gym.registry or not self.installed():
            return
        with quiet_gymnasium(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(self.module)
            if self.registers is not None:
                getattr(module, self.registers)()

    def owns(self, spec: EnvSpec) -> bool:
        return isinstance(spec.entry_point, str) and spec.entry_point.startswith(self.entry)


ATARI = Package(
    "ale_py", "ale-py", ("ale/",), "ale_py.", "Atari 2600; others by their names", "ALE/Pong-v5"
)
MINIGRID = Package(
    "minigrid",
    "minigrid",
    ("minigrid-", "babyai-"),
    "minigrid.",
    "MiniGrid and BabyAI; others by their names",
    "MiniGrid-Empty-5x5-v0",
)
PACKAGES = (
    ATARI,
    MINIGRID,
    Package(
        "minatar.gym",
        "minatar",
        ("minatar/",),
        "minatar.",
        "MinAtar; others by their names",
        "MinAtar/Breakout-v1",
        registers="register_envs",
    ),
)


def package_of(name: str) -> Package | None:
    """The package whose environments' names begin like this one."""
    folded = name.lower()
    if "noframeskip" in folded:
        return ATARI
    matches = (package for package in PACKAGES if folded.startswith(package.prefixes))
    return next(matches, None)
