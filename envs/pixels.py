"""Images as observations: what an environment renders, and images that come as bools."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import (
    AddRenderObservation,
    FrameStackObservation,
    GrayscaleObservation,
    ResizeObservation,
)
from numpy.typing import NDArray

from rlkit.envs.games import check_size
from rlkit.errors import UsageError

RENDER_MODE = "rgb_array"


@dataclass(frozen=True)
class Pixels:
    """How rendered images are observed.

    Attributes:
        size: height and width that they are resized to.
        grayscale: else three colours.
        frame_stack: how many of the newest are observed, oldest first, zeros before the first.

    Observations are (frame_stack, size, size) uint8, in colour (frame_stack, size, size, 3); with a
    frame_stack of 1 they are (size, size, 1) or (size, size, 3).

    Raises UsageError for a number out of range.
    """

    size: int = 84
    grayscale: bool = True
    frame_stack: int = 4

    def __post_init__(self) -> None:
        check_size("size", self.size, 1, 1000)
        check_size("frame_stack", self.frame_stack, 1, 100)


class ByteImages(gym.ObservationWrapper[NDArray[np.uint8], Any, NDArray[np.bool_]]):
    """Images of bools as bytes: 255 for True, else 0."""

    def __init__(self, env: gym.Env[NDArray[np.bool_], Any]) -> None:
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, env.observation_space.shape, np.uint8)

    def observation(self, observation: NDArray[np.bool_]) -> NDArray[np.uint8]:
        return observation.astype(np.uint8) * np.uint8(255)


def with_byte_images(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """`env`, with observations of (height, width, channels) bools as bytes."""
    space = getattr(env, "observation_space", None)
    is_image = isinstance(space, spaces.Box) and space.dtype == np.bool_ and len(space.shape) == 3
    return ByteImages(env) if is_image else env


def from_pixels(env: gym.Env[Any, Any], pixels: Pixels) -> gym.Env[Any, Any]:
    """`env`, observed by what it renders.

    Raises UsageError where it was not made with render_mode "rgb_array", where it can't render so,
    and without opencv.
    """
    if importlib.util.find_spec("cv2") is None:
        raise UsageError(
            "pixels need a package that is not installed: pip install opencv-python-headless"
        )
    env = AddRenderObservation(_that_renders(env), render_only=True)
    image: Any = env.render()
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
        found = f"{getattr(image, 'dtype', type(image).__name__)} of shape {np.shape(image)}"
        raise UsageError(
            f"env {type(env.unwrapped).__name__} renders {found}; pixels need (height, width, 3) "
            "uint8"
        )
    # Resized first, as what is done by NumPy for each pixel takes its time.
    env = ResizeObservation(env, (pixels.size, pixels.size))
    if pixels.grayscale:
        env = GrayscaleObservation(env, keep_dim=pixels.frame_stack == 1)
    if pixels.frame_stack > 1:
        env = FrameStackObservation(env, pixels.frame_stack, padding_type="zero")
    return env


def _that_renders(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    modes = env.metadata.get("render_modes") or []
    if RENDER_MODE not in modes:
        raise UsageError(
            f"env {type(env.unwrapped).__name__} renders {modes}; pixels need {RENDER_MODE!r}"
        )
    if env.render_mode != RENDER_MODE:
        raise UsageError(
            f"env {type(env.unwrapped).__name__} was made with render_mode {env.render_mode!r}; "
            f"make it with {RENDER_MODE!r} for pixels"
        )
    return env
