"""The random walk, Sutton & Barto (2018): errors over α in figures 7.2, 12.3 and 12.6.

    python benchmarks/figures/random_walk.py [--runs 100] [--out FILE.png]

19 states in a row; a step goes left or right by a coin; the left end pays −1, the right end 1. What
is drawn is the RMS error of the 19 values after an episode, averaged over the first 10 episodes and
over all runs, for n-step TD, the off-line λ-return algorithm, and TD(λ).

n-step TD is rlkit's n-step SARSA, which with one action in each state is the same; TD(λ) is rlkit's
own. The off-line λ-return algorithm, which is no agent but what TD(λ) approximates, stands here:

    G_t^λ = R_{t+1} + γ·[(1 − λ)·V(S_{t+1}) + λ·G_{t+1}^λ]                      (from eq. 12.2)
    V(S_t) ← V(S_t) + α·[G_t^λ − V(S_t)],  t = 0, 1, ..., T − 1                     (eq. 12.4)

once an episode is over, with all G^λ by the values from before it. All see the same walks. The
model is rlkit's `random-walk`. Its environment pays what is expected of a step, −½ and ½ beside the
ends; here each walk is paid where it ends, as in the book.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from copies import Paid, play
from drawing import arguments, canvas, finish, save, shade, table
from numpy.random import Generator

import rlkit
from rlkit.envs.model_env import ModelVectorEnv
from rlkit.envs.models import make_model
from rlkit.errors import RunError
from rlkit.experience.latest import Bools, Floats, Ints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LAMBDAS = (0.0, 0.4, 0.8, 0.9, 0.95, 0.975, 0.99, 1.0)
ALPHAS = (0.01, 0.02, 0.03, 0.05, 0.075, *(k / 20 for k in range(2, 21)))
EPISODES = 10
SOURCE = (
    "rlkit · Sutton & Barto (2018), figures 7.2, 12.3 and 12.6 · benchmarks/figures/random_walk.py"
)


def model() -> rlkit.MDP:
    """The walk of 19 states; γ = 1."""
    return make_model("random-walk").mdp


def paid_at_the_end(
    state: Ints, expected: Floats, terminated: Bools, generator: Generator
) -> Floats:
    """The rewards of the book: −1 where the left end is reached, 1 where the right one is."""
    return np.where(state == 0, -1.0, 1.0) * terminated


def walks(mdp: rlkit.MDP, runs: int) -> Paid:
    """So many of them side by side."""
    return Paid(ModelVectorEnv(mdp, runs), paid_at_the_end)


def agent_error(agent: str, recipe: dict[str, float], runs: int, seed: int = 0) -> float:
    """The mean error of one of rlkit's agents; ∞ where its values overflow."""
    mdp = model()
    true = rlkit.solve(mdp).values  # of the only policy
    total = 0.0
    told = {"gamma": 1.0, "initial_value": 0.0, **recipe}
    with np.errstate(over="ignore"), suppress(RunError):  # where traces are long and α is large
        for now in play(agent, walks(mdp, runs), told, EPISODES, seed):
            (over,) = np.nonzero(now.step.terminated & (now.episode < EPISODES))
            if over.size:
                total += rms(now.tables[0, over, :, 0] - true).sum()
        return total / (runs * EPISODES)
    return np.inf


def n_step_td(n: int, alpha: float, runs: int, seed: int = 0) -> float:
    """The mean error of n-step TD."""
    return agent_error("n-step-sarsa", {"n_step": n, "learning_rate": alpha}, runs, seed)


def td_lambda(lam: float, alpha: float, runs: int, seed: int = 0) -> float:
    """The mean error of TD(λ)."""
    return agent_error("td-lambda", {"trace_decay": lam, "learning_rate": alpha}, runs, seed)


def offline(lambdas: Sequence[float], alphas: Sequence[float], runs: int, seed: int = 0) -> Floats:
    """The mean errors of the off-line λ-return algorithm, (λ, α)."""
    mdp = model()
    true = rlkit.solve(mdp).values
    lam, alpha = np.array(lambdas)[:, None], np.array(alphas)
    errors = np.zeros((lam.size, alpha.size))
    for run in episodes(mdp, runs, seed):
        V = np.zeros((mdp.n_states, lam.size, alpha.size))
        for states, end in run:
            old, T = V.copy(), len(states)
            G = np.empty((T, lam.size, alpha.size))
            G[-1] = end
            for t in range(T - 2, -1, -1):
                # G_t^λ = R_{t+1} + γ·[(1 − λ)·V(S_{t+1}) + λ·G_{t+1}^λ], where R is 0 and γ is 1
                G[t] = (1 - lam) * old[states[t + 1]] + lam * G[t + 1]
            for s, target in zip(states, G, strict=True):
                # V(S_t) ← V(S_t) + α·[G_t^λ − V(S_t)]                              (eq. 12.4)
                V[s] += alpha * (target - V[s])
            errors += rms(np.moveaxis(V, 0, -1) - true)
    return errors / (runs * EPISODES)


