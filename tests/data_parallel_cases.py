"""Agents, and batches for each of several ranks to update them with: see test_data_parallel.py.

A case is made by rank or, with rank None, for one process on the batches of all ranks joined.
"""

import numpy as np
import torch
from gymnasium import spaces

from rlkit.agent import Setting
from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.agents.dqn import DQN, DQNRecipe
from rlkit.agents.ppo import PPO, PPORecipe
from rlkit.agents.pqn import PQN, PQNRecipe
from rlkit.agents.r2d2 import R2D2, R2D2Recipe
from rlkit.agents.sac import SAC, SACRecipe
from rlkit.device.engine import DEFAULT, Engine
from rlkit.experience.replay import ReplayBatch
from rlkit.experience.rollout import RolloutBatch
from rlkit.experience.sequences import SequenceBatch
from rlkit.schedule import Schedule

UPDATES = 3
T = 6  # steps of a rollout
OBS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
SCALED = {"normalize_obs": True, "normalize_reward": True}
SMALL = {"hidden": (8,), "optimizer": "momentum", "learning_rate": Schedule(0.05)}
ROLLOUT = {**SMALL, "n_steps": T, "max_grad_norm": 0.5}
PARTS = {**ROLLOUT, "minibatch_size": 5, "epochs": 3}
REPLAY = {**SMALL, "batch_size": 4, "gradient_steps": 2}

CASES = {
    "a2c": (A2C, A2CRecipe, {**ROLLOUT, **SCALED, "normalize_advantage": True}),
    "a2c plain": (A2C, A2CRecipe, {**ROLLOUT, "optimizer": "rmsprop"}),
    "ppo": (PPO, PPORecipe, {**PARTS, **SCALED, "value_clip": 0.2}),
    "ppo kl": (PPO, PPORecipe, {**PARTS, "target_kl": 0.01, "learning_rate": Schedule(0.5)}),
    "ppo lstm": (PPO, PPORecipe, {**PARTS, "core": "lstm", "core_width": 8}),
    "ppo ahead": (PPO, PPORecipe, {**PARTS, **SCALED, "target_kl": 0.1}),
    "pqn": (PQN, PQNRecipe, {**PARTS, **SCALED}),
    "dqn": (DQN, DQNRecipe, {**REPLAY, "normalize_obs": True, "target_interval": 2}),
    "dqn c51": (DQN, DQNRecipe, {**REPLAY, "values": "c51", "atoms": 5}),
    "sac": (SAC, SACRecipe, {**REPLAY, "max_grad_norm": 1.0}),
    "r2d2": (R2D2, R2D2Recipe, {**SMALL, "batch_size": 4, "core_width": 8, "burn_in": 1}),
}
AHEAD = ("ppo ahead",)  # as on a device, where dead steps are weighed with 0


def envs_of(case, rank):
    """How many environments a rank has; with a memory, minibatches are of environments."""
    return 3 if case in ("ppo lstm", *AHEAD) else 2 + rank


def agent_of(case, rank, size, peers=None):
    kind, recipe_type, fields = CASES[case]
    n_envs = envs_of(case, rank) if rank is not None else sum(envs_of(case, r) for r in range(size))
    if rank is None:
        larger = ("minibatch_size", "batch_size")
        fields = {name: x * size if name in larger else x for name, x in fields.items()}
    actions = spaces.Box(-1, 1, (2,), np.float32) if kind is SAC else spaces.Discrete(3)
    seed = 100 + (0 if rank is None else rank)
    torch.manual_seed(5)
    engine = Engine(ahead=True) if case in AHEAD else DEFAULT
    setting = Setting(OBS, actions, n_envs, torch.device("cpu"), seed, peers=peers, engine=engine)
    agent = kind(setting, recipe_type(envs=n_envs, **fields))
    if kind in (R2D2, DQN):
        agent.memory.update_priorities = lambda cell, error: None  # nothing is drawn from it
    return agent


