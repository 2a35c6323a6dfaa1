"""An exported file beside the policy that it was made of, observation by observation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rlkit.agent import Agent
from rlkit.carry import Carry, renewed, tensors
from rlkit.envs.masks import Mask, choices, leaves_a_choice
from rlkit.envs.observations import ObsPort
from rlkit.envs.spaces import start_of
from rlkit.envs.vector import Envs
from rlkit.networks.distributions import DISALLOWED
from rlkit.packing import Leaf, is_text
from rlkit.training.greedy import CARRY, Greedy, nested
from rlkit.training.policy import Policy

# What a loaded file does: the arrays of all inputs → those of all outputs.
Runner = Callable[[Sequence[NDArray[Any]]], Sequence[NDArray[Any]]]

DRAWN = ((32, 8), (1, 4))  # observations side by side, and batches one after the other
PLAYED = 100  # vector steps
# Sums are taken in another order there. So far may two scores of actions, or a Box action in units
# of its scale, be apart and count as the same.
ROUNDING, BOX_ROUNDING = 1e-5, 1e-4
FAR = 1e3  # bounds beyond are drawn from as if there were none: nobody sees such observations
RARELY = 0.01  # the share of whole-number Box actions that may be one apart


class Comparison:
    """Counts what was compared and what differed.

    Attributes: `observations`, how many; `ties`, of them those where another action was taken that
    the policy likes as well, to rounding; `wrong`, those where a worse one was, or where another
    carry came out; `difference`, the largest between two Box actions, in the environment's units.
    """

    def __init__(self, run: Runner, greedy: Greedy, policy: Policy, port: ObsPort) -> None:
        self.observations = self.ties = self.wrong = 0
        self.difference = 0.0
        self._run, self._greedy, self._policy, self._port = run, greedy, policy, port
        self._space = greedy.action_space
        self._held: list[NDArray[Any]] = []

    @property
    def passed(self) -> bool:
        rounded = isinstance(self._space, spaces.Box)
        return self.wrong == 0 and not (rounded and self.ties > RARELY * self.observations)

    def __str__(self) -> str:
        count = f"{self.observations} observations"
        if self.wrong:
            return f"{count}, something else at {self.wrong} of them"
        if self.difference > 0:
            return f"{count}, actions differ by {self.difference:.1g} at most"
        ties = f" but for {self.ties} choices between even ones" if self.ties else ""
        return f"{count}, all actions equal{ties}"

    def begin(self, n: int) -> None:
        """N environments begin an episode."""
        self._policy.reset()
        self._held = [x.zeros(n) for x in self._greedy.inputs if x.what == CARRY]

    def renew(self, which: NDArray[np.bool_]) -> None:
        """Those that `which` (N,) names begin an episode."""
        self._policy.reset(which)
        for x in self._held:
            x[which] = 0

    def step(self, obs: Any, mask: Mask | None) -> None:
        """Compare what comes of N raw observations."""
        if not self._greedy.masked:
            mask = None
        before = self._policy.carry
        expected = np.asarray(self._policy.act(obs, mask))
        masks = [] if mask is None else [mask]
        found, *held = self._run([*self._greedy.inputs_of(obs), *masks, *self._held])
        self._held = [np.array(x) for x in held]
        self.observations += len(expected)
        right = self._carries_agree(len(expected))
        if found.shape != expected.shape or found.dtype != expected.dtype:
            right[:] = False
        elif isinstance(self._space, spaces.Box):
            right &= self._numbers_agree(found, expected)
        elif not np.array_equal(found, expected):
            scores = _scores(self._policy.agent, self._port, obs, before, mask)
            right &= self._choices_agree(found, expected, scores)
        self.wrong += int((~right).sum())

    def _carries_agree(self, n: int) -> NDArray[np.bool_]:
        """Whether the file's memory is the policy's, (N,)."""
        agree = np.ones(n, dtype=np.bool_)
        for found, held in zip(self._held, tensors(self._policy.carry), strict=True):
            expected = held.numpy().astype(np.float64)
            difference = np.abs(found.astype(np.float64) - expected)
            agree &= _everywhere(difference <= BOX_ROUNDING * np.maximum(1, np.abs(expected)))
        return agree

    def _numbers_agree(self, found: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
        """Actions that the policy rounds to whole numbers may be one apart, where it does so."""
        difference = np.abs(found.astype(np.float64) - expected)
        self.difference = max(self.difference, float(difference.max()))
        scaling = self._greedy.scaling
        assert scaling is not None
        near = difference <= BOX_ROUNDING * scaling.factor + ROUNDING * np.abs(expected)
        if found.dtype.kind in "iu":
            even = ~near & (difference <= 1)
            self.ties += int((~_everywhere(~even)).sum())
            near |= even
        return _everywhere(near)

    def _choices_agree(
        self, found: NDArray[Any], expected: NDArray[Any], scores: Tensor
    ) -> NDArray[np.bool_]:
        """Other choices may be taken where their scores (N, n), or (N, k, n), are even."""
        start = start_of(self._space)
        choice = found if start is None else found - start
        index = torch.from_numpy(choice).long().reshape(scores.shape[:-1])
        inside = (index >= 0) & (index < scores.shape[-1])
        taken = scores.gather(-1, index.where(inside, 0).unsqueeze(-1)).squeeze(-1)
        size = scores.where(scores > DISALLOWED, 0).abs().amax(-1).clamp(min=1)
        near = inside & (scores.amax(-1) - taken <= ROUNDING * size)
        agree = _everywhere(near.numpy())
        self.ties += int((~_everywhere(found == expected) & agree).sum())
        return agree


def _scores(agent: Agent, port: ObsPort, obs: Any, carry: Carry, mask: Mask | None) -> Tensor:
    """What the agent chooses the actions for N raw observations by, (N, ..., n)."""
    rows = torch.from_numpy(port.take(port.batch(obs)[0], "act"))
    carry = agent.initial_carry(len(rows)) if carry is None else carry
    seen = _Scores()
    with seen:
        agent.act(rows, carry, explore=False, mask=None if mask is None else torch.from_numpy(mask))
    return seen.scores


class _Scores(TorchFunctionMode):
    """Keeps the scores that the last greedy choice was made by, (..., n)."""

    scores: Tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.argmax:
            self.scores = args[0]
        elif func is Tensor.__gt__:  # a bit is 1 where its logit is above 0
            self.scores = torch.stack([torch.zeros_like(args[0]), args[0]], -1)
        return func(*args, **(kwargs or {}))


class _Recorder:
    """An `ObsPort` that keeps the raw batch which it took last."""

    def __init__(self, port: ObsPort) -> None:
        self.space, self.declared_space = port.space, port.declared_space
        self.collate, self.batch = port.collate, port.batch
        self._port = port
        self._raw: Any = None

    def take(self, raw: Any, when: str, which: NDArray[np.intp] | None = None) -> NDArray[Any]:
        if which is None:
            self._raw = copy.deepcopy(raw)
        return self._port.take(raw, when, which)

    def raw(self, obs: NDArray[Any]) -> Any:
        """What `obs` was; compiled environments give agents theirs as it is, and not through it."""
        found, self._raw = self._raw, None
        return obs if found is None else found


def compare(run: Runner, greedy: Greedy, policy: Policy, envs: Envs) -> Comparison:
    """The file's actions and the policy's, on observations that are drawn and on played ones."""
    comparison = Comparison(run, greedy, policy, envs.obs_port)
    _compare_drawn(comparison, greedy)
    _compare_played(comparison, policy.agent, envs)
    return comparison


def _compare_drawn(comparison: Comparison, greedy: Greedy) -> None:
    rng = np.random.default_rng(0)
    each = [_tame(leaf.space) for leaf in greedy.leaves]
    for k, space in enumerate(each):
        space.seed(k)
    sizes = choices(greedy.action_space)
    for n, batches in DRAWN:
        comparison.begin(n)
        for _ in range(batches):
            values = [
                _draw(space, leaf, n) for space, leaf in zip(each, greedy.leaves, strict=True)
            ]
            mask = None
            if greedy.masked and sizes is not None:
                mask = rng.random((n, sizes.sum())) < 0.5
                mask[~leaves_a_choice(mask, sizes)] = True
            comparison.step(nested(greedy.leaves, values), mask)


def _compare_played(comparison: Comparison, agent: Agent, envs: Envs) -> None:
    envs.obs_port = recorder = _Recorder(envs.obs_port)
    obs, carry = envs.reset(0), agent.initial_carry(envs.n)
    comparison.begin(envs.n)
    for _ in range(PLAYED):
        comparison.step(recorder.raw(obs), envs.mask)
        action, carry = agent.act(obs, carry, explore=False, mask=envs.mask)
        step = envs.step(action)
        begins = step.begins
        carry = renewed(carry, torch.from_numpy(begins))
        comparison.renew(begins)
        obs = step.next_obs


def _draw(space: spaces.Space[Any], leaf: Leaf, n: int) -> Any:
    values = [space.sample() for _ in range(n)]
    return values if is_text(space) else np.stack(values).astype(leaf.dtype)


def _tame(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """A copy of the space, to draw from."""
    if not isinstance(space, spaces.Box) or space.dtype.kind != "f":
        return copy.deepcopy(space)
    low = np.where(space.low < -FAR, -np.inf, space.low).astype(space.dtype)
    high = np.where(space.high > FAR, np.inf, space.high).astype(space.dtype)
    return spaces.Box(low, high, dtype=space.dtype)


def _everywhere(x: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether all of each row is true: (N, ...) → (N,)."""
    return np.asarray(x.reshape(len(x), -1).all(1))
