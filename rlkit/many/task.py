"""What a study is about: an agent, an environment, a recipe, and what of it is searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.errors import UsageError
from rlkit.many.child import Training
from rlkit.many.plans import field_of, plan_training
from rlkit.many.search import (
    Dimension,
    as_document,
    check_dimension,
    default_search,
    placed,
    value_of,
)
from rlkit.recipe import Recipe
from rlkit.training import build
from rlkit.training.options import RunOptions

FORMAT = 1
UNSEARCHED = ("steps", "envs")  # by which trials would not be alike


@dataclass(frozen=True)
class Task:
    """What a study is about. `base` holds what is the same in all trials, `fixed` its changes."""

    training: Training
    base: Recipe
    fixed: Mapping[str, Any]
    search: Mapping[str, Dimension]
    seeds: Sequence[int]

    def changes(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial changes in the recipe, by the values that it has drawn."""
        found = {
            name: placed(self.base, name, value_of(self.search[name], value))
            for name, value in drawn.items()
        }
        return {**self.fixed, **found}

    @property
    def evaluations(self) -> int:
        """How many there are in a run, the last one included."""
        steps, every = self.base.steps, self.training.options["eval_every"]
        return (steps - 1) // (every or -(-steps // build.EVALS_PER_RUN)) + 1

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "agent": self.training.agent,
            "env": self.training.env,
            "env_options": dict(self.training.env_options),
            "seeds": list(self.seeds),
            "search": as_document(self.search),
            "options": dict(self.training.options),
            "recipe": self.base.to_json(),
        }


def plan_task(
    agent: str,
    env: str,
    options: RunOptions,
    env_options: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    search: Mapping[str, Dimension] | None,
    seeds_per_trial: int,
) -> Task:
    """The task, checked; raises UsageError for the first value or name that is not allowed."""
    training = plan_training(agent, env, options, env_options)
    for name in (*settings, *(search or {})):
        field_of(agent, name)
    base = build.choose_recipe(build.agent_class(agent), training.env, settings)
    found = default_search(base) if search is None else search
    if search is None:
        found = {name: known for name, known in found.items() if name not in settings}
    for name in found:
        if name in settings:
            raise UsageError(f"{name} is in both --set and --search; give it to one of them")
        if name in UNSEARCHED:
            raise UsageError(f"{name} (--search) can't be searched; give it with --set")
    checked = {name: check_dimension(field_of(agent, name), d) for name, d in found.items()}
    if not checked:
        raise UsageError(
            "search (--search) is empty; name a field, as in learning_rate=1e-4:1e-2:log"
        )
    fixed = {name: base.to_json()[name] for name in settings}
    seeds = range(options.seed, options.seed + seeds_per_trial)
    return Task(training, base, fixed, checked, list(seeds))
