"""Value iteration networks on maps that they have never seen: the table of docs/vin.md.

    .venv/bin/python benchmarks/figures/vin.py 8                     # imitation, VIN and CNN
    .venv/bin/python benchmarks/figures/vin.py 8 --network vin --play 16 28 --grow 16 28
    .venv/bin/python benchmarks/figures/vin.py 8 --by ppo --steps 200000
    .venv/bin/python benchmarks/figures/vin.py --labels              # the teacher's maps a second

Each size is one run of `rlkit.train` on `grid-maps`; its greedy policy then plays fresh maps,
seeded apart from training's. Success is to reach the goal. "Longer by" is the length of its way
less that of the shortest one, on average over the maps where it gets there; straight moves are 1
long and diagonal ones √2. "Regret" is what the exact policy earns more, over all maps. VIN's
weights are not of a size: those learned on one play the sizes of `--play` too, with K for that,
and go on to learn on those of `--grow`, one after the other.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# Tamar et al. 2016, table 1: success rates in % on maps that were held out.
PAPER = {8: "99.6", 16: "99.3", 28: "97"}
SEED = 10**6  # of the maps that are played


@dataclass(frozen=True)
class Played:
    """What a greedy policy does on unseen maps."""

    success: float  # share
    longer: float  # than the shortest way, where it succeeds
    regret: float  # in return

    def __str__(self) -> str:
        return f"{100 * self.success:.1f} | {self.longer:.3f} | {self.regret:.4f}"


def play(agent: Any, size: int, maps: int) -> Played:
    """Play one episode on each of `maps` maps of that size."""
    from rlkit.envs import grid_maps

    env = grid_maps.vector(maps, size)
    obs, _ = env.reset(seed=SEED)
    lengths, _ = grid_maps.shortest_ways(*grid_maps.read(obs))
    start = obs[..., grid_maps.AGENT].reshape(maps, -1).argmax(1)
    shortest = lengths.reshape(maps, -1)[np.arange(maps), start]
    playing, won = np.ones(maps, dtype=bool), np.zeros(maps, dtype=bool)
    walked, earned = np.zeros(maps), np.zeros(maps)
    action = np.zeros(maps, dtype=np.int64)
    while playing.any():
        action[playing], _ = agent.act(obs[playing], None, explore=False)
        obs, reward, terminated, truncated, _ = env.step(action)
        walked += grid_maps.LENGTHS[action] * playing
        earned += reward * playing
        won |= playing & terminated & (reward > 0)
        playing &= ~(terminated | truncated)
    best = grid_maps.GOAL - grid_maps.STEP * shortest
    longer = float((walked - shortest)[won].mean()) if won.any() else float("nan")
    return Played(float(won.mean()), longer, float((best - earned).mean()))


def of_size(agent: Any, size: int, changes: Mapping[str, Any] = {}) -> Any:
    """A VIN agent's weights in one for maps of another size, its recipe with `changes`."""
    from gymnasium import spaces

    space = spaces.Box(0, 255, (size, size, 3), np.uint8)
    other = type(agent)(replace(agent.setting, obs_space=space), agent.recipe.but(changes))
    other.load_weights(agent.state_dict())
    return other


def trained(agent: str, network: str, size: int, args: argparse.Namespace) -> Any:
    import rlkit
    from rlkit.training.options import RunOptions

    recipe: dict[str, Any] = {} if args.steps is None else {"steps": args.steps}
    if agent == "vin":
        recipe["network"] = network
        if network == "cnn":  # each state costs it a pass of its own: 128, as in the paper
            recipe |= {"learning_rate": "1e-3:0", "batch_size": 64, "states": 2}
    else:
        recipe |= {"encoder": network, "hidden": () if network == "vin" else (256,)}
        recipe["learning_rate"] = "3e-3:0"
        if agent == "ppo":
            recipe |= {"envs": 64, "n_steps": 16, "entropy_cost": 0.01}
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(seed=args.seed, run_dir=folder, eval_episodes=1)
        env_options = {"size": size}
        return rlkit.train(agent, "grid-maps", recipe, options, env_options=env_options)


