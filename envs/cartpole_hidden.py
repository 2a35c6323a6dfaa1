"""CartPole of which only positions are seen: the cart's and the pole's angle, no velocities.

A policy has to estimate both velocities from what it saw before; known as CartPole with masked
velocities, and as "StatelessCartPole" in POPGym (Morad et al., ICLR 2023). Everything but the
observation is Gymnasium's CartPole-v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rlkit.envs.classic import ClassicVectorEnv
from rlkit.envs.names import LIMIT, with_options

SEEN = [0, 2]  # of CartPole's x, ẋ, θ, θ̇
STEPS = 500  # CartPole-v1's time limit
SUTTON_BARTO = False


class HiddenVelocities(gym.ObservationWrapper[NDArray[np.float32], Any, NDArray[np.float32]]):
    """Shows (x, θ) of a CartPole's observation (4,)."""

    def __init__(self, env: gym.Env[NDArray[np.float32], Any]) -> None:
        super().__init__(env)
        self.observation_space = _seen_of(env.observation_space)

    def observation(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        return observation[SEEN]


class CartPoleHiddenVectorEnv(VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """`num_envs` poles, from the compiled CartPole: one generator draws all starting states.

    Observations (N, 2) float32; the rest as `rlkit.envs.classic.ClassicVectorEnv` has it.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int = STEPS,
        sutton_barto_reward: bool = SUTTON_BARTO,
    ) -> None:
        options = {LIMIT: max_episode_steps, "sutton_barto_reward": sutton_barto_reward}
        self._poles = ClassicVectorEnv(with_options(gym.spec("CartPole-v1"), options), num_envs)
        self.num_envs = num_envs
        self.single_observation_space = _seen_of(self._poles.single_observation_space)
        self.single_action_space = self._poles.single_action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = self._poles.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin all episodes; what is seen first (N, 2). `seed` is of the one generator."""
        obs, info = self._poles.reset(seed=seed, options=options)
        self._np_random, self._np_random_seed = self._poles.np_random, self._poles.np_random_seed
        return obs[:, SEEN], info

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[
        NDArray[np.float32], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]
    ]:
        obs, reward, terminated, truncated, info = self._poles.step(actions)
        return obs[:, SEEN], reward, terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        """All that the next steps depend on: arrays and JSON scalars."""
        return self._poles.get_state()

    def set_state(self, tree: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned. Raises UsageError where it came from others."""
        self._poles.set_state(dict(tree))
        self._np_random = self._poles.np_random


def single(
    sutton_barto_reward: bool = SUTTON_BARTO, render_mode: str | None = None
) -> HiddenVelocities:
    """One pole: Gymnasium's, with its velocities hidden. Observations: Box (2,) float32."""
    return HiddenVelocities(CartPoleEnv(sutton_barto_reward, render_mode))


def _seen_of(space: spaces.Space[Any]) -> Any:
    assert isinstance(space, spaces.Box)
    return spaces.Box(space.low[SEEN], space.high[SEEN], dtype=np.float32)
