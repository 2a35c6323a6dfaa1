"""What a run is told besides its recipe; `rlkit train`'s other options come from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rlkit.errors import UsageError
from rlkit.interval import Interval
from rlkit.recipe import as_json, check_fields, option
from rlkit.registry import unknown


@dataclass(frozen=True)
class RunOptions:
    """How to run, which changes nothing about the algorithm."""

    seed: int = option(0, "seed of everything random in the run", low=0)
    device: str = option("auto", "auto, cpu, cuda or cuda:I")
    graphs: bool = option(True, "on CUDA, capture updates once as graphs and replay them")
    compile: bool = option(False, "compile updates with torch.compile, which takes its time first")
    bf16: bool = option(False, "compute the networks' products in bfloat16; weights stay float32")
    run_dir: str = option("runs", "folder for run folders")
    vectorization: str = option(
        "auto",
        "how the environments step together",
        choices=("auto", "compiled", "model", "native", "sync", "async", "device"),
    )
    env_timeout: float = option(
        300.0, "seconds for a step or reset of an async environment; 0: no limit", low=0
    )
    restart_workers: int = option(
        0, "how many async environments that die or hang a run may start anew", low=0
    )
    pixels: bool = option(False, "learn from what the environment renders, 84 x 84 and grey")
    frame_stack: int = option(
        0, "newest observations in one; 0: 4 with pixels, else 1", low=0, high=100
    )
    eval_every: int = option(0, "steps between evaluations; 0: a fifth of the run", low=0)
    eval_episodes: int = option(100, "greedy episodes of the last evaluation", low=1)
    save_every: Interval = option(
        "0", "steps or time between checkpoints, such as 50000 or 10min; 0: a tenth of the run"
    )
    video: bool = option(False, "record an episode of each evaluation as MP4, in the run folder")
    exact: bool = option(
        True, "where the environment has a model, compute the policy's exact value and errors"
    )
    threads: int = option(1, "CPU threads that torch and NumPy compute with", low=1, high=1024)
    encoder_from: str = option(
        "", "run, or one of its checkpoints, whose encoder a new run begins with"
    )
    freeze_encoder: bool = option(False, "leave the encoder of encoder_from as it is")
    strict: bool = option(False, "an observation outside its space is an error, not a warning")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.restart_workers and self.vectorization != "async":
            raise UsageError(
                f"restart_workers (--restart-workers) is {self.restart_workers}, and with "
                f"vectorization {self.vectorization} there are no workers; use --vectorization "
                "async, or leave it out"
            )
        if self.freeze_encoder and not self.encoder_from:
            raise UsageError(
                "freeze_encoder (--freeze-encoder) is on, and the encoder is a random one; name "
                "the run to take one from: --encoder-from RUN"
            )

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return as_json(self)


def run_options(given: Mapping[str, Any]) -> RunOptions:
    """RunOptions from names and values; raises UsageError for an unknown name or a bad value."""
    known = [field.name for field in fields(RunOptions)]
    for name in given:
        if name not in known:
            raise unknown("option", name, known)
    return RunOptions(**given)
