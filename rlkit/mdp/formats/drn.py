"""DRN, Storm's explicit format (https://www.stormchecker.org/documentation/background/drn.html).

    @type: MDP
    @reward_models
    coinflips
    @nr_states
    2
    @nr_choices
    2
    @model
    state 0 [0] init
        action 0 [1]
            0 : 0.5
            1 : 0.5
    state 1 [0] done
        action 0 [0]
            1 : 1

A state's reward is earned on leaving it, whatever the action, and added to the action's. Episodes
begin in the states labelled init. Of a POMDP the model of its states is read. Continuous time,
intervals and parameters are refused.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from rlkit.errors import ModelError, UsageError
from rlkit.mdp.checks import row_sums
from rlkit.mdp.formats.contents import Choice, Contents, Rows, assemble, chosen, uniform
from rlkit.mdp.formats.text import Text, columns, integer, number, read_text
from rlkit.mdp.model import MDP, BoolArray, IntArray

TYPES = ("MDP", "DTMC", "POMDP")
END = "end"  # the label of terminal states, in files written here
_STATE = re.compile(r"state\s+(\d{1,18})(?!\d)\s*(?:\{[^}]*\}\s*)?(?:\[([^\]]*)\]\s*)?(.*)")
_ACTION = re.compile(r"action\s+([^\s\[]+)\s*(?:\[([^\]]*)\]\s*)?(.*)")
_LABEL = re.compile(r'"([^"]+)"|(\S+)')
_SECTIONS = ("@type:", "@value_type:", "@parameters", "@reward_models", "@nr_states", "@nr_choices")


@dataclass
class _Header:
    """The sections before @model; `body` is the number of the first line after it."""

    body: int = 0
    nr_states: int | None = None
    nr_choices: int | None = None
    rewards: list[str] = field(default_factory=list)
    type: str | None = None


def read(path: Path, choice: Choice) -> Contents:
    """The model in a .drn file."""
    text = read_text(path, comment="//")
    head = _header(text)
    body = text.part(slice(head.body, None))
    # The first letter tells what a line is: state, action, or a successor's number.
    letters = np.array([line[0] for line in body.lines], dtype="U1")
    states, actions = np.flatnonzero(letters == "s"), np.flatnonzero(letters == "a")
    _count(text.name, "nr_states", head.nr_states, states.size)
    _count(text.name, "nr_choices", head.nr_choices, actions.size)
    state_lines = _parsed(body, states, _STATE, "state NUMBER [REWARDS] LABELS")
    action_lines = _parsed(body, actions, _ACTION, "action NAME [REWARDS]")
    numbers = np.array([integer(found[0]) for found in state_lines], dtype=np.int64)
    body.part(states).refuse(
        numbers != np.arange(states.size), numbers, "the states' numbers in order, from 0"
    )
    owner = np.cumsum(letters == "s")[actions] - 1
    which = _reward_model(body, head, choice, state_lines + action_lines)
    r = _rewards(body, actions, action_lines, which)
    r += _rewards(body, states, state_lines, which)[owner]
    row, successors, p = _transitions(body, letters, owner, states.size)
    goal, start = _labelled(text.name, state_lines, choice)
    labels = _labels(owner, [found[0] for found in action_lines])
    rows = Rows(owner, labels, row, successors, p, r, goal)
    return Contents(assemble(text.name, rows), start=uniform(start, states.size))


def _header(text: Text) -> _Header:
    head, lines = _Header(), text.lines
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if line.startswith("@type:"):
            head.type = line.removeprefix("@type:").strip()
            if head.type.upper() not in TYPES:
                raise ModelError(
                    f"{text.place(i)}: found type {head.type!r}; expected {' or '.join(TYPES)}, "
                    "a model in discrete time"
                )
        elif line in ("@nr_states", "@nr_choices"):
            try:
                setattr(head, line[1:], integer(following))
            except ValueError as error:
                raise ModelError(
                    f"{text.place(i)}: found {following!r} after {line}; expected a whole number"
                ) from error
        elif line == "@reward_models" and not following.startswith("@"):
            head.rewards = following.split()
        elif line == "@parameters" and not following.startswith("@"):
            raise ModelError(
                f"{text.place(i)}: found parameters {following!r}; expected a model without any"
            )
        elif line == "@model":
            head.body = i + 1
            break
        elif line.startswith("@") and not line.startswith(_SECTIONS):
            raise ModelError(f"{text.place(i)}: found {line!r}; expected {', '.join(_SECTIONS)}")
    for section, value in (
        ("@model", head.body),
        ("@type: MDP", head.type),
        ("@nr_states", head.nr_states),
    ):
        if not value:
            raise ModelError(f"{text.name} has no section {section}; a .drn file needs one")
    return head


def _count(name: str, section: str, declared: int | None, found: int) -> None:
    if declared is not None and declared != found:
        what = "states" if section == "nr_states" else "actions"
        raise ModelError(f"{name}: @{section} declares {declared} {what}; the file lists {found}")


def _parsed(
    body: Text, places: IntArray, pattern: re.Pattern[str], expected: str
) -> list[tuple[str, str | None, str]]:
    """(name, rewards, labels) of each of these lines."""
    found = []
    for i in places:
        match = pattern.fullmatch(body.lines[i])
        if match is None:
            raise ModelError(f"{body.place(i)}: found {body.lines[i]!r}; expected '{expected}'")
        found.append((match[1], match[2], match[3]))
    return found


def _reward_model(
    body: Text, head: _Header, choice: Choice, found: list[tuple[str, str | None, str]]
) -> int:
    """The place of the wanted reward in the brackets."""
    longest = max((len(rewards.split(",")) for _, rewards, _ in found if rewards), default=0)
    named = head.rewards + [f"rew{i}" for i in range(len(head.rewards), longest)]
    if not named:
        raise ModelError(
            f"{body.name} has no rewards; expected @reward_models and [REWARD] beside states or "
            "actions"
        )
    return chosen("reward model", body.name, choice.rewards, named)


def _rewards(
    body: Text, places: IntArray, found: list[tuple[str, str | None, str]], which: int
) -> NDArray[np.float64]:
    """The reward on each of these lines; 0 where there is none."""
    rewards = np.zeros(len(found))
    for i, (_, listed, _) in enumerate(found):
        if listed:
            try:
                rewards[i] = number(listed.split(",")[which])
            except (ValueError, IndexError, ZeroDivisionError) as error:
                raise ModelError(
                    f"{body.place(places[i])}: found rewards [{listed}]; expected a number as "
                    f"number {which + 1} of them"
                ) from error
    return rewards


def _transitions(
    body: Text, letters: NDArray[np.str_], owner: IntArray, S: int
) -> tuple[IntArray, IntArray, NDArray[np.float64]]:
    places = np.flatnonzero((letters != "s") & (letters != "a"))
    lines = body.part(places)
    row = np.cumsum(letters == "a")[places] - 1
    state = np.cumsum(letters == "s")[places] - 1
    homeless = (row < 0) | (state < 0)
    homeless[~homeless] = owner[row[~homeless]] != state[~homeless]
    texts = np.array(lines.lines, dtype=object)
    lines.refuse(homeless, texts, "an action before the transitions of a state")
    successors, p = columns(lines, (int, float), "'SUCCESSOR : PROBABILITY'", ":")
    lines.refuse((successors < 0) | (successors >= S), successors, f"a state, 0 to {S - 1}")
    lines.refuse(~((p >= 0) & (p <= 1.0 + 1e-9)), p, "a probability, 0 to 1")
    return row, successors, p


def _labelled(
    name: str, state_lines: list[tuple[str, str | None, str]], choice: Choice
) -> tuple[BoolArray, IntArray]:
    """The states (S,) that bear the goal's label, and the numbers of those labelled init."""
    labels = [{a or b for a, b in _LABEL.findall(found[2])} for found in state_lines]
    init = np.array([i for i, found in enumerate(labels) if "init" in found], dtype=np.int64)
    goal = np.zeros(len(labels), dtype=bool)
    if choice.goal is not None:
        known = sorted(set().union(*labels))
        chosen("label", name, choice.goal, known)
        goal[:] = [choice.goal in found for found in labels]
    return goal, init


