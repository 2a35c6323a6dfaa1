"""What commands say of an agent that was held to the exact ruler."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rlkit.training.exact import Exact, Measured

_ROWS = {  # of rlkit.training.exact.Exact's fields
    "value": "value at the start",
    "regret": "regret",
    "fraction": "of the way from random play to the optimum",
    "optimal_actions": "optimal actions, of all states",
    "optimal_actions_visited": "optimal actions, as often as visited",
    "v_error_max": "|V − V^π|, largest",
    "v_error_mean": "|V − V^π|, as visited",
    "q_error_max": "|Q − Q^π|, largest",
    "q_error_mean": "|Q − Q^π|, as visited",
    "q_star_error_max": "|Q − Q*|, largest",
    "q_star_error_mean": "|Q − Q*|, as visited",
    "overestimation": "overestimation of the policy's values",
    "overestimation_star": "overestimation of the optimal values",
}
_SHARES = ("fraction", "optimal_actions", "optimal_actions_visited")


def exact_line(found: Measured) -> str:
    """The greedy policy's exact value beside the optimum, on one line."""
    of = f"the optimum {_number(found.optimum)} (γ {found.gamma:g})"
    greedy = found.greedy
    if greedy.value is None:
        return f"exact value not finite: the policy does not end from the start; {of}"
    share = ""
    if greedy.fraction is not None and found.random_value is not None:
        share = f": {_share(greedy.fraction)} of the way from random play, "
        share += _number(found.random_value)
    return f"exact value {_number(greedy.value)} of {of}{share}"


def show_exact(out: Console, found: Measured) -> None:
    """All that is known of the agent's two policies, in a table."""
    states = f"{found.states:,} states that can be reached"
    out.print(f"γ {found.gamma:g}, without a time limit, over {states}")
    out.print(f"optimum {_number(found.optimum)} ± {found.optimum_error:.1g}, certified")
    if found.random_value is not None:
        out.print(f"random play {_number(found.random_value)}")
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("greedy", "exploring"):
        table.add_column(name, justify="right")
    for field, label in _ROWS.items():
        cells = [_cell(field, exact) for exact in (found.greedy, found.exploring)]
        if any(cells):
            table.add_row(label, *cells)
    out.print(table)
    if found.greedy.value is None:
        out.print("the greedy policy does not end from the start: at γ 1 its value is not finite")
    if found.exploring is None:
        out.print("exploring: not defined, as noise in the weights has no action probabilities")
    elif found.exploring.value is None:
        out.print("exploring, it does not end from the start: at γ 1 its value is not finite")


def exact_json(found: Measured) -> dict[str, Any]:
    """The same for programs; null where a quantity is not defined."""
    return asdict(found)


def _cell(field: str, exact: Exact | None) -> str:
    value = None if exact is None else getattr(exact, field)
    if value is None:
        return ""
    return _share(value) if field in _SHARES else _number(value)


def _share(x: float) -> str:
    return f"{100 * x:.1f} %"


def _number(x: float) -> str:
    return f"{x:.4g}"
