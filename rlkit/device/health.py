"""What must be finite, and is not: said at once on the host, and kept for later on a device.

A device works ahead of the host, which reads nothing from it while an update runs: to ask whether
the gradient is finite before each step would have the device wait for the host and the host for the
device. So the answer stays there. From the first number that is not finite on, steps leave weights
and moments as they are, and the host hears of it once the update is over.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlkit.errors import RunError

WEIGHTS, NORM, LOSS, RETURN, PRIORITY, PAUSED = range(6)
KINDS = 6
LARGEST = torch.finfo(torch.float32).max


def norm_error(norm: float) -> RunError:
    return RunError(
        f"the gradient's norm is {norm}: the loss overflowed; the weights are as they were "
        "before this step; scale the rewards down or lower the learning rate"
    )


def weights_error(lr: float) -> RunError:
    return RunError(
        f"a step with learning rate {lr:g} left weights that are not finite; lower the "
        "learning rate"
    )


def overflow_error(what: str) -> RunError:
    return RunError(
        f"{what} overflowed; the weights are as they were before this step; scale the rewards down"
    )


def priority_error() -> RunError:
    return RunError(
        "the TD error of a replayed step is not finite, and gives no priority; scale the "
        "rewards down, or lower the learning rate"
    )


class Health:
    """Which kinds of numbers have been finite so far, on a device.

    `halted`, a 0-dimensional float32, is 0 until one is not, and 1 from then on.
    """

    def __init__(self, device: torch.device) -> None:
        self.halted = torch.zeros((), device=device)
        self._excess = torch.zeros(KINDS, device=device)  # 0, or the first that was not finite
        self._seen: tuple[Tensor, torch.cuda.Event, float] | None = None

    def watch(self, kind: int, x: Tensor) -> None:
        """Note whether the number `x`, of no dimension, is finite."""
        x = x.detach().float()
        # A finite one leaves 0; ±∞ and NaN stay what they are.
        self._excess[kind].add_(x - x.clamp(-LARGEST, LARGEST))
        self.halted.copy_(self._excess.sum() != 0)

    def pause(self, wanted: Tensor) -> None:
        """Where `wanted`, a bool (), steps change nothing from now on, until `resume`."""
        self._excess[PAUSED].copy_(torch.maximum(self._excess[PAUSED], wanted.float()))

    def resume(self) -> None:
        self._excess[PAUSED].zero_()

    def look(self, lr: float) -> None:
        """Raise RunError where something was not finite, up to the last call at the latest.

        On CUDA the host so waits for no work but that of the update before the last one.
        """
        if self._excess.is_meta:
            return
        if not self._excess.is_cuda:
            self._judge(self._excess, lr)
            return
        if self._seen is None:
            pinned = torch.zeros(KINDS, pin_memory=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._seen = pinned, event, lr
        else:
            seen, event, lr_then = self._seen
            event.synchronize()
            self._judge(seen, lr_then)
            self._seen = seen, event, lr
        seen, event, _ = self._seen
        seen.copy_(self._excess, non_blocking=True)
        event.record(torch.cuda.current_stream(self._excess.device))

    def settle(self) -> None:
        """Raise RunError where something was not finite up to now; waits for the device."""
        if not self._excess.is_meta:
            self._judge(self._excess.cpu(), math.nan if self._seen is None else self._seen[2])

    def _judge(self, excess: Tensor, lr: float) -> None:
        found = excess.tolist()[:PAUSED]
        if not any(x != 0 for x in found):
            return
        if found[WEIGHTS] != 0:  # what else is not finite came of it
            raise weights_error(lr)
        if found[RETURN] != 0:
            raise overflow_error("a return over n steps")
        if found[LOSS] != 0:
            raise overflow_error("the loss")
        if found[NORM] != 0:
            raise norm_error(found[NORM])
        raise priority_error()
