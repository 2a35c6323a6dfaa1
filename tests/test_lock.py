"""One process at a time trains a run; the lock goes with it, however it ends."""

import json
import os
import signal
import subprocess
import sys

import pytest

from rlkit.errors import UsageError
from rlkit.run.lock import LOCK, locked

pytest.importorskip("fcntl")

HOLDER = """
import sys, time
from pathlib import Path
from rlkit.run.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path, holder):
    with pytest.raises(UsageError, match="is being trained by another process"), locked(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        pass


def test_resume_is_refused_while_the_run_is_trained(cli, holder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format": 1}))
    done = cli("resume", tmp_path)
    assert done.status == 2
    assert done.error.startswith(f"{tmp_path} is being trained by another process")


def test_the_lock_follows_no_link(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).symlink_to(tmp_path / "new")
    with locked(run):
        pass
    assert not (tmp_path / "new").exists()
