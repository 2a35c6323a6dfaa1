"""Transitions as comma-separated values, one a line.

    # gamma: 0.95
    # states: 3
    # start: 0
    state,action,successor,probability,reward
    0,0,1,0.5,0
    0,0,2,0.5,1
    1,0,-1,1,2

The columns may stand in any order, and others beside them. The comments are optional: the discount;
the number of states (otherwise one more than the largest number that occurs); the state in which an
episode begins. What it all means is said in `MDP.from_triplets`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from rlkit.errors import ModelError
from rlkit.mdp.checks import discount
from rlkit.mdp.formats.contents import Choice, Contents, uniform
from rlkit.mdp.formats.text import Text, columns, read_text
from rlkit.mdp.triplets import triplets_to_pairs
from rlkit.system import require_memory

COLUMNS = {"state": int, "action": int, "successor": int, "probability": float, "reward": float}
_BYTES_PER_STATE = 32
_SETTING = re.compile(r"#\s*(?P<name>gamma|states|start)\s*[:=]\s*(?P<value>\S+)\s*")
_EXPECTED = f"a first line with the columns {','.join(COLUMNS)}"


def read(path: Path, choice: Choice) -> Contents:
    """The model in a .csv file."""
    choice.refuse(path, ".csv")
    text = read_text(path, comment="#")
    settings = _settings(path, text.name)
    if not text.lines:
        raise ModelError(f"{text.name} is empty; expected {_EXPECTED}")
    names = [name.strip().strip('"').lower() for name in text.lines[0].split(",")]
    for name in COLUMNS:
        if name not in names:
            raise ModelError(
                f"{text.place(0)}: found {text.lines[0]!r}, without {name}; expected {_EXPECTED}"
            )
    body = text.part(slice(1, None))
    expected = f"{len(names)} values: {text.lines[0]}"
    places = [names.index(name) for name in COLUMNS]
    arrays = columns(body, [*COLUMNS.values()], expected, ",", places)
    n_states = _n_states(body, arrays[0], arrays[2], settings.get("states"))
    p, gains = arrays[3:]
    body.refuse(~((p >= 0.0) & (p <= 1.0)), p, "a probability, 0 to 1")
    body.refuse(~np.isfinite(gains), gains, "a reward, a finite number")
    start = settings.get("start")
    if start is not None and not (start.is_integer() and 0 <= start < n_states):
        raise ModelError(f"{text.name}: start is {start:g}; states are 0 to {n_states - 1}")
    return Contents(
        triplets_to_pairs(arrays, n_states),
        None if "gamma" not in settings else discount(settings["gamma"]),
        None if start is None else uniform(np.array([int(start)]), n_states),
    )


def _settings(path: Path, name: str) -> dict[str, float]:
    """The numbers in the comments before the first line."""
    found: dict[str, float] = {}
    with path.open(encoding="utf-8-sig") as file:
        for place, line in enumerate(file, start=1):
            if line.strip() and not line.startswith("#"):
                break
            match = _SETTING.fullmatch(line.strip())
            if match:
                try:
                    found[match["name"]] = float(match["value"])
                except ValueError as error:
                    raise ModelError(
                        f"{name} line {place}: found {match['value']!r}; expected a number"
                    ) from error
    return found


def _n_states(body: Text, states: object, successors: object, declared: float | None) -> int:
    s, t = np.asarray(states), np.asarray(successors)
    body.refuse(s < 0, s, "a state, 0 or more")
    body.refuse(t < -1, t, "a successor, 0 or more, or -1 for the end of the episode")
    largest = max(int(s.max(initial=-1)), int(t.max(initial=-1)))
    if declared is not None and not (declared.is_integer() and declared > largest):
        raise ModelError(
            f"{body.name} declares {declared:g} states; its transitions name state {largest}"
        )
    n_states = largest + 1 if declared is None else int(declared)
    require_memory(
        n_states * _BYTES_PER_STATE,
        f"{body.name} has {n_states:,} states",
        "the model",
        lambda free: f"{free // _BYTES_PER_STATE:,} states",
    )
    return n_states
