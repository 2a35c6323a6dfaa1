"""How a fault is caused for each library: what the lists of faults are written in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAULTY = f"{Path(__file__).parent / 'faulty.py'}:Faulty"
SMALL = {
    "a2c": ("--envs", "2", "--hidden", "8", "--n-steps", "5"),
    "ppo": ("--envs", "2", "--hidden", "8", "--n-steps", "10", "--minibatch-size", "10"),
    "dqn": (
        *("--envs", "2", "--hidden", "8", "--learning-starts", "40", "--train-every", "8"),
        *("--batch-size", "16", "--buffer-size", "1000"),
    ),
}


@dataclass(frozen=True)
class Fault:
    """A row of the table: a fault, and a function for each library that causes it.

    What a function prints last, or raises, is what the library does. Each runs in a process of its
    own, in an empty folder.
    """

    number: int
    name: str
    rlkit: Callable[[], None]
    sb3: Callable[[], None] | None = None


def say(text: object) -> None:
    print(" ".join(str(text).split()), flush=True)


def rlkit(*args: object, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    """Call the command line; say its exit status, and its last line on standard error."""
    command = [sys.executable, "-m", "rlkit", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    said = lines[-1] if lines else (done.stdout.splitlines() or [""])[-1]
    say(f"exit {done.returncode}: {said}")
    return done


def rlkit_train(symptom: str, *more: object, agent: str = "a2c", steps: int = 400) -> None:
    """Train on the faulty environment through the command line."""
    rlkit(
        *("train", agent, FAULTY, *SMALL[agent], "--steps", steps, "--eval-episodes", 2),
        *(("--env-option", f"symptom={symptom}") if symptom else ()),
        *more,
    )


def sb3_model(agent: str, env: Any, **settings: Any) -> Any:
    """One of stable-baselines3's agents, small."""
    import stable_baselines3

    small: dict[str, Any] = {"n_steps": 5} if agent == "a2c" else {}
    if agent == "dqn":
        small = {"learning_starts": 40, "buffer_size": 1000, "batch_size": 16}
    if agent == "ppo":
        small = {"n_steps": 20, "batch_size": 10}
    kind = getattr(stable_baselines3, agent.upper())
    policy = settings.pop("policy", "MlpPolicy")
    return kind(policy, env, device="cpu", seed=0, **small | settings)


def sb3_train(symptom: str, agent: str = "a2c", steps: int = 400, **settings: Any) -> Any:
    """Train on the faulty environment, and say whether the weights are numbers."""
    from faulty import Faulty

    model = sb3_model(agent, Faulty(symptom), **settings)
    model.learn(steps)
    say(f"trains on to the end; {sb3_weights(model)}")
    return model


def sb3_weights(model: Any) -> str:
    import torch

    finite = all(bool(torch.isfinite(p).all()) for p in model.policy.parameters())
    return "weights finite" if finite else "weights NaN"


def ended(process: subprocess.Popen[Any], seconds: float) -> str:
    """How a process ended, within so many seconds."""
    try:
        return f"exit {process.wait(seconds)}"
    except subprocess.TimeoutExpired:
        return "still running"


def alive(pids: Sequence[int]) -> list[int]:
    """Those of the processes that have not ended."""
    found = []
    for pid in pids:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        if "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            found.append(pid)
    return found
