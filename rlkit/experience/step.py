"""One step of N environments: what travels from the environments to an agent's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = Any  # np.ndarray, or of environments on a device torch.Tensor


@dataclass(slots=True)
class FinalObs:
    """Under SAME_STEP autoreset: the last observations of the episodes that ended in this step."""

    index: NDArray[np.intp]  # (K,) which environments
    obs: NDArray[Any]  # (K, *obs)
    mask: NDArray[np.bool_] | None = None  # (K, n): the actions allowed there; None: all


@dataclass(slots=True)
class Step:
    """A transition of each of N environments: arrays, or tensors of environments on a device.

    `valid[i]` is False on the dead step of NEXT_STEP autoreset: environment i had ended, its action
    was ignored, and `next_obs[i]` is the first observation of its next episode. Nothing is learned
    from such a row. Under NEXT_STEP the final observation of an episode *is* `next_obs` of its last
    step. Under SAME_STEP no row is dead, `next_obs[i]` already belongs to the next episode where
    one ended, and its last observation is in `final_obs`.

    `mask` and `next_mask` say which actions are allowed at `obs` and at `next_obs`, one bool for
    each of n: the n actions of a Discrete space, or the choices of a MultiDiscrete one after
    another. They are None as long as the environments have given no masks. All is allowed on the
    dead step, and at the end of an episode whose environment allows nothing there.

    `lost[i]`: environment i was lost with its worker process in this step. It counts as an episode
    that was truncated where it stood: `next_obs` is `obs`, the reward 0.
    """

    obs: Array  # (N, *obs): what the action was chosen from
    action: Array  # (N,) or (N, *action)
    reward: Array  # (N,) float32
    terminated: Array  # (N,) bool: the episode ended in a terminal state: its value is 0
    truncated: Array  # (N,) bool: the episode was cut off: its last state has a value
    valid: Array  # (N,) bool
    next_obs: Array  # (N, *obs): what the next action is chosen from
    final_obs: FinalObs | None = None
    mask: Array | None = None  # (N, n) bool
    next_mask: Array | None = None  # (N, n) bool
    lost: NDArray[np.bool_] | None = None  # (N,); None: nowhere
    carry: Any = None  # what the agent's memory held before `obs`; None without one

    @property
    def begins(self) -> Array:
        """Whether `next_obs` is the first observation of an episode, (N,) bool."""
        if self.final_obs is None:
            return ~self.valid
        begins = np.zeros_like(self.valid)
        begins[self.final_obs.index] = True
        return begins
