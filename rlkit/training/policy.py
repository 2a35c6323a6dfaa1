"""A trained policy as its users hold it: the environment's observation in, its action out."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlkit.agent import Agent
from rlkit.envs.checks import brief, cast
from rlkit.envs.masks import MASKED, Mask, as_mask, choices, leaves_a_choice
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

    def act(self, obs: Any, mask: Any = None) -> Any:
        """The greedy action for `obs`, in the environment's own units and dtype.

        Args: `obs` of the observation space's shape, or (N, *shape); `mask` (n,), or (N, n): the
        actions that are allowed (`rlkit.envs.masks`), all of them unless given. Returns one action,
        or N. Raises UsageError for another shape, for what is no number, for NaN or infinity, for
        what the space does not hold, and for a mask that is none.
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
        masks = None if mask is None else self._masks(mask, len(rows), single)
        action, _ = self.agent.act(rows, None, explore=False, mask=masks)
        given = self._action_port.give(action)
        return given[0] if single else given

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
