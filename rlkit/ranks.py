"""The processes of a job: what they exchange, and what is said if one is lost.

What goes between them goes over TCP, by torch's gloo; between GPUs by NCCL. `rlkit.distributed` has
them meet. This module imports torch; import it where there are ranks.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

from rlkit.errors import RlkitError, RunError, UsageError

POLL = 0.05  # seconds between two looks at who is there
FAREWELL = 5.0  # seconds in which the ranks that are left agree on who tells the user


class LostRankError(RunError):
    """Another rank has ended, or has been silent for longer than the time-out."""


class MissingRankError(RunError):
    """Not all ranks of the job came; `ranks` are those that did not."""

    def __init__(self, words: str, ranks: Sequence[int]) -> None:
        super().__init__(words)
        self.ranks = ranks


@dataclass(frozen=True)
class Place:
    """Which of the processes of a job this is, and where they meet."""

    rank: int
    size: int
    host: str
    port: int
    local_rank: int  # among those of this machine
    attempt: int  # how often torchrun has started the job anew

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
        local_rank: this process, among those of its machine.
        attempt: how often torchrun has started the job anew.
    """

    def __init__(self, place: Place, store: Store, job_store: Store, timeout: float) -> None:
        self.rank = place.rank
        self.size = place.size
        self.timeout = timeout
        self.local_rank = place.local_rank
        self.attempt = place.attempt
        self._place = place
        self._store = store
        self._job_store = job_store  # outlives an attempt, where torchrun holds it
        self._lost: list[int] = []
        self._explained = False

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

    def add_up(self, x: Tensor) -> None:
        """Put the sum of all ranks' x in its place: the same bits on all of them."""
        with self._listening("another rank"):
            self._assemble(x)
            dist.all_reduce(x)

    def gathered(self, own: Tensor) -> Tensor:
        """All ranks' own (N,), by rank: (size, N)."""
        found = own.new_empty((self.size, *own.shape))
        with self._listening("another rank"):
            self._assemble(own)
            dist.all_gather([*found], own)
        return found

    def copy_first(self, x: Tensor) -> None:
        """Put rank 0's x in its place on every rank."""
        with self._listening("another rank"):
            self._assemble(x)
            dist.broadcast(x, 0)

    def first_text(self, text: str) -> str:
        """Rank 0's text, on every rank."""
        data = np.frombuffer(text.encode() if self.rank == 0 else b"", dtype=np.uint8)
        found = torch.zeros(int(self.total([data.size])[0]), dtype=torch.uint8)
        if self.rank == 0:
            found.numpy()[:] = data
        self.copy_first(found)
        return found.numpy().tobytes().decode()

    def remember(self, key: str, text: str) -> None:
        """Keep a text for the ranks of a later attempt."""
        self._job_store.set(key, text)

    def recalled(self, key: str) -> str:
        """What an earlier attempt of this job remembered; "" where it is not known."""
        known = self.attempt > 0 and self._job_store.check([key])
        return self._job_store.get(key).decode() if known else ""

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
        raise self._error_of(self.size - failed)

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Within, what ends this rank alone ends the others at once, and they say what it was."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, LostRankError):
                status = error.exit_status if isinstance(error, RlkitError) else 1
                words = str(error) if isinstance(error, RlkitError) else repr(error)
                with contextlib.suppress(RuntimeError):
                    self._store.set(f"error/{self.rank}", f"{status} {words}")
            self._disconnect(error)
            raise

    def explained(self, error: RlkitError) -> RlkitError:
        """`error`; but a loss in the words of the rank that ended, or with the lost ranks named."""
        if not isinstance(error, LostRankError) or self._explained:
            return error
        self._explained = True
        self._disconnect(error)
        others = [rank for rank in range(self.size) if rank != self.rank]

        def known(rank: int) -> bool:
            return bool(self._store.check([f"ended/{rank}"]))

        self._in_time(lambda: sum(map(known, others)) >= self.size - 2)
        try:
            for rank in others:
                if self._store.check([f"error/{rank}"]):
                    return self._error_of(rank)
            self._lost = [rank for rank in others if not known(rank)]
        except RuntimeError:
            return error
        if not self._lost:
            return error
        return LostRankError(f"{error}; no sign of rank {', '.join(map(str, self._lost))}")

    def speaks_after(self, error: RlkitError) -> tuple[bool, RlkitError]:
        """Whether it is for this rank to tell the user of an error that ends all of them; with the
        ranks that are lost named, as far as it can be said.

        It is the first rank that is left.
        """
        lost = isinstance(error, LostRankError)
        self._disconnect(error)
        if self.rank == 0:
            return True, self.explained(error)
        if not lost:
            return False, error
        earlier = [f"ended/{rank}" for rank in range(self.rank)]
        told = self._in_time(lambda: any(self._store.check([key]) for key in earlier))
        return not told, error

    def leave(self) -> None:
        """Break the connections: what others wait for from here fails at once."""
        self._disconnect()
        if self._place.is_host:  # what it holds is gone when it ends
            others = {*range(1, self.size)}.difference(self._lost)
            self._in_time(lambda: self._store.check([f"ended/{rank}" for rank in others]))
            time.sleep(
                4 * POLL if self._lost else 0.0
            )  # they may be about to ask whether this rank has told the user

    def _disconnect(self, error: BaseException | None = None) -> None:
        with contextlib.suppress(RuntimeError):
            self._store.set(f"ended/{self.rank}", "")
        if dist.is_initialized():  # the others learn by this that it is over
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()
        while error is not None:  # what its traceback holds on to keeps connections open
            traceback.clear_frames(error.__traceback__)
            error = error.__cause__ or error.__context__

    def _error_of(self, rank: int) -> RlkitError:
        status, _, told = self._store.get(f"error/{rank}").decode().partition(" ")
        kind = UsageError if int(status) == UsageError.exit_status else RunError
        return kind(f"rank {rank}: {told}")

    def _assemble(self, x: Tensor) -> None:
        """Before a call that NCCL makes: only gloo says at once that a rank is lost."""
        if x.is_cuda:
            dist.all_reduce(torch.zeros(1))

    def _in_time(self, holds: Callable[[], bool]) -> bool:
        """Whether this comes true soon; not so, too, where nobody can be asked any more."""
        until = time.monotonic() + FAREWELL
        try:
            while not holds():
                if time.monotonic() > until:
                    return False
                time.sleep(POLL)
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
