"""What a search for a better recipe looks at: for each field a range, or some values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlkit.errors import UsageError
from rlkit.recipe import Option, Recipe, json_value, options
from rlkit.schedule import Schedule, schedule

NUMBERS = ("int", "float", "Schedule")  # the types of fields that have ranges


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`; `log`: as likely between 1 and 2 as between 2 and 4.

    Of a schedule it is the start's range: the end moves with it, the shape stays.
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """Some values of a field, as JSON values."""

    values: tuple[Any, ...]


Dimension = Range | Choice


def _around(factor: float) -> Callable[[float], Dimension | None]:
    """A range on both sides of the recipe's own value; none around 0, which switches things off."""
    return lambda own: Range(own / factor, own * factor, log=True) if own > 0 else None


def _fixed(dimension: Dimension) -> Callable[[float], Dimension | None]:
    return lambda own: dimension


# What is searched unless told otherwise, of the fields that the agent has.
RULES: Mapping[str, Callable[[float], Dimension | None]] = {
    "learning_rate": _around(10),
    "gamma": _fixed(Choice((0.9, 0.95, 0.98, 0.99, 0.995, 0.999))),
    "gae_lambda": _fixed(Choice((0.8, 0.9, 0.95, 0.98, 1.0))),
    "q_lambda": _fixed(Choice((0.5, 0.65, 0.8, 0.9, 0.95))),
    "trace_decay": _fixed(Choice((0.0, 0.5, 0.8, 0.9, 0.95))),
    "visit_exponent": _fixed(Range(0, 1)),
    "entropy_cost": _fixed(Range(1e-5, 0.1, log=True)),
    "n_steps": _around(4),
    "n_step": _fixed(Range(1, 8)),
    "minibatch_size": _around(2),
    "batch_size": _around(2),
    "epochs": _fixed(Range(1, 20, log=True)),
    "clip": _fixed(Range(0.1, 0.4)),
    "max_grad_norm": _around(4),
    "target_interval": _around(4),
    "gradient_steps": _around(4),
    "temperature": _around(10),
}


def default_search(base: Recipe) -> dict[str, Dimension]:
    """What is searched around a recipe: the fields that `RULES` names, within what they allow."""
    search: dict[str, Dimension] = {}
    for option in options(type(base)):
        if option.name in RULES:
            own = getattr(base, option.name)
            dimension = RULES[option.name](own.start if isinstance(own, Schedule) else own)
            if isinstance(dimension, Range):
                dimension = _within(dimension, option)
            if dimension is not None:
                search[option.name] = dimension
    return search


def _within(dimension: Range, option: Option) -> Range:
    """The part of a range that the field allows; a learning rate of more than 1 overshoots."""
    high = 1.0 if option.name == "learning_rate" else option.high
    low = dimension.low if option.low is None else max(option.low, dimension.low)
    end = dimension.high if high is None else min(high, dimension.high)
    return replace(dimension, low=round(low) if option.type == "int" else low, high=end)


def check_dimension(option: Option, dimension: Dimension) -> Dimension:
    """The dimension with checked values; raises UsageError where the field doesn't allow them."""
    if isinstance(dimension, Choice):
        values = tuple(json_value(option.check(value)) for value in dimension.values)
        if len(values) < 2 or len({str(value) for value in values}) < len(values):
            raise UsageError(
                f"{option.name} (--search) has the values {list(dimension.values)}; give two or "
                "more different ones, or --set for one"
            )
        return Choice(values)
    if option.type not in NUMBERS:
        raise UsageError(f"{option.name} (--search) has no ranges; give values: {option.allowed}")
    for end in (dimension.low, dimension.high):
        option.check(int(end) if option.type == "int" and end == int(end) else end)
    if not dimension.low < dimension.high or (dimension.log and dimension.low <= 0):
        shown = f"{dimension.low:g}:{dimension.high:g}" + (":log" if dimension.log else "")
        raise UsageError(
            f"{option.name} (--search) is {shown}; allowed: LOW:HIGH or LOW:HIGH:log with "
            "LOW < HIGH, and LOW > 0 with log"
        )
    return dimension


def label(value: Any) -> Any:
    """A value of a `Choice` as Optuna takes it: lists are texts."""
    return json.dumps(value) if isinstance(value, list) else value


def value_of(dimension: Dimension, drawn: Any) -> Any:
    """The JSON value that a trial has drawn."""
    if isinstance(dimension, Choice):
        return next(value for value in dimension.values if label(value) == drawn)
    return drawn if isinstance(drawn, int) else _rounded(drawn)


def _rounded(x: float) -> float:
    """`x` in as many digits as a search can tell apart, for people to read and to type."""
    return float(f"{x:.4g}")


def placed(base: Recipe, name: str, value: Any) -> Any:
    """A value that a search has found, as the field's JSON value; see `Range` for schedules."""
    own = getattr(base, name)
    given = schedule(value) if isinstance(own, Schedule) else None
    if not isinstance(own, Schedule) or given is None or isinstance(value, str):
        return value
    if own.end is None:
        return str(given)
    end = own.end * given.start / own.start if own.start else own.end
    return str(replace(own, start=given.start, end=_rounded(end)))


def as_document(search: Mapping[str, Dimension]) -> dict[str, Any]:
    """The search as JSON values."""
    return {
        name: {"values": list(dimension.values)}
        if isinstance(dimension, Choice)
        else {"low": dimension.low, "high": dimension.high, "log": dimension.log}
        for name, dimension in search.items()
    }
