"""Value iteration and modified policy iteration on a device.

Nothing waits for the device within a sweep; bounds are looked at after several. What the two do is
in agents/value_iteration.py and agents/modified_policy_iteration.py.
"""

from __future__ import annotations

import math
from functools import partial
from warnings import warn

import numpy as np
import torch

from rlkit.errors import ModelError, RlkitWarning, RunError, UsageError
from rlkit.mdp.bounds import Bounds, ImpreciseError
from rlkit.mdp.certifier import Certifier, shortfall
from rlkit.mdp.device.model import DeviceMDP
from rlkit.mdp.device.proof import Certified, Proof, UnprovenError
from rlkit.mdp.device.rows import Rows
from rlkit.mdp.device.solution import DeviceSolution, far, to_host, with_end
from rlkit.mdp.device.sweep import backup, fused
from rlkit.mdp.device.upload import on_device
from rlkit.mdp.goal import Goal, OutOfTimeError, Watch
from rlkit.mdp.graph import states
from rlkit.mdp.model import MDP
from rlkit.mdp.solver import InterruptedWarning, Solver
from rlkit.registry import SOLVERS, unknown

METHODS = ("modified-policy-iteration", "value-iteration")
_UNCHECKED = 8  # sweeps of value iteration from one look at the bounds to the next
_FEWEST, _MOST = 4, 64  # sweeps of a policy
_IN_BETWEEN = 16  # sweeps of all actions while the policy's are in vain, and these again
_CLEARLY = 2.0
_STEADY = 10_000  # sweeps that may go by, at γ = 1, while changes do not halve
_UNSEEN = 64  # sweeps that look for ends, from one look at how many states were found to the next


def solver_on(mdp: MDP, device: torch.device, method: str = "auto") -> tuple[Solver, str]:
    """What solves the model on the device by one of `METHODS` or "auto", and why by that one.

    The device may be any of torch's; raises UsageError where there is no such method.
    """
    chosen, reason = _picked(method, mdp.n_pairs / max(1, mdp.live.size))
    return Solver(f"{chosen} on {device}", partial(_algorithm, device, chosen)), reason


def _picked(method: str, actions: float) -> tuple[str, str]:
    """The method that is meant, and why; actions: of a state, on average."""
    if method not in ("auto", *METHODS):
        if method not in SOLVERS:
            raise unknown("solver", method, ["auto", *SOLVERS])
        raise UsageError(
            f"method is {method!r}; on a device it may be auto, {' or '.join(METHODS)}: the others "
            "do one state after the other"
        )
    if method != "auto":
        return method, "it was asked for"
    if actions < 2.0:
        return METHODS[1], "there is little to choose: a policy's sweep costs as much as any"
    return METHODS[0], f"a policy's sweep reads 1/{actions:.2g} of the model"


def solve(
    model: DeviceMDP,
    method: str = "auto",
    tol: float = 1e-6,
    max_seconds: float = math.inf,
    watch: Watch | None = None,
) -> DeviceSolution:
    """Solve a model that lives on a device; what is found stays there, too.

    Arguments, bounds and promises are those of `rlkit.solve`; methods are `METHODS` and "auto".
    Free loops of a model at γ = 1 are not merged: such a model is refused.

    Raises:
        UsageError: no such method; `tol` or `max_seconds` is not positive.
        ModelError: γ = 1, and some states can reach no end under any policy.
        RunError: nothing can be certified; or the device's memory is full.

    Warns:
        RlkitWarning: `tol` was not reached; why, and what was.
    """
    for name, value in (("tol", tol), ("max_seconds", max_seconds)):
        if not value > 0 or (value == math.inf and name == "tol"):
            raise UsageError(f"{name}={value} is out of range; it must be a positive number")
    live = max(1, int(model.live.sum()))
    chosen, reason = _picked(method, model.n_pairs / live)
    goal = Goal(tol, max_seconds, watch)
    goal.notes += [reason, _words(model)]
    proof = _proof(model, goal, chosen)
    kind: type[RlkitWarning] = RlkitWarning
    try:
        if model.gamma == 1.0:
            levels = _levels(model, goal)
            if _may_gain(model):  # then nothing else says that values rise for ever
                proof.patience.allowed = (_STEADY + 10 * levels) / proof.sweeps
        try:
            certified = _iterate(model, proof, chosen)
        except KeyboardInterrupt:
            if proof.latest is None:
                raise
            kind, certified = InterruptedWarning, proof.reached(proof.latest, "interrupted")
        solution = DeviceSolution.of(model, certified, f"{chosen} on {model.device}", goal)
    except UnprovenError as error:
        raise RunError(str(error)) from None
    except torch.OutOfMemoryError as error:
        raise _memory_full(model.device) from error
    if certified.shortfall is not None:
        warn(
            f"{certified.shortfall}; values are certified {far(certified.error)}",
            kind,
            stacklevel=2,
        )
    return solution


