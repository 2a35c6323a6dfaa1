"""`solve`: an MDP in, its certified optimal values and policy out."""

from __future__ import annotations

import math

from rlkit import registry
from rlkit.errors import UsageError
from rlkit.mdp.compact import MOST_ENTRIES
from rlkit.mdp.goal import Watch
from rlkit.mdp.linear import quickly_solved
from rlkit.mdp.model import MDP
from rlkit.mdp.solution import Solution
from rlkit.mdp.solver import Solver

# Up to here a few sparse factorisations take less time than compiled kernels take to load.
_FEW_STATES, _FEW_TRANSITIONS = 2_000, 50_000
_DENSE = 40  # transitions of a pair on average


def solve(
    mdp: MDP,
    method: str = "auto",
    tol: float = 1e-6,
    max_seconds: float = math.inf,
    watch: Watch | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> Solution:
    """Solve a finite MDP to a true error ‖values − V*‖∞ of at most `tol`, with certified bounds.

    Where float64 cannot certify `tol`, where `max_seconds` are over and at Ctrl-C, the solution has
    the bounds that are certified until then, and a warning says so.

    Args:
        mdp: the model.
        method: a name of `rlkit.registry.SOLVERS`, or "auto", which takes policy iteration for
            small models, topological order where most states are never seen twice, upwind
            Gauss–Seidel where episodes end and rows are sparse, and inexact policy iteration
            otherwise. `Solution.method` and `reason` say which, and why.
        tol: bound on the error of any state's value, in units of reward; not a residual.
        max_seconds: when to stop, about.
        watch: whom to tell how far it has got, while it solves; see `rlkit.mdp.goal.Watch`.
        threads: how many share the Jacobi sweeps of a large model, which most of the time goes into
            in value iteration, modified policy iteration and models that never end. It changes
            nothing else: results are the same to the last bit.
        device: where to sweep: "cpu", by the methods above; "cuda" or "cuda:1", on a GPU, by value
            iteration or modified policy iteration (see rlkit/mdp/device); "auto", on a GPU where
            there is one. What comes back is in the host's memory. Any but "cpu" imports torch.

    Raises:
        UsageError: `mdp` is no MDP; no such method or device; `tol`, `max_seconds` or `threads` is
            not positive; the device's memory is too small.
        ModelError: γ = 1, and the value is unbounded or undefined; names the states in question.
        RunError: float64 cannot certify any bounds at all for this model.

    Warns:
        RlkitWarning: `tol` was not reached; why, what was, and what to ask for.
    """
    if not isinstance(mdp, MDP):
        raise UsageError(
            f"solve was given {type(mdp).__name__}, not an MDP; an environment's model is "
            "rlkit.MDP.from_gymnasium(env, gamma)"
        )
    if device != "cpu" and threads != 1:
        raise UsageError(f"threads={threads} is for device cpu; leave it out with device={device}")
    solver, reason = _solver(mdp, method, device)
    return solver(mdp, tol, max_seconds, reason, watch, threads)


def _solver(mdp: MDP, method: str, device: str) -> tuple[Solver, str]:
    """What solves the model as it is asked for, and why that."""
    if device != "cpu":
        from rlkit.device.names import device_for  # which import torch
        from rlkit.mdp.device.solve import solver_on

        place = device_for(device)
        if place.type != "cpu":
            return solver_on(mdp, place, method)
    chosen, reason = pick_method(mdp) if method == "auto" else (method, "it was asked for")
    if chosen not in registry.SOLVERS:
        raise registry.unknown("solver", method, ["auto", *registry.SOLVERS])
    solver: Solver = registry.load(registry.SOLVERS[chosen].target)
    return solver, reason


def pick_method(mdp: MDP) -> tuple[str, str]:
    """The method that "auto" stands for, and why. docs/exact.md has the measurements behind it."""
    size = f"{mdp.n_states:,} states and {mdp.P.nnz:,} transitions"
    if mdp.n_states <= _FEW_STATES and mdp.P.nnz <= _FEW_TRANSITIONS:
        return "policy-iteration", f"{size} are few: direct solves take milliseconds"
    if mdp.P.nnz > MOST_ENTRIES:
        return "modified-policy-iteration", f"{size} are too many for indices of 32 bits"
    if quickly_solved(mdp):
        return "policy-iteration", f"{size}: to solve for a policy takes less than a sweep"
    if _comes_apart(mdp):
        return "topological", f"{size}, where most states never come back"
    if not (mdp.terminal.any() or mdp.ends.any()):
        return "inexact-policy-iteration", f"{size}, where episodes never end"
    if mdp.P.nnz > _DENSE * mdp.n_pairs:
        return "inexact-policy-iteration", f"{size}, many for each of {mdp.n_pairs:,} pairs"
    return "upwind-gauss-seidel", f"{size}, where episodes end and rows are sparse"


def _comes_apart(mdp: MDP) -> bool:
    """Whether it pays to solve strongly connected components in turn."""
    from rlkit.mdp.components import NEARLY_ALL, Components  # which needs numba

    found = Components.if_many(mdp)
    return found is not None and found.largest <= NEARLY_ALL * mdp.n_states
