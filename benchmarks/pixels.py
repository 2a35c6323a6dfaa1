"""Which encoders see: a table of docs/networks.md.

    .venv/bin/python benchmarks/pixels.py                # every row, 5 seeds each
    .venv/bin/python benchmarks/pixels.py impala --seeds 10

Catch is won (1) or lost (-1): a mean of 0.9 is 95 % caught.
"""

from __future__ import annotations

from seeds import Setting, table

LARGE = {"scale": 8}  # 80 × 40 pixels, for the networks made for 84 × 84
SETTINGS = [
    Setting("catch, 10 × 5 pixels, cnn", "ppo", "catch", {"encoder": "cnn"}),
    Setting("catch, 10 × 5 pixels, mlp", "ppo", "catch", {"encoder": "mlp"}),
    Setting("catch, 10 × 5 pixels, dqn with cnn", "dqn", "catch", {"encoder": "cnn"}),
    *(
        Setting(
            f"catch, 80 × 40 pixels, {name}",
            "ppo",
            "catch",
            {"encoder": name, "hidden": (128,)},
            env_options=LARGE,
        )
        for name in ("nature", "impala", "mlp")
    ),
]

if __name__ == "__main__":
    table(SETTINGS, __doc__.splitlines()[0])
