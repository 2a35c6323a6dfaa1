"""`rlkit solve MODEL`: a finite MDP's optimal values and policy, with certified bounds."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import gymnasium as gym
from click.core import ParameterSource

from rlkit.cli.launch import rank_options, refuse_together, several
from rlkit.cli.output import console, emit_json, json_option
from rlkit.cli.show import AnySolution, show_solution, summary
from rlkit.cli.solve_compare import show_comparison
from rlkit.cli.solve_progress import INTERRUPTED, SolveProgress
from rlkit.cli.train import EnvOption
from rlkit.envs.gridmap import NAMED_MAPS
from rlkit.envs.limits import flags
from rlkit.envs.make import make_env
from rlkit.envs.models import Model, make_model
from rlkit.envs.names import ResolvedEnv, resolve, unversioned
from rlkit.errors import RlkitWarning, UsageError
from rlkit.mdp.criteria import AverageSolution, FiniteHorizonSolution
from rlkit.mdp.draw_grid import layout_of
from rlkit.mdp.formats import is_model_file
from rlkit.mdp.formats import load as load_file
from rlkit.mdp.model import MDP
from rlkit.mdp.plot import check_plot, plot
from rlkit.mdp.solution import Solution
from rlkit.mdp.solve import solve
from rlkit.mdp.solver import InterruptedWarning
from rlkit.registry import CRITERIA, ENVS, MODELS, SOLVERS, did_you_mean, load, unknown

_DEFAULTS = {name: about.default for name, about in inspect.signature(solve).parameters.items()}
GAMMA = 0.99
_FILE_OPTIONS = ("costs", "goal", "rewards")
_EXCLUDED = {
    "--compare": ("--method", "--policy", "--save", "--threads", "--horizon", "--average"),
    "--average": ("--gamma", "--method", "--max-seconds", "--threads", "--plot"),
    "--horizon": ("--method", "--max-seconds", "--threads"),
    "--distributed": (
        *("--compare", "--threads", "--average", "--horizon", "--policy", "--plot", "--device"),
    ),
    "--device": ("--compare", "--threads", "--average", "--horizon"),
}


@click.command(
    name="solve",
    epilog="""
    \b
    Examples:
    rlkit solve gridworld --slip 0.1 --plot grid.png
    rlkit solve jacks-car-rental --policy
    rlkit solve maze --size 30 --gamma 0.999
    rlkit solve maze --size 60 --compare all --plot curves.png
    rlkit solve forest --env-option ages=50 --average
    rlkit solve model.drn --env-option rewards=energy --env-option costs=True
    """,
)
@click.argument("env", metavar="MODEL")
@click.option(
    "--map", "map_", metavar="FILE", help=f"gridworld: a text file, or {', '.join(NAMED_MAPS)}."
)
@click.option("--size", type=int, metavar="N", help="gridworld: a random maze of N x N cells.")
@click.option("--slip", type=float, metavar="P", help="gridworld: probability of a move to a side.")
@click.option(
    "--env-option",
    "env_options",
    multiple=True,
    type=EnvOption(),
    help="Any option of the model, such as size=5 (repeatable); of a file rewards, goal or costs.",
)
@click.option(
    "--method",
    default=_DEFAULTS["method"],
    metavar="M",
    show_default=True,
    help=f"{', '.join(SOLVERS)} or auto.",
)
@click.option(
    "--compare",
    "compared",
    metavar="M,M,...",
    help="Solve by each of these methods, or all; --plot then draws how their errors fall.",
)
@click.option(
    "--gamma",
    type=float,
    metavar="G",
    help=f"Discount per step, 0 to 1; a model's own goes first.  [default: {GAMMA}]",
)
@click.option(
    "--tol",
    type=float,
    default=_DEFAULTS["tol"],
    metavar="T",
    show_default=True,
    help="Largest error that a value may have.",
)
@click.option(
    "--max-seconds",
    type=float,
    default=_DEFAULTS["max_seconds"],
    metavar="S",
    help="Stop after about so many, with what is certified by then.  [default: no limit]",
)
@click.option(
    "--threads",
    type=int,
    default=_DEFAULTS["threads"],
    metavar="N",
    show_default=True,
    help="How many share the sweeps over a large model.",
)
@click.option(
    "--device",
    default=_DEFAULTS["device"],
    metavar="D",
    show_default=True,
    help="auto, cpu, cuda or cuda:I; a GPU sweeps over large models only where asked.",
)
@click.option("--horizon", type=int, metavar="H", help="Only H steps; the policy depends on them.")
@click.option("--average", is_flag=True, help="The best average reward per step, without end.")
@click.option("--policy", "policy_alone", is_flag=True, help="Show the policy alone, all of it.")
@click.option("--save", type=Path, metavar="FILE.npz", help="Write values, policy, Q and bounds.")
@click.option("--plot", "picture", type=Path, metavar="FILE.png", help="Draw a picture.")
@json_option
def command(
    env: str,
    map_: str | None,
    size: int | None,
    slip: float | None,
    env_options: tuple[tuple[str, Any], ...],
    method: str,
    compared: str | None,
    gamma: float | None,
    tol: float,
    max_seconds: float,
    threads: int,
    device: str,
    horizon: int | None,
    average: bool,
    policy_alone: bool,
    save: Path | None,
    picture: Path | None,
    distributed: bool,
    rank_timeout: float | None,
    as_json: bool,
) -> int:
    """Solve MODEL exactly, with certified bounds on every value.

    MODEL is the name of a model (see 'rlkit list models'), a model's file (.npz, .csv, .drn, .tra,
    .mdp, .pomdp), gridworld, a Gymnasium environment with a model (FrozenLake, FrozenLake8x8,
    CliffWalking, Taxi), an id, or module:EnvId.
    """
    on_ranks = several(distributed)
    _check_together(on_ranks)
    shorthands = {"map": map_, "size": size, "slip": slip}
    given = {name: value for name, value in shorthands.items() if value is not None}
    if on_ranks:
        from rlkit.cli.solve_distributed import solve_on_ranks  # imports torch

        asked = Asked(env, given, dict(env_options), gamma, method, tol, max_seconds)
        return solve_on_ranks(asked, save, rank_timeout, as_json)
    check_files(save, picture)
    model = whole_model(env, given, dict(env_options), gamma)
    if compared is not None:
        return show_comparison(model, compared, tol, max_seconds, picture, as_json)
    run = partial(solve, model.mdp, method, tol, max_seconds, threads=threads, device=device)
    solution, interrupted = _solved(model.mdp, run, tol, horizon, average)

    out = console(as_json)
    out.print(summary(model, method, solution), end="")
    show_solution(out, solution, model, policy_alone)
    if save is not None:
        solution.save(save)
        out.print(f"saved {save}")
    if picture is not None and not isinstance(solution, AverageSolution):
        plot(solution, picture, model.layout, title=model.name)
        out.print(f"drew {picture}")
    if as_json:
        emit_json(_as_json(model, solution))
    return INTERRUPTED if interrupted else 0


command.params.extend(rank_options())


@dataclass(frozen=True)
class Asked:
    """What is to be solved and how, as the command line has it; `given` are gridworld's options."""

    env: str
    given: Mapping[str, Any]
    env_options: Mapping[str, Any]
    gamma: float | None
    method: str
    tol: float
    max_seconds: float


