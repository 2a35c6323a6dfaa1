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
    """A learning agent: `target` is "module:Class"; `actions` are the Gymnasium spaces it takes.

    `tabular`: it keeps a table, which takes observations that can be numbered. `imitates`: it
    learns from one of `TEACHERS`, so only where there is one.
    """

    target: str
    summary: str
    actions: tuple[str, ...]
    tabular: bool = False
    imitates: bool = False


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


@dataclass(frozen=True)
class ModelEntry:
    """A finite MDP by name: `target` is "module:function", whose arguments are its options.

    One of them is `gamma`; its default is the discount that the model is usually solved with.
    `layout` is "module:function" of where its states lie on a grid, of some of the same options;
    `in_parts` of the model as `rlkit.mdp.generate.Generated`, of all of them but `gamma`.
    `actions` are the names of actions 0, 1, ..., where those are not numbers or arrows.
    """

    target: str
    summary: str
    layout: str | None = None
    in_parts: str | None = None
    actions: tuple[str, ...] = ()


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
    "vin": AgentEntry(
        "rlkit.agents.vin:VIN",
        "value iteration network, which imitates the exact solution of maps",
        ("Discrete",),
        imitates=True,
    ),
    "q-learning": AgentEntry(
        "rlkit.agents.q_learning:QLearning", "Q-learning in a table", ("Discrete",), tabular=True
    ),
    "double-q-learning": AgentEntry(
        "rlkit.agents.double_q_learning:DoubleQLearning",
        "two tables that value each other's choices",
        ("Discrete",),
        tabular=True,
    ),
    "sarsa": AgentEntry(
        "rlkit.agents.sarsa:SARSA", "SARSA in a table", ("Discrete",), tabular=True
    ),
    "expected-sarsa": AgentEntry(
        "rlkit.agents.expected_sarsa:ExpectedSARSA",
        "SARSA with the next action's expectation",
        ("Discrete",),
        tabular=True,
    ),
    "n-step-sarsa": AgentEntry(
        "rlkit.agents.n_step_sarsa:NStepSARSA",
        "SARSA with returns over n steps",
        ("Discrete",),
        tabular=True,
    ),
    "monte-carlo": AgentEntry(
        "rlkit.agents.monte_carlo:MonteCarlo",
        "first-visit Monte Carlo control in a table",
        ("Discrete",),
        tabular=True,
    ),
    "td-lambda": AgentEntry(
        "rlkit.agents.td_lambda:TDLambda",
        "state values of the random policy, with traces",
        ("Discrete",),
        tabular=True,
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
    "gauss-seidel": SolverEntry(
        "rlkit.agents.gauss_seidel:gauss_seidel", "value iteration, each backup in place"
    ),
    "linear-programming": SolverEntry(
        "rlkit.agents.linear_programming:linear_programming", "HiGHS, through SciPy"
    ),
    "inexact-policy-iteration": SolverEntry(
        "rlkit.agents.inexact_policy_iteration:inexact_policy_iteration",
        "compiled Gauss-Seidel and Krylov sweeps, as accurate as needed",
    ),
    "upwind-gauss-seidel": SolverEntry(
        "rlkit.agents.upwind_gauss_seidel:upwind_gauss_seidel",
        "a window of sweeps that slides away from the ends, once",
    ),
    "topological": SolverEntry(
        "rlkit.agents.topological:topological",
        "one strongly connected component after the other, ends first",
    ),
}

# What else than the discounted or total reward can be maximised, by the option of `rlkit solve`.
CRITERIA: dict[str, str] = {
    "horizon": "rlkit.agents.backward_induction:backward_induction",
    "average": "rlkit.agents.relative_value_iteration:relative_value_iteration",
}

# Who knows what is optimal in every state of the maps that observations show, for agents that
# imitate: "module:function", see `rlkit.experience.demonstrations.Teacher`.
TEACHERS: dict[str, str] = {"grid-maps": "rlkit.envs.grid_maps:optimal_actions"}

