"""Cores: features over time → features, with a carry from step to step, by name.

``core(x, carry, reset)`` takes x (T, B, width_in) and reset (T, B) bool, True where x[t] is the
first of an episode: the carry is emptied before it. It gives (T, B, core.width) and the carry of
the next step. All tensors of a carry have the batch first, and zeros are the empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from rlkit.errors import UsageError
from rlkit.networks.gtrxl import GTrXL
from rlkit.networks.rnn import KINDS, Recurrent
from rlkit.registry import unknown

Core: TypeAlias = Recurrent | GTrXL

HEADS = 4  # of the gated transformer, which share its width
CORES: Mapping[str, Callable[[int, int], Core]] = {
    **{kind: partial(Recurrent, kind) for kind in KINDS},
    "gtrxl": partial(GTrXL, heads=HEADS),
}
BIDIRECTIONAL = "bidirectional-"


def core_for(name: str, width_in: int, width: int) -> Core:
    """The core of that name, with its other hyperparameters at their defaults.

    Raises UsageError for unknown names, and for bidirectional ones, which see the future.
    """
    if name.startswith(BIDIRECTIONAL):
        raise UsageError(
            f"core {name!r} would see the future: while an agent acts, later observations don't "
            f"exist yet; allowed: {', '.join(CORES)}; bidirectional networks are for recorded "
            "trajectories (rlkit.networks.seq2seq)"
        )
    if name not in CORES:
        raise unknown("core", name, CORES)
    if name == "gtrxl" and width % HEADS:
        raise UsageError(
            f"core_width (--core-width) is {width}, and gtrxl has {HEADS} heads; allowed: "
            f"multiples of {HEADS}"
        )
    return CORES[name](width_in, width)
