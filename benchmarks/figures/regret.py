"""The exact regret of A2C and PPO in the four rooms, over 20 seeds, with intervals.

    python benchmarks/figures/regret.py [--runs 20] [--out FILE.png]

A learning curve is usually a mean of returns: noisy, and silent about how much more there was to
get. With a model the regret J(π*) − J(π) is computed, without noise and to any digit, so that it
can be drawn on a logarithmic scale (docs/exact_ruler.md), which below 0.01 goes on linearly, down
to 0, the optimum. Drawn are interquartile means over seeds with bootstrap intervals (Agarwal et al.
2021) of

- the exploring policy, which draws its actions from π and is what both agents optimise;
- the greedy policy, which takes the likeliest.

The rooms are those of Sutton, Precup & Singh, Between MDPs and semi-MDPs (1999), figure 2, here
with rlkit's slips of 20 %, a cost of 0.04 for each move and 1 in the goal. Both agents have the
same networks, steps and learning rate, and see the state's number.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from drawing import COLOURS, arguments, canvas, finish, line, rule, save, table

import rlkit
from rlkit.comparison.result import Comparison, Group
from rlkit.training.exact import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = 40_000
MEASUREMENTS = 40  # on the way
AGENTS: Mapping[str, Mapping[str, object]] = {
    "a2c": {"learning_rate": "2e-3:0"},
    # As many environments as A2C, and minibatches for so few steps; the rest is PPO's own.
    "ppo": {"learning_rate": "2e-3:0", "envs": 16, "n_steps": 32, "minibatch_size": 128},
}
ENV, ENV_OPTIONS = "gridworld", {"map": "four-rooms"}
POLICIES = ("exploring", "greedy")
LEVELS = (10, 1)  # % of the regret of random play, for the table
SOURCE = "rlkit · Agarwal et al. (2021), §4; four rooms of Sutton et al. (1999) · " + (
    "benchmarks/figures/regret.py"
)


def train(folder: str, runs: int, steps: int = STEPS, seed: int = 0) -> Measured:
    """Leave so many runs of each agent in `folder`; returns what the last one came to."""
    for agent, recipe in AGENTS.items():
        for k in range(seed, seed + runs):
            options = {
                "seed": k,
                "run_dir": folder,
                "eval_every": steps // MEASUREMENTS,
                "eval_episodes": 1,  # what they would estimate is computed
            }
            done = rlkit.train(
                agent, ENV, {"steps": steps, **recipe}, options, env_options=ENV_OPTIONS
            )
    assert done.exact is not None
    return done.exact


def compare(folder: str) -> dict[str, Comparison]:
    """The regret of the runs in `folder`, for each policy."""
    return {
        policy: rlkit.compare(Path(folder), metric=f"exact/{policy}_regret") for policy in POLICIES
    }


def random_regret(found: Measured) -> float:
    """J(π*) − J(random), where all runs begin."""
    assert found.random_value is not None
    return found.optimum - found.random_value


def first_below(group: Group, level: float) -> float | None:
    """The step from which on the interquartile mean stays below `level`."""
    above = (group.curve >= level).nonzero()[0]
    k = above[-1] + 1 if above.size else 0
    return float(group.x[k]) if k < group.x.size else None


def figure(found: Mapping[str, Comparison], random: float) -> Figure:
    """Regret over steps: of the exploring policies on the left, of the greedy ones on the right."""
    drawn, panels = canvas(2, "Exact regret of A2C and PPO in the four rooms", SOURCE)
    for axes, (policy, comparison) in zip(panels, found.items(), strict=True):
        draw(axes, comparison, random)
        finish(axes, f"{policy} policy", "environment steps", "regret J(π*) − J(π)")
    panels[0].legend(frameon=False, handlelength=3, loc="upper right", bbox_to_anchor=(1, 0.9))
    return drawn


def draw(axes: Axes, comparison: Comparison, random: float) -> None:
    for k, group in enumerate(comparison.groups):
        colour = COLOURS[k]
        for run in group.runs:
            axes.plot(run.steps, run.values, color=colour, linewidth=0.5, alpha=0.2)
        if group.low.size:
            axes.fill_between(group.x, group.low, group.high, color=colour, alpha=0.25, linewidth=0)
        line(axes, k, group.x, group.curve, group.label, width=2)
    linear = 10.0 ** math.floor(math.log10(random / 100))  # a power of ten, where the ticks are
    axes.set_yscale("symlog", linthresh=linear, subs=range(2, 10))
    axes.set(xlim=(0, None), ylim=(-linear / 6, random * 2))
    rule(axes, random, "play at random")
    rule(axes, 0.0, "optimal")
    rule(axes, linear, "below here linear", below=True, left=True)


def rows(found: Mapping[str, Comparison], random: float) -> list[list[str]]:
    """The table: what each agent's policies came to."""
    made = []
    for policy, comparison in found.items():
        for group in comparison.groups:
            iqm, steps = group.iqm, [first_below(group, random * each / 100) for each in LEVELS]
            interval = "" if iqm.low is None else f" [{iqm.low:.3f}, {iqm.high:.3f}]"
            made.append(
                [
                    f"`{group.label}`",
                    policy,
                    f"{iqm.value:.3f}{interval}",
                    f"{100 * iqm.value / random:.1f} %",
                    f"{min(group.scores):.3f} to {max(group.scores):.3f}",
                    *("never" if step is None else f"{step:,.0f}" for step in steps),
                ]
            )
    return made


def main() -> None:
    told = arguments(__doc__, "regret", runs=20)
    with tempfile.TemporaryDirectory() as folder:
        exact = train(folder, told.runs, seed=told.seed)
        found = compare(folder)
    random = random_regret(exact)
    print(f"J(π*) = {exact.optimum:.4f}, of random play {exact.random_value:.4f}.\n")
    table(
        [
            *("agent", "policy", "regret, IQM of seeds", "of random play's", "seeds"),
            *(f"{each} % of it for good from step" for each in LEVELS),
        ],
        rows(found, random),
    )
    save(figure(found, random), told.out)


if __name__ == "__main__":
    main()