def _algorithm(device: torch.device, method: str, mdp: MDP, goal: Goal) -> Bounds:
    """Of a model in the host's memory; see `rlkit.mdp.solver.Solver`."""
    try:
        model = on_device(mdp, device)
        goal.notes.append(_words(model))
        try:
            found = _iterate(model, _proof(model, goal, method), method)
        except UnprovenError as error:
            V, TV = to_host(error.V[:-1]), to_host(error.TV[:-1])
            if not error.at_rest:
                raise shortfall(mdp, V, str(error)) from None
            Q = to_host(model.in_order(model.rows.q(error.V)))
            return Certifier(mdp, goal).final(V, Q, TV)
        Q = to_host(model.in_order(model.rows.q(with_end(found.values))))
    except torch.OutOfMemoryError as error:
        raise _memory_full(device) from error
    bounds = Bounds(to_host(found.values), to_host(found.lower), to_host(found.upper), Q)
    if found.shortfall is not None and found.error == math.inf:
        raise OutOfTimeError  # a side of the bounds may still be proven on the host
    if found.shortfall is not None:
        raise ImpreciseError(bounds, found.shortfall)
    return bounds


class _Pace:
    """How many sweeps of the policy go between two looks, and how many of all actions.

    A sweep of the policy costs a fraction of one of all actions, and is in vain while actions still
    switch: then it is the sweeps of all actions that bring news of far rewards. Which it is shows
    in the first sweep of all actions after the policy's: where it changes values by clearly more
    than the policy's last one did, the policy was the bottleneck.
    """

    def __init__(self, method: str) -> None:
        self.adapts = method == METHODS[0]
        self.of_policy, self.of_all = (_FEWEST, 0) if self.adapts else (0, _UNCHECKED)
        self.most_at_once = _MOST if self.adapts else _UNCHECKED

    def adapt(self, improved: float, settled: float) -> None:
        """improved, settled: the largest changes of the two sweeps."""
        if improved <= _CLEARLY * settled:
            self.of_policy, self.of_all = min(2 * self.of_policy, _MOST), 0
        elif self.of_policy > _FEWEST:
            self.of_policy //= 2
        else:
            self.of_all = _IN_BETWEEN


def _proof(model: DeviceMDP, goal: Goal, method: str) -> Proof:
    return Proof(model, goal, _Pace(method).most_at_once)


def _iterate(model: DeviceMDP, proof: Proof, method: str) -> Certified:
    """Sweeps until there is a proof."""
    goal, pace, rows = proof.goal, _Pace(method), model.rows
    V, TV = model.values(_first_value(model) if pace.adapts else 0.0), model.values()
    choice = torch.zeros(model.n_states, dtype=torch.int64, device=model.device)
    chosen, settled = choice if pace.adapts else None, math.inf
    while True:
        # π(s) = argmax_a Q(s, a), TV(s) = max_a Q(s, a), Q(s, a) = r(s, a) + γ Σ p V(s')
        changes = backup(rows, V, TV, chosen)
        goal.sweeps += 1
        goal.latest = partial(to_host, V[:-1])
        found = proof(V, TV, changes)
        if found is not None:
            return found
        V, TV = TV, V
        if pace.adapts:
            pace.adapt(proof.residual, settled)
        for left in reversed(range(pace.of_all)):
            backup(rows, V, TV, None if left else chosen)
            goal.sweeps += 1
            V, TV = TV, V
        if pace.adapts:
            # V ← T_π V = r_π + γ P_π V
            policy = rows.following(choice)
            for _ in range(pace.of_policy):
                changes = backup(policy, V, TV)
                goal.sweeps += 1
                V, TV = TV, V
            settled = proof.size_of(changes)
            del policy


def _first_value(model: DeviceMDP) -> float:
    """A value below V*, so that V ≤ TV and none overshoots; at γ = 1 none such is known."""
    return 0.0 if model.gamma == 1.0 else min(0.0, model.least_reward) / (1.0 - model.gamma)


def _levels(model: DeviceMDP, goal: Goal) -> int:
    """How many steps from an end some states are, about; γ = 1.

    Raises ModelError where some can reach none under any policy.
    """
    onward = _unrewarded(model)
    reached = with_end(model.ends.to(torch.float64))
    reached[-1] = 1.0
    after, known, levels = reached.clone(), -1, 0
    while known != (known := int(reached.count_nonzero())):
        for _ in range(_UNSEEN):
            backup(onward, reached, after)
            # Sums of what is not negative: 0 only where no successor has been reached.
            after[:-1] = ((after[:-1] > 0) | model.ends).to(torch.float64)
            reached, after = after, reached
        levels += _UNSEEN
        goal.sweeps += _UNSEEN
        if goal.seconds > goal.max_seconds:
            return levels  # the time is over before they are known
    lost = to_host((reached[:-1] == 0).nonzero().flatten()).astype(np.int64)
    if lost.size:
        raise ModelError(
            f"{states(lost)} can reach no terminal state under any policy, so the value at gamma=1 "
            "is not finite; use gamma < 1, or let the episode end there"
        )
    return levels


def _may_gain(model: DeviceMDP) -> bool:
    """Whether something is earned where no terminal state may follow: perhaps again and again."""
    over = with_end((~model.live).to(torch.float64))
    over[-1] = 1.0
    return bool(((model.rows.r > 0) & (_unrewarded(model).q(over) == 0)).any())


def _unrewarded(model: DeviceMDP) -> Rows:
    r = model.rows.r
    return model.rows.rewarded(torch.zeros_like(r), torch.ones_like(r, dtype=torch.bool))


def _words(model: DeviceMDP) -> str:
    """How the model lies in memory, and what sweeps over it."""
    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    by = "a Triton kernel" if fused(device) else "torch's operations"
    return f"{model.rows.name} on {name}, swept by {by}"


def _memory_full(device: torch.device) -> RunError:
    return RunError(
        f"the memory of {device} is full, though the model seemed to fit: another process may have "
        "taken some; free it, or use device cpu"
    )
