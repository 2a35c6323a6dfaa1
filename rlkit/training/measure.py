"""`rlkit.measure`: a run's agent, held to the exact ruler (rlkit/training/exact.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlkit.agent import Agent
from rlkit.errors import CheckpointError, UsageError
from rlkit.networks.normalize import RewardScaler
from rlkit.run.checkpoint import load_checkpoint
from rlkit.run.folder import RunFolder
from rlkit.training import build
from rlkit.training.api import restored
from rlkit.training.build import EnvLike
from rlkit.training.exact import Measured
from rlkit.training.exact_meter import ruler_for

SCALER = "reward_scaler"  # among an agent's parts


def measure(
    run: str | Path, *, best: bool = False, device: str = "cpu", env: EnvLike | None = None
) -> Measured:
    """What a run's agent is truly worth, by the model of its environment.

    The agent is that of the run's newest checkpoint, or of the one that evaluated best. A run on an
    environment from a file or a module names code outside the run: repeat it as `env`.

    Raises UsageError where the environment has no model, and UndefinedError where the agent's
    policy is no function of the model's state, or its optimum is not defined.
    """
    folder = RunFolder.open(run)
    told, on = build.settings(folder), build.consented(env, folder)
    with restored(folder, 1, best, device, env) as (agent, envs):
        _restore_scales(agent, folder, best)
        ruler = ruler_for(agent, on, told.options, told.env_options, limited=False)
        if ruler is None:
            raise UsageError(
                f"env {envs.id} has no model, so that nothing is known exactly; leave --exact out, "
                "or give the environment a table P or a method mdp(gamma)"
            )
        return ruler.measure(agent)


def _restore_scales(agent: Agent, folder: RunFolder, best: bool) -> None:
    """What an agent's exploration and estimates depend on besides its weights."""
    try:
        agent.clock.progress = float(_part(folder, best, "clock")["progress"])
    except CheckpointError:  # of before it was saved; what is looked at is mostly complete
        agent.clock.progress = 1.0
    scaler = agent.parts.get(SCALER)
    if isinstance(scaler, RewardScaler):  # the returns under way are of the run's environments
        scaler.moments.load_state_dict(_part(folder, best, "agent", "parts", SCALER, "moments"))


def _part(folder: RunFolder, best: bool, *keys: str) -> dict[str, Any]:
    return load_checkpoint(folder.path, best, keys).tree
