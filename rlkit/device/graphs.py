"""Functions of tensors that a GPU repeats by itself: captured once as CUDA graphs, then replayed.

A minibatch of a small network is a hundred kernels of a few microseconds, and to launch each of
them takes the host about as long. A replayed graph is one launch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlkit.carry import mapped, tensors
from rlkit.errors import RlkitWarning

WARM_UPS = 3  # calls with the same shapes that run as they are, before one is captured
MOST_GRAPHS = 16  # of one function: each keeps memory of its own

_static = False


@contextmanager
def static_shapes() -> Iterator[None]:
    """Within, what is computed must not depend on values by its shapes (`shapes_are_static`)."""
    global _static
    before, _static = _static, True
    try:
        yield
    finally:
        _static = before


def shapes_are_static() -> bool:
    """Whether the host may look at no value: a graph is captured, or will be."""
    return _static or torch.compiler.is_compiling()


@dataclass
class _Recording:
    """What was captured for one set of shapes."""

    calls: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    fresh: tuple[Any, ...] = ()  # where the graph reads
    outputs: Any = None  # where it writes


@dataclass
class _Bound:
    """What was captured with held arguments of one set of shapes."""

    held: tuple[Any, ...] | None = None  # where the graphs read
    recordings: dict[Hashable, _Recording] = field(default_factory=dict)


class Graphed:
    """`f(*held, *fresh)`, of nests of tensors (`rlkit.carry`), as a CUDA graph where there is CUDA.

    `f` must look at no value of a tensor, have shapes that follow from its arguments' alone, draw
    from `generators` only, and do nothing on the host that a replay would leave out. What else it
    reads or writes must stay where it is in memory. Its outputs are overwritten by its next call.

    With `graphs` off, or off CUDA, it is `f`, and so it is within another one, whose graph holds it
    all. Shapes that came up three times are captured; those that come once in a while run as they
    are.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        device: torch.device,
        graphs: bool,
        generators: Sequence[torch.Generator] = (),
    ) -> None:
        self._f = f
        self._graphs = graphs
        self._captures = graphs and device.type == "cuda"
        self._generators = generators
        self._bound: dict[Hashable, _Bound] = {}
        self._device = device
        self._side: torch.cuda.Stream | None = None
        self.captured = 0  # graphs so far

    def bind(self, *held: Any) -> Callable[..., Any]:
        """`f` with its first arguments, whose values the graphs keep until `bind` is called again.

        So what serves several calls is moved once.
        """
        if not self._captures or shapes_are_static():
            return lambda *fresh: self._plainly(held, fresh)
        bound = self._bound.setdefault(_shapes(held), _Bound())
        if bound.held is not None:
            _fill(bound.held, held)
        return lambda *fresh: self._call(bound, held, fresh)

    def __call__(self, *fresh: Any) -> Any:
        return self.bind()(*fresh)

    def _plainly(self, held: tuple[Any, ...], fresh: tuple[Any, ...]) -> Any:
        if not self._graphs:
            return self._f(*held, *fresh)
        with static_shapes():
            return self._f(*held, *fresh)

    def _call(self, bound: _Bound, held: tuple[Any, ...], fresh: tuple[Any, ...]) -> Any:
        recording = bound.recordings.setdefault(_shapes(fresh), _Recording())
        if recording.graph is None:
            recording.calls += 1
            full = self.captured >= MOST_GRAPHS or not self._captures
            if (
                full
                or recording.calls <= WARM_UPS
                or not self._capture(recording, bound, held, fresh)
            ):
                return self._aside(held, fresh)
        assert recording.graph is not None
        _fill(recording.fresh, fresh)
        recording.graph.replay()
        return recording.outputs

    def _aside(self, held: tuple[Any, ...], fresh: tuple[Any, ...]) -> Any:
        """On the stream that is captured from: gradients remember the stream they began on."""
        here, side = torch.cuda.current_stream(self._device), self._stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            outputs = self._plainly(held, fresh)
        here.wait_stream(side)
        return outputs

    def _capture(
        self, recording: _Recording, bound: _Bound, held: tuple[Any, ...], fresh: tuple[Any, ...]
    ) -> bool:
        """Capture a call without making it; False where that fails, which it then always would."""
        if bound.held is None:
            bound.held = _copied(held)
        inputs = _copied(fresh)
        try:
            with self._capturing() as graph:
                outputs = self._plainly(bound.held, inputs)
        except RuntimeError as error:
            self._captures = False
            (reason, *_) = str(error).splitlines() or ["no reason given"]
            warnings.warn(
                f"this update can't be captured as a CUDA graph, and runs without ({reason}); "
                "--no-graphs asks for that",
                RlkitWarning,
                stacklevel=2,
            )
            self._release_generators()
            return False
        recording.graph, recording.fresh, recording.outputs = graph, inputs, outputs
        self.captured += 1
        return True

    @contextmanager
    def _capturing(self) -> Iterator[torch.cuda.CUDAGraph]:
        """Within, what is asked of the device is captured, and not done."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        # The outer one is what puts the current stream back where a capture fails.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self._device)),
            torch.cuda.graph(graph, stream=self._stream(), capture_error_mode="thread_local"),
        ):
            yield graph

    def _release_generators(self) -> None:
        """After a capture that broke off, let one end well that knows of the same generators.

        torch 2.13 keeps captures apart. Before, a generator takes part in one until any ends well
        (pytorch/pytorch, issue 171263): till then it refuses to draw, and graphs that know of it to
        be replayed, which of the device's default generator is every graph.
        """
        anything = torch.zeros((), device=self._device)
        with suppress(RuntimeError), self._capturing():
            anything.zero_()

    def _stream(self) -> torch.cuda.Stream:
        if self._side is None:
            self._side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return self._side


def _shapes(nest: Any) -> Hashable:
    """What tells two captures apart: shapes, dtypes, and where nothing stands."""
    if isinstance(nest, Tensor):
        return nest.shape, nest.dtype, nest.is_contiguous()
    if isinstance(nest, dict):
        return tuple((name, _shapes(nest[name])) for name in sorted(nest))
    if isinstance(nest, (tuple, list)):
        return tuple(map(_shapes, nest))
    return None


def _copied(nest: tuple[Any, ...]) -> tuple[Any, ...]:
    copied: tuple[Any, ...] = mapped(lambda x: x.detach().clone(), nest)
    return copied


def _fill(places: tuple[Any, ...], values: tuple[Any, ...]) -> None:
    for place, value in zip(tensors(places), tensors(values), strict=True):
        place.copy_(value, non_blocking=True)
