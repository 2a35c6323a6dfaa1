"""What rlkit can do, by name. A new agent or environment is one line here and one file of its own.

Targets are strings, imported on first use: listing what exists never imports torch.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rlkit.errors import UsageError


@dataclass(frozen=True)
class AgentEntry:
    """A learning agent: `target` is "module:Class"; `actions` are the Gymnasium spaces it takes."""

    target: str
    summary: str
    actions: tuple[str, ...]


@dataclass(frozen=True)
class SolverEntry:
    """An exact solver: `target` is "module:function", called as ``solver(mdp, tol)``."""

    target: str
    summary: str


@dataclass(frozen=True)
class EnvEntry:
    """An environment of rlkit's own: its Gymnasium id, and what Gymnasium's registry says of it.

    `target` is "module:Class" or "module:function" of the environment, `vector` of its vector
    environment.
    """

    id: str
    target: str
    summary: str
    vector: str | None = None
    max_episode_steps: int | None = None
    reward_threshold: float | None = None


AGENTS: dict[str, AgentEntry] = {
    "a2c": AgentEntry(
        "rlkit.agents.a2c:A2C",
        "advantage actor-critic",
        ("Discrete", "MultiDiscrete", "MultiBinary", "Box"),
    ),
    "ppo": AgentEntry(
        "rlkit.agents.ppo:PPO",
        "proximal policy optimisation",
        ("Discrete", "MultiDiscrete", "MultiBinary", "Box"),
    ),
    "pqn": AgentEntry(
        "rlkit.agents.pqn:PQN", "Q-learning in parallel, without replay or target", ("Discrete",)
    ),
    "dqn": AgentEntry(
        "rlkit.agents.dqn:DQN", "deep Q-network, and what has been added to it", ("Discrete",)
    ),
    "rainbow": AgentEntry(
        "rlkit.agents.rainbow:Rainbow", "DQN with every extension on", ("Discrete",)
    ),
    "r2d2": AgentEntry(
        "rlkit.agents.r2d2:R2D2", "DQN with a memory, learned from sequences", ("Discrete",)
    ),
    "sac": AgentEntry(
        "rlkit.agents.sac:SAC", "soft actor-critic: twin critics, learned temperature", ("Box",)
    ),
}

SOLVERS: dict[str, SolverEntry] = {
    "value-iteration": SolverEntry(
        "rlkit.agents.value_iteration:value_iteration", "Jacobi sweeps with MacQueen bounds"
    ),
    "policy-iteration": SolverEntry(
        "rlkit.agents.policy_iteration:policy_iteration", "Howard's, with exact evaluation"
    ),
    "modified-policy-iteration": SolverEntry(
        "rlkit.agents.modified_policy_iteration:modified_policy_iteration",
        "policy iteration with a few evaluation sweeps",
    ),
}

ENVS: dict[str, EnvEntry] = {
    "gridworld": EnvEntry(
        "rlkit/GridWorld-v0",
        "rlkit.envs.gridworld:GridWorld",
        "a maze from a text map, with slips",
        # Twice the moves that a random maze of 100 x 100 cells takes.
        max_episode_steps=500,
    ),
    "catch": EnvEntry(
        "rlkit/Catch-v0",
        "rlkit.envs.catch:single",
        "a falling ball to be caught, in pixels",
        vector="rlkit.envs.catch:vector",
        reward_threshold=0.9,
    ),
    "memory-corridor": EnvEntry(
        "rlkit/MemoryCorridor-v0",
        "rlkit.envs.memory:single_corridor",
        "a cue to be remembered to a corridor's end",
        vector="rlkit.envs.memory:vector_corridor",
        reward_threshold=0.9,
    ),
    "repeat-first": EnvEntry(
        "rlkit/RepeatFirst-v0",
        "rlkit.envs.memory:single_repeat",
        "the first card's suit, to be named at each card",
        vector="rlkit.envs.memory:vector_repeat",
        reward_threshold=0.9,
    ),
    "cartpole-hidden": EnvEntry(
        "rlkit/CartPoleHidden-v0",
        "rlkit.envs.cartpole_hidden:single",
        "CartPole without its velocities",
        vector="rlkit.envs.cartpole_hidden:CartPoleHiddenVectorEnv",
        max_episode_steps=500,
        reward_threshold=475.0,
    ),
}


def load(target: str) -> Any:
    """The object behind "module:attribute"."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """A hint with the names nearest to `name`; `otherwise` where none is near."""
    folded = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(folded[match] for match in near)}?" if near else otherwise


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not known, with the nearest ones that are."""
    known = sorted(known)
    listing = f"known: {', '.join(known)}" if len(known) <= 20 else f"see 'rlkit list {kind}s'"
    return UsageError(f"unknown {kind} {name!r}; {did_you_mean(name, known, listing)}")
