"""What an agent is: it says *what* an update is; its memory says *when* and *on what*.

The one training loop (rlkit/training/trainer.py) knows nothing else of it::

    action, carry = agent.act(obs, carry, mask=envs.mask)
    step = envs.step(action)
    agent.memory.add(step)
    for batch in agent.memory.batches():
        metrics = agent.update(batch)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlkit.arrays import Array
from rlkit.carry import Carry
from rlkit.device.engine import DEFAULT, Engine, Place
from rlkit.errors import CheckpointError, UndefinedError, UsageError
from rlkit.experience.step import Step
from rlkit.packing import is_numbered
from rlkit.peers import Peers
from rlkit.recipe import Recipe, Tuned
from rlkit.registry import AGENTS, agents_for

Metric = Tensor | float | np.floating[Any]  # a scalar to log


@dataclass(frozen=True)
class Setting:
    """What an agent is built for: the spaces of one environment, how many, where, and the seed.

    `frame_stack` k > 1: observations are the last k frames, along their first axis. `peers`: the
    processes that train the agent together, each on environments of its own; None: this one alone.
    `engine`: how updates run on the device.
    """

    obs_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    n_envs: int
    device: torch.device
    seed: int
    frame_stack: int = 1
    peers: Peers | None = None
    engine: Engine = DEFAULT


class Stateful(Protocol):
    """Whatever resuming must restore; a state is a nested dict of tensors and JSON values."""

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


class Memory(Stateful, Protocol):
    """Says when an update is due, and on what."""

    quantum: int  # training ends on a multiple of so many environment steps

    def allocate(self) -> None:
        """Take the room that training needs; raises UsageError where there is not enough."""

    def add(self, step: Step) -> None: ...

    def restart(self) -> None:
        """All episodes broke off after the last step; the next step begins new ones."""

    def batches(self) -> Iterable[Any]:
        """The batches that are due now, none or more."""


@dataclass(slots=True)
class Clock:
    """The share of the training that is done, in [0, 1]: the trainer sets it, schedules read it.

    `ahead`: of each step of a rollout that a device takes without the host
    (rlkit/training/iteration.py); empty where the host goes along.
    """

    progress: float = 0.0
    ahead: Sequence[float] = ()


@dataclass(frozen=True, eq=False)
class Estimates:
    """What an agent does at N observations, in full, and what it believes that to be worth.

    Fields, each float64, in units of the environment's rewards:
        greedy: (N, A), π(a | s) of `act(explore=False)`; a row with a 1 where it is deterministic.
        exploring: (N, A), π(a | s) of `act(explore=True)` as it is now; None where the
            probabilities have no closed form.
        v: (N,), the estimate of V; None where the agent has none.
        q: (N, A), the estimate of Q; what stands at actions that are not allowed says nothing. None
            where the agent has none.
    """

    greedy: NDArray[np.float64]
    exploring: NDArray[np.float64] | None
    v: NDArray[np.float64] | None = None
    q: NDArray[np.float64] | None = None


class Agent(nn.Module, ABC):
    """Base of all learning agents; inheritance is one deep."""

    name: ClassVar[str]  # in the registry
    recipe_type: ClassVar[type[Recipe]]
    recipes: ClassVar[Mapping[str, Tuned]]  # tuned ones, by environment id
    is_compiled: ClassVar[bool] = False  # whether its updates go by `Setting.engine`
    memory: Memory
    parts: Mapping[str, Stateful]  # what resuming restores besides the weights

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        allowed = AGENTS[self.name].actions
        kind = type(setting.action_space).__name__
        if kind not in allowed:
            takers = agents_for(kind, is_numbered(setting.obs_space))
            raise UsageError(
                f"{self.name} takes {' or '.join(allowed)} actions; the environment's action space "
                f"is {setting.action_space}; {kind} is taken by: {', '.join(takers) or 'none yet'}"
            )
        self.setting = setting
        self.clock = Clock()
        self.generator = torch.Generator().manual_seed(setting.seed)  # on the CPU: see Noise
        self.place = Place(setting.device, setting.engine, self.generator, setting.peers)

    def initial_carry(self, n: int) -> Carry:
        """The carry of `n` episodes that are about to start."""
        return None

    @abstractmethod
    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        """Actions for a batch of observations: (N, *obs) → (N, *action); greedy on `explore=False`.

        `obs` is a NumPy array, or a tensor on the agent's device; the actions are of its kind, and
        so is `mask`, (N, n) bool: the actions that are allowed (`rlkit.envs.masks`); None: all.
        Greedy actions draw nothing from the agent's random stream: evaluating doesn't change a run.
        """

    def estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Estimates:
        """The action distributions and value estimates at observations (N, *obs).

        `mask` (N, A) bool: as of `act`. Draws nothing and changes nothing. Raises UndefinedError
        where the agent's policy is no function of one observation over finitely many actions.
        """
        if self.initial_carry(1) is not None:
            raise UndefinedError(
                f"not defined for a recurrent policy: what {self.name} does depends on all that it "
                "has seen since the episode began"
            )
        if not isinstance(self.setting.action_space, spaces.Discrete):
            raise UndefinedError(
                f"not defined for the action space {self.setting.action_space}; allowed: Discrete"
            )
        return self._estimates(obs, mask)

    def _estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        """`estimates`, of an agent without a memory over Discrete actions."""
        raise UndefinedError(f"not defined for {self.name}: it gives no action probabilities")

    @abstractmethod
    def update(self, batch: Any) -> dict[str, Metric]:
        """Learn from one batch; returns scalars to log. Raises RunError before weights turn NaN."""

    def get_state(self) -> dict[str, Any]:
        """Everything that resuming needs, as nested dicts of tensors and JSON values."""
        parts = {name: part.get_state() for name, part in self.parts.items()}
        return {
            "weights": dict(self.state_dict()),
            "generator": self.generator.get_state(),
            "parts": parts,
        }

    def load_weights(self, weights: dict[str, Any]) -> None:
        """Take the weights of a state dict. Raises CheckpointError where they are of others."""
        try:
            self.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                "the checkpoint's weights are not of the networks that the run's config.json "
                "describes (its core, encoder, hidden, ...); undo what was changed in it"
            ) from error

    def set_state(self, state: dict[str, Any]) -> None:
        self.load_weights(state["weights"])
        self.generator.set_state(state["generator"])
        for name, part in self.parts.items():
            part.set_state(state["parts"][name])
