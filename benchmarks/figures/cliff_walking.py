"""Cliff walking, Sutton & Barto (2018), example 6.6: SARSA against Q-learning.

    python benchmarks/figures/cliff_walking.py [--runs 500] [--out FILE.png]

Q-learning learns the best path, along the cliff, and falls off it whenever it explores there; SARSA
learns what its exploring will cost, and walks further up. α = 0.5, ε = 0.1, γ = 1, as in the book.
Expected SARSA learns the same as SARSA without the noise of the next action (section 6.6).

Beside what was earned stand three exact values of the start, by rlkit's policy evaluation: of the
final table's greedy policy (the best is −13), of its ε-greedy policy, which is what was acted by,
and of the best ε-greedy policy that there is, by solving the model in which every move explores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from copies import play
from drawing import PLAIN, arguments, canvas, finish, line, rule, save, table
from numpy.typing import NDArray
from scipy.sparse import block_diag, csr_array

import rlkit
from rlkit.envs.model_env import ModelVectorEnv
from rlkit.envs.models import make_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AGENTS = ("q-learning", "sarsa", "expected-sarsa")
EPISODES = 500
LATE = 100  # the last episodes, for the table
SMOOTH = 10  # episodes
ROWS, COLS = 4, 12
START = (ROWS - 1) * COLS
ACTIONS = 4  # in every state that is not terminal
EPSILON = 0.1
RATES = {"gamma": 1.0, "learning_rate": 0.5, "exploration": EPSILON, "initial_value": 0.0}
SOURCE = "rlkit · Sutton & Barto (2018), example 6.6 · benchmarks/figures/cliff_walking.py"


@dataclass(frozen=True)
class Learned:
    """What became of one agent.

    Fields:
        returns: (runs, episodes) the sum of rewards of each.
        greedy: (runs,) the exact value of the start under the final greedy policy, −∞ where it
            walks in circles for ever.
        exploring: (runs,) the same under the final ε-greedy policy.
        path: the states on the way of a greedy policy whose value is the median.
    """

    returns: NDArray[np.float64]
    greedy: NDArray[np.float64]
    exploring: NDArray[np.float64]
    path: list[int]

    @property
    def late(self) -> float:
        """The mean return of the last episodes."""
        return float(self.returns[:, -LATE:].mean())


def measure(agent: str, runs: int, episodes: int = EPISODES, seed: int = 0) -> Learned:
    """Have `agent` learn in so many runs."""
    mdp = make_model("cliff").mdp
    returns = np.zeros((runs, episodes))
    for now in play(agent, ModelVectorEnv(mdp, runs), RATES, episodes, seed):
        (runs_on,) = np.nonzero(now.step.valid & (now.episode < episodes))
        returns[runs_on, now.episode[runs_on]] += now.step.reward[runs_on]
    q = now.tables[0]
    paths = [path_of(mdp, each.argmax(-1)) for each in q]
    greedy = [value_of_greedy(mdp, *each) for each in zip(q, paths, strict=True)]
    exploring = [rlkit.evaluate_policy(mdp, epsilon_greedy(each))[START] for each in q]
    middle = int(np.argsort(greedy)[runs // 2])
    return Learned(returns, np.array(greedy), np.array(exploring), paths[middle])


def epsilon_greedy(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S, A) probabilities for values q (S, A); equal ones are chosen from at random."""
    best = q == q.max(-1, keepdims=True)
    return np.asarray((1 - EPSILON) * best / best.sum(-1, keepdims=True) + EPSILON / q.shape[1])


def path_of(mdp: rlkit.MDP, policy: NDArray[np.int64]) -> list[int]:
    """The states that a policy (S,) goes through from the start, up to the first one again."""
    path = [START]
    while not mdp.terminal[path[-1]]:
        row = mdp.P[[mdp.offsets[path[-1]] + policy[path[-1]]]]
        if (after := int(row.indices[0])) in path:
            break
        path.append(after)
    return path


def value_of_greedy(mdp: rlkit.MDP, q: NDArray[np.float64], path: list[int]) -> float:
    """The exact value of the start under the greedy policy; −∞ where it never arrives."""
    if not mdp.terminal[path[-1]]:
        return -np.inf
    # What it does in states that it never meets changes nothing, and must not stop the evaluation.
    policy = rlkit.solve(mdp).policy.copy()
    policy[path] = q[path].argmax(-1)
    return float(rlkit.evaluate_policy(mdp, policy)[START])


