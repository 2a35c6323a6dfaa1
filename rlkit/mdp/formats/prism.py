"""PRISM's explicit files (https://www.prismmodelchecker.org/manual/Appendices/ExplicitModelFiles).

The main file is NAME.tra; what stands beside it under the same name is read, too:

=====================  =============================================================================
``.tra``               the transitions: ``states choices transitions`` in the first line, then
                       ``state choice successor probability [action]``; of a Markov chain ``states
                       transitions``, then ``state successor probability``
``.srew``, ``.rews``   rewards of states: ``states entries``, then ``state reward``
``.trew``, ``.rewt``   rewards of transitions: as in the .tra file, with rewards for probabilities
``.lab``               labels; those called "init" say where an episode begins, else it is state 0
``.sta``               the states' variables; only their number is looked at
=====================  =============================================================================

A state's reward is earned on leaving it, whatever the action, and added to the transition's. With
several reward structures their files are called NAME1.srew, NAME2.srew, ...: choose one by its
number or by the name in its first line. A state without transitions is terminal.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from rlkit.errors import ModelError
from rlkit.mdp.formats.contents import Choice, Contents, Rows, assemble, chosen, uniform
from rlkit.mdp.formats.text import Text, columns, header, read_text
from rlkit.mdp.model import BoolArray, FloatArray, IntArray

_STRUCTURE = re.compile(r'#\s*Reward structure:?\s*"(?P<name>[^"]+)"')
_DECLARED = re.compile(r'(\d+)="([^"]*)"')
_STATE_REWARDS, _TRANSITION_REWARDS = (".srew", ".rews"), (".trew", ".rewt")


def read(path: Path, choice: Choice) -> Contents:
    """The model in a .tra file and those beside it."""
    text = read_text(path, comment="#")
    S, choices, s, c, t, p = _transitions(text)
    owner, labels, row = _rows(s, c)
    if choices is not None:
        _count(text, "choices", choices, owner.size)
    r = _rewards(path, choice, S, owner, labels, (row, t, p))
    _check_states(path.with_suffix(".sta"), S)
    goal, init = _labels(path.with_suffix(".lab"), choice, S)
    rows = Rows(owner, labels, row, t, p, r, goal)
    return Contents(assemble(text.name, rows), start=uniform(init, S))


def _transitions(
    text: Text,
) -> tuple[int, int | None, IntArray, IntArray, IntArray, FloatArray]:
    """S, the choices declared, and (N,) state, choice, successor, probability of transitions."""
    expected = "'states choices transitions', or 'states transitions' of a Markov chain"
    sizes = header(text, expected)
    body = text.part(slice(1, None))
    if len(sizes) not in (2, 3):
        raise ModelError(f"{text.place(0)}: found {text.lines[0]!r}; expected {expected}")
    if ":" in "".join(body.lines[:1]):
        raise ModelError(
            f"{body.place(0)}: found {body.lines[0]!r}; expected one transition a line "
            "(export without the rows option)"
        )
    S, N = sizes[0], sizes[-1]
    _count(text, "transitions", N, len(body.lines))
    # Each transition names two states, and one more may be the start.
    if not 1 <= S <= 2 * N + 1:
        raise ModelError(
            f"{text.place(0)}: found {S} states; expected 1 to {2 * N + 1}, as many as {N} "
            "transitions can name"
        )
    if len(sizes) == 3:
        line = "'state choice successor probability'"
        s, c, t, p = columns(body, (int, int, int, float), line)
        body.refuse((c < 0) | (c >= N), c, f"a choice, 0 to {N - 1}")
    else:
        s, t, p = columns(body, (int, int, float), "'state successor probability'")
        c = np.zeros_like(s)
    for found in (s, t):
        body.refuse((found < 0) | (found >= S), found, f"a state, 0 to {S - 1}")
    body.refuse(~((p >= 0) & (p <= 1.0 + 1e-9)), p, "a probability, 0 to 1")
    return S, sizes[1] if len(sizes) == 3 else None, s, c, t, p


def _count(text: Text, what: str, declared: int, found: int) -> None:
    if declared != found:
        raise ModelError(f"{text.place(0)}: declares {declared} {what}; the file lists {found}")


def _rows(s: IntArray, c: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """The pairs that occur, sorted: their states and choices (L,); each transition's pair (N,)."""
    key = s * (int(c.max(initial=0)) + 1) + c
    _, first, row = np.unique(key, return_index=True, return_inverse=True)
    return s[first], c[first], row


def _rewards(
    path: Path,
    choice: Choice,
    S: int,
    owner: IntArray,
    labels: IntArray,
    transitions: tuple[IntArray, IntArray, FloatArray],
) -> FloatArray:
    """(L,) the expected reward of each row, from the files beside the model."""
    row, t, p = transitions
    r = np.zeros(owner.size)
    for file in _chosen_files(path, choice):
        text = read_text(file, comment="#")
        body = text.part(slice(1, None))
        if file.suffix in _STATE_REWARDS:
            sizes = _sizes(text, 2, "'states entries'", S)
            _count(text, "entries", sizes[-1], len(body.lines))
            s, gain = columns(body, (int, float), "'state reward'")
            body.refuse((s < 0) | (s >= S), s, f"a state, 0 to {S - 1}")
            by_state = np.zeros(S)
            by_state[s] = gain
            r += by_state[owner]
        else:
            r += _of_transitions(text, body, S, owner, labels, row, t, p)
    return r