def batch_of(case, rank, update):
    rng = np.random.default_rng([sum(map(ord, case)), rank, update])
    agent = case.split()[0]
    if agent in ("a2c", "ppo", "pqn"):
        return _rollout(rng, envs_of(case, rank), case, empty=rank == 1 and update == 1)
    return _sequences(rng) if agent == "r2d2" else _replay(rng, agent)


def joined_batch(case, size, update):
    batches = [batch_of(case, rank, update) for rank in range(size)]
    columns = zip(*map(_columns, batches), strict=True)
    return type(batches[0])(*(_join(column, 1) for column in columns))


def _columns(batch):
    return [getattr(batch, name) for name in batch.__slots__]


def _join(parts, axis):
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, tuple):
        return tuple(_join(part, 0) for part in zip(*parts, strict=True))  # a carry
    if isinstance(first, np.ndarray):
        return np.concatenate(parts, axis)
    return torch.cat(parts, min(axis, first.ndim - 1))


def _rollout(rng, n, case, empty):
    ended = rng.random((2, T, n)) < 0.15
    valid = np.zeros((T, n), dtype=np.bool_) if empty else rng.random((T, n)) < 0.8
    batch = RolloutBatch(
        rng.normal(3, 2, (T + 1, n, 3)).astype(np.float32),
        rng.integers(3, size=(T, n)),
        rng.normal(1, 3, (T, n)).astype(np.float32),
        *ended,
        valid,
    )
    if "lstm" in case:
        batch.carry = tuple(torch.from_numpy(rng.normal(size=(n, 1, 8))).float() for _ in range(2))
        batch.reset = rng.random((T + 1, n)) < 0.2
    if case in AHEAD:
        columns = (x if x is None else torch.from_numpy(x) for x in batch.columns())
        batch = RolloutBatch(*columns)
    return batch


def _replay(rng, agent):
    G, B = 2, 4

    def drawn(*shape):
        return torch.from_numpy(rng.normal(1, 2, (G, B, *shape))).float()

    weight = None if agent == "sac" else torch.from_numpy(rng.random((G, B))).float()
    action = drawn(2).tanh() if agent == "sac" else torch.from_numpy(rng.integers(3, size=(G, B)))
    discount = torch.full((G, B), 0.9)
    return ReplayBatch(drawn(3), action, drawn(), discount, drawn(3), None, weight, None)


def _sequences(rng):
    recipe = CASES["r2d2"][1](**CASES["r2d2"][2])
    L, B = recipe.burn_in + recipe.unroll + recipe.n_step - 1, 4

    def flags(share, rows=L):
        return torch.from_numpy(rng.random((rows, B)) < share)

    terminated = flags(0.05)
    return SequenceBatch(
        torch.from_numpy(rng.normal(size=(L + 1, B, 3))).float(),
        torch.from_numpy(rng.integers(3, size=(L, B))),
        torch.from_numpy(rng.normal(size=(L, B))).float(),
        terminated,
        terminated | flags(0.05),
        flags(0.8),
        flags(0.1, L + 1),
        tuple(torch.from_numpy(rng.normal(size=(B, 1, 8))).float() for _ in range(2)),
        torch.from_numpy(rng.random(B)).float(),
        None,
        torch.arange(B),
    )


def vector(agent):
    """All weights and statistics as one vector."""
    state = agent.state_dict()
    return torch.cat([state[name].double().flatten() for name in sorted(state)]).numpy()


def work():
    """What a rank does: every case, whose weights it leaves in a file."""
    from rlkit.distributed import join

    torch.set_num_threads(1)
    ranks = join(60.0)
    with ranks.telling():
        found = {}
        for case in CASES:
            agent = agent_of(case, ranks.rank, ranks.size, ranks)
            with np.errstate(over="ignore", invalid="ignore"):
                for update in range(UPDATES):
                    agent.update(batch_of(case, ranks.rank, update))
            found[case] = vector(agent)
        np.savez(f"{ranks.rank}.npz", **found)
    ranks.leave()
