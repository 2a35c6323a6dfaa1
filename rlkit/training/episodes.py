"""Episodes as they end: the return and length of each."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch

from rlkit.experience.step import Step

WINDOW = 100  # episodes in a running mean, as in stable-baselines3's ep_rew_mean


class Episodes:
    """Follows N environments and keeps the returns and lengths of the episodes that ended."""

    def __init__(self, n_envs: int) -> None:
        self.running_return = np.zeros(n_envs)
        self.running_length = np.zeros(n_envs, dtype=np.int64)
        self.recent: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._untold: list[tuple[float, int]] = []

    def add(self, step: Step) -> None:
        """Note the episodes that ended in this step.

        Those that were lost with a worker process are no measure of the agent, and left out.
        """
        self.running_return += step.reward * step.valid
        self.running_length += step.valid
        ended = step.terminated | step.truncated
        if not np.count_nonzero(ended):
            return
        index = ended.nonzero()[0]
        told = index if step.lost is None else index[~step.lost[index]]
        finished = [(float(self.running_return[i]), int(self.running_length[i])) for i in told]
        self.running_return[index] = 0
        self.running_length[index] = 0
        self.recent.extend(finished)
        self._untold.extend(finished)

    def told(self) -> list[tuple[float, int]]:
        """The (return, length) of each episode that ended since this was last asked."""
        told, self._untold = self._untold, []
        return told

    def means(self) -> tuple[float | None, float | None]:
        """Mean return and length of the last episodes, None before the first has ended."""
        if not self.recent:
            return None, None
        returns, lengths = zip(*self.recent, strict=True)
        return float(np.mean(returns)), float(np.mean(lengths))

    def get_state(self) -> dict[str, Any]:
        return {
            "running_return": self.running_return,
            "running_length": self.running_length,
            "recent": [list(episode) for episode in self.recent],
            "untold": [list(episode) for episode in self._untold],
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.running_return = state["running_return"]
        self.running_length = state["running_length"]
        self.recent = deque(((r, length) for r, length in state["recent"]), maxlen=WINDOW)
        self._untold = [(r, length) for r, length in state.get("untold", [])]

    def forget_running(self) -> None:
        """The environments start afresh: what their episodes had gathered is gone."""
        self.running_return[:] = 0
        self.running_length[:] = 0


class DeviceEpisodes:
    """Follows N environments on a device, where it counts; nothing is read before it is asked."""

    def __init__(self, n_envs: int, device: torch.device) -> None:
        self._running = torch.zeros((2, n_envs), dtype=torch.float64, device=device)
        # Of the episodes that ended since the last look: their returns, their lengths, their number
        self._ended = torch.zeros(3, dtype=torch.float64, device=device)
        self._means: tuple[float | None, float | None] = None, None

    def add(self, step: Step) -> None:
        """Count the step."""
        self._running += torch.stack((step.reward, step.valid))
        ended = step.terminated | step.truncated
        self._ended[:2] += (self._running * ended).sum(1)
        self._ended[2] += ended.sum()
        self._running.masked_fill_(ended, 0)

    def told(self) -> list[tuple[float, int]]:
        """Of no episode: to hear of each would be to wait for the device."""
        return []

    def means(self) -> tuple[float | None, float | None]:
        """Mean return and length of the episodes that ended since they were last asked for.

        Of the ones before where none did, None before the first.
        """
        gains, lengths, count = self._ended.tolist()
        if count:
            self._means = gains / count, lengths / count
            self._ended.zero_()
        return self._means

    def get_state(self) -> dict[str, Any]:
        return {"running": self._running, "ended": self._ended, "means": list(self._means)}

    def set_state(self, state: dict[str, Any]) -> None:
        self._running.copy_(state["running"])
        self._ended.copy_(state["ended"])
        mean_return, mean_length = state["means"]
        self._means = mean_return, mean_length

    def forget_running(self) -> None:
        """The environments start afresh: what their episodes had gathered is gone."""
        self._running.zero_()


def episodes_of(n_envs: int, device: torch.device | None) -> Episodes | DeviceEpisodes:
    """What follows environments in host memory (None), or on a device."""
    return Episodes(n_envs) if device is None else DeviceEpisodes(n_envs, device)
