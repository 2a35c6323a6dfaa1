"""Recipes: an agent's hyperparameters as a frozen dataclass, each written once.

A field carries its default, a line of help and its allowed range. The command line's options, the
JSON config and the checks all come from it::

    @dataclass(frozen=True)
    class A2CRecipe(Recipe):
        gamma: float = option(0.99, "discount γ", low=0, high=1)

Every argument of `option` is a literal, and the class stands in its agent's file under the agent's
name followed by ``Recipe``: so `read_options` can list the fields from the source, and
``rlkit train a2c --help`` and a misspelt option need no torch.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from rlkit.errors import UsageError
from rlkit.interval import Interval, interval
from rlkit.registry import unknown
from rlkit.schedule import Schedule, schedule

Value = int | float | bool | str | tuple[int, ...] | Schedule | Interval
R = TypeVar("R", bound="Recipe")


@dataclass(frozen=True)
class Option:
    """What a recipe's field allows.

    `above` is an exclusive lower bound; the end of a schedule may reach it. `never` is how words
    begin that ask for what can't be, and why.
    """

    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] | None = None
    never: tuple[str, str] | None = None
    name: str = ""
    type: str = ""  # a key of _NOUNS: the annotation as written

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def allowed(self) -> str:
        """The allowed values in words: ``a number > 0 and <= 1``."""
        if self.choices:
            return " or ".join(self.choices)
        noun = _NOUNS[self.type]
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in ((">", self.above), (">=", self.low), ("<=", self.high))
            if bound is not None
        ]
        return " ".join([noun, " and ".join(bounds)]).strip()

    def check(self, value: Any) -> Value:
        """`value` as the field's type; raises UsageError with name, value and what is allowed."""
        if self.never and isinstance(value, str) and value.startswith(self.never[0]):
            said = f"{self.name} ({self.flag}) is {value!r}, which {self.never[1]}"
            raise UsageError(f"{said}; allowed: {self.allowed}")
        number = _CASTS[self.type](value)
        if number is None or not self._allows(number):
            raise UsageError(f"{self.name} ({self.flag}) is {value!r}; allowed: {self.allowed}")
        return number

    def _allows(self, value: Value) -> bool:
        if isinstance(value, Schedule):
            low = self.low if self.above is None else self.above
            at_the_end = dataclasses.replace(self, low=low, above=None)
            ends = value.end is None or at_the_end._within(value.end)
            return self._within(value.start) and ends
        return all(map(self._within, _items(value)))

    def _within(self, item: Any) -> bool:
        if self.choices:
            return item in self.choices
        return isinstance(item, (bool, str, Interval)) or (
            abs(item) <= sys.float_info.max  # no NaN, and nothing that is beyond floats
            and (self.low is None or item >= self.low)
            and (self.above is None or item > self.above)
            and (self.high is None or item <= self.high)
        )


_NOUNS = {
    "int": "a whole number",
    "float": "a finite number",
    "bool": "true or false",
    "str": "a word",
    "tuple[int, ...]": "whole numbers separated by commas, each",
    "Schedule": "a number or START:END[:cosine][@SHARE OF THE RUN]",
    "Interval": "a whole number of steps >= 0, or a time > 0 such as 30s, 10min or 2h",
}


def _cast_str(value: Any) -> str | None:
    if isinstance(value, os.PathLike):  # such as a Path for run_dir
        value = os.fspath(value)
    return value if isinstance(value, str) else None


def _cast_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _cast_float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _cast_widths(value: Any) -> tuple[int, ...] | None:
    whole = isinstance(value, (tuple, list)) and all(_cast_int(item) is not None for item in value)
    return tuple(value) if whole else None


_CASTS = {
    "int": _cast_int,
    "float": _cast_float,
    "bool": lambda value: value if isinstance(value, bool) else None,
    "str": _cast_str,
    "tuple[int, ...]": _cast_widths,
    "Schedule": schedule,
    "Interval": interval,
}


def _items(value: Value) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def json_value(value: Value) -> Any:
    """A field's value as JSON holds it, and as `Option.check` takes it back."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, (Schedule, Interval)) else value


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    never: tuple[str, str] | None = None,
) -> Any:
    """A recipe's field: its default, one line of help, and what it allows."""
    about = Option(default, help, low, high, above, choices, never)
    return dataclasses.field(default=default, metadata={"option": about})