Episode = tuple[list[int], float]  # the states, and the reward of the last step


def episodes(mdp: rlkit.MDP, runs: int, seed: int) -> list[list[Episode]]:
    """The first episodes of each run: the walks that the agents see with this seed."""
    seen: list[list[Episode]] = [[([], 0.0)] for _ in range(runs)]
    for now in play("td-lambda", walks(mdp, runs), {}, EPISODES, seed):
        for run in np.flatnonzero(now.step.valid & (now.episode < EPISODES)):
            seen[run][-1][0].append(int(now.state[run]))
            if now.step.terminated[run]:
                seen[run][-1] = seen[run][-1][0], float(now.step.reward[run])
                seen[run].append(([], 0.0))
    return [each[:EPISODES] for each in seen]


def rms(error: Floats) -> Floats:
    """The root of the mean square over the last axis."""
    root: Floats = np.sqrt(np.mean(error**2, axis=-1))
    return root


@dataclass(frozen=True)
class Method:
    """Errors of one method, (settings, ALPHAS), each setting a value of its n or λ."""

    name: str
    figure: str
    symbol: str
    settings: Sequence[float]
    errors: Floats

    def best(self) -> tuple[float, float, float]:
        """The least error, and the setting and α that it has."""
        i, j = np.unravel_index(np.argmin(self.errors), self.errors.shape)
        return float(self.errors[i, j]), self.settings[int(i)], ALPHAS[int(j)]


def measure(runs: int, seed: int = 0) -> list[Method]:
    """All three methods over all settings; minutes for 100 runs."""
    n_step = np.array([[n_step_td(n, alpha, runs, seed) for alpha in ALPHAS] for n in NS])
    traces = np.array([[td_lambda(lam, alpha, runs, seed) for alpha in ALPHAS] for lam in LAMBDAS])
    returns = offline(LAMBDAS, ALPHAS, runs, seed)
    return [
        Method("n-step TD", "7.2", "n", NS, n_step),
        Method("off-line λ-return", "12.3", "λ", LAMBDAS, returns),
        Method("TD(λ)", "12.6", "λ", LAMBDAS, traces),
    ]


def figure(methods: Sequence[Method]) -> Figure:
    """The errors over α, a panel for each method."""
    drawn, panels = canvas(3, "19-state random walk, first 10 episodes", SOURCE, height=4.8)
    for axes, method in zip(panels, methods, strict=True):
        last = len(method.settings) - 1
        for k, (setting, errors) in enumerate(zip(method.settings, method.errors, strict=True)):
            label = f"{method.symbol} = {setting:g}"
            dashes = "-" if k % 2 == 0 else "--"
            axes.plot(ALPHAS, errors, dashes, color=shade(k / last), linewidth=1.5, label=label)
        axes.set(xlim=(0, 1), ylim=(0.24, 0.56))
        finish(axes, f"{method.name} (figure {method.figure})", "step size α", "RMS error")
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
        axes.legend(
            frameon=False, fontsize=7.5, ncols=4, columnspacing=0.8, handlelength=1.4, **place
        )
    return drawn


def main() -> None:
    told = arguments(__doc__, "random_walk", runs=100)
    methods = measure(told.runs, told.seed)
    table(
        ["method", "figure", "least RMS error", "with", "α"],
        [
            [
                it.name,
                it.figure,
                f"{it.best()[0]:.3f}",
                f"{it.symbol} = {it.best()[1]:g}",
                f"{it.best()[2]:g}",
            ]
            for it in methods
        ],
    )
    for it in methods:
        print()
        table(
            [it.symbol, "least RMS error", "α"],
            [
                [
                    f"{setting:g}",
                    f"{np.min(errors):.3f}",
                    f"{ALPHAS[int(np.argmin(errors))]:g}",
                ]
                for setting, errors in zip(it.settings, it.errors, strict=True)
            ],
        )
    save(figure(methods), told.out)


if __name__ == "__main__":
    main()