def best_exploring() -> float:
    """The exact value of the start under the best policy that explores with probability ε."""
    value = rlkit.solve(exploring_model()).start_value
    assert value is not None
    return value


def exploring_model() -> rlkit.MDP:
    """The cliff where an action a is (1 − ε)·a + ε·(a uniform one).

    Each of its policies is one of the cliff that explores, so that its best one is the best of
    those.
    """
    mdp = make_model("cliff").mdp
    explore = np.full((ACTIONS, ACTIONS), EPSILON / ACTIONS) + (1 - EPSILON) * np.eye(ACTIONS)
    # (L, L): the pairs of a state are neighbours
    mixed = csr_array(block_diag([explore] * mdp.live.size))
    return replace(mdp, P=csr_array(mixed @ mdp.P), r=mixed @ mdp.r)


def figure(found: dict[str, Learned], best: float) -> Figure:
    """What was earned in each episode, and where the final greedy policies walk."""
    drawn, (online, paths) = canvas(2, "Cliff walking", SOURCE)
    kernel = np.full(SMOOTH, 1 / SMOOTH)
    for k, (agent, learned) in enumerate(found.items()):
        smooth = np.convolve(learned.returns.mean(0), kernel, "valid")
        line(online, k, np.arange(smooth.size) + SMOOTH, smooth, agent)
    rule(online, best, f"exact: the best that ε = {EPSILON} allows, {best:.1f}")
    online.set(xlim=(0, EPISODES), ylim=(-100, 0))
    finish(online, f"sum of rewards, mean of {SMOOTH} episodes", "episode", "reward")
    online.legend(frameon=False, handlelength=3, loc="lower right")
    draw_paths(paths, found)
    return drawn


def draw_paths(axes: Axes, found: dict[str, Learned]) -> None:
    """The grid, with the way of each agent's greedy policy and its exact value."""
    from matplotlib.patches import Rectangle

    for row, col in np.ndindex(ROWS, COLS):
        cliff = row == ROWS - 1 and 0 < col < COLS - 1
        tone = "#c9ced6" if cliff else "white"
        axes.add_patch(Rectangle((col, row), 1, 1, facecolor=tone, edgecolor=PLAIN, linewidth=0.5))
    for text, col in (("S", 0.5), ("cliff: −100, and back to S", COLS / 2), ("G", COLS - 0.5)):
        axes.text(col, ROWS + 0.4, text, ha="center", va="center", fontsize=9)
    for k, (agent, learned) in enumerate(found.items()):
        row, col = np.divmod(learned.path, COLS)
        label = f"{agent}: {np.median(learned.greedy):.0f} exactly"
        apart = 0.14 * (k - 1)  # so that all can be seen where they share cells
        line(axes, k, col + 0.5 + apart, row + 0.5 - apart, label, width=2.2)
    axes.set(xlim=(0, COLS), ylim=(ROWS + 0.8, 0), aspect="equal")
    axes.set_title("greedy policies in the end, of median value", fontsize=10)
    axes.axis("off")
    axes.legend(frameon=False, handlelength=3, loc="upper center", bbox_to_anchor=(0.5, 0))


def main() -> None:
    told = arguments(__doc__, "cliff_walking", runs=500)
    best = best_exploring()
    found = {agent: measure(agent, told.runs, seed=told.seed) for agent in AGENTS}
    print(
        f"The best ε-greedy policy earns {best:.2f} an episode. Exact values: the runs' medians.\n"
    )
    table(
        [
            "agent",
            f"earned, last {LATE} episodes",
            "final ε-greedy policy, exact",
            "final greedy policy, exact",
            "best",
            "in circles",
        ],
        [
            [
                agent,
                f"{it.late:.1f}",
                f"{np.median(it.exploring):.1f}",
                f"{np.median(it.greedy):.0f}",
                f"{100 * np.mean(it.greedy > -13.5):.0f} %",
                f"{100 * np.mean(np.isinf(it.greedy)):.0f} %",
            ]
            for agent, it in found.items()
        ],
    )
    save(figure(found, best), told.out)


if __name__ == "__main__":
    main()
