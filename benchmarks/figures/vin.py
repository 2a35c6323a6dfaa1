"""Value iteration networks on maps that they have never seen: the table of docs/vin.md.

    .venv/bin/python benchmarks/figures/vin.py 8 16 28 --network vin --seeds 3 --play 16 28
    .venv/bin/python benchmarks/figures/vin.py 8 --network cnn
    .venv/bin/python benchmarks/figures/vin.py 8 --by ppo --steps 100000
    .venv/bin/python benchmarks/figures/vin.py --labels              # the teacher's maps a second

Each size and seed is one run of `rlkit.train` on `grid-maps`; its greedy policy then plays fresh
maps, seeded apart from training's. Success is to reach the goal. "Longer by" is the length of its
way less that of the shortest one, on average over the maps where it gets there; straight moves are
1 long and diagonal ones √2. "Regret" is what the exact policy earns more, over all maps. Seconds
are the processor's, of one thread. VIN's weights are not of a size: those learned on one play the
sizes of `--play` too, with K for that.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
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


def of_size(agent: Any, size: int) -> Any:
    """A VIN agent's weights in one for maps of another size."""
    from gymnasium import spaces

    space = spaces.Box(0, 255, (size, size, 3), np.uint8)
    other = type(agent)(replace(agent.setting, obs_space=space), agent.recipe)
    other.load_weights(agent.state_dict())
    return other


def trained(network: str, size: int, seed: int, args: argparse.Namespace) -> tuple[Any, float]:
    """A run, and the processor's seconds that it took."""
    import rlkit
    from rlkit.training.options import RunOptions

    recipe: dict[str, Any] = {} if args.steps is None else {"steps": args.steps}
    if args.by == "vin":
        recipe["network"] = network
        if network == "cnn":  # each state costs it a pass of its own: 128, as in the paper
            recipe |= {"learning_rate": "1e-3:0", "batch_size": 64, "states": 2}
    else:
        recipe |= {"encoder": network, "hidden": () if network == "vin" else (256,)}
        recipe["learning_rate"] = "1e-2:0" if network == "vin" else "3e-3:0"
        if args.by == "ppo":
            recipe |= {"envs": 64, "n_steps": 16, "entropy_cost": 0.01}
    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(seed=seed, run_dir=folder, eval_episodes=1)
        since = time.process_time()
        done = rlkit.train(args.by, "grid-maps", recipe, options, env_options={"size": size})
        return done, time.process_time() - since


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
| maps | network | by | env steps | CPU s | success %, each seed | longer by | regret | paper, % |
|---|---|---|---|---|---|---|---|---|"""


def row(told: str, network: str, by: str, cost: str, played: list[Played], paper: str) -> str:
    success = ", ".join(f"{100 * each.success:.1f}" for each in played)
    longer, regret = (np.mean([getattr(each, f) for each in played]) for f in ("longer", "regret"))
    how = "imitation" if by == "vin" else by
    found = f"{success} | {longer:.3f} | {regret:.4f} | {paper}"
    return f"| {told} | {network} | {how} | {cost} | {found} |"


def report(network: str, size: int, args: argparse.Namespace) -> None:
    """Train on maps of one size with each seed, and print what came of it."""
    seeds = range(args.seed, args.seed + args.seeds)
    runs = [trained(network, size, seed, args) for seed in seeds]
    seconds = np.mean([seconds for _, seconds in runs])
    cost = f"{runs[0][0].steps:,} | {seconds:.0f}"
    played = [play(done.agent, size, args.maps) for done, _ in runs]
    paper = PAPER.get(size, "–") if network == "vin" and args.by == "vin" else "–"
    print(row(f"{size}×{size}", network, args.by, cost, played, paper))
    if args.by != "vin" or network != "vin":
        return
    for other in (each for each in args.play if each != size):
        told = f"{size}×{size}, played on {other}×{other}"
        played = [play(of_size(done.agent, other), other, args.maps) for done, _ in runs]
        print(row(told, network, args.by, "– | –", played, "–"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, help="8, 16, 28")
    parser.add_argument("--network", nargs="+", default=["vin", "cnn"], help="vin, cnn")
    parser.add_argument("--by", default="vin", help="the agent: vin imitates; a2c, ppo, ...")
    parser.add_argument("--steps", type=int, help="environment steps; the recipe's without")
    parser.add_argument("--maps", type=int, default=1000, help="unseen maps to play")
    parser.add_argument("--play", nargs="*", type=int, default=[], help="further sizes to play")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="how many runs")
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
            report(network, size, args)


if __name__ == "__main__":
    main()