# What they grow with: environment steps, and changes to the recipe.
GROWTH: dict[int, tuple[int, dict[str, Any]]] = {
    16: (
        60_000,
        {"batch_size": 64, "states": 128, "gradient_steps": 64, "learning_rate": "5e-3:0"},
    ),
    28: (
        60_000,
        {"batch_size": 32, "states": 256, "gradient_steps": 64, "learning_rate": "3e-3:0"},
    ),
}


def grown(agent: Any, size: int, seed: int) -> tuple[Any, float]:
    """The agent after learning on with maps of another size, and the seconds that took.

    The trainer's loop, without a run's folder.
    """
    from rlkit.envs.make import make_envs

    steps, changes = GROWTH[size]
    agent = of_size(agent, size, changes)
    agent.memory.allocate()
    since = time.perf_counter()
    with make_envs("grid-maps", agent.setting.n_envs, seed, options={"size": size}) as envs:
        obs = envs.reset()
        for done in range(0, steps, envs.n):
            agent.clock.progress = done / steps
            action, _ = agent.act(obs, None)
            step = envs.step(action)
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.update(batch)
    return agent, time.perf_counter() - since


def labels() -> None:
    """How many maps a second are drawn, and solved in one block."""
    from rlkit.envs import grid_maps

    print("| maps | drawn a second | solved a second |\n|---|---|---|")
    for size, maps in ((8, 4000), (16, 1000), (28, 400)):
        seconds = []
        for first in (0, maps, 2 * maps):
            env = grid_maps.vector(maps, size)
            since = time.perf_counter()
            obs, _ = env.reset(seed=first)
            drawn = time.perf_counter()
            grid_maps.optimal_actions(obs)
            seconds.append((drawn - since, time.perf_counter() - drawn))
        draw, solve = (maps / min(each) for each in zip(*seconds, strict=True))
        print(f"| {size}×{size} | {draw:,.0f} | {solve:,.0f} |", flush=True)


HEADER = """\
| maps | network | by | env steps | training s | success % | longer by | regret | paper, success % |
|---|---|---|---|---|---|---|---|---|"""


def report(agent: Any, network: str, told: str, size: int, cost: str, args: Any) -> None:
    by = "imitation" if args.by == "vin" else args.by
    paper = PAPER.get(size, "–") if network == "vin" else "–"
    print(f"| {told} | {network} | {by} | {cost} | {play(agent, size, args.maps)} | {paper} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, help="8, 16, 28")
    parser.add_argument("--network", nargs="+", default=["vin", "cnn"], help="vin, cnn")
    parser.add_argument("--by", default="vin", help="the agent: vin imitates; a2c, ppo, ...")
    parser.add_argument("--steps", type=int, help="environment steps; the recipe's without")
    parser.add_argument("--maps", type=int, default=1000, help="unseen maps to play")
    parser.add_argument("--play", nargs="*", type=int, default=[], help="further sizes to play")
    parser.add_argument("--grow", nargs="*", type=int, default=[], help="and to learn on: 16, 28")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labels", action="store_true", help="time the teacher alone")
    args = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if args.labels:
        labels()
        return
    print(HEADER)
    for size in args.sizes:
        for network in args.network:
            done = trained(args.by, network, size, args)
            agent, cost = done.agent, f"{done.steps:,} | {done.seconds:.0f}"
            report(agent, network, f"{size}×{size}", size, cost, args)
            if args.by != "vin" or network != "vin":
                continue
            for larger in args.grow:
                agent, seconds = grown(agent, larger, args.seed)
                told, cost = f"then {larger}×{larger}", f"{GROWTH[larger][0]:,} | {seconds:.0f}"
                report(agent, network, told, larger, cost, args)
            for other in args.play:
                told, cost = f"{size}×{size}, played on {other}×{other}", "0 | 0"
                report(of_size(done.agent, other), network, told, other, cost, args)


if __name__ == "__main__":
    main()
