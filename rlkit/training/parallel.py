"""One of several ranks that train an agent together: what all of them do alike, and when.

Each rank has environments, random numbers and a memory of its own; in every update their gradients
become one (`rlkit.peers`), so that weights and optimiser are the same on all. Rank 0 writes the
run, evaluates and speaks; the others keep what is theirs alone in the run's folder, in `ranks/K`.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch

from rlkit.agent import Agent
from rlkit.device.names import device_for
from rlkit.errors import CheckpointError, RlkitWarning, UsageError
from rlkit.ranks import Ranks
from rlkit.registry import AGENTS
from rlkit.run.checkpoint import FOLDER, Checkpoint, load_checkpoint
from rlkit.run.folder import RunFolder
from rlkit.run.signals import StopSignals
from rlkit.training.options import RunOptions

RANKS = "ranks"
RUN = "run"  # what is remembered of a run for torchrun's next attempt
PAUSE = 0.1  # seconds between two times that the ranks agree whether to go on
BEAT = 1.0  # the same while rank 0 evaluates


class Outcome(IntEnum):
    """Of an evaluation."""

    PENDING = 0
    BROKEN_OFF = 1
    KEPT = 2
    BEST = 3


class Council:
    """Has all ranks stop, save and evaluate after the same step.

    Every rank has to make the same calls in the same order.

    Attributes:
        stopping: a signal that one of the ranks has received ends the training of all.
        job: a name of this job, which no other one has.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.leads = ranks.rank == 0
        self.stopping = False
        self.job = ranks.first_text(secrets.token_hex(8))
        self._every = self._left = 1  # calls of `agree` from one exchange to the next
        self._since = time.monotonic()

    def begin(self, run: Path) -> None:
        """There is a checkpoint of the run: should torchrun start this job anew, it goes on."""
        if self.leads:
            self.ranks.remember(RUN, str(run))

    def agree(self, signals: StopSignals, save: bool, now: bool = False) -> bool:
        """Called after every step: whether to save by rank 0's clock, and with `stopping` to end.

        Ranks exchange a few numbers every tenth of a second or so, and `now`.
        """
        self._left -= 1
        if self._left > 0 and not now:
            return False
        passed = max(time.monotonic() - self._since, 1e-6)
        self._since += passed
        calls = max(1, self._every - self._left)
        wanted = max(1, min(4 * self._every, round(calls * PAUSE / passed)))
        save, every, _ = self._exchange(signals, save, wanted)
        self._every = self._left = every
        return save

    def beat(self, signals: StopSignals) -> None:
        """On rank 0, at each step of an evaluation: the others learn that it goes on."""
        if signals.received is not None or time.monotonic() - self._since > BEAT:
            self._since = time.monotonic()
            self._exchange(signals)

    def announce(self, signals: StopSignals, outcome: Outcome) -> None:
        """On rank 0: what came of an evaluation."""
        self._exchange(signals, outcome=outcome)

    def awaited(self, signals: StopSignals) -> Outcome:
        """On the others: what came of rank 0's evaluation, when it is over."""
        outcome = Outcome.PENDING
        while outcome is Outcome.PENDING:
            _, _, outcome = self._exchange(signals)
        return outcome

    def assemble(self, failed: bool = False) -> None:
        """Wait for all ranks; rank 0 warns of those whose part of a checkpoint is not there."""
        (rank,) = self.ranks.largest([self.ranks.rank if failed else 0])
        if self.leads and rank:
            warnings.warn(
                f"rank {int(rank)} could not save its part of the checkpoint: from there on, "
                "episodes start afresh",
                RlkitWarning,
                stacklevel=2,
            )

    def means(self, own: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
        """Mean return and length of the ranks' last episodes, from those of this rank's."""
        mean_return, mean_length = own
        known = mean_return is not None
        table = torch.tensor(
            [mean_return or 0.0, mean_length or 0.0, float(known)], dtype=torch.float64
        )
        self.ranks.add_up(table)
        total_return, total_length, n = table.tolist()
        return (total_return / n, total_length / n) if n else (None, None)

    def about(self) -> dict[str, Any]:
        """What a checkpoint says of the ranks that saved it."""
        return {"count": self.ranks.size, "job": self.job}

    def _exchange(
        self,
        signals: StopSignals,
        save: bool = False,
        every: int = 1,
        outcome: Outcome = Outcome.PENDING,
    ) -> tuple[bool, int, Outcome]:
        """What rank 0 says of saving, of when to meet next and of its evaluation."""
        asked = [signals.received == signal.SIGINT, signals.received == signal.SIGTERM]
        told = [save, every, outcome] if self.leads else [0, 0, 0]
        interrupted, terminated, *heard = self.ranks.largest([*asked, *told]).astype(int).tolist()
        if interrupted or terminated:
            self.stopping = True
            if signals.received is None:  # of another rank
                signals.received = signal.SIGTERM if terminated else signal.SIGINT
        return bool(heard[0]), heard[1], Outcome(heard[2])


def check_agent(agent: str, ranks: Ranks) -> None:
    """Raise UsageError for agents that several ranks can't train."""
    entry = AGENTS[agent]
    if ranks.size > 1 and (entry.tabular or entry.imitates):
        able = [name for name, other in AGENTS.items() if not (other.tabular or other.imitates)]
        raise UsageError(
            f"{agent} trains in one process, and there are {ranks.size} ranks; several train: "
            f"{', '.join(able)}"
        )


def placed(options: RunOptions, ranks: Ranks | None) -> RunOptions:
    """The options with the device that is this rank's own.

    Raises UsageError, on every rank, for what several ranks can't do.
    """
    if ranks is None or ranks.size == 1:
        return options
    if options.compile:  # it would take the exchanges for its own, and get other gradients
        raise UsageError(
            f"compile (--compile) is on, and {ranks.size} ranks train together, which exchange "
            "gradients in the midst of what it compiles; leave it out, or train in one process"
        )
    device = device_for(options.device)
    kinds = ranks.largest([device.type == "cuda", device.type != "cuda"])
    if kinds.all():
        raise UsageError(
            "some ranks have a CUDA device and others have none; give all of them --device cpu"
        )
    if device.type != "cuda":
        return options
    if ":" in options.device:
        raise UsageError(
            f"device (--device) is {options.device}, one GPU, and {ranks.size} ranks take one "
            "each; use --device cuda"
        )
    found = torch.cuda.device_count()
    if ranks.local_rank >= found:
        raise UsageError(
            f"rank {ranks.rank} is number {ranks.local_rank} of its machine, which has {found} "
            f"CUDA devices; start as many ranks there (--nproc-per-node {found}), or use --device "
            "cpu"
        )
    torch.cuda.set_device(ranks.local_rank)
    return replace(options, device=f"cuda:{ranks.local_rank}")


def check_alike(config: Mapping[str, Any], ranks: Ranks) -> None:
    """Raise UsageError, on every rank, where one was told other things than rank 0."""
    own = json.loads(json.dumps({**config, **config["recipe"], "recipe": ""}))
    first = json.loads(ranks.first_text(json.dumps(own)))
    other = next((name for name in own if own[name] != first.get(name)), None)
    ranks.share_error(
        None
        if other is None
        else UsageError(
            f"{other} is {own[other]!r} there, and {first.get(other)!r} on rank 0; start all ranks "
            "with the same command"
        )
    )


def equalize(agent: Agent, ranks: Ranks | None) -> None:
    """Give all ranks rank 0's weights: processors may differ in the last bit."""
    if ranks is not None:
        for tensor in agent.state_dict().values():
            ranks.copy_first(tensor)


def own_folder(run: Path, config: Mapping[str, Any], rank: int) -> RunFolder:
    """Where a rank writes: rank 0 into the run's folder, the others into `ranks/K` in it."""
    path = run / RANKS / str(rank) if rank else run
    for folder in {path, path.parent} if rank else ():
        if folder.is_symlink():
            raise UsageError(f"{folder} is a link: nothing is written through it; take it away")
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path, dict(config))


