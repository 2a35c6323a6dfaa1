"""What `rlkit.check` found out, and how random play reads in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from rlkit.training.probe import Played

OK, NOTE, PROBLEM = "ok", "note", "problem"
LARGE_REWARD = 100.0  # a step's; beyond, gradients and values grow unwieldy
LARGE_OBS = 100.0


@dataclass(frozen=True)
class Finding:
    """One line of a report: how bad (ok, note or problem), about what, and in words."""

    level: str
    topic: str
    text: str


@dataclass
class Report:
    """What was found out about an environment."""

    env: str
    findings: list[Finding] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)  # of random play, as JSON values

    @property
    def problems(self) -> Sequence[Finding]:
        return [finding for finding in self.findings if finding.level == PROBLEM]

    @property
    def usable(self) -> bool:
        """Whether nothing stands in the way of training."""
        return not self.problems

    def __str__(self) -> str:
        return "\n".join(f"{f.level:8}{f.topic:14}{f.text}" for f in self.findings)

    def add(self, level: str, topic: str, text: str) -> None:
        finding = Finding(level, topic, " ".join(text.split()))
        if finding not in self.findings:
            self.findings.append(finding)


def describe_play(
    report: Report, played: Played, limit: int | None, space: spaces.Space[Any]
) -> None:
    """What random play without a fault has shown; `limit` is the registered time limit."""
    count = len(played.rewards)
    report.add(OK, "play", f"{count:,} random steps without a fault")
    _describe_episodes(report, played, limit)
    _describe_rewards(report, played)
    _describe_observations(report, played, space)
    if played.allowed:
        share = float(np.mean(played.allowed))
        report.add(OK, "masks", f"valid action masks; {share:.0%} of the actions are allowed")
    report.statistics = {
        "steps": count,
        "episodes": len(played.returns),
        "mean_return": float(np.mean(played.returns)) if played.returns else None,
        "std_return": float(np.std(played.returns)) if played.returns else None,
        "mean_length": float(np.mean(played.lengths)) if played.lengths else None,
        "min_reward": min(played.rewards),
        "max_reward": max(played.rewards),
    }


def _describe_episodes(report: Report, played: Played, limit: int | None) -> None:
    said = f"time limit {limit:,} steps" if limit else "no time limit registered"
    if played.lengths:
        least, most = min(played.lengths), max(played.lengths)
        cut = f", {played.truncated} cut off" if played.truncated else ""
        lengths = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        report.add(
            OK, "episodes", f"{len(played.lengths)} of {lengths} steps at random{cut}; {said}"
        )
    elif limit:
        report.add(OK, "episodes", f"none ended in {played.longest:,} random steps; {said}")
    else:
        report.add(
            NOTE,
            "episodes",
            f"none ended in {played.longest:,} random steps, and there is no time limit: give one, "
            "--env-option max_episode_steps=N",
        )


def _describe_rewards(report: Report, played: Played) -> None:
    rewards = np.array(played.rewards)
    low, high = rewards.min(), rewards.max()
    earned = f"each step earns {_number(low)}"
    if low != high:
        earned = f"{_number(low)} to {_number(high)} a step, {_number(rewards.mean())} on average"
    if played.returns:
        mean, std = np.mean(played.returns), np.std(played.returns)
        earned += f"; an episode at random {_number(mean)} ± {_number(std)}"
    if rewards.any():
        report.add(OK, "rewards", earned)
    else:
        report.add(
            NOTE,
            "rewards",
            f"none in {len(rewards):,} random steps: an agent that explores at random may never "
            "see one",
        )
    if np.abs(rewards).max() > LARGE_REWARD:
        report.add(
            NOTE,
            "rewards",
            "they are large: scale them down, or --normalize-reward where the agent has it",
        )


def _describe_observations(report: Report, played: Played, space: spaces.Space[Any]) -> None:
    if played.reuses:
        report.add(
            NOTE, "observations", "it writes over those that it has returned; rlkit copies them"
        )
    if not isinstance(space, spaces.Box) or played.low is None or played.high is None:
        return
    largest = max(abs(float(played.low.min())), abs(float(played.high.max())))
    if space.dtype != np.uint8 and largest > LARGE_OBS:
        report.add(
            NOTE, "observations", f"values reach {_number(largest)}: train with --normalize-obs"
        )
    if np.array_equal(played.low, played.high):
        report.add(
            NOTE, "observations", "they never changed: an agent sees nothing of what it does"
        )


def _number(x: float | np.floating[Any]) -> str:
    return f"{x:.4g}"