def _of_transitions(
    text: Text,
    body: Text,
    S: int,
    owner: IntArray,
    labels: IntArray,
    row: IntArray,
    t: IntArray,
    p: FloatArray,
) -> FloatArray:
    """(L,) the rewards in a .trew file, weighted by the probabilities of their transitions."""
    chain = len(header(text, "'states choices transitions'")) == 2
    sizes = _sizes(text, 2 if chain else 3, "'states choices transitions'", S)
    _count(text, "transitions", sizes[-1], len(body.lines))
    if chain:
        s, target, gain = columns(body, (int, int, float), "'state successor reward'")
        c = np.zeros_like(s)
    else:
        line = "'state choice successor reward'"
        s, c, target, gain = columns(body, (int, int, int, float), line)
    width = int(labels.max(initial=0)) + 1
    body.refuse((s < 0) | (s >= S), s, f"a state, 0 to {S - 1}")
    body.refuse((c < 0) | (c >= width), c, f"a choice, 0 to {width - 1}")
    body.refuse((target < 0) | (target >= S), target, f"a state, 0 to {S - 1}")
    known = owner * width + labels
    wanted = s * width + c
    place = np.minimum(np.searchsorted(known, wanted), known.size - 1)
    body.refuse(known[place] != wanted, s, "a state and a choice that the .tra file has")
    entries = row * S + t
    order = np.argsort(entries, kind="stable")
    at = np.minimum(np.searchsorted(entries[order], place * S + target), entries.size - 1)
    found = order[at]
    body.refuse(
        (entries[found] != place * S + target), target, "a successor that the .tra file has there"
    )
    return np.bincount(place, p[found] * gain, minlength=owner.size).astype(np.float64)


def _sizes(text: Text, length: int, expected: str, S: int) -> list[int]:
    sizes = header(text, expected)
    if len(sizes) != length or sizes[0] != S:
        raise ModelError(
            f"{text.place(0)}: found {text.lines[0]!r}; expected {expected}, with {S} states"
        )
    return sizes


def _chosen_files(path: Path, choice: Choice) -> list[Path]:
    """The reward files of the one reward structure that is wanted."""
    structures: dict[str, list[Path]] = {}
    pattern = re.compile(re.escape(path.stem) + r"(\d*)")
    for file in sorted(path.parent.iterdir()):
        match = pattern.fullmatch(file.stem)
        of_another = match and match[1] and file.with_suffix(".tra").is_file()
        if match and not of_another and file.suffix in _STATE_REWARDS + _TRANSITION_REWARDS:
            structures.setdefault(match[1], []).append(file)
    if "" in structures:  # numbers are for several
        structures = {"1": structures[""]}
    if not structures:
        raise ModelError(
            f"model file {str(path)!r} has no rewards; expected {path.stem}.srew or "
            f"{path.stem}.trew beside it"
        )
    numbers = list(structures)
    names = [_name(files[0]) or number for number, files in structures.items()]
    wanted = choice.rewards
    known = numbers if wanted in numbers else names
    which = chosen("reward structure", f"model file {str(path)!r}", wanted, known)
    return structures[numbers[which]]


def _name(file: Path) -> str | None:
    with file.open(encoding="utf-8") as lines:
        match = _STRUCTURE.match(lines.readline())
    return match["name"] if match else None


def _check_states(path: Path, S: int) -> None:
    if path.is_file():
        text = read_text(path, comment="#")
        if len(text.lines) != S + 1:
            raise ModelError(
                f"{text.name} lists {max(len(text.lines) - 1, 0)} states; the .tra file has {S}"
            )


def _labels(path: Path, choice: Choice, S: int) -> tuple[BoolArray, IntArray]:
    """The states (S,) that bear the goal's label, and the numbers of the initial ones."""
    labelled: dict[str, list[int]] = {"init": [0]}
    name = f"model file {str(path)!r}"
    if path.is_file():
        text = read_text(path, comment="#")
        name = text.name
        names = dict(_DECLARED.findall(text.lines[0])) if text.lines else {}
        labelled = {label: [] for label in names.values()}
        for i, line in enumerate(text.lines[1:], start=1):
            state, colon, numbers = line.partition(":")
            known = [number in names for number in numbers.split()]
            if not (colon and state.isdigit() and int(state) < S and all(known)):
                raise ModelError(
                    f"{text.place(i)}: found {line!r}; expected 'state: labels' with a state from "
                    f"0 to {S - 1} and labels that line {text.numbers[0]} declares"
                )
            for number in numbers.split():
                labelled[names[number]].append(int(state))
    goal = np.zeros(S, dtype=bool)
    if choice.goal is not None:
        goal[labelled[list(labelled)[chosen("label", name, choice.goal, list(labelled))]]] = True
    return goal, np.array(labelled.get("init", []), dtype=np.int64)
