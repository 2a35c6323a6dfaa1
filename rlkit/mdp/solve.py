"""`solve`: an MDP in, its certified optimal values and policy out."""

from __future__ import annotations

from rlkit import registry
from rlkit.errors import UsageError
from rlkit.mdp.model import MDP
from rlkit.mdp.solution import Solution

# Below this many states a sparse factorisation costs less than the sweeps it saves.
_FEW_STATES = 1000


def solve(mdp: MDP, method: str = "auto", tol: float = 1e-6) -> Solution:
    """Solve a finite MDP to a true error ‖values − V*‖∞ of at most `tol`, with certified bounds.

    Args:
        mdp: the model.
        method: "value-iteration", "policy-iteration", "modified-policy-iteration", or "auto":
            policy iteration up to 1,000 states and at γ > 0.999 (where sweeps may converge slowly),
            modified policy iteration otherwise. `Solution.method` says which was taken.
        tol: bound on the error of any state's value, in units of reward; not a residual.

    Raises:
        UsageError: `mdp` is no MDP; no such method; `tol` is not positive.
        ModelError: γ = 1, and the value is unbounded or undefined; names the states in question.
        RunError: float64 cannot certify `tol`; names the bound that was reached and what to ask.
    """
    if not isinstance(mdp, MDP):
        raise UsageError(
            f"solve was given {type(mdp).__name__}, not an MDP; an environment's model is "
            "rlkit.MDP.from_gymnasium(env, gamma)"
        )
    chosen = pick_method(mdp) if method == "auto" else method
    if chosen not in registry.SOLVERS:
        raise registry.unknown("solver", method, ["auto", *registry.SOLVERS])
    solver = registry.load(registry.SOLVERS[chosen].target)
    solution: Solution = solver(mdp, tol)
    return solution


def pick_method(mdp: MDP) -> str:
    """The method that "auto" stands for; see `solve`."""
    if mdp.n_states <= _FEW_STATES or mdp.gamma > 0.999:
        return "policy-iteration"
    return "modified-policy-iteration"
