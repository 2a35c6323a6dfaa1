"""Episodes as they end: the return and length of each."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from rlkit.experience.step import Step

WINDOW = 100  # episodes in a running mean, as in stable-baselines3's ep_rew_mean


class Episodes:
    """Follows N environments and says which episodes a step ended."""

    def __init__(self, n_envs: int) -> None:
        self.running_return = np.zeros(n_envs)
        self.running_length = np.zeros(n_envs, dtype=np.int64)
        self.recent: deque[tuple[float, int]] = deque(maxlen=WINDOW)

    def add(self, step: Step) -> list[tuple[float, int]]:
        """The (return, length) of each episode that ended in this step.

        Those that were lost with a worker process are no measure of the agent, and left out.
        """
        self.running_return += step.reward * step.valid
        self.running_length += step.valid
        ended = step.terminated | step.truncated
        if not np.count_nonzero(ended):
            return []
        index = ended.nonzero()[0]
        told = index if step.lost is None else index[~step.lost[index]]
        finished = [(float(self.running_return[i]), int(self.running_length[i])) for i in told]
        self.running_return[index] = 0
        self.running_length[index] = 0
        self.recent.extend(finished)
        return finished

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
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self.running_return = state["running_return"]
        self.running_length = state["running_length"]
        self.recent = deque(((r, length) for r, length in state["recent"]), maxlen=WINDOW)

    def forget_running(self) -> None:
        """The environments start afresh: what their episodes had gathered is gone."""
        self.running_return[:] = 0
        self.running_length[:] = 0
