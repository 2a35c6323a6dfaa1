"""Maximisation bias, Sutton & Barto (2018), figure 6.5: Q-learning against double Q-learning.

    python benchmarks/figures/maximisation_bias.py [--runs 10000] [--out FILE.png]

From A, right ends with 0 and left leads to B, where all ten actions end with a reward drawn from
N(−0.1, 1): left is the worse move, by 0.1. Q-learning values B by the largest of ten noisy
estimates, and so is drawn to the left; double Q-learning has one table choose and the other value.
α = 0.1, ε = 0.1, γ = 1, all values begin at 0, and equal ones are chosen from at random, all as in
the book, which leaves open how many actions B has.

The model is rlkit's `maximisation-bias`. Its environment pays what is expected, so the noise is
added here, to each reward from B, as the book has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from copies import Paid, play
from drawing import arguments, canvas, finish, line, rule, save, table
from numpy.random import Generator

from rlkit.envs.model_env import ModelVectorEnv
from rlkit.envs.models import make_model
from rlkit.experience.latest import Bools, Floats, Ints

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AGENTS = ("q-learning", "double-q-learning")
EPISODES = 300
EPSILON = 0.1
RATES = {"gamma": 1.0, "learning_rate": 0.1, "exploration": EPSILON, "initial_value": 0.0}
A, B, LEFT = 0, 1, 0
MEAN = -0.1  # of the rewards from B
SOURCE = "rlkit · Sutton & Barto (2018), figure 6.5 · benchmarks/figures/maximisation_bias.py"


def noisy(state: Ints, expected: Floats, terminated: Bools, generator: Generator) -> Floats:
    """The rewards of the book: those from B are normal, of deviation 1."""
    from_b = (state == B) & terminated  # not the step that begins the next episode
    return np.asarray(expected + from_b * generator.normal(size=from_b.size))


@dataclass(frozen=True)
class Learned:
    """What became of one agent, averaged over its runs, at the beginning of each episode.

    Fields:
        left: (episodes,) the share of runs that go left from A.
        value: (episodes,) what B is worth to it, which truly is −0.1: Q-learning takes the largest
            of its estimates, double Q-learning the one table's estimate of the other's choice.
    """

    left: Floats
    value: Floats


def measure(agent: str, runs: int, episodes: int = EPISODES, seed: int = 0) -> Learned:
    """Have `agent` learn in so many runs."""
    mdp = make_model("maximisation-bias").mdp
    left, value = np.zeros((2, episodes))
    for now in play(agent, Paid(ModelVectorEnv(mdp, runs), noisy), RATES, episodes, seed):
        (begins,) = np.nonzero(now.step.valid & (now.state == A) & (now.episode < episodes))
        # Nothing is learned of B as A is left, so that this is what was known before.
        q_b = now.tables[:, begins, B]  # (tables, runs, actions)
        worth = np.take_along_axis(q_b[-1], q_b[0].argmax(-1)[:, None], -1)[:, 0]
        np.add.at(left, now.episode[begins], now.step.action[begins] == LEFT)
        np.add.at(value, now.episode[begins], worth)
    return Learned(left / runs, value / runs)


def figure(found: dict[str, Learned]) -> Figure:
    """The share of left moves, and what B is thought to be worth, by episode."""
    drawn, (moves, values) = canvas(2, "Maximisation bias", SOURCE)
    for k, (agent, learned) in enumerate(found.items()):
        episodes = np.arange(1, len(learned.left) + 1)
        line(moves, k, episodes, 100 * learned.left, agent)
        line(values, k, episodes, learned.value, agent)
    rule(moves, 100 * EPSILON / 2, "5 %: the least that ε = 0.1 allows", below=True)
    rule(values, MEAN, "exact: −0.1", below=True)
    moves.set(xlim=(0, EPISODES), ylim=(-4, 100))
    values.set(xlim=(0, EPISODES))
    finish(moves, "moves to the left from A, where right is better", "episode", "% of runs")
    finish(values, "what the agent thinks B is worth", "episode", "value")
    moves.legend(frameon=False, handlelength=3)
    return drawn


def main() -> None:
    told = arguments(__doc__, "maximisation_bias", runs=10_000)
    found = {agent: measure(agent, told.runs, seed=told.seed) for agent in AGENTS}
    table(
        ["agent", "% left in episode 1", "most", "in episode 100", "in the last 10", "B is worth"],
        [
            [
                agent,
                *(f"{100 * x:.1f}" for x in (it.left[0], it.left.max(), it.left[99])),
                f"{100 * it.left[-10:].mean():.1f}",
                f"{it.value.max():+.2f} at most, {it.value[-1]:+.2f} in the end",
            ]
            for agent, it in found.items()
        ],
    )
    save(figure(found), told.out)


if __name__ == "__main__":
    main()
