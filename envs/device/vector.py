"""N environments on a device as the trainer sees them: `rlkit.envs.vector.Envs` with tensors."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeAlias

import torch
from gymnasium import spaces
from torch import Tensor

from rlkit.envs.device.rules import OVER, Episodes, Rules
from rlkit.envs.names import Facts
from rlkit.envs.observations import obs_port
from rlkit.envs.spaces import ActionPort, Scaling
from rlkit.envs.vector import Autoreset, distinct_seeds
from rlkit.errors import UsageError
from rlkit.experience.placing import require_there
from rlkit.experience.step import Step
from rlkit.packing import space_array

Spaces: TypeAlias = tuple[spaces.Space[Any], spaces.Space[Any]]

# Bytes that a step of one environment takes beside its states and observations, about: its reward,
# flags, and what its arithmetic keeps in between.
STEP_BYTES = 240


class DeviceEnvs:
    """N environments whose states, observations and random numbers never leave the device.

    `step` looks at no value: nothing waits for the device, and what it does has the same shapes
    and, for all that lasts, the same memory every time. So it can be captured in a CUDA graph
    (`rlkit.device.graphs`), alone or with what an agent does before and after.

    The attributes are those of `rlkit.envs.vector.Envs`, and these:

    Attributes:
        device: where all tensors lie.
        generator: draws all that is random; None on the meta device. A graph's capture must know
            of it: `CUDAGraph.register_generator_state`.
        episodes: the step as a pure function; `state` (S, N) and `age` (N,) are what it is of.
        obs: the current observations, (N, *obs), always in the same memory.
        bytes_each: of memory that one environment takes at the most, about.

    Raises UsageError where the device has no room for so many.

    Args:
        rules: of the environment.
        declared: the observation space and the action space of one of them, by its own account.
        n: how many.
        facts: its name and what else is known.
        device: as above.
        seed: of the first reset; None for a new one.
    """

    def __init__(
        self,
        rules: Rules,
        declared: Spaces,
        n: int,
        facts: Facts,
        device: torch.device,
        seed: int | None = None,
    ) -> None:
        self.n, self.device = n, device
        self.autoreset: Autoreset = "next_step"
        self.obs_port = obs_port(declared[0], n, strict=False)
        self.action_port = ActionPort(declared[1])
        self.obs_space, self.action_space = self.obs_port.space, self.action_port.space
        self.id, self.spec_json = facts.id, facts.spec_json
        self.reward_threshold = facts.reward_threshold
        self.max_episode_steps, self.frame_stack = facts.max_episode_steps, facts.frame_stack
        self.steps = 0
        self.returned: Any = None
        self.restarts = 0
        self.draws = False
        self.generator = None if device.type == "meta" else torch.Generator(device)
        self.episodes = Episodes(rules, facts.max_episode_steps, device)
        one = rules.start(torch.zeros((rules.draws, 1), dtype=torch.float64, device=device))
        mask = rules.mask(one)
        self.bytes_each = (
            3 * one.nbytes  # before a step, after it, and those that begin anew
            + 3 * space_array(self.obs_space, (1,)).nbytes  # seen before, seen now, given out
            + 3 * (0 if mask is None else mask.nbytes)
            + 8 * (rules.draws + 1)
            + STEP_BYTES
        )
        require_there(
            n * self.bytes_each,
            device,
            f"envs (--envs) is {n:,}",
            "the environments",
            lambda free: f"{int(free // self.bytes_each):,}",
        )
        self._seed = seed
        self._began = False
        self._actions = _ActionPort(self.action_port, n, device)
        self._u = torch.zeros((rules.draws, n), dtype=torch.float64, device=device)
        self.state = torch.zeros_like(rules.start(self._u), memory_format=torch.contiguous_format)
        self.age = torch.zeros(n, dtype=torch.int64, device=device)
        self.obs = torch.from_numpy(space_array(self.obs_space, (n,))).to(device)
        self.mask: Tensor | None = None
        if mask is not None:
            self.mask = torch.ones((n, mask.shape[1]), dtype=torch.bool, device=device)

    def reset(self, seed: int | None = None) -> Tensor:
        """Begin an episode in every environment; the first observations, (N, *obs).

        `seed`, or on the first call the one given to the constructor, seeds the generator, and
        `action_space`. Without one they go on.
        """
        seed, self._seed = (self._seed if seed is None else seed), None
        if seed is not None:
            of_envs, of_actions = distinct_seeds(seed, 2)
            self.action_space.seed(of_actions)
            if self.generator is not None:
                self.generator.manual_seed(of_envs)
        elif not self._began and self.generator is not None:
            self.generator.seed()
        self.state.copy_(self.episodes.rules.start(self._drawn()))
        self.age.zero_()
        self._began = True
        self._show()
        return self.obs

    def step(self, action: Tensor) -> Step:
        """Take the actions, (N,) or (N, *action), and return the transitions.

        `next_obs` is written over by the next step, and so is `mask` of this object; all else is
        the caller's to keep. What actions are is not looked at: see `Rules`.

        Raises UsageError for actions of another shape or kind, and before `reset`.
        """
        if not self._began:
            raise UsageError("step was called before reset; call reset first")
        given = self._actions.give(action)
        self.steps += 1
        obs, mask = self.obs.clone(), None if self.mask is None else self.mask.clone()
        moved = self.episodes.step(self.state, self.age, given, self._drawn())
        self.state.copy_(moved.state)
        self.age.copy_(moved.age)
        next_mask = self._show()
        return Step(
            obs,
            action,
            moved.reward,
            moved.terminated,
            moved.truncated,
            moved.valid,
            self.obs,
            mask=mask,
            next_mask=next_mask,
        )

    def _drawn(self) -> Tensor:
        return self._u.uniform_(generator=self.generator)

    def _show(self) -> Tensor | None:
        """Write what is seen of the states to `obs` and `mask`; the mask by their own account."""
        rules = self.episodes.rules
        self.obs.copy_(rules.observe(self.state))
        allowed = rules.mask(self.state)
        if allowed is not None and self.mask is not None:
            # the dead step takes any action
            torch.logical_or(allowed, (self.age == OVER).unsqueeze(1), out=self.mask)
        return allowed

    @property
    def longest_running(self) -> int:
        """Steps taken so far in the longest of the episodes that are under way; waits for it."""
        return max(0, int(self.age.max()))

    def get_state(self) -> dict[str, Any] | None:
        """All that the next steps depend on, as a tree of tensors and JSON scalars; None: nothing.

        Copies, on the device; to save them waits for it.
        """
        if not self._began or self.generator is None:
            return None
        return {
            "rules": type(self.episodes.rules).__name__,
            "state": self.state.clone(),
            "age": self.age.clone(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
        }

    def set_state(self, tree: Mapping[str, Any]) -> Tensor:
        """Go on from a tree of `get_state`, bit for bit; the current observations, (N, *obs).

        Raises UsageError for a tree of other environments, of another number of them, or of another
        kind of device.
        """
        ours = type(self.episodes.rules).__name__, tuple(self.state.shape)
        found = (
            tree.get("rules", "other environments"),
            tuple(getattr(tree.get("state"), "shape", ())),
        )
        if found != ours:
            raise UsageError(
                f"the saved state is of {found[0]} of shape {found[1]}, these are {ours[0]} of "
                f"shape {ours[1]}; resume with the environments that were saved"
            )
        assert self.generator is not None
        try:
            self.generator.set_state(tree["generator"].cpu())
        except RuntimeError as error:
            raise UsageError(
                f"the saved random state is not of a {self.device.type} device; resume with "
                "--device set to the kind that it was saved on"
            ) from error
        self.state.copy_(tree["state"])
        self.age.copy_(tree["age"])
        self.steps = int(tree["steps"])
        self._began = True
        self._show()
        return self.obs

    def close(self) -> None:
        """There is nothing to close."""

    def __enter__(self) -> DeviceEnvs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _ActionPort:
    """`rlkit.envs.spaces.ActionPort` for tensors: an agent's actions as the environments'."""

    def __init__(self, port: ActionPort, n: int, device: torch.device) -> None:
        self._space = port.space
        self._shape = torch.Size((n, *(port.space.shape or ())))
        self._scaling: tuple[Tensor, ...] | None = None
        if isinstance(port.scaling, Scaling):
            scaling = port.scaling
            numbers = scaling.factor, scaling.middle, scaling.low, scaling.high
            self._scaling = tuple(
                torch.tensor(x, dtype=torch.float32, device=device) for x in numbers
            )

    def give(self, action: Tensor) -> Tensor:
        if not isinstance(action, Tensor):
            raise UsageError(
                f"the actions are a {type(action).__name__}; give environments on a device a tensor"
            )
        whole = action.dtype in (torch.int64, torch.int32)
        fits = action.is_floating_point() if self._scaling else whole
        if action.shape != self._shape or not fits:
            raise UsageError(
                f"actions of shape {tuple(action.shape)} and {action.dtype} were given; "
                f"{self._space} takes shape {tuple(self._shape)} of "
                f"{'numbers' if self._scaling else 'whole numbers'}"
            )
        if self._scaling is None:
            return action
        factor, middle, low, high = self._scaling
        return torch.addcmul(middle, action.float(), factor).clamp(low, high)
