"""Environments on a device: environment steps per second of each, 65,536 of them side by side.

    .venv/bin/python benchmarks/device_envs.py              # on the CPU, and on a GPU where one is
    .venv/bin/python benchmarks/device_envs.py --n 4096 CartPole FrozenLake
    .venv/bin/python benchmarks/device_envs.py --n 4096 --train CartPole    # learning on them too

On the CPU they are held against the compiled environments, which are what trains there; on a GPU
each step is launched as it is, and captured as a CUDA graph. Actions are random, the same ones for
all. Dead reset steps count, as they take as long. Prints a table in markdown, with the device, the
version of PyTorch and the date. Quote ratios: machines are noisy.

With --train: environment steps per second of rollouts and the updates on them, in which the host
goes along with every step, or which are one piece of work, as it is and captured as one CUDA graph.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch

from rlkit.agent import Agent, Setting
from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.agents.ppo import PPO, PPORecipe
from rlkit.agents.pqn import PQN, PQNRecipe
from rlkit.device.engine import Engine
from rlkit.device.graphs import Graphed
from rlkit.envs.device.vector import DeviceEnvs
from rlkit.envs.make import make_envs
from rlkit.envs.vector import Envs
from rlkit.recipe import Recipe
from rlkit.training.episodes import episodes_of
from rlkit.training.iteration import Acting, iteration_of

# How each is stepped on the host, and the options that it is made with.
ENVS: dict[str, tuple[Any, dict[str, Any]]] = {
    "CartPole": ("compiled", {}),
    "Acrobot": ("compiled", {}),
    "MountainCar": ("compiled", {}),
    "Pendulum": ("compiled", {}),
    "catch": ("native", {}),
    "memory-corridor": ("native", {}),
    "repeat-first": ("native", {}),
    "cartpole-hidden": ("native", {}),
    "FrozenLake": ("model", {}),
    "garnet": ("native", {"states": 20_000}),
}
LEARNERS: dict[str, tuple[type[Agent], Any]] = {
    "a2c": (A2C, A2CRecipe(n_steps=32)),
    "ppo": (PPO, PPORecipe(n_steps=32)),
    "pqn": (PQN, PQNRecipe(n_steps=32)),
}
MINIBATCHES = 4  # of an epoch
SECONDS = 0.5  # of each measurement
BATCH = 4  # steps between two looks at the clock


def rate(step: Callable[[], object], n: int, wait: Callable[[], None]) -> float:
    """Million environment steps per second; `wait` returns when all that was asked for is done."""
    for _ in range(BATCH):  # what is slow once: compiling, loading, capturing
        step()
    wait()
    steps = 0
    since = time.perf_counter()
    while time.perf_counter() - since < SECONDS:
        for _ in range(BATCH):
            step()
        wait()
        steps += BATCH * n
    return steps / (time.perf_counter() - since) / 1e6


def made(name: str, n: int, vectorization: Any, device: str = "cpu") -> Envs:
    _, options = ENVS[name]
    wanted = {"source": name, **options} if name == "garnet" else options
    envs = make_envs(
        "model" if name == "garnet" else name, n, 0, vectorization, options=wanted, device=device
    )
    envs.reset()
    return envs


def actions(envs: Envs) -> np.ndarray:
    envs.action_space.seed(0)
    return np.array([envs.action_space.sample() for _ in range(envs.n)])


def on_host(name: str, n: int) -> float:
    envs = made(name, n, ENVS[name][0])
    action = actions(envs)
    return rate(lambda: envs.step(action), n, lambda: None)


def on_device(name: str, n: int, device: str, graph: bool = False) -> float:
    envs: Any = made(name, n, "device", device)
    assert isinstance(envs, DeviceEnvs)
    action = torch.from_numpy(actions(envs)).to(device)
    step: Callable[[Any], object] = envs.step
    if graph:
        step = Graphed(envs.step, envs.device, True, [envs.generator])
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return rate(lambda: step(action), n, wait)


def learner(agent_type: type[Agent], recipe: Recipe, envs: Envs, engine: Engine) -> Acting:
    device = torch.device("cpu") if envs.device is None else envs.device
    torch.manual_seed(0)
    setting = Setting(envs.obs_space, envs.action_space, envs.n, device, 0, engine=engine)
    agent = agent_type(setting, recipe)
    agent.memory.allocate()
    return Acting(agent, envs)


def learning(acting: Acting, at_once: bool) -> float:
    """Million environment steps per second, those of updates included."""
    agent, envs, quantum = acting.agent, acting.envs, acting.agent.memory.quantum
    episodes = episodes_of(envs.n, envs.device)
    iteration = iteration_of(acting, episodes) if at_once else None
    assert at_once == (iteration is not None)

    def iterate() -> None:
        if iteration is not None:
            iteration.run(0, quantum)
            iteration.told()
            return
        for _ in range(quantum // envs.n):
            episodes.add(acting.step())
            for batch in agent.memory.batches():
                agent.update(batch)

    wait = (lambda: None) if envs.device is None else torch.cuda.synchronize
    return rate(iterate, quantum, wait)


def learning_row(name: str, n: int, agent: str, rounds: int, cuda: bool) -> str:
    """The medians of the table's row of an agent in an environment."""
    agent_type, recipe = LEARNERS[agent]
    size = {} if agent == "a2c" else {"minibatch_size": n * recipe.n_steps // MINIBATCHES}
    recipe = recipe.but({"envs": n, **size})
    ways: list[tuple[str | None, Engine, bool]] = [(None, Engine(), False)]
    if cuda:
        ways += [("cuda", Engine(), False), ("cuda", Engine(graphs=False), True)]
        ways += [("cuda", Engine(), True)]
    cells = [f"{agent} {name}"]
    for device, engine, at_once in ways:
        rates = []
        for _ in range(rounds):
            how = ENVS[name][0] if device is None else "device"
            envs = made(name, n, how, device or "cpu")
            rates.append(learning(learner(agent_type, recipe, envs, engine), at_once))
        cells.append(f"{statistics.median(rates):.3f}")
    return f"| {' | '.join(cells)} |"


def row(name: str, n: int, rounds: int, cuda: bool) -> str:
    """The medians of a table's row; the ratio's range over the rounds too."""
    pairs = [(on_device(name, n, "cpu"), on_host(name, n)) for _ in range(rounds)]
    ratios = [device / host for device, host in pairs]
    device, host = (statistics.median(each) for each in zip(*pairs, strict=True))
    cells = [
        name,
        f"{host:.1f} ({ENVS[name][0]})",
        f"{device:.1f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
    ]
    if cuda:
        for graph in (False, True):
            rates = [on_device(name, n, "cuda", graph) for _ in range(rounds)]
            cells.append(f"{statistics.median(rates):.0f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("envs", nargs="*", default=list(ENVS), help=", ".join(ENVS))
    parser.add_argument("--n", type=int, default=65_536, help="environments side by side")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--train", action="store_true", help="measure learning on them")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else "no GPU"
    print(
        f"{args.n:,} environments; {where}; torch {torch.__version__}, {args.threads} threads; "
        f"{datetime.now(timezone.utc):%Y-%m-%d}\n"
    )
    columns = ["environment", "host, M steps/s", "device cpu, M steps/s", "device cpu / host"]
    columns += ["cuda, eager", "cuda, captured"] if cuda else []
    if args.train:
        columns = ["learning, M steps/s", "host"]
        columns += ["cuda, step by step", "cuda, iterations", "cuda, one graph"] if cuda else []
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in args.envs:
        if not args.train:
            print(row(name, args.n, args.rounds, cuda), flush=True)
            continue
        for agent in LEARNERS:
            print(learning_row(name, args.n, agent, args.rounds, cuda), flush=True)


if __name__ == "__main__":
    main()
