"""Gymnasium's classic control as vector environments that step in one compiled call.

CartPole, Acrobot, MountainCar and Pendulum, bit for bit as Gymnasium's own: CartPole equals its
`CartPoleVectorEnv`, where one generator draws all starting states; the others equal a
`SyncVectorEnv`, where each environment has its own. `rlkit.envs.dynamics` holds the equations.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from rlkit.envs import dynamics
from rlkit.envs.dynamics import ENDED
from rlkit.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


def _start_cart_poles(generators: Sequence[Generator], count: int) -> Floats:
    return generators[0].uniform(low=-0.05, high=0.05, size=(4, count))


def _start_acrobots(generators: Sequence[Generator], count: int) -> Floats:
    drawn = np.array([each.uniform(low=-0.1, high=0.1, size=4) for each in generators])
    state = np.ascontiguousarray(drawn.T, dtype=np.float32)
    cos, sin = np.cos(state), np.sin(state)
    return np.array([*state, cos[0], sin[0], cos[1], sin[1]], dtype=np.float64)


def _start_mountain_cars(generators: Sequence[Generator], count: int) -> Floats:
    return np.array([[each.uniform(low=-0.6, high=-0.4) for each in generators], [0.0] * count])


def _start_pendulums(generators: Sequence[Generator], count: int) -> Floats:
    # Two calls with numbers draw what one with arrays does, in a third of the time.
    return np.array([(e.uniform(-np.pi, np.pi), e.uniform(-1.0, 1.0)) for e in generators]).T.copy()


@dataclass(frozen=True)
class Model:
    """What tells one of the environments from the others."""

    kernel: dynamics.Kernel
    start: Callable[[Sequence[Generator], int], Floats]  # the kernel's `starts`
    variables: int
    scratch: int = 0
    one_generator: bool = False
    reward: str = "f8"
    option: str | None = None  # the constructor's only one, besides render_mode
    param: Callable[[Any], float] = float  # the kernel's parameter for the option's value


_MODULE = "gymnasium.envs.classic_control"
MODELS = {
    f"{_MODULE}.cartpole:CartPoleEnv": Model(
        dynamics.cart_pole,
        _start_cart_poles,
        variables=4,
        scratch=2,
        one_generator=True,
        reward="f4",
        option="sutton_barto_reward",
    ),
    f"{_MODULE}.acrobot:AcrobotEnv": Model(dynamics.acrobot, _start_acrobots, variables=4),
    f"{_MODULE}.mountain_car:MountainCarEnv": Model(
        dynamics.mountain_car, _start_mountain_cars, variables=2, option="goal_velocity"
    ),
    f"{_MODULE}.pendulum:PendulumEnv": Model(
        dynamics.pendulum,
        _start_pendulums,
        variables=2,
        option="g",
        param=lambda g: 3 * g / 2.0,
    ),
}


def why_not_compiled(spec: EnvSpec | None) -> str | None:
    """Why the environment of a registry entry has no compiled form; None where it has one."""
    model = None if spec is None else MODELS.get(str(spec.entry_point))
    if spec is None or model is None:
        names = [entry.rpartition(":")[2].removesuffix("Env") for entry in MODELS]
        return f"only {', '.join(names)} are"
    if spec.additional_wrappers:
        return f"it has the wrapper {spec.additional_wrappers[0].name}"
    limit = spec.max_episode_steps
    if limit is not None and (type(limit) is not int or limit < 1):
        return f"it takes no max_episode_steps = {limit!r}, but whole numbers of 1 or more"
    for option, value in spec.kwargs.items():
        if option != model.option:
            return f"it takes no option {option}"
        if not isinstance(value, (int, float)) or not abs(value) <= 1e300:
            return f"it takes no {option} = {value!r}, but numbers"
    return None


class ClassicVectorEnv(VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """`num_envs` environments of a registry entry of Gymnasium's classic control.

    Observations (N, O) are float32; rewards (N,) float64, CartPole's float32; actions (N,) whole
    numbers, Pendulum's torques (N, 1), which are rounded to float32 and clipped as its own. Where
    the last step ended an episode, a step begins the next one: the action is not looked at, the
    reward is 0, the flags are False (NEXT_STEP). All arrays are new ones, the caller's to keep.

    Args:
        spec: as `gymnasium.spec("CartPole-v1")`; its `max_episode_steps` and `kwargs` apply.
        num_envs: N, at least 1.

    Raises UsageError where `why_not_compiled(spec)` says why. The first of a kind takes seconds
    to compile, and a fraction of one in later processes, from numba's cache on disk.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, spec: EnvSpec, num_envs: int = 1) -> None:
        why_not = why_not_compiled(spec)
        if why_not is not None:
            raise UsageError(f"env {spec.id} can't be compiled: {why_not}")
        self.spec = copy.deepcopy(spec)
        self.num_envs = num_envs
        entry = str(spec.entry_point)
        self._class = entry.rpartition(":")[2]
        self._model = model = MODELS[entry]
        creator = load_env_creator(entry)
        single = cast("gym.Env[Any, Any]", creator(**spec.kwargs))
        self.single_observation_space = single.observation_space
        self.single_action_space = single.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._actions = np.zeros(self.action_space.shape or (), self.single_action_space.dtype)
        self._actions_shape = self._actions.shape
        self._obs_shape = self.observation_space.shape or ()
        self._states = np.zeros((1 + model.variables + model.scratch, num_envs))
        self._reward_dtype = np.dtype(model.reward)
        self.one_generator = model.one_generator  # else each environment has its own
        self._params = np.array([_limit(spec), _option(model, spec, creator), 2.0])
        self._generators: list[Generator] = []
        self._no_starts = np.zeros((0, 0))
        self._ended = 0
        self._kernel = dynamics.load(
            model.kernel, "f4[:,::1]" if self._actions.ndim == 2 else "i8[::1]", model.reward
        )

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode in every environment; their first observations (N, O).

        `seed`: None to let the generators go on; for CartPole the seed of its one generator; for
        the others a seed for each, or the first of N in a row. Raises UsageError for other seeds,
        and for `options`, of which there are none.
        """
        if options:
            raise UsageError(f"env {self._class} compiled resets without options; use sync")
        self._seed(seed)
        self._states[0] = ENDED
        self._ended = self.num_envs
        return self._step()[0], {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[Any], Bools, Bools, dict[str, Any]]:
        """Observations (N, O), rewards (N,), terminated (N,), truncated (N,) and an empty dict.

        Raises UsageError before the first reset, and for actions of another shape or outside of
        their space (of Pendulum's, only NaN); reset the environments after that.
        """
        actions = np.asarray(actions)
        if actions.shape != self._actions_shape:
            raise UsageError(
                f"actions of shape {actions.shape} were given; give {self._actions_shape}"
            )
        try:
            np.copyto(self._actions, actions, casting="same_kind")
        except TypeError:
            kind = "whole numbers" if self._actions.dtype.kind == "i" else "numbers"
            raise UsageError(f"the actions are {actions.dtype}; give {kind}") from None
        if not self._generators:
            raise UsageError("step was called before reset; call reset first")
        return self._step()

    def get_state(self) -> dict[str, Any]:
        """All that the next steps depend on: arrays and JSON scalars."""
        return {
            "class": self._class,
            "states": self._states[: 1 + self._model.variables].copy(),
            "generators": {
                str(i): generator.bit_generator.state
                for i, generator in enumerate(self._generators)
            },
        }

    def set_state(self, tree: dict[str, Any]) -> None:
        """Go on from what `get_state` returned. Raises UsageError where it came from others."""
        if tree["class"] != self._class or tree["states"].shape[1] != self.num_envs:
            raise UsageError(
                f"the saved state is of {tree['states'].shape[1]} {tree['class']}, these are "
                f"{self.num_envs} {self._class}"
            )
        self._states[: 1 + self._model.variables] = tree["states"]
        self._ended = int(np.count_nonzero(self._states[0] == ENDED))
        self._generators = []
        for i in range(len(tree["generators"])):
            generator = Generator(PCG64(0))
            generator.bit_generator.state = tree["generators"][str(i)]
            self._generators.append(generator)
        self.np_random = self._generators[0]

    def _seed(self, seed: int | Sequence[int | None] | None) -> None:
        if seed is None and self._generators:
            return
        count = 1 if self._model.one_generator else self.num_envs
        seeds: Sequence[int | None]
        if seed is None:
            seeds = [None] * count
        elif isinstance(seed, int):
            seeds = range(seed, seed + count)
        else:
            seeds = seed
        if len(seeds) != count:
            raise UsageError(f"{len(seeds)} seeds were given to {count} generators; give as many")
        made = [seeding.np_random(each) for each in seeds]
        self._generators = [generator for generator, _ in made]
        # The first stands for all of them; a vector environment has but one to show.
        self._np_random, self._np_random_seed = made[0]

    def _step(self) -> tuple[NDArray[np.float32], NDArray[Any], Bools, Bools, dict[str, Any]]:
        n = self.num_envs
        starts = self._starts() if self._ended else self._no_starts
        obs = np.empty(self._obs_shape, np.float32)
        reward = np.empty(n, self._reward_dtype)
        flags = np.empty((2, n), np.bool_)
        ended = self._kernel(self._actions, self._states, obs, reward, flags, starts, self._params)
        if ended < 0:
            env = -1 - ended
            raise UsageError(
                f"the action for env {env} is {self._actions[env]}; it must be in "
                f"{self.single_action_space}"
            )
        self._ended = ended
        return obs, reward, flags[0], flags[1], {}

    def _starts(self) -> Floats:
        generators = self._generators
        if not self._model.one_generator:
            generators = [generators[i] for i in np.flatnonzero(self._states[0] == ENDED)]
        return self._model.start(generators, self._ended)


def _limit(spec: EnvSpec) -> float:
    return math.inf if spec.max_episode_steps is None else float(spec.max_episode_steps)


def _option(model: Model, spec: EnvSpec, creator: Callable[..., Any]) -> float:
    """The kernel's parameter for the environment's option, given or by default."""
    if model.option is None:
        return 0.0
    default = inspect.signature(creator).parameters[model.option].default
    return model.param(spec.kwargs.get(model.option, default))
