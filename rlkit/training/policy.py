"""A trained policy as its users hold it: the environment's observation in, its action out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.agent import Agent
from rlkit.carry import Carry, renewed
from rlkit.envs.checks import brief
from rlkit.envs.masks import MASKED, Mask, as_mask, choices, leaves_a_choice
from rlkit.envs.observations import ObsPort
from rlkit.envs.spaces import ActionPort
from rlkit.errors import EnvError, UsageError


class Policy:
    """What `rlkit.load` gives: `act` answers one observation, or a batch of N.

    `agent` is the agent itself, an nn.Module; `env` the name of what it was trained on. A policy
    with a memory remembers from call to call what it has seen: call `reset` where episodes begin.
    """

    def __init__(self, agent: Agent, env: str, obs_port: ObsPort, action_port: ActionPort) -> None:
        self.agent = agent
        self.env = env
        self._obs_port = obs_port
        self._action_port = action_port
        self._carry: Carry = None
        self._remembers = 0  # environments

    @property
    def carry(self) -> Carry:
        """What it remembers, a row for each environment (`rlkit.carry`); None: nothing."""
        return self._carry

    def reset(self, which: Any = None) -> None:
        """Forget what was seen: of all environments, or of those that `which` (N,) bool names."""
        if which is None:
            self._carry, self._remembers = None, 0
        elif self._carry is not None:
            self._carry = renewed(self._carry, self._checked_which(which))

    def act(self, obs: Any, mask: Any = None) -> Any:
        """The greedy action for `obs`, in the environment's own units and dtype.

        Args: `obs` of the observation space's shape, or (N, *shape); `mask` (n,), or (N, n): the
        actions that are allowed (`rlkit.envs.masks`), all of them unless given. Returns one action,
        or N. Raises UsageError for another shape, for what is no number, for NaN or infinity, for
        what the space does not hold, and for a mask that is none.
        """
        batch, single = self._obs_port.batch(obs)
        try:
            rows = self._obs_port.take(batch, "act")
        except EnvError:
            space = self._obs_port.declared_space
            raise UsageError(
                f"the observation {brief(obs)} is outside the space {space}; give one of {self.env}"
            ) from None
        masks = None if mask is None else self._masks(mask, len(rows), single)
        carry = self._carry_of(len(rows))
        action, self._carry = self.agent.act(rows, carry, explore=False, mask=masks)
        given = self._action_port.give(action)
        return given[0] if single else given

    def _carry_of(self, n: int) -> Carry:
        """What the policy remembers of n environments."""
        if self._carry is None:
            self._carry, self._remembers = self.agent.initial_carry(n), n
        elif n != self._remembers:
            raise UsageError(
                f"{n} observations were given to a policy that remembers {self._remembers} "
                "environments; call reset() first where new episodes begin"
            )
        return self._carry

    def _checked_which(self, which: Any) -> Tensor:
        found = np.asarray(which)
        if found.shape != (self._remembers,) or found.dtype != np.bool_:
            raise UsageError(
                f"which is {brief(which)}; allowed: {self._remembers} bools, one for each "
                "environment"
            )
        return torch.from_numpy(found)

    def _masks(self, mask: Any, n: int, single: bool) -> Mask:
        """The mask of each of n observations, (n, width)."""
        space = self.agent.setting.action_space
        sizes = choices(space)
        if sizes is None:
            raise UsageError(
                f"a mask was given, and the action space is {space}; masks are for "
                f"{' and '.join(MASKED)} actions"
            )
        shape = (int(sizes.sum()),) if single else (n, int(sizes.sum()))
        allowed = f"allowed: {shape} bools, or integers 0 and 1, with an action allowed for each"
        try:
            masks = as_mask(mask, shape).reshape(n, -1)
        except TypeError as error:
            raise UsageError(f"the mask is {error}; {allowed} observation") from None
        if (stuck := ~leaves_a_choice(masks, sizes)).any():
            where = "" if single else f" {int(stuck.argmax())}"
            raise UsageError(f"the mask allows nothing at observation{where}; {allowed} of them")
        return masks
