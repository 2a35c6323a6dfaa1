"""A policy as a module of tensors alone: what the environment gives in, what it takes out.

`Policy` checks what it is given and speaks NumPy; this is the same arithmetic in a form that can be
captured as one graph, from arrays of the environment's own dtypes to actions in its own units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlkit.agent import Agent
from rlkit.carry import Carry, mapped, tensors
from rlkit.envs.masks import choices
from rlkit.envs.spaces import ActionPort, start_of
from rlkit.packing import Leaf, is_composite, is_text, leaves, stored, word_numbers

CARRY, NEXT, MASK, ACTION = "carry", "next_", "mask", "action"


@dataclass(frozen=True)
class Port:
    """An input or an output: its name, what it is, and what it holds for each of N environments."""

    name: str
    what: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def zeros(self, n: int) -> NDArray[Any]:
        return np.zeros((n, *self.shape), self.dtype)

    def to_json(self) -> dict[str, Any]:
        shape = ["N", *self.shape]
        return {"name": self.name, "what": self.what, "dtype": self.dtype.name, "shape": shape}

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.shape))
        return (
            f"{self.name} {self.dtype} (N, {sizes})" if sizes else f"{self.name} {self.dtype} (N,)"
        )


class Greedy(nn.Module):
    """Observations, a mask where the environment gives them, and a carry → action, next carry.

    Inputs and outputs are tensors with a row for each of N environments, in the order of `inputs`
    and `outputs`: one for each leaf of `obs_space`, the environment's own, and of the agent's
    carry.
    """

    def __init__(
        self, agent: Agent, obs_space: spaces.Space[Any], port: ActionPort, masked: bool
    ) -> None:
        super().__init__()
        # Not the agent itself, whose parameters would all be part of the graph: critics and targets
        # too.
        self._act = agent.act
        self.leaves = parts(obs_space)
        self._carry = agent.initial_carry(1)
        self.scaling, self.action_space = port.scaling, port.declared_space
        self.inputs = _ports_of(self.leaves, self._taken())
        if masked and (sizes := choices(self.action_space)) is not None:
            self.inputs.append(Port(MASK, "allowed actions", (int(sizes.sum()),), np.dtype(bool)))
        self.masked = self.inputs[-1].name == MASK
        held = [Port(f"{CARRY}.{i}", CARRY, *_form(x)) for i, x in enumerate(self._tensors())]
        self.inputs += held
        action = port.give(np.zeros((1, *(port.space.shape or ())), port.space.dtype))
        self.outputs = [Port(ACTION, ACTION, action.shape[1:], action.dtype)]
        self.outputs += [Port(NEXT + x.name, CARRY, x.shape, x.dtype) for x in held]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        n = len(self.leaves)
        seen = [_seen(leaf, x) for leaf, x in zip(self.leaves, inputs[:n], strict=True)]
        obs = nested(self.leaves, seen)
        mask, held = (inputs[n], inputs[n + 1 :]) if self.masked else (None, inputs[n:])
        action, carry = self._act(obs, self._in_form(held), explore=False, mask=mask)
        return self._given(action), *tensors(carry)

    def inputs_of(self, obs: Any) -> list[NDArray[Any]]:
        """N raw observations as the arrays of the inputs."""
        return [_rows(leaf, leaf.of(obs)) for leaf in self.leaves]

    def _given(self, action: Tensor) -> Tensor:
        """`ActionPort.give`, on tensors."""
        if self.scaling is None:
            start = start_of(self.action_space)
            action = action.reshape(-1, *(self.action_space.shape or ()))
            return action if start is None else action + torch.from_numpy(start)
        box = self.scaling
        factor, middle, low, high = map(
            torch.from_numpy, (box.factor, box.middle, box.low, box.high)
        )
        scaled = action.double() * factor + middle
        dtype = self.outputs[0].dtype
        if dtype.kind in "iu":
            scaled = scaled.round()  # halves to even, as in NumPy
        return scaled.clamp(low, high).to(_torch_dtype(dtype))

    def _in_form(self, held: Sequence[Tensor]) -> Carry:
        """The agent's carry, of the tensors in the order of `tensors`."""
        place = {id(x): i for i, x in enumerate(self._tensors())}
        return mapped(lambda x: held[place[id(x)]], self._carry)

    def _tensors(self) -> list[Tensor]:
        return tensors(self._carry)

    def _taken(self) -> set[str]:
        return {MASK, ACTION, *(f"{CARRY}.{i}" for i in range(len(self._tensors())))}


def parts(space: spaces.Space[Any]) -> list[Leaf]:
    """The leaves of a space, which may be one itself."""
    return leaves(space) if is_composite(space) else [Leaf((), space, *stored(space), 0, 0)]


def nested(leaves: Sequence[Leaf], values: Sequence[Any]) -> Any:
    """The leaves' values as `Leaf.of` finds them: themselves, or in nested dicts."""
    if leaves[0].path == ():
        return values[0]
    tree: dict[str | int, Any] = {}
    for leaf, value in zip(leaves, values, strict=True):
        node = tree
        for key in leaf.path[:-1]:
            node = node.setdefault(key, {})
        node[leaf.path[-1]] = value
    return tree


def _ports_of(leaves: Sequence[Leaf], taken: set[str]) -> list[Port]:
    """An input for each leaf, by its path: "camera", "inner.0"."""
    ports = []
    for leaf in leaves:
        name = ".".join(map(str, leaf.path)) or "obs"
        while name in taken:
            name += "_"
        taken.add(name)
        what = f"observation{leaf.key}" + (", numbers of its words" if is_text(leaf.space) else "")
        ports.append(Port(name, what, leaf.shape, leaf.dtype))
    return ports


def _seen(leaf: Leaf, x: Tensor) -> Tensor:
    """A leaf's values as agents see them: what `rlkit.envs.arrays.ArrayPort` does, on tensors."""
    if not isinstance(leaf.space, (spaces.Discrete, spaces.MultiDiscrete)):
        return x if is_text(leaf.space) or x.dtype == torch.uint8 else x.float()
    start = start_of(leaf.space)
    x = x.long() if start is None else x.long() - torch.from_numpy(start)
    return x.flatten(1) if x.ndim > 2 else x


def _rows(leaf: Leaf, values: Any) -> NDArray[Any]:
    if is_text(leaf.space):
        return np.stack([word_numbers(text, leaf.shape[0]) for text in values])
    return np.array(values, leaf.dtype)


def _form(x: Tensor) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and dtype of a carry's tensor, for each environment."""
    return tuple(x.shape[1:]), x.numpy().dtype


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, dtype)).dtype
