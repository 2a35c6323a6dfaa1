"""One run of many, as a child process: ``python -m rlkit.many.child``, see rlkit.many.jobs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import UsageError
from rlkit.many.jobs import Job, serve
from rlkit.many.watch import Curve, run_of
from rlkit.run.files import remove
from rlkit.run.folder import RunFolder
from rlkit.run.lock import locked
from rlkit.training.options import RunOptions

if TYPE_CHECKING:
    from rlkit.training.api import Trained

MODULE = "rlkit.many.child"
WHEREVER = ("run_dir", "device")  # a folder may be moved, and a run go on elsewhere
LOCK_PATIENCE = 60.0  # seconds for a run's last owner to save and end


@dataclass(frozen=True)
class Training:
    """What `rlkit.train` is told, in JSON values; `options` without seed and run_dir."""

    agent: str
    env: str
    options: Mapping[str, Any]
    env_options: Mapping[str, Any]

    def job(self, home: Path, name: str, recipe: Mapping[str, Any], seed: int) -> Job:
        """A run in `home`, in a folder of that name, with these changes to the recipe."""
        options = {**self.options, "seed": seed, "run_dir": str(home)}
        told = {**asdict(self), "options": options, "name": name, "recipe": dict(recipe)}
        return Job(name, told, home / "logs" / f"{name}.log")


def is_of(run: RunFolder, told: Mapping[str, Any]) -> bool:
    """Whether a run is that of a job, and not of another plan that had the same folder before.

    Of the recipe only what the job says is looked at.
    """
    recipe = run.config.get("recipe")
    if not isinstance(recipe, dict) or not told["recipe"].items() <= recipe.items():
        return False
    wanted = {**told["options"], "agent": told["agent"], "env_options": told["env_options"]}
    config = {**RunOptions().to_json(), **run.config}  # it may be of a time with fewer options
    return all(config.get(k) == v for k, v in wanted.items() if k not in WHEREVER)


def work(told: Mapping[str, Any]) -> dict[str, Any]:
    """Train, or go on with the run of that name, or say what it reached where it is complete."""
    from rich.console import Console

    from rlkit.training.api import resume, train  # imports torch
    from rlkit.training.build import agent_class, choose_recipe

    whole = choose_recipe(agent_class(told["agent"]), told["env"], told["recipe"]).to_json()
    run = interrupted(Path(told["options"]["run_dir"]), {**told, "recipe": whole})
    console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if run is None:
        return _answer(
            train(
                *(told["agent"], told["env"], told["recipe"], told["options"]),
                env_options=told["env_options"],
                name=told["name"],
                console=console,
            )
        )
    try:
        return _answer(resume(run.path, env=told["env"], console=console))
    except UsageError:  # it is complete, or else that is for the parent to see
        reached = Curve(run.path).look().evaluations[-1:]
        if not reached or reached[0][0] < run.config["recipe"]["steps"]:
            raise
        steps, final_return = reached[0]
        return {"run": str(run.path), "steps": steps, "final_return": final_return, "status": 0}


def interrupted(home: Path, told: Mapping[str, Any]) -> RunFolder | None:
    """The job's run, if it has a checkpoint, once nobody trains it any more.

    What a kill before the first checkpoint left of one is cleared away; what shows a fault is kept.
    """
    from rlkit.run.checkpoint import FOLDER as CHECKPOINTS  # imports torch
    from rlkit.training.black_box import FOLDER as FAULTS

    path = run_of(home, told["name"])
    if path is None or not is_of(RunFolder.open(path), told):
        return None
    until = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            with locked(path):
                break
        except UsageError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    if any((path / CHECKPOINTS).glob("[0-9]*")):
        return RunFolder.open(path)
    if not (path / FAULTS).is_dir():
        remove(path)
    return None


def _answer(done: Trained) -> dict[str, Any]:
    return {
        "run": str(done.run),
        "steps": done.steps,
        "seconds": done.seconds,
        "final_return": done.evaluation.mean if done.evaluation else None,
        "status": done.exit_status,
    }


if __name__ == "__main__":
    serve(work)
