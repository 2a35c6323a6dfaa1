"""What `rlkit solve` prints of a solution."""

from __future__ import annotations

import math
import textwrap
from typing import TypeAlias

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlkit.envs.models import Model
from rlkit.mdp.criteria import AverageSolution, FiniteHorizonSolution
from rlkit.mdp.model import IntArray
from rlkit.mdp.solution import Solution
from rlkit.mdp.terminal import View, draw
from rlkit.registry import MODELS

_LISTED_STATES = 20  # of a model that is no grid
_WIDEST = 120  # columns that a drawing may take

AnySolution: TypeAlias = Solution | FiniteHorizonSolution | AverageSolution


def summary(model: Model, asked: str, solution: AnySolution) -> Text:
    """Facts on the model and on how it was solved, one a line."""
    return lines({**sizes(model), **_found(model, asked, solution)})


def sizes(model: Model) -> dict[str, str]:
    """Facts on the model, each with its label."""
    mdp = model.mdp
    terminal = int(mdp.terminal.sum())
    return {
        "model": model.name,
        "states": f"{mdp.n_states:,}" + (f" ({terminal:,} terminal)" if terminal else ""),
        "state-action pairs": f"{mdp.n_pairs:,}",
    }


def lines(facts: dict[str, str]) -> Text:
    """Facts with their labels, one a line."""
    text = Text()
    for label, fact in facts.items():
        text.append(f"{label:20}", style="dim").append(f"{fact}\n")
    return text


def _found(model: Model, asked: str, solution: AnySolution) -> dict[str, str]:
    if isinstance(solution, AverageSolution):
        return {
            "method": solution.method,
            "sweeps": f"{solution.sweeps:,}",
            "seconds": f"{solution.seconds:.3g}",
            "reward per step": f"{solution.gain:.6g}",
            "certified error": f"at most {solution.error_bound:.2g}",
        }
    values = view_of(solution).values[model.mdp.live]
    facts = {"discount": f"{solution.gamma:g}"}
    if isinstance(solution, FiniteHorizonSolution):
        facts["steps"] = f"{solution.horizon:,} (values and policy are the first one's)"
        facts["method"] = solution.method
    else:
        facts["method"] = solution.method
        if asked == "auto":
            facts["method"] += " (chosen by auto)"
            facts["reason"] = textwrap.fill(solution.reason, 58, subsequent_indent=" " * 20)
        facts["sweeps"] = f"{solution.sweeps:,}"
    facts["seconds"] = f"{solution.seconds:.3g}"
    if solution.error_bound < math.inf:
        facts["certified error"] = f"at most {solution.error_bound:.2g} in any state"
    else:
        facts["certified error"] = "unknown: nothing was proven of the values"
    if values.size:
        facts["values"] = f"{values.min():.6g} to {values.max():.6g}"
    if solution.start_value is not None:
        facts["value of the start"] = f"{solution.start_value:.6g}"
    return facts


def view_of(solution: AnySolution) -> View:
    """The values and the policy to show: of a finite horizon those of the first step."""
    if isinstance(solution, FiniteHorizonSolution):
        return View(solution.values[0], solution.policy[0])
    if isinstance(solution, AverageSolution):
        return View(solution.bias, solution.policy)
    return View(solution.values, solution.policy)


def show_solution(out: Console, solution: AnySolution, model: Model, policy_alone: bool) -> None:
    """The grid, or the table of states; a word on what to do where there are too many of them."""
    view, layout = view_of(solution), model.layout
    names = MODELS[model.name].actions if model.name in MODELS else ()
    if layout is not None:
        plain = not out.encoding.lower().startswith("utf")
        width = min(out.width, _WIDEST)
        drawing = draw(view, layout, width, ascii_only=plain, arrows_only=policy_alone)
        if drawing is not None:
            out.print()
            out.print(drawing, end="")
            return
        if not policy_alone:
            rows, cols = layout.shape
            out.print(f"A grid of {rows} x {cols} is too large to draw here; --plot FILE.png does.")
            return
    if policy_alone:
        out.print()
        out.print(_runs(view.policy, names))
    elif view.values.size <= _LISTED_STATES:
        out.print()
        out.print(_states(view, names, isinstance(solution, AverageSolution)))


def _states(view: View, names: tuple[str, ...], relative: bool) -> Table:
    table = plain_table("state", "relative value" if relative else "value", "action")
    for state, (value, action) in enumerate(zip(view.values, view.policy, strict=True)):
        table.add_row(str(state), f"{value:.6g}", _action(int(action), names))
    return table


def _runs(policy: IntArray, names: tuple[str, ...]) -> Table:
    """Every state's action, neighbours with the same one on one line."""
    table = plain_table("states", "action")
    firsts = np.flatnonzero(np.diff(policy, prepend=policy[0] - 1))
    for first, last in zip(firsts, [*(firsts[1:] - 1), policy.size - 1], strict=True):
        states = str(first) if first == last else f"{first} to {last}"
        table.add_row(states, _action(int(policy[first]), names))
    return table


def plain_table(*columns: str) -> Table:
    """A table without lines, everything to the right."""
    table = Table(*columns, box=None, pad_edge=False, header_style="dim")
    for column in table.columns:
        column.justify = "right"
    return table


def _action(label: int, names: tuple[str, ...]) -> str:
    if label < 0:
        return "terminal"
    return names[label] if names else str(label)
