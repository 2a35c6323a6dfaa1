"""Two games that nobody plays well without a memory: a corridor, and a suit to be repeated.

MemoryCorridor is the T-maze of Bakker, Reinforcement Learning with Long Short-Term Memory (NIPS
2001), simplified: every action moves the agent on, so that what is left to learn is to remember.
Observations are coded as there: at the start (0, 1, 1) or (1, 1, 0), the cue, which says whether
the goal lies left or right; (1, 0, 1) in the corridor; (0, 1, 0) at its end, where action 0 turns
left and 1 turns right, and the episode ends with reward 1 at the goal, else -1. Nothing after the
first observation depends on the cue, so a policy without memory gets 0 on average, and one that
remembers over `length` steps gets 1.

RepeatFirst is the game of that name of Morad et al., POPGym: Benchmarking Partially Observable
Reinforcement Learning (ICLR 2023): cards are dealt one by one, and each action must name the suit
of the first. Each of the `length` actions earns 1/length where it does, else -1/length. Without
memory, the best mean return is 1/length + (1 - 1/length)·(2/suits - 1): -0.35 by default.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from numpy.random import Generator
from numpy.typing import NDArray

from rlkit.envs.games import Bools, Floats, GameEnv, GameVectorEnv, Ints, check_size

CORRIDOR, CARDS, SUITS = 10, 10, 4

_CUES = np.array([[0, 1, 1], [1, 1, 0]], dtype=np.float32)
_WAY, _JUNCTION = np.array([1, 0, 1], dtype=np.float32), np.array([0, 1, 0], dtype=np.float32)
_CELL = 16  # pixels
_COLOURS = np.array([(204, 71, 66), (46, 160, 103), (31, 97, 190), (240, 214, 140)], dtype=np.uint8)
_FLOOR, _WALL = (246, 246, 242), (44, 52, 64)


class MemoryCorridor:
    """The rules; a state is (the goal's side, the place in the corridor from 0 to `length`)."""

    variables = 2

    def __init__(self, length: int) -> None:
        self._length = check_size("length", length, 1, 100_000)
        self.observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        # Row 2·place + side: all that is ever seen, the places between cue and junction once.
        self._seen = np.stack([*_CUES, _WAY, _WAY, _JUNCTION, _JUNCTION])

    def start(self, generators: Sequence[Generator]) -> Ints:
        states = np.zeros((2, len(generators)), dtype=np.int64)
        states[0] = [each.random() < 0.5 for each in generators]
        return states

    def advance(self, states: Ints, actions: Ints) -> tuple[Floats, Bools]:
        side, place = states
        ended = place == self._length
        reward = np.where(actions == side, 1.0, -1.0)
        reward[~ended] = 0.0
        place += ~ended
        return reward, ended

    def observe(self, states: Ints) -> NDArray[np.float32]:
        side, place = states
        part = np.minimum(place, 1) + (place == self._length)
        return np.asarray(self._seen[2 * part + side])

    def picture(self, state: Ints) -> NDArray[np.uint8]:
        """The corridor from above; the goal's side is shown as long as the cue is."""
        side, place = (int(value) for value in state)
        cells = np.full((3, self._length + 1, 3), _WALL, dtype=np.uint8)
        cells[1], cells[:, -1] = _FLOOR, _FLOOR
        cells[1, place] = _COLOURS[2]
        if place == 0:
            cells[2 * side, 0] = _COLOURS[1]
        return cells.repeat(_CELL, axis=0).repeat(_CELL, axis=1)


class RepeatFirst:
    """The rules; a state is (the cards played, then the suits of all `length` + 1 cards)."""

    def __init__(self, length: int, suits: int) -> None:
        self._length = check_size("length", length, 1, 10_000)
        self._suits = check_size("suits", suits, 2, 1000)
        self.variables = self._length + 2
        self.observation_space = spaces.Discrete(self._suits)
        self.action_space = spaces.Discrete(self._suits)

    def start(self, generators: Sequence[Generator]) -> Ints:
        # All the cards at once, as one call draws many numbers for the price of few.
        drawn = np.array([each.random(self._length + 1) for each in generators])
        states = np.zeros((self.variables, len(generators)), dtype=np.int64)
        states[1:] = (drawn * self._suits).T
        return states

    def advance(self, states: Ints, actions: Ints) -> tuple[Floats, Bools]:
        played = states[0]
        played += 1
        share = 1 / self._length
        return np.where(actions == states[1], share, -share), played == self._length

    def observe(self, states: Ints) -> Ints:
        return np.asarray(states[1 + states[0], np.arange(states.shape[1])])

    def picture(self, state: Ints) -> NDArray[np.uint8]:
        """The card that lies open."""
        card = np.zeros((2 * _CELL, 2 * _CELL, 3), dtype=np.uint8)
        card[:] = _COLOURS[state[1 + state[0]] % len(_COLOURS)]
        return card


def single_corridor(length: int = CORRIDOR, render_mode: str | None = None) -> GameEnv:
    """A corridor of `length` steps; an episode takes `length` + 1 actions.

    Observations: Box (3,) float32 of zeros and ones, as above. Actions: Discrete(2), 0 left and
    1 right, which matter at the end only. Raises UsageError for a length below 1.
    """
    return GameEnv(MemoryCorridor(length), render_mode)


def vector_corridor(num_envs: int = 1, length: int = CORRIDOR) -> GameVectorEnv:
    """`num_envs` corridors; see `single_corridor`."""
    return GameVectorEnv(MemoryCorridor(length), num_envs)


def single_repeat(
    length: int = CARDS, suits: int = SUITS, render_mode: str | None = None
) -> GameEnv:
    """A game of `length` actions with cards of `suits` suits.

    Observations: Discrete(suits), the open card's. Actions: Discrete(suits), the first one's.
    Raises UsageError for a number out of range.
    """
    return GameEnv(RepeatFirst(length, suits), render_mode)


def vector_repeat(num_envs: int = 1, length: int = CARDS, suits: int = SUITS) -> GameVectorEnv:
    """`num_envs` games; see `single_repeat`."""
    return GameVectorEnv(RepeatFirst(length, suits), num_envs)
