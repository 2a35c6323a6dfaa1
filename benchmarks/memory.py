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


def corridor(length: int, core: str) -> Setting:
    name = f"corridor of {length}, ppo {core}"
    return Setting(name, "ppo", "memory-corridor", {"core": core}, env_options={"length": length})


HIDDEN = [
    Setting("hidden velocities, a2c gru", "a2c", "cartpole-hidden", {"core": "gru"}),
    Setting("hidden velocities, ppo gru", "ppo", "cartpole-hidden", {"core": "gru"}),
    Setting("hidden velocities, r2d2 gru", "r2d2", "cartpole-hidden", {"core": "gru"}),
    Setting(
        "hidden velocities, ppo conv1d over 8",
        "ppo",
        "cartpole-hidden",
        {"encoder": "conv1d"},
        {"frame_stack": 8},
    ),
    Setting("hidden velocities, ppo none", "ppo", "cartpole-hidden"),
]

if __name__ == "__main__":
    settings = [corridor(length, core) for length in (10, 50) for core in CORES]
    table(settings + HIDDEN, __doc__.splitlines()[0])
