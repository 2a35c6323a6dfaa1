"""How an agent's updates run where it is trained: with graphs, compiled, in which precision.

On the CPU an update reads what it computes as it goes. On a device nothing is read until it is
over, shapes never depend on values, and what changes between updates are tensors there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.arrays import Array
from rlkit.device.graphs import Graphed
from rlkit.device.health import Health
from rlkit.peers import Peers

PRECISE: AbstractContextManager[Any] = nullcontext()


@dataclass(frozen=True)
class Engine:
    """What a run is told of how to train, which changes nothing about the algorithm."""

    graphs: bool = True  # CUDA graphs, where there is CUDA
    compile: bool = False  # torch.compile
    bf16: bool = False  # networks' products in bfloat16 (torch.autocast); weights stay float32
    # Updates that read nothing back; None: on all devices but the CPU, and where they are compiled
    ahead: bool | None = None


DEFAULT = Engine()


class Place:
    """Where an agent learns, and how.

    `health` is None where updates read as they go. `generator` is what to draw with there: on the
    CPU the agent's own, elsewhere one that is seeded from it (`reseed`), so that resuming restores
    both.
    """

    def __init__(
        self,
        device: torch.device,
        engine: Engine,
        generator: torch.Generator,
        peers: Peers | None = None,
    ) -> None:
        self.device, self.engine = device, engine
        # Ranks meet over the host before they exchange anything: no graph can hold that.
        self._graphs = engine.graphs and peers is None
        unless_told = device.type != "cpu" or engine.compile
        self.ahead = unless_told if engine.ahead is None else engine.ahead
        self.health = Health(device) if self.ahead else None
        self.random = Randomness(generator, device)
        self._scalars: dict[int, Tensor] = {}

    def scalars(self, *values: float) -> tuple[Any, ...]:
        """The numbers where an update reads them: as they are, or as tensors () on the device.

        Which stay the same ones from call to call.
        """
        if not self.ahead:
            return values
        row = self._scalars.get(len(values))
        if row is None:
            row = self._scalars[len(values)] = torch.zeros(len(values), device=self.device)
        places = row.unbind()
        for place, value in zip(places, values, strict=True):
            place.fill_(value)
        return places

    def kept(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """The metrics as they are now: what a graph put out, its next replay overwrites."""
        if not self.ahead:
            return metrics
        there = {name: x for name, x in metrics.items() if isinstance(x, Tensor)}
        row = torch.stack([x.detach().float() for x in there.values()])
        return metrics | dict(zip(there, row.unbind(), strict=True))

    def graphed(self, f: Callable[..., Any]) -> Graphed:
        """`f`, which gives the same in fewer and larger pieces of work."""
        return self.captured(_compiled(f) if self.engine.compile else f)

    def captured(
        self, f: Callable[..., Any], others: Iterable[torch.Generator | None] = ()
    ) -> Graphed:
        """`f` in larger pieces of work; it may draw from `others` too. What it calls is compiled
        where that was wanted, and itself is not."""
        drawn_from = [g for g in (self.random.there, *others) if g is not None]
        generators = [g for g in drawn_from if g.device.type == "cuda"]
        return Graphed(f, self.device, self._graphs and self.ahead, generators)

    def moved(self, x: Array | None) -> Array | None:
        """An array as a tensor on the device; as it is where updates read as they go."""
        if not self.ahead or not isinstance(x, np.ndarray):
            return x
        return torch.from_numpy(x).to(self.device, non_blocking=True)

    def precision(self) -> AbstractContextManager[Any]:
        """What networks compute within."""
        if not self.engine.bf16:
            return PRECISE
        return torch.autocast(self.device.type, torch.bfloat16)


def _compiled(f: Callable[..., Any]) -> Callable[..., Any]:
    """By torch.compile, for each set of shapes, with the recipe's numbers as constants.

    What it can't compile runs as it is.
    """
    import torch._dynamo.config  # a second, which only those who compile should wait

    torch._dynamo.config.specialize_float = True
    torch._dynamo.config.suppress_errors = True
    return torch.compile(f, dynamic=False)


class Randomness:
    """Random numbers on a device, from a generator on the host that says how they go on.

    `there` is the host's own generator on the CPU, and None on torch's meta device, which has none.
    """

    def __init__(self, host: torch.Generator, device: torch.device) -> None:
        self._host, self.device = host, device
        self.there: torch.Generator | None = host if device.type == "cpu" else None
        if device.type not in ("cpu", "meta"):
            self.there = torch.Generator(device)

    def reseed(self) -> None:
        """From now on the numbers of `there` follow from the host's state."""
        if self.there is not None and self.there is not self._host:
            seed = torch.randint(2**62, (), generator=self._host)
            self.there.manual_seed(int(seed))

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers, float32."""
        return torch.empty(shape, device=self.device).normal_(generator=self.there)

    def permutation(self, n: int) -> Tensor:
        """The numbers 0 to n − 1 in random order, (n,) int64."""
        if self.device.type == "cpu":
            return torch.randperm(n, generator=self.there)
        # Sorting asks nothing of the host; float32 ties, which are few, keep their order.
        return torch.rand(n, generator=self.there, device=self.device).argsort()
