"""DQN's overestimation, and double DQN's, against the true Q (van Hasselt et al. 2016, figure 3).

    python benchmarks/figures/overestimation.py [--runs 10] [--out FILE.png]

The maximum of noisy estimates is too large on average, and bootstrapping passes it on. Double DQN
has one network choose the action and the other one value it. The paper draws what each agent
believes beside straight lines, the returns of its final policies; here the model is known, so that
at every point what is believed stands beside what is true.

In Jack's car rental (Sutton & Barto 2018, example 4.2) where a day leads is random and an
action, up to eleven of them, moves cars for 2 each: little beside values around 560, so that the
noise of the estimates decides on the maximum. The agents see one-hot states through a small
network, learn from one-step targets, and differ in `double` alone. Drawn are, averaged over the
states that the greedy policy visits (discounted, docs/exact_ruler.md),

- max Q̂(s, a), what the agent believes;
- V^π(s), what its greedy policy is worth;
- V*(s), what the best one is worth.

The first less the second is `overestimation`, the first less the third `overestimation_star`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from drawing import COLOURS, arguments, canvas, finish, line, rule, save, table
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import rlkit
from rlkit.agent import Agent
from rlkit.envs.make import make_envs
from rlkit.statistics import interquartile_mean, percentile_interval, stratified_bootstrap
from rlkit.training import build
from rlkit.training.exact import Ruler
from rlkit.training.exact_model import SeenModel, seen_model
from rlkit.training.options import RunOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = NDArray[np.float64]

AGENTS: Mapping[str, bool] = {"DQN": False, "double DQN": True}  # and its `double`
STEPS = 20_000
MEASUREMENTS = 20
ENV = "model"
ENV_OPTIONS = {
    "source": "jacks-car-rental",
    "observe": "one-hot",
    "max_episode_steps": 100,
}
ACTIONS = 11
GAMMA = 0.9
RECIPE = {
    "gamma": GAMMA,
    "n_step": 1,
    "hidden": (64, 64),
    "learning_rate": "3e-3",  # as it does not fall, neither does the noise of the estimates
    "batch_size": 32,
    "train_every": 16,
    "gradient_steps": 4,
    "target_interval": 100,
    "learning_starts": 500,
    "exploration": "1:0.1@0.3",
}
SOURCE = "rlkit · van Hasselt et al. (2016), figure 3 · benchmarks/figures/overestimation.py"


@dataclass(frozen=True)
class Learned:
    """What became of one agent, in each run (rows) at each measurement (columns).

    Fields:
        steps: (K,) environment steps.
        believed, true, best: (runs, K), the means over the visited states of max Q̂, V^π and V*.
        fraction: (runs, K), the share of the way from random play to the optimum.
    """

    steps: NDArray[np.int64]
    believed: Curves
    true: Curves
    best: Curves
    fraction: Curves

    @property
    def bias(self) -> Curves:
        """(runs, K) overestimation of the policy's values."""
        return self.believed - self.true

    @property
    def bias_star(self) -> Curves:
        """(runs, K) overestimation of the optimal values."""
        return self.believed - self.best

    @property
    def late(self) -> slice:
        """The second half of the training."""
        return slice(self.steps.size // 2, None)


def learn(double: bool, steps: int, seed: int) -> Iterator[tuple[int, Agent]]:
    """Train one agent; it is given out, with the steps done, at each measurement."""
    agent_type = build.agent_class("dqn")
    told = build.defaults(agent_type).but({**RECIPE, "steps": steps, "double": double})
    envs = make_envs(ENV, told.envs, seed, options=ENV_OPTIONS)
    agent = build.make_agent(agent_type, told, envs, RunOptions(device="cpu", seed=seed))
    agent.memory.allocate()
    obs, every = envs.reset(), steps // MEASUREMENTS
    for done in range(told.envs, steps + 1, told.envs):
        agent.clock.progress = (done - told.envs) / steps
        action, _ = agent.act(obs, None, mask=envs.mask)
        step = envs.step(action)
        agent.memory.add(step)
        obs = step.next_obs
        for batch in agent.memory.batches():
            agent.update(batch)
        if done // every > (done - told.envs) // every:
            yield done, agent


def model() -> SeenModel:
    """What the agents see, and what it is a model of."""
    seen = seen_model(ENV, RunOptions(), ENV_OPTIONS, GAMMA, ACTIONS)
    assert seen is not None
    return seen


def visits(mdp: rlkit.MDP, policy: NDArray[np.float64]) -> Curves:
    """(S,), d of a deterministic policy (S, A): the shares of its discounted visits."""
    pairs = np.flatnonzero(policy[mdp.pair_state, mdp.actions])  # one of each state
    P = mdp.P[pairs].toarray()
    d = np.linalg.solve(np.eye(len(P)) - mdp.gamma * P.T, mdp.start)
    return np.asarray(d / d.sum())


def look(agent: Agent, seen: SeenModel, ruler: Ruler) -> tuple[float, float, float, float]:
    """What the agent believes, what is true, what is best, and the share of the way there."""
    policy = agent.estimates(seen.observe(seen.states), seen.mask).greedy
    exact = ruler.measure(agent).greedy
    best = float(visits(seen.mdp, policy) @ ruler.solution.values)
    assert exact.overestimation is not None
    assert exact.overestimation_star is not None
    assert exact.fraction is not None
    believed = best + exact.overestimation_star
    return believed, believed - exact.overestimation, best, exact.fraction


def measure(double: bool, runs: int, steps: int = STEPS, seed: int = 0) -> Learned:
    """Have DQN learn in so many runs, with or without `double`."""
    seen = model()
    ruler = Ruler(seen)
    at: list[int] = []
    found = []
    with threadpool_limits(1):  # small matrices, too
        for k in range(seed, seed + runs):
            looks = [(done, look(agent, seen, ruler)) for done, agent in learn(double, steps, k)]
            at = [done for done, _ in looks]
            found.append([each for _, each in looks])
    return Learned(np.array(at), *np.moveaxis(np.array(found), -1, 0))


def interval(curves: Curves) -> tuple[Curves, Curves, Curves]:
    """The interquartile mean over runs (runs, ...), and the ends of its 95 % bootstrap interval."""
    replicates = stratified_bootstrap([curves], lambda drawn: interquartile_mean(drawn[0], axis=1))
    return interquartile_mean(curves, axis=0), *percentile_interval(replicates)


def figure(found: Mapping[str, Learned]) -> Figure:
    """What is believed, true and best, for each agent; and on the right the overestimation."""
    drawn, panels = canvas(3, "Overestimation in Jack's car rental", SOURCE)
    for axes, (name, it) in zip(panels, found.items(), strict=False):
        for k, (curves, label) in enumerate(
            [
                (it.believed, "believed: max Q̂"),
                (it.true, r"true: $V^\pi$"),
                (it.best, "best: $V^*$"),
            ]
        ):
            band(axes, k, it.steps, curves, label)
        finish(axes, name, "environment steps", "mean over the visited states")
        axes.legend(frameon=False, handlelength=3, loc="lower right")
    span = [each.get_ylim() for each in panels[:2]]
    for axes in panels[:2]:
        axes.set_ylim(min(low for low, _ in span), max(high for _, high in span))
    for k, (name, it) in enumerate(found.items(), start=3):
        band(panels[2], k, it.steps, it.bias, name)
    rule(panels[2], 0.0, "")
    finish(panels[2], r"overestimation of $V^\pi$", "environment steps", r"max Q̂ − $V^\pi$")
    panels[2].legend(frameon=False, handlelength=3, loc="lower right")
    return drawn


def band(axes: Axes, k: int, steps: NDArray[np.int64], curves: Curves, label: str) -> None:
    middle, low, high = interval(curves)
    colour = COLOURS[k % len(COLOURS)]
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    line(axes, k, steps, middle, label, width=1.8)


def row(name: str, it: Learned) -> list[str]:
    def shown(curves: Curves, digits: int = 1) -> str:
        middle, low, high = interval(curves[:, it.late].mean(axis=1))
        return f"{middle:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"

    return [
        name,
        shown(it.bias),
        shown(it.bias_star),
        f"{it.true[:, it.late].mean():.0f}",
        f"{it.best[:, it.late].mean():.0f}",
        shown(100 * it.fraction, 0) + " %",
    ]


def main() -> None:
    torch.set_num_threads(1)  # small nets are slower on several
    told = arguments(__doc__, "overestimation", runs=10)
    found = {name: measure(double, told.runs, seed=told.seed) for name, double in AGENTS.items()}
    print("Means over the second half of the training; intervals: 95 %, bootstrap over runs.\n")
    table(
        ["agent", "max Q̂ − V^π", "max Q̂ − V*", "V^π", "V*", "of the way from random to optimal"],
        [row(name, it) for name, it in found.items()],
    )
    save(figure(found), told.out)


if __name__ == "__main__":
    main()
