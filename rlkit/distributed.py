"""Processes that work as one: how they meet, what they exchange, and what is said if one is lost.

Whatever starts them, torchrun or a cluster's launcher, tells each by environment variables which of
them it is: RANK, of WORLD_SIZE, and where all meet: MASTER_ADDR, MASTER_PORT. What they exchange
goes over TCP, by torch's gloo. This module imports torch; import it where there are ranks.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from rlkit.errors import RlkitError, RunError, UsageError

TIMEOUT = 300.0  # seconds that a rank waits for others
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LAUNCH = "start every rank with 'torchrun --nproc-per-node N -m rlkit ...'"
_POLL = 0.05  # seconds between two looks at who is there
_FAREWELL = 5.0  # seconds in which the ranks that are left agree on who tells the user


class LostRankError(RunError):
    """Another rank has ended, or has been silent for longer than the time-out."""


class MissingRankError(RunError):
    """Not all ranks of the job came; `ranks` are those that did not."""

    def __init__(self, words: str, ranks: Sequence[int]) -> None:
        super().__init__(words)
        self.ranks = ranks


@dataclass(frozen=True)
class _Place:
    rank: int
    size: int
    host: str
    port: int

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def is_host(self) -> bool:
        """Whether this rank holds the meeting point; under torchrun its agent does."""
        return self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"


class Ranks:
    """The processes of a job, this one among them; see `join`.

    Every rank has to make the same calls in the same order; each call returns when the ranks that
    it concerns have made it. All of them raise LostRankError where one of those is lost.

    Attributes:
        rank: this process, from 0 on.
        size: how many there are.
        timeout: seconds that a call waits for other ranks.
    """

    def __init__(self, place: _Place, store: Store, timeout: float) -> None:
        self.rank = place.rank
        self.size = place.size
        self.timeout = timeout
        self._place = place
        self._store = store
        self._lost: list[int] = []

    def largest(self, values: Sequence[float]) -> NDArray[np.float64]:
        """(N,) the largest of all ranks' values, one by one."""
        found = np.array(values, dtype=np.float64)
        with self._listening("another rank"):
            dist.all_reduce(torch.from_numpy(found), op=dist.ReduceOp.MAX)
        return found

    def total(self, values: Sequence[int]) -> NDArray[np.int64]:
        """(N,) the sums of all ranks' values, one by one."""
        found = np.array(values, dtype=np.int64)
        with self._listening("another rank"):
            dist.all_reduce(torch.from_numpy(found))
        return found

    def gather(self, own: NDArray[Any], all_of_them: NDArray[Any]) -> None:
        """Fill all_of_them (size, N) with every rank's own (N,), of one dtype."""
        with self._listening("another rank"):
            dist.all_gather([*torch.from_numpy(all_of_them)], torch.from_numpy(own))

    def exchange(
        self, outgoing: Mapping[int, NDArray[Any]], incoming: Mapping[int, NDArray[Any]]
    ) -> None:
        """Send arrays to ranks and fill others, which must be as long as what those ranks send."""
        peers, calls = [], []
        for peer, array in incoming.items():
            with self._listening(f"rank {peer}"):
                calls.append(dist.irecv(torch.from_numpy(array), peer))
            peers.append(peer)
        for peer, array in outgoing.items():
            with self._listening(f"rank {peer}"):
                calls.append(dist.isend(torch.from_numpy(array), peer))
            peers.append(peer)
        for peer, call in zip(peers, calls, strict=True):
            with self._listening(f"rank {peer}"):
                if call is not None:
                    call.wait()

    def share_error(self, error: RlkitError | None) -> None:
        """Raise on every rank the error that one of them has, as far as any has one.

        For work that each rank does alone and in which it may fail alone, so that the others do not
        wait for it until the time is out.
        """
        if error is not None:
            self._store.set(f"error/{self.rank}", f"{error.exit_status} {error}")
        failed = int(self.largest([0.0 if error is None else self.size - self.rank])[0])
        if not failed:
            return
        if error is not None and failed == self.size - self.rank:
            raise error
        first = self.size - failed
        status, _, told = self._store.get(f"error/{first}").decode().partition(" ")
        kind = UsageError if int(status) == UsageError.exit_status else RunError
        raise kind(f"rank {first}: {told}")

    def speaks_after(self, error: RlkitError) -> tuple[bool, RlkitError]:
        """Whether it is for this rank to tell the user of an error that ends all of them; with the
        ranks that are lost named, as far as it can be said.

        It is rank 0 that tells, unless that is what is lost.
        """
        lost = isinstance(error, LostRankError)
        with contextlib.suppress(RuntimeError):
            self._store.set(f"ended/{self.rank}", "")
        if self.rank:
            return lost and not self._in_time(lambda: self._store.check(["ended/0"])), error
        return True, self._with_names(error) if lost else error

    def leave(self) -> None:
        """Break the connections: what others wait for from here fails at once."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"ended/{self.rank}", "")
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
        if self._place.is_host:  # what it holds is gone when it ends
            others = {*range(1, self.size)}.difference(self._lost)
            self._in_time(lambda: self._store.check([f"ended/{rank}" for rank in others]))
            time.sleep(
                4 * _POLL if self._lost else 0.0
            )  # they may be about to ask whether this rank has told the user

    def _with_names(self, error: RlkitError) -> RlkitError:
        if dist.is_initialized():  # the others learn by this that it is over
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
        others = range(1, self.size)

        def known(rank: int) -> bool:
            return bool(self._store.check([f"ended/{rank}"]))

        self._in_time(lambda: sum(map(known, others)) >= self.size - 2)
        try:
            self._lost = [rank for rank in others if not known(rank)]
        except RuntimeError:
            return error
        if not self._lost:
            return error
        return LostRankError(f"{error}; no sign of rank {', '.join(map(str, self._lost))}")

    def _in_time(self, holds: Callable[[], bool]) -> bool:
        """Whether this comes true soon; not so, too, where nobody can be asked any more."""
        until = time.monotonic() + _FAREWELL
        try:
            while not holds():
                if time.monotonic() > until:
                    return False
                time.sleep(_POLL)
        except RuntimeError:
            return False
        return True

    @contextlib.contextmanager
    def _listening(self, whom: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if "imed out" in str(error):
                why = f"{whom} was silent for {self.timeout:g} s, the time-out (--rank-timeout)"
            else:
                why = f"the connection to {whom} broke"
            raise LostRankError(f"rank {self.rank} of {self.size}: {why}") from error


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
    store = _meeting_point(place, timeout, until)
    _wait_for_all(place, store, timeout, until)
    try:
        dist.init_process_group(
            "gloo",
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
    return Ranks(place, store, timeout)


def _place() -> _Place:
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
    return _Place(
        values["RANK"], values["WORLD_SIZE"], os.environ["MASTER_ADDR"], values["MASTER_PORT"]
    )


def _meeting_point(place: _Place, timeout: float, until: float) -> Store:
    """The store of keys and values through which the ranks of one attempt find each other."""
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
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"rlkit/{attempt}", store)


def _reach(place: _Place, timeout: float, until: float) -> None:
    """Wait until something listens there: torch would write a page of warnings meanwhile."""
    while (refusal := _refusal(place)) is not None:
        if time.monotonic() > until:
            raise RunError(
                f"rank {place.rank} of {place.size} waited {timeout:g} s for rank 0 at "
                f"{place.address}, which does not answer ({refusal.strerror or refusal}); start "
                "rank 0, or correct MASTER_ADDR and MASTER_PORT"
            ) from refusal
        time.sleep(_POLL)


def _refusal(place: _Place) -> OSError | None:
    try:
        socket.create_connection((place.host, place.port), timeout=1.0).close()
    except OSError as error:
        return error
    return None


def _wait_for_all(place: _Place, store: Store, timeout: float, until: float) -> None:
    try:
        if store.add(f"taken/{place.rank}", 1) > 1:
            raise UsageError(
                f"two processes of WORLD_SIZE={place.size} have RANK={place.rank}; "
                "give each rank a number of its own"
            )
        store.set(f"size/{place.rank}", str(place.size))
        keys = [f"size/{rank}" for rank in range(place.size)]
        while not store.check(keys) and time.monotonic() < until:
            time.sleep(_POLL)
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
            time.sleep(_FAREWELL)  # what others can ask is gone with this rank
        raise MissingRankError(
            f"rank {', '.join(map(str, missing))} of {place.size} did not come to {place.address} "
            f"within {timeout:g} s (--rank-timeout); start all {place.size} ranks, or wait longer",
            missing,
        )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
