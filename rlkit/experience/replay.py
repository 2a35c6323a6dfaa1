"""The memory of off-policy agents: a ring of the last steps, sampled with replacement.

Each observation is stored once: what followed row i is row i + 1, across the end of an episode too,
where NEXT_STEP autoreset puts the final observation. A dead reset step fills a row that is never
drawn. Under SAME_STEP the final observations of episodes are kept beside the ring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.errors import UsageError
from rlkit.experience.rollout import space_array
from rlkit.experience.step import Step
from rlkit.returns import n_step
from rlkit.system import available_memory

COLUMNS = ("obs", "action", "reward", "terminated", "ended", "valid")


@dataclass(slots=True)
class ReplayBatch:
    """G minibatches of B transitions, drawn at once."""

    obs: Tensor  # (G, B, *obs)
    action: Tensor  # (G, B, *action)
    reward: Tensor  # (G, B) float32: the n-step return's rewards, Σ γ^k·r_k
    discount: Tensor  # (G, B) float32: γ^m, and 0 where the window ended in a terminal state
    next_obs: Tensor  # (G, B, *obs): the observation m steps later, before any reset


@dataclass(frozen=True)
class Sampling:
    """When a replay memory hands out batches, and what is in them."""

    start: int  # steps to collect first
    every: int  # then a burst each time this many steps have been added
    minibatches: int  # G
    batch_size: int  # B
    n_step: int
    gamma: float


class Replay:
    """A ring of `capacity` steps over N environments, in host memory."""

    def __init__(
        self,
        capacity: int,
        n_envs: int,
        obs_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        sampling: Sampling,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        self.capacity = capacity
        # One row more than steps: the newest observation has no action yet. And room for windows
        # that start at three neighbouring rows, of which at most two are dead (the first row of
        # all is not: until the ring is full, two are enough).
        self.rows = max(capacity // n_envs, sampling.n_step + 2) + 1
        self.n_envs = n_envs
        self.spaces = obs_space, action_space
        self.sampling = sampling
        self.device = device
        self.generator = generator
        self.quantum = n_envs
        self.finals: dict[int, Tensor] = {}  # flat index (row·N + environment) → final observation
        self.head = 0  # the row that the next step fills
        self.filled = 0  # rows that hold a step, at most rows − 1
        self.added = 0  # steps added so far, over all environments
        self.due = sampling.start
        self._restarted = True  # the next step's observation is not yet in the ring

    def allocate(self) -> None:
        grid = (self.rows, self.n_envs)
        self._check_memory()
        self.obs = torch.from_numpy(space_array(self.spaces[0], grid))  # (rows, N, *obs)
        self.action = torch.from_numpy(space_array(self.spaces[1], grid))  # (rows, N, *action)
        self.reward = torch.zeros(grid)
        self.terminated = torch.zeros(grid, dtype=torch.bool)
        self.ended = torch.zeros(grid, dtype=torch.bool)  # terminated or truncated
        self.valid = torch.zeros(grid, dtype=torch.bool)
        self._arrays = [getattr(self, name).numpy() for name in COLUMNS]

    def add(self, step: Step) -> None:
        obs, action, reward, terminated, ended, valid = self._arrays
        row, next_row = self.head, (self.head + 1) % self.rows
        if self._restarted:
            obs[row] = step.obs
            self._restarted = False
        obs[next_row] = step.next_obs
        action[row] = step.action
        reward[row] = step.reward
        terminated[row] = step.terminated
        ended[row] = step.terminated | step.truncated
        valid[row] = step.valid
        if self.finals:
            for env in range(self.n_envs):
                self.finals.pop(row * self.n_envs + env, None)
        if step.final_obs is not None:
            for env, final in zip(step.final_obs.index, step.final_obs.obs, strict=True):
                self.finals[row * self.n_envs + int(env)] = torch.as_tensor(final).clone()
        self.head = next_row
        self.filled = min(self.filled + 1, self.rows - 1)
        self.added += self.n_envs

    def batches(self) -> Iterator[ReplayBatch]:
        if self.filled <= self.sampling.n_step:
            self.due = max(self.due, self.added + 1)
        while self.added >= self.due:
            self.due += self.sampling.every
            yield self.sample()

    def restart(self) -> None:
        """All episodes broke off after the last step: a dead row stands in between."""
        if not self._restarted:
            self.ended[self.head - 1] = True
            self.valid[self.head] = False
            self.head = (self.head + 1) % self.rows
            self.filled = min(self.filled + 1, self.rows - 1)
            self._restarted = True

    def sample(self) -> ReplayBatch:
        """G·B windows of n steps, uniformly over those that start at a valid step."""
        spec = self.sampling
        shape = (spec.minibatches, spec.batch_size)
        row, env = self._draw(shape[0] * shape[1])
        # (n, G·B) flat indices of each window's steps
        window = (row + torch.arange(spec.n_step)[:, None]) % self.rows * self.n_envs + env
        reward, discount, m = n_step(
            self.reward.view(-1)[window],
            self.terminated.view(-1)[window],
            self.ended.view(-1)[window],
            spec.gamma,
        )
        start = row * self.n_envs + env
        after = (row + m) % self.rows * self.n_envs + env
        next_obs = self.obs.flatten(0, 1)[after]
        if self.finals:
            last = (row + m - 1) % self.rows * self.n_envs + env
            for i, flat in enumerate(last.tolist()):
                if flat in self.finals:
                    next_obs[i] = self.finals[flat]
        columns = (
            self.obs.flatten(0, 1)[start],
            self.action.flatten(0, 1)[start],
            reward,
            discount,
            next_obs,
        )
        return ReplayBatch(*(x.view(*shape, *x.shape[1:]).to(self.device) for x in columns))

    def _draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Rows and environments of `count` valid steps whose whole window lies in the ring."""
        starts = self.filled - self.sampling.n_step + 1
        row, env = self._candidates(count, starts)
        while (dead := ~self.valid[row, env]).any():
            row[dead], env[dead] = self._candidates(int(dead.sum()), starts)
        return row, env

    def _candidates(self, count: int, starts: int) -> tuple[Tensor, Tensor]:
        cell = torch.randint(starts * self.n_envs, (count,), generator=self.generator)
        oldest = self.head - self.filled
        row = (oldest + torch.div(cell, self.n_envs, rounding_mode="floor")) % self.rows
        return row, cell % self.n_envs

    def get_state(self) -> dict[str, Any]:
        used = self.rows if self.filled == self.rows - 1 else self.filled + 1
        return {
            "rows": {name: getattr(self, name)[:used] for name in COLUMNS},
            "finals": {str(flat): obs for flat, obs in self.finals.items()},
            "head": self.head,
            "filled": self.filled,
            "added": self.added,
            "due": self.due,
            "restarted": self._restarted,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        for name, rows in state["rows"].items():
            getattr(self, name)[: rows.shape[0]].copy_(rows)
        self.finals = {int(flat): obs for flat, obs in state["finals"].items()}
        self.head, self.filled = state["head"], state["filled"]
        self.added, self.due = state["added"], state["due"]
        self._restarted = state["restarted"]

    def _check_memory(self) -> None:
        """Refuse a ring that doesn't fit: Linux would grant it now and kill the run later."""
        flags = 4 + 3  # a float32 reward and three booleans
        row = (sum(space_array(space, ()).nbytes for space in self.spaces) + flags) * self.n_envs
        need, free = self.rows * row, available_memory()
        if free is not None and need > free:
            fits = max(0, free // row - 1) * self.n_envs
            raise UsageError(
                f"buffer_size (--buffer-size) is {self.capacity}: the replay memory would take "
                f"{need / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
                f"allowed: up to {fits}"
            )
