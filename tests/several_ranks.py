"""Ranks of a job for tests: processes forked from one that has imported torch, which takes long."""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import time

SECONDS = 100  # that a job may take at most, on a busy machine

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("rlkit.training.api", "rlkit.cli.ranks", "rlkit.cli.train", "rlkit.cli.resume"),
        *(f"rlkit.agents.{name}" for name in ("a2c", "dqn", "ppo", "pqn", "r2d2", "sac")),
        *("tensorboard.plugins.hparams.summary_v2", "tensorboard.plugins.text.summary_v2"),
        *("tensorboard.summary.writer.record_writer", "rlkit.envs.classic", "rich.console"),
    ]
)
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read as torch is imported


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Job:
    """`size` ranks, which do `work(*arguments)` in `folder`; rank k writes k.out, k.err."""

    def __init__(self, folder, size, work, *arguments, ranks=None, environment=()):
        self.folder = folder
        port = free_port()
        self.processes = {}
        for rank in range(size) if ranks is None else ranks:
            told = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
            told |= {"MASTER_PORT": port, **dict(environment)}
            process = _CONTEXT.Process(target=_rank, args=(folder, told, work, arguments))
            process.start()
            self.processes[rank] = process

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes.values():
            process.kill()
            process.join()

    def finish(self):
        """The exit status of each rank, and what it wrote on standard error."""
        until = time.monotonic() + SECONDS
        for process in self.processes.values():
            process.join(until - time.monotonic())
        statuses = [process.exitcode for process in self.processes.values()]
        return statuses, [self.said(rank, "err") for rank in self.processes]

    def said(self, rank, stream="out"):
        path = self.folder / f"{rank}.{stream}"
        return path.read_text() if path.exists() else ""

    def wait_for(self, holds):
        until = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < until, [self.said(rank, "err") for rank in self.processes]
            assert any(process.is_alive() for process in self.processes.values())
            time.sleep(0.02)

    def send(self, rank, number):
        os.kill(self.processes[rank].pid, number)


def cli(*arguments):
    """`rlkit` with these arguments, in a rank."""
    from rlkit.cli import main

    main(["--debug"] * ("debug" in os.environ) + [str(argument) for argument in arguments])


def _rank(folder, environment, work, arguments):
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, number in (("out", 1), ("err", 2)):
        file = os.open(f"{environment['RANK']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    try:
        work(*arguments)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
