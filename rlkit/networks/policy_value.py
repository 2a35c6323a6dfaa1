"""An actor's and a critic's networks: apart, or on one encoder and one memory.

Both kinds are used alike. Arrays and tensors alike, too: what comes back is of the kind of `obs`.
With a memory, `obs` are consecutive, (T, B, *obs), `carry` is what it held before them, and `reset`
(T, B) bool says which of them begin an episode; without one, both are None and the leading axes are
any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlkit.arrays import Array, as_tensor, like
from rlkit.carry import Carry
from rlkit.errors import UsageError
from rlkit.networks.features import NO_CORE, Body, Features
from rlkit.networks.heads import LinearHead
from rlkit.networks.network import Network
from rlkit.networks.numbers import is_plain

# A small head starts the policy near uniform (Andrychowicz et al. 2021, §3.2).
POLICY_GAIN, VALUE_GAIN = 0.01, 1.0

PullBoth = Callable[[Array, Array], None]  # (∂L/∂head, ∂L/∂v) → the parameters' gradients


class SharedBody(Body, Protocol):
    """And whether actor and critic share it: "auto", "yes" or "no"."""

    @property
    def shared(self) -> str: ...


class Separate(nn.Module):
    """Two networks with nothing in common, and no memory."""

    has_core = False

    def __init__(self, space: spaces.Space[Any], outputs: int, body: Body) -> None:
        super().__init__()

        def network(outputs: int, gain: float) -> Network:
            layers = body.hidden, body.activation, outputs, gain
            return Network(space, *layers, encoder=body.encoder, init=body.init)

        self.actor = network(outputs, POLICY_GAIN)
        self.critic = network(1, VALUE_GAIN)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """The head (..., outputs) and the value (...) of each observation, with a graph."""
        return self.actor(obs), self.critic(obs)[..., 0]

    def initial_carry(self, n: int) -> Carry:
        return None

    def act(self, obs: Array, carry: Carry) -> tuple[Array, Carry]:
        """The policy's head (N, outputs) at (N, *obs), and the carry after them."""
        return self.actor.infer(obs), carry

    def infer(
        self, obs: Array, carry: Carry = None, reset: Array | None = None
    ) -> tuple[Array, Array]:
        """The head (..., outputs) and the value (...) of each observation."""
        return self.actor.infer(obs), self.critic.infer(obs)[..., 0]

    def value(self, obs: Array, carry: Carry = None) -> Array:
        """The value (K,) of single observations (K, *obs), each at its carry."""
        return self.critic.infer(obs)[..., 0]

    def follow(self, obs: Array, carry: Carry, reset: Array) -> Carry:
        return carry

    def evaluate(
        self,
        obs: Array,
        carry: Carry = None,
        reset: Array | None = None,
        heads: int | None = None,
        valid: Array | None = None,
    ) -> tuple[Array, Array, PullBoth]:
        """The head (..., outputs), the value (...), and the way back from both.

        Args: `heads`: the head is wanted of so many of the first rows only. `valid` (T, B) bool:
        everything is wanted of these alone, in one axis (K, ...).
        """
        v, pull_critic = self.critic.vjp(obs)
        head, pull_actor = self.actor.vjp(obs[:heads])

        def pull(g_head: Array, g_v: Array) -> None:
            pull_actor(g_head)
            pull_critic(g_v[..., None])

        return head, v[..., 0], pull


class Shared(nn.Module):
    """One encoder, and a memory where there is one, with a linear head for each."""

    def __init__(self, space: spaces.Space[Any], outputs: int, body: Body) -> None:
        super().__init__()
        self.features = Features(space, body)
        self.has_core = self.features.core is not None
        self.policy = LinearHead(self.features.width, (outputs,), POLICY_GAIN)
        self.values = LinearHead(self.features.width, (1,), VALUE_GAIN)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """As `Separate.forward`; without a memory."""
        y, _ = self.features(obs, None, None)
        return self.policy(y), self.values(y)[..., 0]

    def initial_carry(self, n: int) -> Carry:
        return self.features.initial_carry(n)

    @torch.no_grad()
    def act(self, obs: Array, carry: Carry) -> tuple[Array, Carry]:
        y, carry = self.features.step(self._tensor(obs), carry)
        return like(obs, self.policy(y).float()), carry

    @torch.no_grad()
    def infer(
        self, obs: Array, carry: Carry = None, reset: Array | None = None
    ) -> tuple[Array, Array]:
        y = self._over_time(obs, carry, reset)
        return like(obs, self.policy(y).float()), like(obs, self.values(y)[..., 0].float())

    @torch.no_grad()
    def value(self, obs: Array, carry: Carry = None) -> Array:
        y, _ = self.features.step(self._tensor(obs), carry)
        return like(obs, self.values(y)[..., 0].float())

    @torch.no_grad()
    def follow(self, obs: Array, carry: Carry, reset: Array) -> Carry:
        """The carry after consecutive observations (T, B, *obs)."""
        return self.features(self._tensor(obs), carry, self._tensor(reset))[1]

    def evaluate(
        self,
        obs: Array,
        carry: Carry = None,
        reset: Array | None = None,
        heads: int | None = None,
        valid: Array | None = None,
    ) -> tuple[Array, Array, PullBoth]:
        """As `Separate.evaluate`."""
        with torch.enable_grad():
            y = self._over_time(obs, carry, reset)
            if valid is not None:
                y = y[self._tensor(valid)]
            head, v = self.policy(y[:heads]).float(), self.values(y)[..., 0].float()

        def pull(g_head: Array, g_v: Array) -> None:
            torch.autograd.backward([head, v], [self._tensor(g_head), self._tensor(g_v)])

        return like(obs, head.detach()), like(obs, v.detach()), pull

    def _over_time(self, obs: Array, carry: Carry, reset: Array | None) -> Tensor:
        reset = None if reset is None else self._tensor(reset)
        y, _ = self.features.forward(self._tensor(obs), carry, reset)
        return y

    def _tensor(self, x: Array) -> Tensor:
        return as_tensor(x, self.policy.weight.device)


def policy_value(space: spaces.Space[Any], outputs: int, body: SharedBody) -> Separate | Shared:
    """The networks that a recipe asks for.

    With `shared` "auto" they are apart on plain numbers, as baselines have it (Andrychowicz et al.
    2021, §3.2), and one where there is a memory or an encoder that learns to see. Raises UsageError
    for two networks with a memory.
    """
    has_core = body.core != NO_CORE
    if body.shared == "no" and has_core:
        raise UsageError(
            f"shared (--shared) is no, and core (--core) is {body.core}; a memory serves actor and "
            "critic together: set shared to auto or yes"
        )
    plain = is_plain(space, body.encoder)
    if has_core or body.shared == "yes" or (body.shared == "auto" and not plain):
        return Shared(space, outputs, body)
    return Separate(space, outputs, body)
