"""Environments in processes of their own: Gymnasium's AsyncVectorEnv, and what it lacks.

Gymnasium talks to each worker through a pipe, and waits for its answer for ever. Here a `Worker`
stands in the place of each pipe. It knows the process behind it: waits as long as it was told,
says how a process died, and may go on with a new one. What a worker process itself does is in
`rlkit.envs.worker_process`.
"""

from __future__ import annotations

import multiprocessing
import select
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import CustomSpaceError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import (
    CloudpickleWrapper,
    clear_mpi_env_vars,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from numpy.typing import NDArray

from rlkit.envs.checks import brief
from rlkit.envs.worker_process import cause, end, running, work
from rlkit.errors import EnvError, RlkitWarning
from rlkit.packing import has_text

LOST = "worker_lost"  # in info: this step was lost with the environment's worker
STARTUP = 120.0  # seconds, at least, for a worker's first answer: it imports and makes its env
CLOSING = 5.0  # seconds for all environments to close
GLANCE = 1.0  # seconds between looks at whether a worker that doesn't answer is alive


@dataclass(frozen=True)
class WorkerLimits:
    """What is asked of worker processes."""

    timeout: float  # seconds for a step or a reset; 0: as long as it takes
    restarts: int  # how many workers that die or hang are replaced; the next one is an error


UNLIMITED = WorkerLimits(timeout=0, restarts=0)


class WorkerVectorEnv(AsyncVectorEnv):
    """An environment in each of N processes, with NEXT_STEP autoreset.

    A worker that dies or hangs in a step is replaced while `limits.restarts` lasts. For its
    environment that step ends the episode: reward 0, truncated, `LOST` in info, any observation of
    its space. The next step is the reset of a new environment, with a seed of its own. A worker
    that is lost in a reset is replaced within the step.

    Attributes:
        restarts: how many workers were replaced.
        vector_step: number of the step under way, for messages; the caller's to set.

    Raises EnvError for a worker that dies or hangs when no restart is left, or as it starts. What
    an environment raises comes as it left `rlkit.envs.checks.CheckedEnv`.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env[Any, Any]]],
        space: gym.Space[Any],
        limits: WorkerLimits,
    ) -> None:
        self.limits = limits
        self.restarts = 0
        self.vector_step = 0
        self._context = multiprocessing.get_context()
        self._buffer = self._shared(space, len(makers))
        try:
            super().__init__(
                makers,
                shared_memory=False,  # not Gymnasium's, which a new worker could not be given
                copy=False,  # Envs makes the one copy that is needed
                autoreset_mode=AutoresetMode.NEXT_STEP,
                worker=self._target(),
            )
        except BaseException:
            self.close(terminate=True)
            raise
        if self._buffer is not None:
            self.shared_memory = True
            self.observations = read_from_shared_memory(space, self._buffer, n=len(makers))

    def replace(self, index: int, why: str) -> tuple[Connection, BaseProcess]:
        """A new process for environment `index`, and the pipe to it."""
        allowed = self.limits.restarts
        if self.restarts >= allowed:
            advice = "--restart-workers N lets a run replace N workers"
            if allowed:
                advice = f"the {allowed} restarts of --restart-workers are used up"
            raise EnvError(f"{why}; {advice}")
        self.restarts += 1
        warnings.warn(
            f"{why}; a new one takes its place with a new episode (restart {self.restarts} of "
            f"{allowed})",
            RlkitWarning,
            stacklevel=2,
        )
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=self._target(),
            name=f"Worker<{type(self).__name__}>-{index}",
            args=(index, CloudpickleWrapper(self.env_fns[index]), there, here),
            daemon=True,
        )
        with clear_mpi_env_vars():
            process.start()
        there.close()
        running.add(process)
        self.processes[index] = process
        return here, process

    def put_any(self, index: int) -> Any:
        """An observation that stands for one that was lost, and over what may be half written."""
        obs = self.single_observation_space.sample()
        if self._buffer is not None:
            write_to_shared_memory(self.single_observation_space, index, obs, self._buffer)
        return obs

    def restore(
        self, function: Callable[..., bool], states: Sequence[Any], ended: NDArray[np.bool_]
    ) -> None:
        """Go on from where `function(env, state)`, which returns True, puts each environment.

        `ended` is as it was when the states were taken, (N,) bool.
        """
        for worker, state in zip(self._workers, states, strict=True):
            worker.send(("_call", ("apply", (function, state), {})))
        self._state = AsyncState.WAITING_CALL
        for worker, done, over in zip(self._workers, self.call_wait(), ended, strict=True):
            worker.go_on(bool(over), done is True)

    @property
    def ended(self) -> NDArray[np.bool_]:
        """Whether the next step resets the environment, (N,)."""
        return np.array([worker.ended for worker in self._workers], dtype=np.bool_)

    @property
    def has_begun(self) -> bool:
        """Whether every environment has been reset since its worker started."""
        return not any(worker.is_new for worker in self._workers)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Have every environment closed, within `timeout` or CLOSING seconds, and end the workers.

        A worker that doesn't get there, or any with `terminate`, is killed.
        """
        pipes, processes = getattr(self, "parent_pipes", []), getattr(self, "processes", [])
        started = {i: process for i, process in enumerate(processes) if process.pid is not None}
        deadline = time.monotonic() + (CLOSING if timeout is None else timeout)
        for pipe in pipes:
            with suppress(OSError):
                if not terminate:
                    pipe.send(("close", None))
                pipe.close()
        stuck = []
        for index, process in started.items():
            if not terminate:
                process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                stuck.append(str(index))
                end(process)
        running.difference_update(started.values())
        if stuck and not terminate:
            warnings.warn(
                f"env {', '.join(stuck)} could not be closed in time; the workers were killed",
                RlkitWarning,
                stacklevel=2,
            )

    def _check_spaces(self) -> None:
        # Gymnasium has started the processes and asks them for the first time.
        running.update(self.processes)
        each = zip(self.parent_pipes, self.processes, strict=True)
        self._workers = [Worker(self, i, *connected) for i, connected in enumerate(each)]
        self.parent_pipes = self._workers  # type: ignore[assignment]
        super()._check_spaces()  # type: ignore[no-untyped-call]

    def _target(self) -> Callable[..., None]:
        # The kernel's tie is to the thread that starts a process; only the main one is sure to stay
        tied = threading.current_thread() is threading.main_thread()
        return partial(work, buffer=self._buffer, tied=tied)

    def _shared(self, space: gym.Space[Any], n: int) -> Any:
        """Memory for the observations of all workers; None: they go through the pipes."""
        # Gymnasium writes a text to shared memory as places in a set, which each process orders in
        # its own way, and knows no other spaces of strings at all.
        if has_text(space):
            return None
        try:
            return create_shared_memory(space, n, self._context)  # type: ignore[arg-type]
        except CustomSpaceError:
            return None  # Envs says that the space is not supported


class _LostWorkerError(Exception):
    """A worker died, or was killed as it hung: how, when and at what."""


class Worker:
    """The process of environment `index`, in the place of Gymnasium's pipe to it.

    `ended`: the next step is a reset. `is_new`: the environment has never been reset.
    """

    def __init__(
        self, crew: WorkerVectorEnv, index: int, pipe: Connection, process: BaseProcess
    ) -> None:
        self.ended = False
        self._crew, self._index = crew, index
        self._asked: tuple[str, Any] = ("", None)
        self._resetting = False
        self._seed: int | None = None  # the last that the environment was given
        self._new_seed: int | None = None  # for the next reset
        self._cut_due = False  # the next step is lost already
        self._connect(pipe, process)

    @property
    def closed(self) -> bool:
        return self._pipe.closed

    def close(self) -> None:
        self._pipe.close()

    def send(self, message: tuple[str, Any]) -> None:
        """Ask the worker: a reset in the place of a step that follows an episode's end."""
        self._asked = message
        command, data = message
        self._resetting = command == "reset" or (command == "step" and self.ended)
        if command == "step" and self._cut_due:
            return
        if self._resetting:
            given = data if command == "reset" else {"seed": None, "options": None}
            self._ask_reset(given["options"], given["seed"])
        else:
            self._tell(message)

    def recv(self) -> tuple[Any, bool]:
        """The answer, as Gymnasium's worker gives it, or what stands for one that was lost."""
        command, data = self._asked
        if command == "step" and self._cut_due:
            return self._cut(), True
        while True:
            try:
                answer = self._hear()
                break
            except _LostWorkerError as lost:
                if command not in ("reset", "step", "_call"):
                    raise EnvError(str(lost)) from None
                self._replace(str(lost))
            if command == "_call":
                return None, True
            if not self._resetting:
                return self._cut(), True
            self._ask_reset(data["options"] if command == "reset" else None)
        if self._resetting:
            self.ended = self.is_new = self._cut_due = False
            if command == "step":
                obs, info = answer
                return (obs, 0.0, False, False, info), True
        elif command == "step":
            self.ended = answer[2] or answer[3]
        return answer, True

    def go_on(self, ended: bool, restored: bool) -> None:
        """The environment stands where it was saved; unless it was lost on the way there."""
        self._cut_due = not (restored or ended)
        if restored:
            self.ended, self.is_new = ended, False

    def _replace(self, why: str) -> None:
        """Go on with a new process, whose first step is a reset."""
        self._cut_due |= not (self.ended or self.is_new or self._resetting)
        self._pipe.close()
        self._connect(*self._crew.replace(self._index, why))
        self.ended = True
        if self._seed is not None:
            drawn = np.random.SeedSequence([self._seed, self._crew.restarts]).generate_state(1)
            self._new_seed = int(drawn[0]) >> 1  # below 2³¹, as Envs draws them

    def _cut(self) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._cut_due = False
        return self._crew.put_any(self._index), 0.0, False, True, {LOST: True}

    def _connect(self, pipe: Connection, process: BaseProcess) -> None:
        self._pipe, self._process = pipe, process
        self.is_new = True
        timeout = self._crew.limits.timeout
        self._limit = max(timeout, STARTUP) if timeout else float("inf")
        self._answers: Callable[[float], bool] = pipe.poll
        if hasattr(select, "poll"):  # pipe.poll builds such an object anew each time
            waiting = select.poll()
            waiting.register(pipe.fileno(), select.POLLIN)
            self._answers = lambda seconds: bool(waiting.poll(1000 * seconds))

    def _ask_reset(self, options: dict[str, Any] | None, seed: int | None = None) -> None:
        seed = self._new_seed if seed is None else seed
        self._seed, self._new_seed = self._seed if seed is None else seed, None
        self._tell(("reset", {"seed": seed, "options": options}))

    def _tell(self, message: tuple[str, Any]) -> None:
        with suppress(OSError):  # it is dead, which is noticed when its answer is waited for
            self._pipe.send(message)

    def _hear(self) -> Any:
        """The worker's answer. Raises _LostWorkerError, and what the environment raised."""
        left = self._limit
        while not self._answers(min(GLANCE, left)):
            # Its children may keep a dead worker's pipe open.
            if self._process.exitcode is not None and not self._answers(0):
                raise self._lost()
            left -= GLANCE  # and not by a clock, which goes on while all of them are suspended
            if left <= 0:
                raise self._hung()
        try:
            answer, success = self._pipe.recv()
        except (EOFError, OSError):
            raise self._lost() from None
        if not success:
            raise type(answer)(str(answer)) from answer
        self._limit = self._crew.limits.timeout or self._limit
        return answer

    def _hung(self) -> _LostWorkerError:
        end(self._process)
        return _LostWorkerError(
            f"worker {self._index} hung and was killed: env {self._index} took more than "
            f"{self._limit:g} s (env_timeout, --env-timeout) {self._where()}"
        )

    def _lost(self) -> _LostWorkerError:
        self._process.join(GLANCE)
        code = self._process.exitcode
        end(self._process)
        return _LostWorkerError(f"worker {self._index} {cause(code)} {self._where()}")

    def _where(self) -> str:
        command, data = self._asked
        step = f"vector step {self._crew.vector_step}"
        if command == "_check_spaces":
            return "as it started"
        if command == "step":
            return f"at {step}, {'in its reset' if self._resetting else f'action {brief(data)}'}"
        return "in a reset" if command == "reset" else f"after {step}"
