"""Which memories remember: tables of docs/networks.md.

    .venv/bin/python benchmarks/memory.py                # every row, 5 seeds each
    .venv/bin/python benchmarks/memory.py gru --seeds 10

MemoryCorridor shows a cue in the first step of an episode and asks for it in the last: a policy
without memory gets 0 on average, one that remembers 1 (0.9: 95 % right). CartPoleHidden shows
positions and no velocities.
"""

from __future__ import annotations

from seeds import Setting, table

CORES = ("gru", "lstm", "gtrxl", "rnn", "none")


# A quarter of the recipe's: a step of the gated transformer takes several times a GRU's.
FEWER = {(50, "gtrxl"): {"steps": 50_000}}


def corridor(length: int, core: str) -> Setting:
    name = f"corridor of {length}, ppo {core}"
    recipe = {"core": core, **FEWER.get((length, core), {})}
    return Setting(name, "ppo", "memory-corridor", recipe, env_options={"length": length})


def hidden(agent: str, core: str, **recipe: object) -> Setting:
    name = f"hidden velocities, {agent} {core}"
    return Setting(name, agent, "cartpole-hidden", {"core": core, **recipe})


HIDDEN = [
    hidden("a2c", "gru"),
    hidden("a2c", "lstm"),
    hidden("ppo", "gru", steps=300_000),
    hidden("ppo", "lstm"),
    hidden("r2d2", "gru"),
    Setting(
        "hidden velocities, ppo conv1d over 8",
        "ppo",
        "cartpole-hidden",
        {"core": "none", "encoder": "conv1d", "steps": 300_000, "gae_lambda": 0.95},
        {"frame_stack": 8},
    ),
    hidden("ppo", "none"),
]

if __name__ == "__main__":
    settings = [corridor(length, core) for length in (10, 50) for core in CORES]
    table(settings + HIDDEN, __doc__.splitlines()[0])