def check_files(save: Path | None, picture: Path | None) -> None:
    """Say before solving what could not be written after it."""
    if picture is not None:
        check_plot(picture)
    for option, path in (("--save", save), ("--plot", picture)):
        if path is None:
            continue
        there = path.exists()
        try:
            path.open("ab").close()
        except OSError as error:
            raise UsageError(
                f"{option} {str(path)!r} can't be written: {error.strerror}; name a file in a "
                "folder that exists and may be written to"
            ) from error
        if not there:
            path.unlink()


def _check_together(on_ranks: bool) -> None:
    """Refuse options that exclude one another."""
    context = click.get_current_context()
    source = context.get_parameter_source
    given = {
        option.opts[0]
        for option in context.command.params
        if option.name is not None and source(option.name) is ParameterSource.COMMANDLINE
    }
    if on_ranks and "--distributed" not in given:
        refuse_together(option for option in _EXCLUDED["--distributed"] if option in given)
    if given >= {"--average", "--horizon"}:
        raise UsageError("--average and --horizon are both given; give one of them")
    for option, excluded in _EXCLUDED.items():
        for other in excluded:
            if given >= {option, other}:
                raise UsageError(f"{other} does not go with {option}; leave one of them out")


def whole_model(
    env: str, given: Mapping[str, Any], env_options: Mapping[str, Any], gamma: float | None
) -> Model:
    """What `env` stands for: a model's name, a file, or an environment."""
    if env in MODELS:
        return make_model(env, gamma, {**given, **env_options})
    if is_model_file(env):
        return _from_file(env, given, env_options, gamma)
    name, made = made_env(env, given, env_options)
    mdp = MDP.from_gymnasium(made, GAMMA if gamma is None else gamma)
    return Model(name, mdp, layout_of(made))


