"""Processes that work as one: how they meet.

Whatever starts them, torchrun or a cluster's launcher, tells each by environment variables which of
them it is: RANK, of WORLD_SIZE, and where all meet: MASTER_ADDR, MASTER_PORT. This module imports
torch; import it where there are ranks.
"""

from __future__ import annotations

import math
import os
import socket
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from rlkit.errors import RunError, UsageError
from rlkit.ranks import FAREWELL, POLL, LostRankError, MissingRankError, Place, Ranks

TIMEOUT = 300.0  # seconds that a rank waits for others
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LAUNCH = "start every rank with 'torchrun --nproc-per-node N -m rlkit ...'"


def join(timeout: float = TIMEOUT) -> Ranks:
    """Meet the other ranks of this job, and return when all are there.

    timeout: seconds to wait for them, here and whenever something comes from another rank.

    Raises:
        UsageError: the environment variables are missing, or do not fit together.
        RunError: not all ranks came in time; names those that did not.
    """
    if not (timeout > 0 and math.isfinite(timeout)):
        raise UsageError(
            f"rank_timeout={timeout} is out of range; it is a positive number of seconds"
        )
    place, until = _place(), time.monotonic() + timeout
    job_store = _meeting_point(place, timeout, until)
    store = PrefixStore(str(place.attempt), job_store)
    _wait_for_all(place, store, timeout, until)
    try:
        dist.init_process_group(
            _backend(),
            store=PrefixStore("gloo", store),
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=timeout),
        )
    except RuntimeError as error:
        raise RunError(
            f"rank {place.rank} of {place.size} met the others at {place.address}, but can't "
            f"connect to them ({_first_line(error)}); name the network interface that leads to "
            "them in GLOO_SOCKET_IFNAME"
        ) from error
    return Ranks(place, store, job_store, timeout)


def _place() -> Place:
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} missing from the environment, which tells a rank of its peers; "
            f"{_LAUNCH}"
        )
    values: dict[str, int] = {}
    for name, low in (("WORLD_SIZE", 1), ("RANK", 0), ("MASTER_PORT", 1)):
        high = {"RANK": values.get("WORLD_SIZE", 1) - 1, "MASTER_PORT": 65_535}.get(name, math.inf)
        text = os.environ[name]
        if not (text.isdecimal() and low <= int(text) <= high):
            allowed = f"{low} to {high}" if high < math.inf else f"{low} or more"
            raise UsageError(f"{name}={text!r} in the environment; allowed: {allowed}; {_LAUNCH}")
        values[name] = int(text)
    return Place(
        values["RANK"],
        values["WORLD_SIZE"],
        os.environ["MASTER_ADDR"],
        values["MASTER_PORT"],
        int(os.environ.get("LOCAL_RANK", values["RANK"])),
        int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)),
    )


def _backend() -> str:
    """Who carries what: gloo what is in host memory, NCCL what is on a GPU."""
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    return "cpu:gloo,cuda:nccl" if gpus else "gloo"


def _meeting_point(place: Place, timeout: float, until: float) -> Store:
    """The store of keys and values through which the ranks of a job find each other."""
    if not place.is_host:
        _reach(place, timeout, until)
    try:
        store = TCPStore(
            place.host,
            place.port,
            None,
            place.is_host,
            timedelta(seconds=timeout),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        raise RunError(
            f"rank {place.rank} can't use the meeting point {place.address} "
            f"({_first_line(error)}); choose another MASTER_PORT"
        ) from error
    return PrefixStore("rlkit", store)


def _reach(place: Place, timeout: float, until: float) -> None:
    """Wait until something listens there: torch would write a page of warnings meanwhile."""
    while (refusal := _refusal(place)) is not None:
        if time.monotonic() > until:
            raise RunError(
                f"rank {place.rank} of {place.size} waited {timeout:g} s for rank 0 at "
                f"{place.address}, which does not answer ({refusal.strerror or refusal}); start "
                "rank 0, or correct MASTER_ADDR and MASTER_PORT"
            ) from refusal
        time.sleep(POLL)


def _refusal(place: Place) -> OSError | None:
    try:
        socket.create_connection((place.host, place.port), timeout=1.0).close()
    except OSError as error:
        return error
    return None


def _wait_for_all(place: Place, store: Store, timeout: float, until: float) -> None:
    try:
        if store.add(f"taken/{place.rank}", 1) > 1:
            raise UsageError(
                f"two processes of WORLD_SIZE={place.size} have RANK={place.rank}; "
                "give each rank a number of its own"
            )
        store.set(f"size/{place.rank}", str(place.size))
        keys = [f"size/{rank}" for rank in range(place.size)]
        while not store.check(keys) and time.monotonic() < until:
            time.sleep(POLL)
        there = [rank for rank, key in enumerate(keys) if store.check([key])]
        sizes = {rank: int(store.get(keys[rank])) for rank in there}
    except RuntimeError as error:
        raise LostRankError(
            f"rank {place.rank} of {place.size}: the meeting point {place.address} is gone, and "
            "rank 0 with it, before all ranks had joined"
        ) from error
    for rank, size in sizes.items():
        if size != place.size:
            raise UsageError(
                f"rank {rank} was started with WORLD_SIZE={size}, rank {place.rank} with "
                f"{place.size}; give all ranks the same"
            )
    missing = [rank for rank in range(place.size) if rank not in sizes]
    if missing:
        if place.is_host:
            time.sleep(FAREWELL)  # what others can ask is gone with this rank
        raise MissingRankError(
            f"rank {', '.join(map(str, missing))} of {place.size} did not come to {place.address} "
            f"within {timeout:g} s (--rank-timeout); start all {place.size} ranks, or wait longer",
            missing,
        )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
