"""Which runs belong together: the seeds of one setting on one task, and what to call them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlkit.comparison.curves import Curve
from rlkit.errors import UsageError
from rlkit.registry import did_you_mean
from rlkit.run.folder import CONFIG

# What decides how an agent learns, besides its name and its recipe. The rest of a run's options
# (device, threads, intervals) say how to run, and not what.
_OPTIONS = ("pixels", "frame_stack", "encoder_from", "freeze_encoder")
_UNSET = "unset"
_RECIPE = "recipe"  # in what `flat` returns: the names of the recipe's fields


@dataclass(frozen=True)
class Members:
    """Runs that count as samples of one thing: `label` says of what, `task` on which problem."""

    label: str
    task: str
    curves: Sequence[Curve]

    @property
    def name(self) -> str:
        return f"{self.label} on {self.task}"


def group_runs(curves: Sequence[Curve], by: Sequence[str] = ()) -> tuple[list[Members], list[str]]:
    """The runs in groups, in the order in which they were given, and notes on what they mix.

    A task is an environment with its options; runs of different tasks are never in one group. On a
    task, runs whose agent, recipe, `pixels` and `frame_stack` agree are a group, whatever their
    seed; its label is the agent, and those of these fields in which the groups of that agent
    differ. With `by`, the runs that agree in these fields are.

    Raises UsageError for a config that is not as rlkit writes it, and for a field that no run has.
    """
    facts = [flat(curve) for curve in curves]
    for field in by:
        _check_field(field, facts)
    found: dict[tuple[str, ...], list[int]] = {}
    for index, about in enumerate(facts):
        fields = by or sorted(field for field in about if _decides(field, about))
        found.setdefault((_task(about), *(f"{f}={about.get(f)}" for f in fields)), []).append(index)
    groups, notes = [], []
    for (task, *_), members in found.items():
        about = facts[members[0]]
        if by:
            label = ", ".join(_shown(field, about) for field in by)
            notes += _mixed(f"{label} on {task}", [facts[index] for index in members], by)
        else:
            others = [facts[rest[0]] for (other, *_), rest in found.items() if other == task]
            label = _label(about, others)
        groups.append(Members(label, task, [curves[index] for index in members]))
    return groups, notes


def without_copies(curves: Sequence[Curve]) -> tuple[list[Curve], list[str]]:
    """The runs that are samples of their own, and notes on those that repeat another.

    One setting and seed give one run, however often it is run: two of them with the same values
    are one sample, and intervals would be too narrow if they counted as two.
    """
    first: dict[tuple[Any, ...], Curve] = {}
    kept, notes = [], []
    for curve in curves:
        about = flat(curve)
        fields = [(f, v) for f, v in sorted(about.items()) if f == "seed" or _decides(f, about)]
        key = (_task(about), *fields, curve.steps.tobytes(), curve.values.tobytes())
        if key in first:
            notes.append(
                f"{curve.run.path} repeats {first[key].run.path}, with the same seed and values; "
                "it is left out"
            )
        else:
            first[key] = curve
            kept.append(curve)
    return kept, notes


def flat(curve: Curve) -> dict[str, Any]:
    """A run's config with the recipe's fields beside the options; others as "versions.rlkit".

    Values are compared as JSON. Raises UsageError where it is not as rlkit writes it.
    """
    config, place = curve.run.config, curve.run.path / CONFIG
    parts = {name: config.get(name, {}) for name in ("recipe", "env_options", "versions")}
    named = all(isinstance(config.get(name), str) for name in ("agent", "env"))
    if not named or not all(isinstance(part, dict) for part in parts.values()):
        raise UsageError(
            f"{place}: not as a run's config is written (agent, env, recipe); undo what was "
            "changed in it, or leave this run out"
        )
    found = {name: value for name, value in config.items() if name not in parts}
    for prefix in ("env_options", "versions"):
        found |= {f"{prefix}.{name}": value for name, value in parts[prefix].items()}
    shown = {name: _text(value) for name, value in {**found, **parts["recipe"]}.items()}
    return {**shown, _RECIPE: frozenset(parts["recipe"])}


def _decides(field: str, about: Mapping[str, Any]) -> bool:
    return field == "agent" or field in _OPTIONS or field in about[_RECIPE]


def _task(about: Mapping[str, Any]) -> str:
    options = {k: v for k, v in about.items() if k.startswith("env_options.")}
    settings = (f"{k.removeprefix('env_options.')}={v}" for k, v in sorted(options.items()))
    return ", ".join([about["env"], *settings])


def _label(about: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> str:
    """The agent, and in what this group differs from the agent's other groups on its task."""
    same_agent = [other for other in others if other["agent"] == about["agent"]]
    fields = sorted({f for other in same_agent for f in other if _decides(f, other)} - {"agent"})
    differing = [f for f in fields if len({other.get(f) for other in same_agent}) > 1]
    return ", ".join([about["agent"], *(_shown(field, about) for field in differing)])


def _shown(field: str, about: Mapping[str, Any]) -> str:
    value = about.get(field, _UNSET)
    return str(value) if field == "agent" else f"{field.removeprefix('env_options.')}={value}"


def _mixed(name: str, members: Sequence[Mapping[str, Any]], by: Sequence[str]) -> list[str]:
    """A note where a group that was asked for holds runs of several settings."""
    fields = sorted({f for about in members for f in about if _decides(f, about)} - set(by))
    differing = [f for f in fields if len({about.get(f) for about in members}) > 1]
    if not differing:
        return []
    shown = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
    return [f"{name}: holds runs that differ in {shown}"]


def _check_field(field: str, facts: Sequence[Mapping[str, Any]]) -> None:
    known = sorted({name for about in facts for name in about} - {_RECIPE})
    if field not in known:
        listing = "a field is one of the recipe's, seed, env_options.NAME or versions.NAME"
        hint = did_you_mean(field, known, listing)
        raise UsageError(f"no run has a field {field!r} to group by (--by); {hint}")


def _text(value: Any) -> str:
    """A JSON value as it is shown and compared: widths as 64x64, words as they are."""
    if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
        return "x".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
