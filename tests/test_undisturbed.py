"""What a training costs besides learning: pages of memory, and records of episodes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest

import rlkit
from rlkit.run.metrics import LENGTH, RETURN, read_metrics

CHURN = """
    import contextlib, resource, sys
    import numpy as np
    from rlkit.training.undisturbed import undisturbed

    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    with undisturbed() if sys.argv[1] == "undisturbed" else contextlib.nullcontext():
        for round in range(60):
            if round == 10:
                before = faults()
            arrays = [np.ones((2560, 64), np.float32) for _ in range(16)]  # an update's, 10 MiB
            del arrays
    print((faults() - before) / 50)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_memory_freed_by_an_update_is_there_for_the_next_one() -> None:
    def faults_per_round(how: str) -> float:
        command = [sys.executable, "-c", textwrap.dedent(CHURN), how]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults_per_round("undisturbed") < 20 < 500 < faults_per_round("as it is")


def test_a_run_records_its_episodes_a_thousand_times_at_most(tmp_path: Path) -> None:
    options = {"run_dir": tmp_path, "seed": 1, "eval_episodes": 1}
    done = rlkit.train("a2c", "CartPole", {"steps": 20_000, "envs": 4}, options)
    lines = [x for x in read_metrics(done.run / "metrics.jsonl") if RETURN in x]
    assert len(lines) > 100
    assert all(line[RETURN] == line[LENGTH] for line in lines)  # CartPole's rewards are 1
    periods = [line["step"] // 20 for line in lines]
    assert all(a < b for a, b in pairwise(periods))