def made_env(
    env: str, given: Mapping[str, Any], env_options: Mapping[str, Any]
) -> tuple[str, gym.Env[Any, Any]]:
    """The environment that `env` stands for, and its name."""
    resolved = _resolved(env)
    if given and (resolved.spec is None or resolved.spec.id != ENVS["gridworld"].id):
        shown = ", ".join(f"--{name}" for name in given)
        raise UsageError(f"{shown}: for gridworld alone, not for {resolved.name}; leave it out")
    return resolved.name, make_env(resolved.name, {**given, **env_options})


def _from_file(
    name: str, given: Mapping[str, Any], env_options: Mapping[str, Any], gamma: float | None
) -> Model:
    if given:
        shown = ", ".join(f"--{option}" for option in given)
        raise UsageError(f"{shown}: for gridworld alone, not for a file; leave it out")
    for option in env_options:
        if option not in _FILE_OPTIONS:
            hint = did_you_mean(option, _FILE_OPTIONS, f"it takes: {', '.join(_FILE_OPTIONS)}")
            raise UsageError(f"model file {name!r} has no option {option!r}; {hint}")
    chosen = {option: str(env_options[option]) for option in env_options if option != "costs"}
    costs = env_options.get("costs", False)
    flags(costs=costs)
    return Model(name, load_file(name, gamma, costs=costs, otherwise=GAMMA, **chosen))


def _resolved(env: str) -> ResolvedEnv:
    """The environment called `env`; where there is none, the nearest names, models included."""
    try:
        return resolve(env)
    except UsageError as error:
        names = {*MODELS, *ENVS, *map(unversioned, gym.registry.values())}
        if ":" in env or env.endswith(".py") or not did_you_mean(env, MODELS, ""):
            raise
        raise unknown("env", env, names) from error


def _solved(
    mdp: MDP,
    run: Callable[..., Solution],
    tol: float,
    horizon: int | None,
    average: bool,
) -> tuple[AnySolution, bool]:
    """The solution, and whether Ctrl-C cut it short. run: solves it, told whom to tell."""
    if horizon is not None:
        with SolveProgress(console(as_json=True), tol, steps=horizon) as progress:
            within = load(CRITERIA["horizon"])
            finite: FiniteHorizonSolution = within(mdp, horizon, watch=progress.watch)
        return finite, False
    if average:
        with SolveProgress(console(as_json=True), tol) as progress:
            endless: AverageSolution = load(CRITERIA["average"])(mdp, tol, watch=progress.watch)
        return endless, False
    with (
        warnings.catch_warnings(record=True) as caught,
        SolveProgress(console(as_json=True), tol) as progress,
    ):
        warnings.simplefilter("always", RlkitWarning)
        solution = run(watch=progress.watch)
    for found in caught:  # below the progress, and never lost to a filter
        warnings.showwarning(found.message, found.category, found.filename, found.lineno)
    return solution, any(issubclass(found.category, InterruptedWarning) for found in caught)


def _as_json(model: Model, solution: AnySolution) -> dict[str, Any]:
    """One object for programs: what was solved, and what is most asked for of the solution."""
    about = {"env": model.name, "method": solution.method}
    sizes = {"states": model.mdp.n_states, "pairs": model.mdp.n_pairs}
    cost = {"seconds": solution.seconds, "error_bound": solution.error_bound}
    if isinstance(solution, AverageSolution):
        gain = {"gain": solution.gain, "lower": solution.lower, "upper": solution.upper}
        return {**about, **sizes, "sweeps": solution.sweeps, **cost, **gain}
    start = {"start_value": solution.start_value}
    discounted = {**about, "gamma": solution.gamma, **sizes}
    if isinstance(solution, FiniteHorizonSolution):
        return {**discounted, "horizon": solution.horizon, **cost, **start}
    return {**discounted, "sweeps": solution.sweeps, **cost, **start}
