"""What rlkit raises when it refuses: one line of what was found, what is allowed, what to do.

The command line prints the line and exits with ``exit_status``; ``--debug`` shows the traceback.
"""


class RlkitError(Exception):
    """Base of every error that rlkit raises on purpose; `str(error)` is one line for the user."""

    exit_status = 1


class UsageError(RlkitError, ValueError):
    """Bad input: an option, a name, a file, an array. Nothing was started."""

    exit_status = 2


class RunError(RlkitError, RuntimeError):
    """A run that had started had to stop: a NaN, a dead environment, a full disk."""


class ModelError(UsageError):
    """A finite MDP that is not one: its message names the state and the action."""


class UndefinedError(UsageError):
    """A quantity that does not exist for what it was asked of: its message says why."""


class EnvError(RunError):
    """An environment broke its contract: its message names environment, step and key."""


class CheckpointError(RlkitError):
    """A checkpoint that is damaged, foreign or of other spaces: its message names the file."""


class RlkitWarning(UserWarning):
    """Something a user should know that stops nothing: what was found and what is done instead."""
