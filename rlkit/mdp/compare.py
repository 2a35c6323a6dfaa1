"""Several solvers on one model: what each took, and how its certified error fell."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from rlkit import registry
from rlkit.errors import RlkitWarning, RunError, UsageError
from rlkit.mdp.compact import Compact, worth_compiling
from rlkit.mdp.goal import Reached, Watch
from rlkit.mdp.model import MDP
from rlkit.mdp.parallel import Sweeps
from rlkit.mdp.solution import Solution
from rlkit.mdp.solve import solve
from rlkit.mdp.solver import InterruptedWarning

_MOST_FOR_A_PROGRAM = 5_000  # states; HiGHS takes a minute or more for some models beyond
_CLOSER = 1.01  # sweeps from one point of a curve to the next, as a ratio
_COMPILED = (
    "kernels",
    "order",
    "flow",
    "upwind",
    "components",
    "in_turn",
    "ell",
)  # modules of rlkit.mdp
_UNCOMPILED = {"value-iteration", "policy-iteration", "modified-policy-iteration"}


@dataclass(frozen=True)
class Comparison:
    """What became of one method.

    Fields:
        method: its name.
        solution: what it returned; None where it failed.
        curve: the certified error on its way, in the order of time, at most about 70 points for
            each doubling of the sweeps; the last one is the solution's. A method that comes closer
            only in the end has few finite ones.
        note: why `tol` was not reached, or why it failed; "" where all went well.
        interrupted: whether Ctrl-C ended it.
    """

    method: str
    solution: Solution | None
    curve: list[Reached]
    note: str
    interrupted: bool


def all_methods(mdp: MDP) -> list[str]:
    """The solvers worth comparing on `mdp`: all, but a linear program only for a small model."""
    large = mdp.n_states > _MOST_FOR_A_PROGRAM
    return [name for name in registry.SOLVERS if not (large and name == "linear-programming")]


def compare(
    mdp: MDP,
    methods: Sequence[str],
    tol: float = 1e-6,
    max_seconds: float = math.inf,
    tell: Callable[[Reached, str], None] | None = None,
) -> list[Comparison]:
    """Solve `mdp` by each of `methods` in turn, and record how the certified error fell.

    Bounds that a method does not work out itself are worked out for its curve, in as much time as
    it takes again at most, or a little more; `Solution.seconds` and the curve do not count it, nor
    the loading of compiled code. After Ctrl-C the methods still to come are left out.

    Args:
        mdp: the model.
        methods: names of `rlkit.registry.SOLVERS`, each once.
        tol: the error asked for; see `rlkit.solve`.
        max_seconds: for each method, about.
        tell: called while they solve, with what is reached and by which method.

    Raises:
        UsageError: no methods, one twice, or one that is not known; as `rlkit.solve`.
        ModelError: as `rlkit.solve`; no method would do.
    """
    _check(methods)
    if worth_compiling(mdp) or not _UNCOMPILED.issuperset(methods):
        _load_compiled(mdp)
    compared: list[Comparison] = []
    for method in methods:
        compared.append(_timed(mdp, method, tol, max_seconds, tell))
        if compared[-1].interrupted:
            break
    return compared


def _check(methods: Sequence[str]) -> None:
    if not methods:
        raise UsageError(f"no methods to compare; name some of {', '.join(registry.SOLVERS)}")
    for position, method in enumerate(methods):
        if method not in registry.SOLVERS:
            raise registry.unknown("solver", method, registry.SOLVERS)
        if method in methods[:position]:
            raise UsageError(f"method {method!r} is given twice; name each method once")


def _load_compiled(mdp: MDP) -> None:
    """So that the first of the methods does not wait for it, and the others do not profit."""
    from rlkit.mdp.kernels import Kernel

    Sweeps(Compact.of(mdp), mdp.gamma)
    if worth_compiling(mdp):
        Sweeps.often(Compact.of(mdp), mdp.gamma)
    for module in _COMPILED:
        for found in vars(import_module(f"rlkit.mdp.{module}")).values():
            if isinstance(found, Kernel):
                found.load()


def _timed(
    mdp: MDP,
    method: str,
    tol: float,
    max_seconds: float,
    tell: Callable[[Reached, str], None] | None,
) -> Comparison:
    curve: list[Reached] = []

    def record(reached: Reached) -> None:
        if tell is not None:
            tell(reached, method)
        if math.isfinite(reached.error) and (
            not curve or reached.sweeps > _CLOSER * curve[-1].sweeps
        ):
            curve.append(reached)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RlkitWarning)
        try:
            solution = solve(mdp, method, tol, max_seconds, Watch(record))
        except RunError as error:
            return Comparison(method, None, curve, str(error), interrupted=False)
    while curve and curve[-1].sweeps >= solution.sweeps:
        curve.pop()
    curve.append(Reached(solution.sweeps, solution.seconds, solution.error_bound))
    note = "; ".join(str(w.message) for w in caught if issubclass(w.category, RlkitWarning))
    interrupted = any(issubclass(w.category, InterruptedWarning) for w in caught)
    return Comparison(method, solution, curve, note, interrupted)
