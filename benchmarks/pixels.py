"""Which encoders see: a table of docs/networks.md.

    .venv/bin/python benchmarks/pixels.py                # every row, 5 seeds each
    .venv/bin/python benchmarks/pixels.py impala --seeds 10

Catch is won (1) or lost (-1): a mean of 0.9 is 95 % caught.
"""

from __future__ import annotations

from seeds import Setting, table

LARGE = {"rows": 10, "columns": 10, "scale": 4}  # 40 × 40 pixels: `nature` needs 36
SETTINGS = [
    *(
        Setting(f"10 × 5 pixels, ppo {name}", "ppo", "catch", {"encoder": name})
        for name in ("cnn", "impala", "mlp")
    ),
    Setting("10 × 5 pixels, dqn cnn", "dqn", "catch", {"encoder": "cnn"}),
    *(
        Setting(
            f"40 × 40 pixels, ppo {name}",
            "ppo",
            "catch",
            {"encoder": name, "steps": 150_000},
            env_options=LARGE,
        )
        for name in ("nature", "mlp")
    ),
]

if __name__ == "__main__":
    table(SETTINGS, __doc__.splitlines()[0])
