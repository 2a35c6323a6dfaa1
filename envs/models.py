"""Finite MDPs by name: those of `rlkit.registry.MODELS`, with their options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlkit.errors import UsageError
from rlkit.mdp.draw_grid import GridLayout
from rlkit.mdp.model import MDP
from rlkit.registry import MODELS, did_you_mean, load, unknown


@dataclass(frozen=True, eq=False)
class Model:
    """A model, what it is called, and where its states lie, where that is a grid."""

    name: str
    mdp: MDP
    layout: GridLayout | None = None


def make_model(
    name: str, gamma: float | None = None, options: Mapping[str, Any] | None = None
) -> Model:
    """The model called `name`, with the discount that it is usually solved with or with `gamma`.

    `options` are arguments of its function, such as size=30 of "maze".

    Raises UsageError, with the nearest ones, for a name or an option that does not exist, and for a
    value that is not allowed.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    entry, options = MODELS[name], dict(options or {})
    function = load(entry.target)
    known = model_options(name)
    for option in options:
        if option not in known:
            takes = f"it takes: {', '.join(sorted(known))}" if known else "it takes none"
            raise UsageError(
                f"model {name} has no option {option!r}; {did_you_mean(option, known, takes)}"
            )
    mdp = function(**options) if gamma is None else function(gamma=gamma, **options)
    if entry.layout is None:
        return Model(name, mdp)
    draw = load(entry.layout)
    shared = inspect.signature(draw).parameters
    placed = draw(**{option: value for option, value in options.items() if option in shared})
    return Model(name, mdp, placed)


def model_options(name: str) -> dict[str, Any]:
    """The options of a model, `gamma` left out, with their defaults."""
    parameters = inspect.signature(load(MODELS[name].target)).parameters
    return {key: about.default for key, about in parameters.items() if key != "gamma"}
