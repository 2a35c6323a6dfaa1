"""What the best policy of a run's environment gets, by the environment's exact model.

It is the ruler that learning curves are drawn against. torch is not imported.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from rlkit.agents.backward_induction import backward_induction
from rlkit.comparison.result import Optimum
from rlkit.envs.make import make_env
from rlkit.envs.model_env import ModelEnv
from rlkit.envs.names import facts_of, resolve, runs_code
from rlkit.errors import RlkitError, RlkitWarning, UsageError
from rlkit.mdp.model import MDP
from rlkit.mdp.solve import solve
from rlkit.training.exact_model import varies

_MOST_WORK = 1_000_000_000  # transitions times steps: some seconds
_MAX_SECONDS = 20.0


@dataclass(frozen=True)
class Task:
    """A run's environment, where it is one that may be made: its model at γ = 1, and its limit."""

    mdp: MDP
    max_episode_steps: int | None


def task_of(config: Mapping[str, Any]) -> tuple[Task | None, str]:
    """The exact model of the environment that a run's config names; None, and why, without one.

    A run may be a stranger's: an environment that is code outside the registry is not imported.
    """
    name, options = str(config["env"]), config.get("env_options") or {}
    if config.get("env_given") != "name" or runs_code(name):
        return None, "its environment is code outside the run, which is not looked into"
    try:
        resolved = resolve(name)
        with closing(make_env(name, options)) as env, closing(make_env(name, options)) as again:
            inner = env.unwrapped
            if not (hasattr(inner, "P") or hasattr(inner, "mdp")):
                return None, ""
            env.reset(seed=0)
            mdp = MDP.from_gymnasium(env, 1.0)
            if varies(again, mdp):
                return None, "each environment that is made, or each episode, has another model"
    except RlkitError as error:
        return None, str(error)
    if mdp.start is None and isinstance(inner, ModelEnv):  # where its episodes begin, then
        start = np.zeros(mdp.n_states)
        start[mdp.live] = 1.0 / len(mdp.live)
        mdp = replace(mdp, start=start)
    if mdp.start is None:
        return None, "its model does not say where episodes begin"
    return Task(mdp, facts_of(resolved.name, resolved.spec, options).max_episode_steps), ""


def best_of(task: Task, gamma: float, timed: bool, with_random: bool = False) -> Optimum:
    """What the best policy gets on a task, in expectation.

    With a time limit of H steps it is the optimum of H steps over policies that may look at the
    step, by backward induction (Puterman 1994, §4.5): no policy beats it. Without one it is the
    optimum of the model.

    Args:
        task: see `task_of`.
        gamma: the discount; 1 for returns as they are usually measured.
        timed: whether the environment's time limit ends what is measured, as it ends returns.
        with_random: whether what playing uniformly at random gets is worked out, too.

    Raises:
        UsageError: the value is unbounded or undefined (γ = 1), or takes too long to work out.
    """
    mdp = replace(task.mdp, gamma=gamma)
    steps = task.max_episode_steps if timed else None
    value, error = _start_value(mdp, steps)
    random = _start_value(_at_random(mdp), steps)[0] if with_random else None
    within = "" if steps is None else f", {steps:,} steps at most"
    return Optimum(
        value, ("undiscounted" if gamma == 1 else f"γ = {gamma:g}") + within, error, random
    )


def _start_value(mdp: MDP, steps: int | None) -> tuple[float, float]:
    """The optimal value of the first state, and a bound on its error."""
    if steps is not None:
        work = (mdp.P.nnz + mdp.n_pairs) * steps
        if work > _MOST_WORK:
            raise UsageError(
                f"{mdp.P.nnz:,} transitions over {steps:,} steps take too long to solve here; "
                "rlkit solve --horizon does"
            )
        finite = backward_induction(mdp, steps)
        assert finite.start_value is not None
        return finite.start_value, finite.error_bound
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RlkitWarning)  # the bound says it
        solution = solve(mdp, max_seconds=_MAX_SECONDS)
    assert solution.start_value is not None
    if not math.isfinite(solution.error_bound):
        raise UsageError(f"its model was not solved within {_MAX_SECONDS:g} s; rlkit solve does")
    return solution.start_value, solution.error_bound


def _at_random(mdp: MDP) -> MDP:
    """The model whose one action is to take any admissible action, all equally probable."""
    live, counts = mdp.live, np.diff(mdp.offsets)[mdp.live]
    rows = np.repeat(np.arange(len(live)), counts)
    weights = csr_array(  # (live states, L)
        (np.repeat(1.0 / counts, counts), (rows, np.arange(mdp.n_pairs))),
        shape=(len(live), mdp.n_pairs),
    )
    offsets = np.concatenate([[0], np.cumsum(~mdp.terminal)])
    P = (weights @ mdp.P).tocsr()
    return MDP.from_pairs(P, weights @ mdp.r, offsets, mdp.gamma, start=mdp.start)
