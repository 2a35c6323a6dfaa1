"""Playing greedily: what a policy is worth, without exploration and without learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlkit.agent import Agent
from rlkit.envs.vector import Envs

EPISODE_CAP = 100_000  # steps after which an episode that doesn't end is cut, which is reported


@dataclass(frozen=True)
class Evaluation:
    """The undiscounted returns of some episodes."""

    returns: Sequence[float]
    lengths: Sequence[int]
    capped: int  # episodes that were cut at EPISODE_CAP steps, with the return they had by then

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    def __repr__(self) -> str:
        cut = f", {self.capped} cut" if self.capped else ""
        return (
            f"Evaluation({self.mean:.1f} ± {self.std:.1f} over {len(self.returns)} episodes{cut})"
        )

    @property
    def std(self) -> float:
        """The population's standard deviation."""
        return float(np.std(self.returns))


def play(
    agent: Agent,
    envs: Envs,
    episodes: int,
    seed: int,
    look_up: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Play `episodes` greedy episodes; `look_up` is called at each step, and may raise.

    Each environment gives the first episode after its reset, in as many rounds as it takes: to
    collect whichever episodes end first would favour short ones.
    """
    returns: list[float] = []
    lengths: list[int] = []
    capped = 0
    obs = envs.reset(seed)
    while True:
        gain, length, cut = _round(agent, envs, obs, look_up)
        wanted = min(envs.n, episodes - len(returns))
        returns += gain[:wanted].tolist()
        lengths += length[:wanted].tolist()
        capped += int(cut[:wanted].sum())
        if len(returns) == episodes:
            return Evaluation(returns, lengths, capped)
        obs = envs.reset()


def _round(
    agent: Agent, envs: Envs, obs: np.ndarray, look_up: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, lengths, and whether it was cut short, of one episode of each environment."""
    gain, length = np.zeros(envs.n), np.zeros(envs.n, dtype=np.int64)
    playing = np.ones(envs.n, dtype=np.bool_)
    carry = agent.initial_carry(envs.n)
    for _ in range(EPISODE_CAP):
        action, carry = agent.act(obs, carry, explore=False, mask=envs.mask)
        step = envs.step(action)
        gain += step.reward * playing
        length += playing
        playing &= ~(step.terminated | step.truncated)
        if not playing.any():
            break
        look_up()
        obs = step.next_obs
    return gain, length, playing
