"""Training throughput against stable-baselines3: environment steps per second at equal settings.

    .venv/bin/python -m pip install -c constraints.txt -r benchmarks/requirements.txt
    .venv/bin/python benchmarks/throughput.py            # both agents, five rounds each

The two libraries run in turn, each measurement in a process of its own, on one thread. rlkit writes
its metrics, TensorBoard events and a checkpoint; stable-baselines3 writes nothing. Only true
transitions count: rlkit's dead reset steps are left out. Quote the ratio: machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = {"a2c": 80_000, "dqn": 20_000}
WARM_UP = {"a2c": 4_000, "dqn": 2_000}


def rlkit_rate(agent: str) -> float:
    import rlkit
    from rlkit.run.metrics import METRICS, read_metrics
    from rlkit.training.options import RunOptions

    recipes = {
        # stable-baselines3's defaults
        "a2c": {
            "envs": 8,
            "n_steps": 5,
            "gamma": 0.99,
            "learning_rate": 7e-4,
        },
        # RL Zoo's settings for CartPole. There the target net follows at every burst of updates.
        "dqn": {
            "envs": 1,
            "gamma": 0.99,
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1000,
            "train_every": 256,
            "gradient_steps": 128,
            "target_interval": 128,
            "n_step": 1,
            "double": False,
            "hidden": (256, 256),
        },
    }
    with tempfile.TemporaryDirectory() as folder:

        def run(steps: int) -> float:
            options = RunOptions(
                run_dir=folder, eval_every=steps, eval_episodes=1, checkpoint_every=steps
            )
            done = rlkit.train(agent, "CartPole-v1", recipes[agent] | {"steps": steps}, options)
            episodes = sum("episode/return" in line for line in read_metrics(done.run / METRICS))
            return (done.steps - episodes) / done.seconds

        run(WARM_UP[agent])
        return run(STEPS[agent])


def sb3_rate(agent: str) -> float:
    import stable_baselines3
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    if agent == "a2c":
        model = stable_baselines3.A2C("MlpPolicy", make_vec_env("CartPole-v1", 8), device="cpu")
    else:
        model = stable_baselines3.DQN(
            "MlpPolicy",
            make_vec_env("CartPole-v1", 1),
            learning_rate=2.3e-3,
            batch_size=64,
            buffer_size=100_000,
            learning_starts=1000,
            gamma=0.99,
            target_update_interval=10,
            train_freq=256,
            gradient_steps=128,
            exploration_fraction=0.16,
            exploration_final_eps=0.04,
            policy_kwargs={"net_arch": [256, 256]},
            device="cpu",
        )
    model.learn(WARM_UP[agent])
    since = time.perf_counter()
    model.learn(STEPS[agent])
    return STEPS[agent] / (time.perf_counter() - since)


RATES = {"rlkit": rlkit_rate, "sb3": sb3_rate}


def measure(library: str, agent: str) -> float:
    """The rate of one library, measured in a fresh process."""
    command = [sys.executable, str(Path(__file__)), "--one", library, agent]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("agents", nargs="*", default=list(STEPS), help="a2c, dqn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("LIBRARY", "AGENT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(RATES[args.one[0]](args.one[1])))
        return
    for agent in args.agents:
        ratios = []
        for number in range(args.rounds):
            mine, theirs = measure("rlkit", agent), measure("sb3", agent)
            ratios.append(mine / theirs)
            print(
                f"{agent} round {number + 1}: rlkit {mine:,.0f} steps/s, "
                f"stable-baselines3 {theirs:,.0f}, ratio {ratios[-1]:.2f}",
                flush=True,
            )
        print(
            f"{agent}: median ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
