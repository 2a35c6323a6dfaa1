"""A greedy episode as a video: MP4 (H.264), written frame by frame, so that memory stays flat."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlkit.agent import Agent
from rlkit.envs.vector import Envs
from rlkit.errors import RunError, UsageError

Frame = NDArray[np.uint8]  # (height, width, 3)

FOLDER = "videos"  # of a run
STEPS = 10_000  # a longer episode is cut in the video
PER_SECOND = 30  # frames, where the environment's metadata don't say


def require_encoder() -> None:
    """Raise UsageError where the package that encodes is missing."""
    try:
        import imageio_ffmpeg  # noqa: F401
    except ImportError:
        raise UsageError(
            "--video needs a package that is not installed: "
            "pip install -c constraints.txt -e '.[video]'"
        ) from None


def record(
    agent: Agent, envs: Envs, seed: int, path: Path, look_up: Callable[[], None] = lambda: None
) -> None:
    """Play one greedy episode of one environment into the file `path`.

    `look_up` is called at each step, and may raise. The file appears when it is complete.

    Raises RunError where the file can't be written.
    """
    frames = _played(agent, envs, seed, look_up)
    # absolute: an encoder would take "-y/x.mp4" for an option and "tcp:x.mp4" for an address
    aside = path.absolute().with_name(f".tmp-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)  # a link that lies there is not followed
        first = next(frames)
        with _writer(aside, first, envs.frames_per_second or PER_SECOND) as write:
            write(first)
            for frame in frames:
                write(frame)
        os.replace(aside, path)
    except OSError as error:
        raise RunError(f"{path}: the video could not be written: {error}") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _played(agent: Agent, envs: Envs, seed: int, look_up: Callable[[], None]) -> Iterator[Frame]:
    obs = envs.reset(seed)
    carry = agent.initial_carry(envs.n)
    yield _frame(envs)
    for _ in range(STEPS):
        action, carry = agent.act(obs, carry, explore=False, mask=envs.mask)
        step = envs.step(action)
        yield _frame(envs)
        if step.terminated[0] or step.truncated[0]:
            break
        look_up()
        obs = step.next_obs


def _frame(envs: Envs) -> Frame:
    frame = np.asarray(envs.render()[0], dtype=np.uint8)
    # H.264 halves the colours' resolution: sides are even.
    return np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], "edge")


@contextmanager
def _writer(path: Path, first: Frame, fps: float) -> Iterator[Callable[[Frame], Any]]:
    from imageio_ffmpeg import write_frames

    height, width, _ = first.shape
    encoder = write_frames(
        str(path), (width, height), fps=fps, macro_block_size=2, ffmpeg_log_level="error"
    )
    encoder.send(None)
    try:
        yield lambda frame: encoder.send(np.ascontiguousarray(frame))
    finally:
        encoder.close()