def _labels(owner: IntArray, names: list[str]) -> IntArray:
    """The actions' names where they are numbers that increase in each state, else 0, 1, ...."""
    firsts = np.searchsorted(owner, owner)
    places = np.arange(owner.size) - firsts
    if not all(name.isdigit() and len(name) < 18 for name in names):
        return places
    numbers = np.array([int(name) for name in names], dtype=np.int64)
    rises = np.diff(numbers, prepend=-1) > 0
    return numbers if np.all(rises | (places == 0)) else places


def write(mdp: MDP, path: Path) -> None:
    """Write an MDP, less its discount.

    Terminal states loop, with reward 0 and the label "end"; what ends the episode elsewhere goes to
    one more such state, the last. Without a start distribution state 0 is the initial one, since
    Storm needs one.
    """
    missing = np.where(mdp.ends, 1.0 - row_sums(mdp.P), 0.0)
    extra = int(mdp.ends.any())
    start = np.eye(1, mdp.n_states).ravel() if mdp.start is None else mdp.start
    if len(set(start[start > 0].tolist())) > 1:
        raise UsageError(
            f"model file {str(path)!r}: .drn knows no start distribution but the uniform one; "
            "save as .npz"
        )
    choices = mdp.n_pairs + int(mdp.terminal.sum()) + extra
    with path.open("w", encoding="utf-8") as file:
        file.write(
            f"// Exported by rlkit; discount {mdp.gamma!r}\n@type: MDP\n@parameters\n\n"
            f"@reward_models\nreward\n@nr_states\n{mdp.n_states + extra}\n"
            f"@nr_choices\n{choices}\n@model\n"
        )
        _write_states(file, mdp, missing, start > 0)
        if extra:
            _write_loop(file, mdp.n_states, "")


def _write_states(file: TextIO, mdp: MDP, missing: NDArray[Any], init: BoolArray) -> None:
    indptr, indices, data = (x.tolist() for x in (mdp.P.indptr, mdp.P.indices, mdp.P.data))
    rewards, labels, lost = mdp.r.tolist(), mdp.actions.tolist(), missing.tolist()
    for state, (low, high) in enumerate(itertools.pairwise(mdp.offsets.tolist())):
        mark = " init" if init[state] else ""
        if low == high:
            _write_loop(file, state, mark)
            continue
        file.write(f"state {state} [0]{mark}\n")
        for pair in range(low, high):
            file.write(f"\taction {labels[pair]} [{rewards[pair]!r}]\n")
            for k in range(indptr[pair], indptr[pair + 1]):
                file.write(f"\t\t{indices[k]} : {data[k]!r}\n")
            if lost[pair]:
                file.write(f"\t\t{mdp.n_states} : {lost[pair]!r}\n")


def _write_loop(file: TextIO, state: int, mark: str) -> None:
    file.write(f"state {state} [0]{mark} {END}\n\taction 0 [0]\n\t\t{state} : 1\n")