def run_of(own: RunFolder) -> RunFolder:
    """The run whose rank's folder this is; of another rank than rank 0."""
    return RunFolder(own.path.parents[1], own.config)


@dataclass(frozen=True)
class Start:
    """Where a rank goes on from."""

    checkpoint: Checkpoint
    goes_on: bool = True  # with every rank's own episodes; else all episodes start afresh
    is_new: bool = False  # there was no such rank when it was saved


def newest(run: Path, ranks: Ranks | None) -> Start:
    """The newest checkpoint of a run or, of several ranks, this one's part of it.

    Of a run of M ranks, rank k takes the part of rank k mod M. Where a part is missing, as on a
    machine that did not see the others' disk, rank 0's stands in.
    """
    if ranks is None:
        return Start(load_checkpoint(run))
    part: Checkpoint | None = None
    told: dict[str, Any] = {}
    if ranks.rank == 0:
        part = load_checkpoint(run)
        told = {"name": part.path.name, "step": part.step, **_job_of(part)}
    told = json.loads(ranks.first_text(json.dumps(told)))
    source = ranks.rank % told["count"]
    if source:
        part = _part(run / RANKS / str(source), told["step"], told["job"])
    is_missing = source > 0 and part is None
    if part is None:
        part = load_checkpoint(run / FOLDER / told["name"])
    is_new = ranks.rank >= told["count"]
    (afresh,) = ranks.largest([is_new or is_missing])
    return Start(part, not afresh, is_new)


def _job_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """How many ranks saved it, and the name of their job."""
    told = checkpoint.tree.get(RANKS)
    if not isinstance(told, dict):
        return {"count": 1, "job": ""}
    count, job = told.get("count"), told.get("job")
    if type(count) is not int or not 1 <= count < 1 << 20 or not isinstance(job, str):
        raise CheckpointError(
            f"{checkpoint.path}: says nothing sensible of its ranks; take another"
        )
    return {"count": count, "job": job}


def _part(folder: Path, step: int, job: str) -> Checkpoint | None:
    """What a rank saved with the others at that step; None where it is not there, or damaged."""
    saves = sorted((folder / FOLDER).glob(f"{step:012d}*"), key=lambda path: len(path.name))
    for path in reversed(saves):
        try:
            found = load_checkpoint(path)
        except CheckpointError as error:
            warnings.warn(str(error), RlkitWarning, stacklevel=2)
            continue
        if _job_of(found)["job"] == job:
            return found
    return None


def launch(command: str, ranks: Ranks | None) -> str:
    """A command as several ranks are started with it."""
    if ranks is None or not command.startswith("rlkit "):
        return command
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size))
    nodes = f"--nnodes {ranks.size // here} " if ranks.size > here else ""
    return f"torchrun {nodes}--nproc-per-node {here} -m {command}"