def default(value: Any) -> Any:
    """A field of a recipe made from another: its own default, all else as in the other."""
    return dataclasses.field(default=value)


@dataclass(frozen=True)
class Recipe:
    """Base of all recipes: checks every field on creation (UsageError)."""

    steps: int
    envs: int

    def __post_init__(self) -> None:
        check_fields(self)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values, in the order in which the recipe lists them."""
        return as_json(self)

    def but(self: R, changes: Mapping[str, Any]) -> R:
        """A copy with some fields changed; raises UsageError on unknown names or bad values."""
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in known:
                raise unknown("option", name, known)
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class Result:
    """What a tuned recipe reached, on seeds that were not used to choose it."""

    mean_return: float  # greedy, over `episodes` fresh episodes of each seed
    worst_return: float  # the worst seed's mean
    seeds: int
    episodes: int
    seconds: float  # median training time of a seed, evaluations on the way included


@dataclass(frozen=True)
class Tuned:
    """A recipe for one environment, with what it reached there.

    Published settings that were run only a part of their way have no result.
    """

    recipe: Recipe
    result: Result | None = None


def options(recipe_type: type[Any]) -> Sequence[Option]:
    """The fields of a dataclass made of `option`s, in order."""
    return [_option_of(recipe_type, field) for field in dataclasses.fields(recipe_type)]


def _option_of(recipe_type: type[Any], field: dataclasses.Field[Any]) -> Option:
    # `default` leaves the option itself to a base
    fields = (vars(base)["__dataclass_fields__"][field.name] for base in recipe_type.__mro__)
    about: Option = next(f.metadata["option"] for f in fields if "option" in f.metadata)
    return dataclasses.replace(
        about, default=field.default, name=field.name, type=_written(field.type)
    )


def _written(annotation: Any) -> str:
    """An annotation as written, whether or not its module postpones evaluating it."""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def check_fields(recipe: Any) -> None:
    """Check every field of a dataclass made of `option`s; raises UsageError."""
    for about in options(type(recipe)):
        object.__setattr__(recipe, about.name, about.check(getattr(recipe, about.name)))


def as_json(recipe: Any) -> dict[str, Any]:
    """The fields of a dataclass made of `option`s as JSON values, in order."""
    return {
        field.name: json_value(getattr(recipe, field.name)) for field in dataclasses.fields(recipe)
    }


@cache
def read_options(target: str) -> Sequence[Option]:
    """The options of the agent at "module:Class", read from its source without importing it."""
    module, _, agent = target.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"the registry names no module {module!r}"
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    recipe = f"{agent}Recipe"
    (definition,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == recipe
    )
    fields = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    return _inherited(tree, definition, fields) or [_option_from(node) for node in fields]


def _inherited(
    tree: ast.Module, definition: ast.ClassDef, fields: Sequence[ast.AnnAssign]
) -> Sequence[Option]:
    """The options of a recipe that gives another's fields new defaults; none if it's no such."""
    (base,) = map(ast.unparse, definition.bases)
    sources = [
        node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and base in [alias.name for alias in node.names]
    ]
    if base == Recipe.__name__:
        return []
    changed = {ast.unparse(node.target): _arguments(node)[0] for node in fields}
    return [
        dataclasses.replace(about, default=changed.get(about.name, about.default))
        for about in read_options(f"{sources[0]}:{base.removesuffix('Recipe')}")
    ]


def _arguments(node: ast.AnnAssign) -> list[Any]:
    assert isinstance(node.value, ast.Call)
    return [ast.literal_eval(argument) for argument in node.value.args]


def _option_from(node: ast.AnnAssign) -> Option:
    assert isinstance(node.value, ast.Call)
    assert isinstance(node.target, ast.Name)
    default, help = _arguments(node)
    limits = {word.arg: ast.literal_eval(word.value) for word in node.value.keywords if word.arg}
    return Option(default, help, name=node.target.id, type=ast.unparse(node.annotation), **limits)
