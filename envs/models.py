"""Finite MDPs by name: those of `rlkit.registry.MODELS`, with their options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlkit.errors import UsageError
from rlkit.mdp.draw_grid import GridLayout
from rlkit.mdp.generate import Generated
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
    options = dict(options or {})
    _check_options(name, options)
    entry = MODELS[name]
    function = load(entry.target)
    mdp = function(**options) if gamma is None else function(gamma=gamma, **options)
    if entry.layout is None:
        return Model(name, mdp)
    draw = load(entry.layout)
    shared = inspect.signature(draw).parameters
    placed = draw(**{option: value for option, value in options.items() if option in shared})
    return Model(name, mdp, placed)


def model_in_parts(
    name: str, gamma: float | None = None, options: Mapping[str, Any] | None = None
) -> tuple[Generated, float] | None:
    """The model called `name`, of which any part can be made without the rest, and its discount.

    None where it can only be made whole. Arguments and errors are those of `make_model`.
    """
    options = dict(options or {})
    _check_options(name, options)
    entry = MODELS[name]
    if entry.in_parts is None:
        return None
    usual = inspect.signature(load(entry.target)).parameters["gamma"].default
    generated: Generated = load(entry.in_parts)(**{**model_options(name), **options})
    return generated, usual if gamma is None else gamma


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    known = model_options(name)
    for option in options:
        if option not in known:
            takes = f"it takes: {', '.join(sorted(known))}" if known else "it takes none"
            raise UsageError(
                f"model {name} has no option {option!r}; {did_you_mean(option, known, takes)}"
            )


def model_options(name: str) -> dict[str, Any]:
    """The options of a model, `gamma` left out, with their defaults."""
    parameters = inspect.signature(load(MODELS[name].target)).parameters
    return {key: about.default for key, about in parameters.items() if key != "gamma"}
