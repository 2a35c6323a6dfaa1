"""`rlkit solve MODEL --distributed`: one of several processes that solve a model together.

Rank 0 speaks for all of them. This module imports torch; `rlkit solve` imports it only then.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from rlkit.cli.output import console, emit_json
from rlkit.cli.ranks import on_ranks
from rlkit.cli.show import lines
from rlkit.cli.solve import GAMMA, Asked, check_files, made_env, whole_model
from rlkit.cli.solve_progress import SolveProgress
from rlkit.envs.models import model_in_parts
from rlkit.errors import RlkitError, RlkitWarning, UsageError
from rlkit.mdp.distributed.part import Facts, PartSolution
from rlkit.mdp.distributed.solve import METHODS, solve_distributed
from rlkit.mdp.formats import is_model_file
from rlkit.mdp.generate import Generated
from rlkit.mdp.model import MDP
from rlkit.ranks import Ranks
from rlkit.registry import MODELS


def solve_on_ranks(
    asked: Asked, save: Path | None, rank_timeout: float | None, as_json: bool
) -> int:
    """Solve as this rank of the job that the environment variables name; the exit status."""
    return on_ranks(lambda ranks: _solve(asked, save, ranks, as_json), rank_timeout)


def _solve(asked: Asked, save: Path | None, ranks: Ranks, as_json: bool) -> int:
    failure: RlkitError | None = None
    name, model, gamma = "", None, None
    try:
        if ranks.rank == 0:
            check_files(save, None)
        name, model, gamma = _model(asked)
    except RlkitError as error:
        failure = error
    ranks.share_error(failure)
    assert model is not None
    part = _part(asked, model, gamma, ranks)
    out = console(as_json)
    if ranks.rank == 0:
        out.print(lines(_told(name, model, part.facts)), end="")
    if save is not None:
        written = _save(part, save, ranks)
        if ranks.rank == 0:
            out.print(written)
    if ranks.rank == 0 and as_json:
        emit_json({"env": name, **asdict(part.facts)})
    return 0


def _model(asked: Asked) -> tuple[str, Generated | MDP, float | None]:
    """What is to be solved, what it is called, and the discount of what has none of its own."""
    options = {**asked.given, **asked.env_options}
    if asked.env in MODELS:
        found = model_in_parts(asked.env, asked.gamma, options)
        if found is not None:
            return asked.env, *found
    elif not is_model_file(asked.env):
        name, made = made_env(asked.env, asked.given, asked.env_options)
        in_parts = getattr(made.unwrapped, "in_parts", None)
        if in_parts is not None:
            return name, in_parts(), GAMMA if asked.gamma is None else asked.gamma
    whole = whole_model(asked.env, asked.given, asked.env_options, asked.gamma)
    return whole.name, whole.mdp, None


def _part(asked: Asked, model: Generated | MDP, gamma: float | None, ranks: Ranks) -> PartSolution:
    method = METHODS[0] if asked.method == "auto" else asked.method
    speaks = ranks.rank == 0
    progress = SolveProgress(console(as_json=True), asked.tol) if speaks else None
    with warnings.catch_warnings(record=True) as caught, progress or nullcontext():
        warnings.simplefilter("always", RlkitWarning)
        part = solve_distributed(
            model,
            gamma,
            method,
            asked.tol,
            asked.max_seconds,
            ranks=ranks,
            watch=progress.watch if progress else None,
        )
    for found in caught if speaks else []:
        warnings.showwarning(found.message, found.category, found.filename, found.lineno)
    return part


def _told(name: str, model: Generated | MDP, facts: Facts) -> dict[str, str]:
    """Facts on the model, on how it was solved and on what each rank had to do, with labels."""
    told = {
        "model": name,
        "states": f"{facts.n_states:,}",
        "state-action pairs": f"{facts.n_pairs:,}",
        "discount": f"{facts.gamma:g}",
        "method": facts.method,
        "ranks": f"{facts.ranks:,}",
        "sweeps": f"{facts.sweeps:,}",
        "seconds": f"{facts.seconds:.3g}, {facts.exchange_seconds:.2g} of them on other ranks",
        "sent per sweep": f"{facts.bytes_per_sweep:,} bytes ({facts.exchange})",
        "values of others": f"{facts.most_halo:,} at most on a rank",
        "memory of a rank": f"{facts.most_rank_bytes / 2**20:,.1f} MiB at most while it sweeps",
        "certified error": f"at most {facts.error_bound:.2g} in any state",
    }
    if isinstance(model, MDP):
        told["memory of a rank"] += "; the model was made whole on each before"
    elif model.sequential:
        told["memory of a rank"] += "; the model was drawn whole on each, and a part kept"
    if facts.start_value is not None:
        told["value of the start"] = f"{facts.start_value:.6g}"
    return told


def _save(part: PartSolution, path: Path, ranks: Ranks) -> str:
    """Write the whole solution on rank 0 or, where it has no room, a part on each; says so."""
    try:
        whole = part.gather(ranks)
    except UsageError:
        part.save(path.with_name(f"{path.name}.{ranks.rank}"))
        return f"saved {path}.0 to {path}.{ranks.size - 1}, a part each: rank 0 has no room for all"
    if whole is not None:
        whole.save(path)
    return f"saved {path}"
