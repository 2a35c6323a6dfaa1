"""Small runs, and what they left: for tests that compare whole runs."""

from pathlib import Path

import numpy as np
import torch

from rlkit.run.checkpoint import load_checkpoint
from rlkit.run.metrics import read_metrics

PATIENT = f"{Path(__file__).parent / 'patient.py'}:Patient"
LEVER = f"{Path(__file__).parent / 'patient.py'}:Lever"
SHIFTED = f"{Path(__file__).parent / 'patient.py'}:Shifted"
AGENTS = ("a2c", "ppo", "dqn")  # for what all agents share, and is tried with a few
EVERY = ("a2c", "ppo", "pqn", "dqn", "rainbow", "r2d2", "sac")
DQN = (
    *("--learning-starts", 40, "--train-every", 8, "--gradient-steps", 2),
    *("--batch-size", 16, "--buffer-size", 300),
)
PPO = ("--n-steps", 5, "--minibatch-size", 10, "--epochs", 2)
RAINBOW = (*DQN, "--head-hidden", 8, "--atoms", 5)
OWN = {"a2c": (), "ppo": PPO, "pqn": PPO, "dqn": DQN, "rainbow": RAINBOW, "sac": DQN}
OWN["r2d2"] = (*DQN, "--core-width", 8, "--burn-in", 2, "--unroll", 4)
SMALL = {
    agent: ("--envs", 2, "--hidden", 8, "--steps", 200, "--eval-episodes", 3, *own)
    for agent, own in OWN.items()
}


def env_of(agent):
    """One of Gymnasium's whose actions the agent takes."""
    return "Pendulum" if agent == "sac" else "CartPole"


def patient_of(agent):
    return LEVER if agent == "sac" else PATIENT


def weights(run):
    """All weights of a run's newest checkpoint, as one vector: see `vector_of`."""
    return vector_of(load_checkpoint(run).tree["agent"]["weights"])


def vector_of(tree):
    """A copy of a state dict's weights, as one vector; the noise on them is none."""
    names = sorted(name for name in tree if not name.endswith(("noise_in", "noise_out")))
    return torch.cat([tree[name].flatten() for name in names])


def metrics(run):
    """What a run measured, but for when and how fast."""
    lines = [
        {name: value for name, value in line.items() if name not in ("time", "time/fps")}
        for line in read_metrics(Path(run) / "metrics.jsonl")
    ]
    return [line for line in lines if line.keys() != {"step"}]


def steps_saved(run):
    return sorted(path.name for path in (Path(run) / "checkpoints").iterdir() if path.is_dir())


def leaves(tree, path=""):
    """A checkpoint's tree as {path: value}; arrays and tensors as (dtype, shape, bytes)."""
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        if isinstance(tree, (torch.Tensor, np.ndarray, np.generic)):
            array = np.asarray(tree)
            return {path: (array.dtype, array.shape, array.tobytes())}
        return {path: tree}
    return {k: v for name, item in items for k, v in leaves(item, f"{path}/{name}").items()}
