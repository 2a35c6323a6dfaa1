"""Which encoders see: a table of docs/networks.md.

    .venv/bin/python benchmarks/pixels.py                # every row, 5 seeds each
    .venv/bin/python benchmarks/pixels.py impala --seeds 10
    .venv/bin/python benchmarks/pixels.py cnn            # float32 beside bfloat16

Catch is won (1) or lost (-1): a mean of 0.9 is 95 % caught.
"""

from __future__ import annotations

from seeds import Setting, table

LARGE = {"rows": 10, "columns": 10, "scale": 4}  # 40 × 40 pixels: `nature` needs 36
CNN = {"encoder": "cnn"}
SETTINGS = [
    *(
        Setting(f"10 × 5 pixels, ppo {name}", "ppo", "catch", {"encoder": name})
        for name in ("cnn", "impala", "mlp")
    ),
    *(
        Setting(f"10 × 5 pixels, dqn {name}", "dqn", "catch", {"encoder": name})
        for name in ("cnn", "mlp")
    ),
    *(
        Setting(f"10 × 5 pixels, {agent} cnn, bfloat16", agent, "catch", CNN, {"bf16": True})
        for agent in ("ppo", "dqn")
    ),
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
