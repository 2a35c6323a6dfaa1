"""The memory of on-policy agents: T consecutive steps of N environments, used once.

Under NEXT_STEP autoreset ``obs[t + 1]`` is the observation that followed action t, whether or not
an episode ended there: one row more than there are steps, and one forward over T + 1 rows gives
every value and every bootstrap. The dead step after an end is masked by `valid`. Under SAME_STEP
the last observations of episodes travel beside the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.arrays import Array
from rlkit.carry import Carry
from rlkit.errors import UsageError
from rlkit.experience.placing import require_room
from rlkit.experience.step import Step
from rlkit.packing import space_array
from rlkit.system import require_memory

ROWS = ("obs", "action", "reward", "terminated", "truncated", "valid")
OPTIONAL = ("obs_mask", "carry", "reset")


@dataclass(slots=True)
class RolloutBatch:
    """T steps of N environments, time-major: arrays on the CPU, tensors on other devices."""

    obs: Array  # (T + 1, N, *obs)
    action: Array  # (T, N, *action)
    reward: Array  # (T, N) float32
    terminated: Array  # (T, N) bool
    truncated: Array  # (T, N) bool
    valid: Array  # (T, N) bool: False on the dead step that resets an environment
    final_at: tuple[Array, Array] | None = None  # (K,) int64 each: t and environment
    final_obs: Array | None = None  # (K, *obs): the final observation of each
    final_mask: Array | None = None  # (K, n) bool: the actions allowed there; None: all
    obs_mask: Array | None = None  # (T + 1, N, n) bool: the actions allowed at `obs`; None: all
    carry: Carry = None  # (N, ...): what the agent's memory held before obs[0]; None without one
    reset: Array | None = None  # (T + 1, N) bool, with a carry: which obs begin an episode

    def columns(self) -> tuple[Any, ...]:
        """All of it, in this order."""
        return tuple(getattr(self, name) for name in self.__slots__)

    @property
    def mask(self) -> Array | None:
        """Which actions were allowed when those of the batch were taken: (T, N, n); None: all.

        A dead step's is its observation's, the last of an episode, and not its action's.
        """
        return None if self.obs_mask is None else self.obs_mask[:-1]

    def next_values(self, v: Array, critic: Callable[[Array], Array]) -> Array:
        """The value of the state that followed each step, before any reset: (T, N).

        Args: `v` (T + 1, N), the values of `obs`; `critic` values the final observations that
        SAME_STEP autoreset keeps apart.
        """
        v_next = v[1:]
        if self.final_at is not None:
            v_next = v_next + 0  # a copy: v stays as it is
            v_next[self.final_at] = critic(self.final_obs)
        return v_next


class Rollout:
    """Collects `n_steps` steps, hands them out once, and starts again.

    Lives in host memory, where the environments write; a batch moves to `device` in one copy, which
    the host does not wait for. Where the environments' steps are tensors it lives on the device.
    With `ahead` batches are tensors on the CPU too.
    """

    def __init__(
        self,
        n_steps: int,
        n_envs: int,
        obs_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device,
        ahead: bool = False,
    ) -> None:
        self.n_steps = n_steps
        self.n_envs = n_envs
        self.spaces = obs_space, action_space
        self.device = device
        self.quantum = n_steps * n_envs
        # t, (K,) environments, (K, *obs), and (K, n) masks or None
        self._finals: list[tuple[int, Any, Any, Any]] = []
        self.t = 0
        self._moves = ahead or device.type != "cpu"
        self._resident = False  # where the steps are tensors, from the first one on
        self._copied: torch.cuda.Event | None = None  # the last batch has left the rows

    def allocate(self) -> None:
        grid = (self.n_steps, self.n_envs)
        self._check_memory()
        self.storage = RolloutBatch(
            obs=space_array(self.spaces[0], (self.n_steps + 1, self.n_envs)),
            action=space_array(self.spaces[1], grid),
            reward=np.zeros(grid, dtype=np.float32),
            terminated=np.zeros(grid, dtype=np.bool_),
            truncated=np.zeros(grid, dtype=np.bool_),
            valid=np.zeros(grid, dtype=np.bool_),
        )
        if self.device.type == "cuda":  # the device reads pinned memory by itself
            for name in ROWS:
                pinned = torch.from_numpy(getattr(self.storage, name)).pin_memory()
                setattr(self.storage, name, pinned.numpy())

    def add(self, step: Step) -> None:
        if isinstance(step.obs, Tensor) and self._moves and not self._resident:
            self._settle_on_device()
        t, rows = self.t, self.storage
        if t == 0:
            if self._copied is not None:
                self._copied.synchronize()
            rows.obs[0] = step.obs
        rows.obs[t + 1] = step.next_obs
        rows.action[t] = step.action
        rows.reward[t] = step.reward
        rows.terminated[t] = step.terminated
        rows.truncated[t] = step.truncated
        rows.valid[t] = step.valid
        if step.next_mask is not None:
            self._mask_rows(step.next_mask.shape[-1])
        if rows.obs_mask is not None:
            if t == 0:
                rows.obs_mask[0] = True if step.mask is None else step.mask
            rows.obs_mask[t + 1] = True if step.next_mask is None else step.next_mask
        if (final := step.final_obs) is not None:
            if self._resident:
                raise UsageError(
                    "the environments' steps are tensors, and their autoreset is SAME_STEP, which "
                    "sets the last observation of an episode apart; make them with NEXT_STEP"
                )
            self._finals.append((t, final.index, final.obs, final.mask))
        if step.carry is not None:
            self._note_carry(step)
        self.t = t + 1

    def _settle_on_device(self) -> None:
        """From now on the rows are tensors where the steps are, without a way over the host."""
        self._resident = True
        self._check_memory()
        rows = self.storage
        for name in (*ROWS, "obs_mask", "reset"):
            if (column := getattr(rows, name)) is not None:
                setattr(rows, name, torch.as_tensor(column, device=self.device))

    def _note_carry(self, step: Step) -> None:
        rows = self.storage
        if rows.reset is None:
            rows.reset = self._flags((self.n_steps + 1, self.n_envs), False)
        if self.t == 0:
            rows.carry = step.carry  # which already begins anew where obs[0] begins an episode
            rows.reset[0] = False
        rows.reset[self.t + 1] = step.begins

    def _mask_rows(self, n: int) -> Array:
        """The rows of `obs_mask`, made on the first sight of a mask: few environments have one."""
        if self.storage.obs_mask is None:
            self.storage.obs_mask = self._flags((self.n_steps + 1, self.n_envs, n), True)
        return self.storage.obs_mask

    def _flags(self, shape: tuple[int, ...], value: bool) -> Array:
        if self._resident:
            return torch.full(shape, value, device=self.device)
        return np.full(shape, value)

    def batches(self) -> Iterator[RolloutBatch]:
        if self.t == self.n_steps:
            self.t = 0
            yield self._batch()
            self._finals.clear()

    def _batch(self) -> RolloutBatch:
        batch = self.storage
        batch.final_at = batch.final_obs = batch.final_mask = None
        if self._finals:
            steps, envs, obs, masks = zip(*self._finals, strict=True)
            t = np.concatenate([np.full_like(env, t) for t, env in zip(steps, envs, strict=True)])
            batch.final_at = t, np.concatenate(envs)
            batch.final_obs = np.concatenate(obs)
            if all(mask is not None for mask in masks):
                batch.final_mask = np.concatenate(masks)
        if self._resident or not self._moves:
            return batch
        moved = _moved(batch, self.device)
        if self.device.type == "cuda":
            if self._copied is None:
                self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(self.device))
        return moved

    def restart(self) -> None:
        """All episodes broke off: the steps since the last batch lead nowhere, and are dropped."""
        self.t = 0
        self._finals.clear()

    def get_state(self) -> dict[str, Any]:
        """What resuming needs: the steps collected since the last batch, and how many."""
        rows = {name: _on_host(getattr(self.storage, name)) for name in ROWS}
        finals = {
            str(k): {"t": t, "index": index, "obs": obs, "mask": mask}
            for k, (t, index, obs, mask) in enumerate(self._finals)
        }
        optional = {name: getattr(self.storage, name) for name in OPTIONAL}
        optional |= {name: _on_host(optional[name]) for name in ("obs_mask", "reset")}
        return {"t": self.t, "rows": rows, "finals": finals, **optional}

    def set_state(self, state: dict[str, Any]) -> None:
        self.t = state["t"]
        for name, rows in state["rows"].items():
            getattr(self.storage, name)[:] = rows
        finals = state["finals"].values()
        self._finals = [(f["t"], f["index"], f["obs"], f["mask"]) for f in finals]
        for name in OPTIONAL:
            setattr(self.storage, name, state[name])

    def _check_memory(self) -> None:
        obs, action = (space_array(space, ()).nbytes for space in self.spaces)
        flags = 4 + 3  # a float32 reward and three booleans
        row = (obs + action + flags) * self.n_envs
        need, asked = (
            self.n_steps * row + obs * self.n_envs,
            f"n_steps (--n-steps) is {self.n_steps}",
        )

        def fits(free: float) -> int:
            return int(max(0, free - obs * self.n_envs) // row)

        if not self._resident:
            require_memory(need, asked, "the rollout", fits)
        require_room(need, self.device, asked, "the rollout", fits)


def _on_host(column: Array | None) -> Array | None:
    return column.cpu().numpy() if isinstance(column, Tensor) else column


def _moved(batch: RolloutBatch, device: torch.device) -> RolloutBatch:
    def move(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(move, x))
        if isinstance(x, np.ndarray):
            return torch.from_numpy(x).to(device, non_blocking=True)
        return x  # None, or a carry, which is there

    return RolloutBatch(*map(move, batch.columns()))
