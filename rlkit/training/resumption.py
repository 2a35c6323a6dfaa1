"""The commands that take up a run again."""

from __future__ import annotations

import shlex

from rlkit.envs.names import runs_code
from rlkit.run.folder import RunFolder


def resume_command(folder: RunFolder) -> str:
    """The command, or where the caller's own code made the environment, the call.

    Code outside the run's folder is named again by whoever has it run: see `build.consented`.
    """
    if folder.config.get("env_given") != "name":
        return f"rlkit.resume({str(folder.path)!r}, env=...)"
    return command("resume", folder)


def command(verb: str, folder: RunFolder) -> str:
    """`rlkit VERB RUN`, which names the environment where that is code outside the run."""
    env = str(folder.config.get("env"))
    again = ["--env", env] if runs_code(env) else []
    return shlex.join(["rlkit", verb, str(folder.path), *again])
