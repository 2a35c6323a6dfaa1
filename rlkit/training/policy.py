"""A trained policy as its users hold it: the environment's observation in, its action out."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlkit.agent import Agent
from rlkit.envs.checks import brief, cast
from rlkit.envs.spaces import ActionPort, ObsPort
from rlkit.errors import EnvError, UsageError


class Policy:
    """What `rlkit.load` gives: `act` answers one observation, or a batch of N.

    `agent` is the agent itself, an nn.Module; `env` the name of what it was trained on.
    """

    def __init__(self, agent: Agent, env: str, obs_port: ObsPort, action_port: ActionPort) -> None:
        self.agent = agent
        self.env = env
        self._obs_port = obs_port
        self._action_port = action_port

    def act(self, obs: Any) -> Any:
        """The greedy action for `obs`, in the environment's own units and dtype.

        Args: `obs` of the observation space's shape, or (N, *shape). Returns one action, or N.
        Raises UsageError for another shape, for what is no number, for NaN or infinity, and for
        what the space does not hold.
        """
        space = self._obs_port.declared_space
        shape = space.shape or ()
        allowed = f"allowed: numbers of shape {shape}, or (N, *shape) of them"
        assert space.dtype is not None
        try:
            batch = cast(obs, space.dtype)
        except TypeError as error:
            raise UsageError(f"the observation is {error}; {allowed}, as {space.dtype}") from None
        single = batch.ndim == len(shape)
        rows = batch[None] if single else batch
        if rows.shape[1:] != shape:
            raise UsageError(f"the observation has shape {batch.shape}; {allowed}")
        if not (finite := np.isfinite(batch)).all():
            where = [int(i) for i in np.argwhere(~finite)[0]]
            raise UsageError(
                f"the observation is {batch[tuple(where)]} at index {where}; "
                "allowed: finite numbers"
            )
        try:
            rows = self._obs_port.take(rows, "act")
        except EnvError:
            raise UsageError(
                f"the observation {brief(batch)} is outside the space {space}; give one of "
                f"{self.env}"
            ) from None
        action, _ = self.agent.act(rows, None, explore=False)
        given = self._action_port.give(action)
        return given[0] if single else given
