"""A trained policy as its users hold it: the environment's observation in, its action out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rlkit.agent import Agent
from rlkit.envs.spaces import ActionPort, ObsPort
from rlkit.errors import UsageError


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
        Raises UsageError for another shape, for what is no number, and for NaN or infinity.
        """
        space = self._obs_port.space
        shape = space.shape or ()
        batch = np.asarray(obs)
        if batch.dtype.kind not in "biuf" or batch.shape[-len(shape) or batch.ndim :] != shape:
            raise UsageError(
                f"the observation has shape {batch.shape} and dtype {batch.dtype}; "
                f"allowed: numbers of shape {shape}, or (N, ...) of them"
            )
        if not np.isfinite(batch).all():
            raise UsageError(f"the observation holds NaN or infinity: {batch.ravel()[:8]}")
        single = batch.ndim == len(shape)
        rows = self._obs_port.take(batch[None] if single else batch, "act")
        device = self.agent.setting.device
        action, _ = self.agent.act(torch.from_numpy(rows).to(device), None, explore=False)
        given = self._action_port.give(action.cpu().numpy())
        return given[0] if single else given
