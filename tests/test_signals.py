"""Asked to stop once, a run may finish; asked twice, it stops. Tried on real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress

import pytest

from rlkit.run.signals import StopSignals

LOOP = """
    import sys, time
    from rlkit.run.signals import StopSignals
    listens = sys.argv[1] == "listens"
    with StopSignals() as stop:
        print("ready", flush=True)
        while not stop.received:
            time.sleep(0.01)
        if not listens:
            print("asked", flush=True)
            time.sleep(20)
    print("saved", stop.received.name, flush=True)
    sys.exit(stop.exit_status)
"""


def start(listens: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(LOOP), listens]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_lets_the_loop_end_and_save(number: signal.Signals, status: int) -> None:
    process = start("listens")
    process.send_signal(number)
    output, errors = process.communicate(timeout=10)
    assert output == f"saved {number.name}\n"
    assert process.returncode == status
    assert errors == ""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_sigint_after_that_aborts_at_once(first: signal.Signals) -> None:
    process = start("does not listen")
    process.send_signal(first)
    assert process.stdout
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=10)
    assert "saved" not in output
    assert "KeyboardInterrupt" in errors


def test_a_second_sigterm_changes_nothing() -> None:
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received is signal.SIGTERM
    assert stop.exit_status == 143


def test_the_earlier_handlers_are_back_afterwards() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with suppress(ZeroDivisionError), StopSignals() as stop:
        assert signal.getsignal(signal.SIGINT) not in before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert stop.received is None
    assert stop.exit_status == 0


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def run() -> None:
        with StopSignals() as stop:
            seen.extend([stop.received, signal.getsignal(signal.SIGINT) is before])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None, True]
