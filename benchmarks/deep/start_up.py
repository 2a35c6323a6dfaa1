"""From the command to a solved CartPole-v1: the seconds of whole processes.

    python benchmarks/deep/start_up.py

`rlkit train a2c CartPole` and `rlkit train dqn CartPole` as a user types them (the whole tuned
recipe, evaluations on the way, 100 episodes at the end, everything written to a run folder) against
stable-baselines3 scripts with RL Zoo's settings that do the same, but stop as soon as an evaluation
solves it (20 episodes every 5,000 steps). Each round has a seed of its own. The last column says
what the policies were worth at the end, over 100 fresh greedy episodes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from libraries import CASES, ENV
from rounds import ENVIRONMENT, alternating, answer_job, in_own_process, spread, table, versions

JOBS = ["rlkit a2c", "sb3 a2c", "rlkit dqn", "sb3 dqn"]
ENVS = {agent: CASES[agent].envs for agent in ("a2c", "dqn")}  # of stable-baselines3


def sb3_script(agent: str, seed: int, steps: int, started: float) -> dict[str, Any]:
    """What a user of stable-baselines3 writes: train until solved, save, evaluate."""
    from libraries.sb3 import ZOO_STEPS, build
    from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    model = build(agent, seed)
    callback = EvalCallback(
        make_vec_env(ENV, 20, seed=seed + 1000),
        callback_on_new_best=StopTrainingOnRewardThreshold(475),
        n_eval_episodes=20,
        eval_freq=5000 // ENVS[agent],
        verbose=0,
    )
    model.learn(steps or ZOO_STEPS[agent], callback)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
    mean, _ = evaluate_policy(model, make_vec_env(ENV, 100, seed=seed + 2000), 100)
    return {"final": mean}


def rlkit_command(agent: str, seed: int, steps: int) -> dict[str, Any]:
    """The command as a user types it."""
    command = [str(Path(sys.executable).with_name("rlkit")), "train", agent, "CartPole", "--json"]
    command += ["--seed", str(seed), *(["--steps", str(steps)] if steps else [])]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    return {"final": json.loads(done.stdout.splitlines()[-1])["final_return"]}


def measure(name: str, agent: str, seed: int, steps: int) -> tuple[float, float]:
    """Seconds of the whole process, and the final mean return."""
    since = time.perf_counter()
    if name == "rlkit":
        answer = rlkit_command(agent, seed, steps)
    else:
        answer = in_own_process(__file__, agent=agent, seed=seed, steps=steps)
    return time.perf_counter() - since, answer["final"]


def main() -> None:
    answer_job(sb3_script)
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=6000)
    parser.add_argument("--quick", action="store_true", help="try it out: 5,000 steps")
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {job: [] for job in JOBS}
    for number, job in alternating(JOBS, args.rounds):
        name, agent = job.split()
        seed, steps = args.first_seed + number, 5000 if args.quick else 0
        found[job].append(measure(name, agent, seed, steps))
    print(f"{args.rounds} rounds; {versions(['rlkit', 'sb3'])}; load {os.getloadavg()[0]:.1f}\n")
    rows = []
    for job, runs in found.items():
        seconds, finals = zip(*runs, strict=True)
        theirs = [run[0] for run in found[job.replace("rlkit", "sb3")]]
        ratios = [b / a for a, b in zip(seconds, theirs, strict=True)]
        ratio = spread(ratios, ".1f") if job.startswith("rlkit") else "1"
        finals_by_round = ", ".join(f"{final:.0f}" for final in finals)
        rows.append([job, spread(seconds, ".1f"), ratio, finals_by_round])
    table(["", "seconds, median (range)", "SB3's seconds / these", "return at the end"], rows)


if __name__ == "__main__":
    main()
