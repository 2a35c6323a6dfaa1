"""Transfer from a small maze to a large one: from scratch, with a frozen encoder, fine-tuned.

    python benchmarks/figures/transfer.py [--out FILE.png] [--runs 8]

DQN learns a maze of 7 x 7 cells, seen as row and column scaled to [0, 1]. Its encoder, two hidden
layers, is given to new runs on a maze of 21 x 21: the same maze with every cell three by three, or
another one. What is drawn is exact: the regret J(π*) − J(π) of the greedy policy, by the model, and
not estimated from episodes. So what remains is chance between seeds, each of which has small runs
of its own; a line is the mean over seeds, a pale one a seed.

The runs on the small maze take SMALL_STEPS steps, which the axes do not count.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from drawing import COLOURS, arguments, canvas, finish, line, save, table
from numpy.typing import NDArray

import rlkit
from rlkit.envs.mazes import perfect_maze

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE, SCALE = 4, 3  # rooms of the small maze, and how many times as wide the large one is
MAZE, OTHER = 1, 3  # seeds of mazes
SMALL_STEPS, STEPS = 40_000, 60_000
MEASURED = 15  # times in a run
RECIPE = {
    "envs": 16,
    "hidden": (64, 64),
    "learning_rate": "1e-3:1e-4",
    "batch_size": 64,
    "gradient_steps": 8,
    "target_interval": 100,
    "n_step": 5,
    "buffer_size": 50_000,
    "exploration": "1:0.1@0.5",
}
REGRET = "exact/greedy_regret"
SOURCE = "rlkit · DQN, mean of seeds · benchmarks/figures/transfer.py"

Curves = NDArray[np.float64]  # (seeds, measurements)


@dataclass(frozen=True)
class Found:
    """The regret of each way, by its panel and its name, at the steps (measurements,)."""

    steps: NDArray[np.int64]
    regret: dict[str, dict[str, Curves]]


def scaled(rows: Sequence[str], k: int) -> str:
    """A map of which every cell is k x k cells, as text."""
    return "\n".join("".join(mark * k for mark in row) for row in rows for _ in range(k))


def learn(home: str, maze: str, seed: int, steps: int, **options: Any) -> rlkit.Trained:
    """A run on a maze's map."""
    env_options = {
        "source": "gridworld",
        "map": maze,
        "slip": 0.1,
        "observe": "coordinates",
        "max_episode_steps": 500,
    }
    told = {
        "run_dir": home,
        "seed": seed,
        "device": "cpu",
        "eval_every": steps // MEASURED,
        "eval_episodes": 1,
    }
    recipe = RECIPE | {"steps": steps}
    return rlkit.train("dqn", "model", recipe, told | options, env_options=env_options)


def regrets(run: Path) -> dict[int, float]:
    """The regret by step, as often as the run measured it."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {found["step"]: found[REGRET] for found in lines if REGRET in found}


def measure(runs: int, seed: int) -> Found:
    small, other = (perfect_maze(SIZE, maze) for maze in (MAZE, OTHER))
    large = scaled(small, SCALE)
    found: dict[str, dict[str, list[dict[int, float]]]] = {"the same maze": {}, "another maze": {}}
    with tempfile.TemporaryDirectory() as home:
        for k in range(seed, seed + runs):
            scratch = regrets(learn(home, large, k, STEPS).run)
            for panel, maze in zip(found.values(), (small, other), strict=True):
                source = str(learn(home, scaled(maze, 1), k, SMALL_STEPS).run)
                tuned = learn(home, large, k, STEPS, encoder_from=source)
                kept = learn(home, large, k, STEPS, encoder_from=source, freeze_encoder=True)
                panel.setdefault("scratch", []).append(scratch)
                panel.setdefault("fine-tuned", []).append(regrets(tuned.run))
                panel.setdefault("frozen", []).append(regrets(kept.run))
    steps = sorted(scratch)

    def curves(each: Sequence[dict[int, float]]) -> Curves:
        return np.array([[curve[step] for step in steps] for curve in each])

    regret = {t: {way: curves(each) for way, each in ways.items()} for t, ways in found.items()}
    return Found(np.array(steps), regret)


def figure(found: Found) -> Figure:
    """Exact regret against steps, a panel for each maze that the encoder comes from."""
    drawn, panels = canvas(2, "From a 7 x 7 maze to a 21 x 21 one, in exact regret", SOURCE)
    for axes, (title, ways) in zip(panels, found.regret.items(), strict=True):
        for k, (way, curves) in enumerate(ways.items()):
            axes.plot(found.steps, curves.T, color=COLOURS[k], alpha=0.2, linewidth=0.8)
            line(axes, k, found.steps, curves.mean(0), way, width=2.0)
        finish(axes, f"encoder from {title}", "step on the large maze", "regret J(π*) − J(π)")
        axes.set_ylim(bottom=0)
    panels[0].sharey(panels[1])
    panels[0].legend(frameon=False, fontsize=8, handlelength=3)
    return drawn


def rows(found: Found) -> list[list[str]]:
    """Regret on the way and at the end: the mean over seeds, and all of them."""

    def row(title: str, way: str, curves: Curves) -> list[str]:
        last = np.sort(curves[:, -1])
        each = ", ".join(f"{x:.2f}" for x in last)
        return [title, way, f"{curves.mean():.2f}", f"{last.mean():.2f}", each]

    found_rows = [
        row(title, way, curves)
        for title, ways in found.regret.items()
        for way, curves in ways.items()
    ]
    first = ["-", *found_rows[0][1:]]  # no encoder: the same runs in both panels
    return [first, *(r for r in found_rows if r[1] != "scratch")]


def main() -> None:
    told = arguments(__doc__, "transfer", runs=8)
    found = measure(told.runs, told.seed)
    header = ["encoder from", "", "regret, mean over the run", "at the end", "of each seed"]
    table(header, rows(found))
    save(figure(found), told.out)


if __name__ == "__main__":
    main()
