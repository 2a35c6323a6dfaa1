"""A solution as a pandas DataFrame; pandas is imported here alone."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from rlkit.errors import UsageError

if TYPE_CHECKING:
    from rlkit.mdp.solution import Solution


def to_frame(solution: Solution) -> Any:
    """A DataFrame with the index "state" and the columns value, lower, upper and action.

    The action is an integer that may be missing (pandas' Int64): it is at terminal states.

    Raises UsageError where pandas is not installed.
    """
    if importlib.util.find_spec("pandas") is None:
        raise UsageError("to_frame needs pandas, which is not installed: pip install pandas")
    pandas = importlib.import_module("pandas")
    policy = pandas.array(solution.policy, dtype="Int64")
    policy[solution.policy < 0] = pandas.NA
    columns = {
        "value": solution.values,
        "lower": solution.lower,
        "upper": solution.upper,
        "action": policy,
    }
    frame = pandas.DataFrame(columns)
    frame.index.name = "state"
    return frame