ENVS: dict[str, EnvEntry] = {
    "model": EnvEntry(
        "rlkit/Model-v0",
        "rlkit.envs.model_source:single",
        "any finite MDP: --env-option source=FILE, a model or an environment that has one",
        vector="rlkit.envs.model_source:vector",
    ),
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
    "grid-maps": EnvEntry(
        "rlkit/GridMaps-v0",
        "rlkit.envs.grid_maps:single",
        "the way to a goal on a new map each time, in pixels",
        vector="rlkit.envs.grid_maps:vector",
        max_episode_steps=100,
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

MODELS: dict[str, ModelEntry] = {
    "maze": ModelEntry(
        "rlkit.envs.mazes:maze",
        "a perfect maze, by size and seed",
        "rlkit.envs.mazes:maze_layout",
        in_parts="rlkit.envs.mazes:maze_in_parts",
    ),
    "frozen-lake": ModelEntry(
        "rlkit.envs.grids:frozen_lake",
        "Gymnasium's FrozenLake, of any size",
        "rlkit.envs.grids:frozen_lake_layout",
        in_parts="rlkit.envs.grids:frozen_lake_in_parts",
    ),
    "cliff": ModelEntry(
        "rlkit.envs.grids:cliff",
        "Sutton and Barto's cliff, example 6.6",
        "rlkit.envs.grids:cliff_layout",
    ),
    "windy-grid": ModelEntry(
        "rlkit.envs.grids:windy_grid",
        "Sutton and Barto's windy gridworld, example 6.5",
        "rlkit.envs.grids:windy_grid_layout",
    ),
    "sutton-barto-3.5": ModelEntry(
        "rlkit.envs.sutton_barto:example_3_5",
        "Sutton and Barto's gridworld, examples 3.5 and 3.8",
        "rlkit.envs.sutton_barto:example_3_5_layout",
    ),
    "sutton-barto-4.1": ModelEntry(
        "rlkit.envs.sutton_barto:example_4_1",
        "Sutton and Barto's gridworld, example 4.1",
        "rlkit.envs.sutton_barto:example_4_1_layout",
    ),
    "russell-norvig": ModelEntry(
        "rlkit.envs.grids:russell_norvig",
        "Russell and Norvig's 4x3 world",
        "rlkit.envs.grids:russell_norvig_layout",
    ),
    "jacks-car-rental": ModelEntry(
        "rlkit.envs.sutton_barto:jacks_car_rental", "Sutton and Barto's car rental, example 4.2"
    ),
    "gambler": ModelEntry(
        "rlkit.envs.sutton_barto:gambler", "Sutton and Barto's gambler's problem, example 4.3"
    ),
    "maximisation-bias": ModelEntry(
        "rlkit.envs.sutton_barto:maximisation_bias",
        "Sutton and Barto's two states, figure 6.5: expected rewards, without their noise",
    ),
    "random-walk": ModelEntry(
        "rlkit.envs.sutton_barto:random_walk", "Sutton and Barto's random walk, example 7.1"
    ),
    "machine-replacement": ModelEntry(
        "rlkit.envs.operations:machine_replacement",
        "Hillier and Lieberman's worn machine",
        actions=("leave", "overhaul", "replace"),
    ),
    "forest": ModelEntry(
        "rlkit.envs.operations:forest",
        "forest management: wait, or cut",
        in_parts="rlkit.envs.operations:forest_in_parts",
        actions=("wait", "cut"),
    ),
    "inventory": ModelEntry(
        "rlkit.envs.operations:inventory", "stochastic inventory control, after Puterman"
    ),
    "two-queues": ModelEntry(
        "rlkit.envs.queues:two_queues",
        "two queues that share a server",
        in_parts="rlkit.envs.queues:two_queues_in_parts",
        actions=("first", "second"),
    ),
    "garnet": ModelEntry(
        "rlkit.envs.random_models:garnet",
        "a random model, by size and seed",
        in_parts="rlkit.envs.random_models:garnet_in_parts",
    ),
    "chain": ModelEntry(
        "rlkit.envs.random_models:chain",
        "Strens' chain, of any length",
        in_parts="rlkit.envs.random_models:chain_in_parts",
        actions=("on", "back"),
    ),
}


def model_id(name: str) -> str:
    """The Gymnasium id of one of `MODELS` as an environment."""
    return f"rlkit/{name}-v0"


def agents_for(actions: str, numbered: bool) -> list[str]:
    """The agents that learn from actions of that space; tabular ones where observations are
    numbered. Those that imitate are left out: few environments have a teacher."""
    return [
        name
        for name, entry in AGENTS.items()
        if actions in entry.actions and (numbered or not entry.tabular) and not entry.imitates
    ]


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
