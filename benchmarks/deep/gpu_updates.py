"""Updates per second on a GPU: as they are, as CUDA graphs, compiled, and in bfloat16.

    python benchmarks/deep/gpu_updates.py [--seconds 5] [--only ppo-nature]

Each line is one agent on random steps from the device, so that nothing but learning is measured:
steps learned from per second of updates, the median of five rounds. Without a GPU it says so.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import date

import numpy as np
import torch
from gymnasium import spaces

from rlkit.agent import Agent, Setting
from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.agents.dqn import DQN, DQNRecipe
from rlkit.agents.ppo import PPO, PPORecipe
from rlkit.agents.pqn import PQN, PQNRecipe
from rlkit.agents.rainbow import Rainbow, RainbowRecipe
from rlkit.agents.sac import SAC, SACRecipe
from rlkit.device.engine import Engine
from rlkit.experience.step import Step

VECTOR = spaces.Box(-1, 1, (8,))
FRAMES = spaces.Box(0, 255, (4, 84, 84), dtype=np.uint8)
DISCRETE, BOX = spaces.Discrete(6), spaces.Box(-1, 1, (6,))
ENVS, ROUNDS, WARM_UP = 64, 5, 8
REPLAY = {"buffer_size": 20_000, "learning_starts": 4_096, "train_every": ENVS}

WORK = {
    "ppo-mlp": (PPO, PPORecipe(minibatch_size=2048), VECTOR, DISCRETE),
    "ppo-nature": (PPO, PPORecipe(n_steps=32, minibatch_size=512), FRAMES, DISCRETE),
    "ppo-lstm": (PPO, PPORecipe(n_steps=32, minibatch_size=512, core="lstm"), VECTOR, DISCRETE),
    "a2c-mlp": (A2C, A2CRecipe(), VECTOR, DISCRETE),
    "pqn-mlp": (PQN, PQNRecipe(minibatch_size=1024), VECTOR, DISCRETE),
    "dqn-mlp": (DQN, DQNRecipe().but(REPLAY), VECTOR, DISCRETE),
    "dqn-nature": (DQN, DQNRecipe(hidden=(512,)).but(REPLAY), FRAMES, DISCRETE),
    "rainbow-nature": (Rainbow, RainbowRecipe().but(REPLAY), FRAMES, DISCRETE),
    "sac-mlp": (SAC, SACRecipe(gradient_steps=16).but(REPLAY), VECTOR, BOX),
}
ENGINES = {
    "as it is": Engine(graphs=False),
    "graphs": Engine(),
    "graphs, bf16": Engine(bf16=True),
    "graphs, compiled": Engine(compile=True),
}


def steps_of(agent: Agent, count: int) -> list[Step]:
    """Random steps of tensors, which end now and then."""
    device, random = agent.setting.device, torch.Generator(agent.setting.device).manual_seed(0)
    obs_space, action_space = agent.setting.obs_space, agent.setting.action_space

    def observed() -> torch.Tensor:
        shape = (ENVS, *(obs_space.shape or ()))
        if obs_space.dtype == np.uint8:
            return torch.randint(256, shape, generator=random, device=device, dtype=torch.uint8)
        return torch.rand(shape, generator=random, device=device)

    def chosen() -> torch.Tensor:
        if isinstance(action_space, spaces.Discrete):
            n = int(action_space.n)
            return torch.randint(n, (ENVS,), generator=random, device=device)
        return torch.rand((ENVS, *(action_space.shape or ())), generator=random, device=device)

    seen = [observed() for _ in range(count + 1)]
    live = torch.ones(ENVS, dtype=torch.bool, device=device)
    return [
        Step(
            seen[k],
            chosen(),
            torch.randn(ENVS, generator=random, device=device),
            torch.rand(ENVS, generator=random, device=device) < 0.01,
            ~live,
            live,
            seen[k + 1],
            carry=agent.initial_carry(ENVS),
        )
        for k in range(count)
    ]


def measured(name: str, engine: Engine, seconds: float) -> tuple[float, int]:
    """Steps learned from per second, and the bytes of device memory at most."""
    agent_type, recipe, obs, action = WORK[name]
    device = torch.device("cuda")
    torch.manual_seed(0)
    torch.cuda.reset_peak_memory_stats()
    agent = agent_type(Setting(obs, action, ENVS, device, 0, engine=engine), recipe)
    agent.memory.allocate()
    steps, at, rates = steps_of(agent, 64), 0, []
    for turn in range(ROUNDS + 1):  # the first one warms up and captures
        done, spent, updates = 0, 0.0, 0
        while spent < seconds / ROUNDS or (turn == 0 and updates < WARM_UP):
            agent.memory.add(steps[at % len(steps)])
            at += 1
            batches = list(agent.memory.batches())
            torch.cuda.synchronize()
            since = time.perf_counter()
            for batch in batches:
                agent.update(batch)
                done += batch.reward.numel() * getattr(recipe, "epochs", 1)
                updates += 1
            torch.cuda.synchronize()
            spent += time.perf_counter() - since
        rates.append(done / spent)
    return statistics.median(rates[1:]), torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of updates for each line")
    parser.add_argument("--only", choices=WORK, help="one of the agents")
    told = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} sees no GPU here: nothing to measure")
        return
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {date.today()}")
    for name in [told.only] if told.only else WORK:
        for how, engine in ENGINES.items():
            rate, most = measured(name, engine, told.seconds)
            print(f"{name:15} {how:17} {rate:14,.0f} steps/s {most / 2**20:10,.0f} MiB")


if __name__ == "__main__":
    main()
