"""How a run that has stopped is gone on with."""

from __future__ import annotations

import shlex

from rlkit.envs.names import runs_code
from rlkit.run.folder import RunFolder


def resume_command(folder: RunFolder) -> str:
    """The command, or where the caller's own code made the environment, the call.

    Code outside the run's folder is named again by whoever has it run: see `build.consented`.
    """
    env = str(folder.config.get("env"))
    if folder.config.get("env_given") != "name":
        return f"rlkit.resume({str(folder.path)!r}, env=...)"
    again = ["--env", env] if runs_code(env) else []
    return shlex.join(["rlkit", "resume", str(folder.path), *again])
