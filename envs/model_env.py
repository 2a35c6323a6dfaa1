"""Any finite MDP as an environment, and as N of them that step in one compiled call.

What a step earns is the model's **expected** reward r(s, a): an MDP holds no other. Where the
environment behind a model pays by the transition (FrozenLake pays 1 on the step into its goal), the
returns of episodes differ from its own, and their expectation, all values and all optimal policies
are the same.

An episode begins in a state drawn from the model's start distribution, or from all states that are
not terminal where it has none. It is terminated on reaching a terminal state, and by the mass that
is missing in a row: then the last observation is of the state in which it ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.random import Generator
from numpy.typing import NDArray

from rlkit.envs import model_dynamics as dynamics
from rlkit.envs.masks import KEY
from rlkit.envs.model_dynamics import ENDED, Bools, Floats, Ints
from rlkit.envs.model_views import View, view_for
from rlkit.errors import UsageError

if TYPE_CHECKING:
    from rlkit.mdp.draw_grid import GridLayout
    from rlkit.mdp.model import MDP

INDEX = "index"
LARGEST_REWARD = float(np.finfo(np.float32).max)  # that reaches an agent


class Episodes:
    """N episodes of a model: where each is, and the step that moves them on.

    Attributes:
        observation_space, action_space: of one of them.
        states: (2, N) int64: the state, and the episode's age, -1 once it is over.
    """

    def __init__(
        self,
        mdp: MDP,
        n: int,
        observe: str,
        layout: GridLayout | None,
        max_episode_steps: int | None,
    ) -> None:
        check_model(mdp, max_episode_steps)
        self.n = n
        self.view: View = view_for(observe, mdp.n_states, layout, n)
        self.observation_space = self.view.space
        n_actions = int(mdp.actions.max()) + 1
        self.action_space = spaces.Discrete(n_actions)
        self.states = np.full((2, n), ENDED, dtype=np.int64)
        self.states[0] = 0
        starts, start_cdf = starts_of(mdp)
        P, index = mdp.P, f"i{mdp.P.indices.dtype.itemsize}"
        cdf = np.empty(P.nnz)
        dynamics.load_cumulative(index)(P.indptr, P.data, mdp.ends, cdf)
        limit = math.inf if max_episode_steps is None else float(max_episode_steps)
        model = (mdp.offsets, mdp.actions, P.indptr, P.indices, cdf, mdp.r, starts, start_cdf)
        self._model = (*model, limit)
        self._step = dynamics.load_step(index)
        self._allow = None
        if mdp.n_pairs < n_actions * len(mdp.live):  # some state lacks an action
            self._allow = dynamics.load_allow()
        self._mdp = mdp
        self._uniform, self._pairs = np.empty(n), np.empty(n, dtype=np.int64)

    def begin(self, generator: Generator) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin all episodes; the first observations (N, *obs) and masks."""
        self.states[1] = ENDED
        obs, *_, info = self.step(self._pairs, generator)
        return obs, info

    def step(
        self, actions: Ints, generator: Generator
    ) -> tuple[NDArray[Any], Floats, Bools, dict[str, Any]]:
        """Observations (N, *obs), rewards (N,), flags (2, N), and masks where the model has such.

        Raises InvalidAction, with nothing moved, for an action that a state does not have.
        """
        generator.random(out=self._uniform)
        reward, flags = np.empty(self.n), np.empty((2, self.n), np.bool_)
        ended = self._step(
            actions, self._uniform, self.states, self._pairs, reward, flags, *self._model
        )
        if ended < 0:
            raise InvalidAction(self._no_such(-1 - ended, actions))
        return self.view(self.states[0]), reward, flags, self._masks()

    def _masks(self) -> dict[str, Any]:
        if self._allow is None:
            return {}
        mask = np.zeros((self.n, int(self.action_space.n)), np.int8)
        self._allow(self.states[0], self._mdp.offsets, self._mdp.actions, mask)
        return {KEY: mask}

    def _no_such(self, env: int, actions: Ints) -> str:
        state, offsets = self.states[0, env], self._mdp.offsets
        has = self._mdp.actions[offsets[state] : offsets[state + 1]]
        return (
            f"the action for env {env} is {actions[env]}; its state {state} has the actions "
            f"{', '.join(map(str, has))}"
        )

    def get_state(self) -> dict[str, Any]:
        return {"states": self.states.copy()}

    def set_state(self, tree: Mapping[str, Any]) -> None:
        found = tree["states"]
        if found.shape != self.states.shape or found[0].max() >= self._mdp.n_states:
            raise UsageError(
                f"the saved state is of {found.shape[1]} environments with {found[0].max() + 1} "
                f"states or more, these are {self.n} with {self._mdp.n_states}; resume with the "
                "model and number of environments that were saved"
            )
        self.states[:] = found


class ModelEnv(gym.Env[Any, np.int64]):
    """One episode at a time of a finite MDP; see the module for what it pays.

    Args:
        mdp: the model; its discount plays no part.
        observe: "index", the state's number (Discrete(S)); "one-hot"; on a grid also "coordinates"
            (row and column, each scaled to [0, 1]), "pixels" (uint8, up to 84 x 84 x 3), and
            "pixels-N" (uint8, N x N x 3 whatever the grid's size).
        layout: where the states lie, for the last two (`rlkit.mdp.draw_grid.layout_of`).
        max_episode_steps: where episodes are truncated; None: nowhere.

    Actions: Discrete(A) of the model's labels. Where not every state has every one of them,
    `info["action_mask"]`, (A,) int8, says which. Raises UsageError for a model in which every state
    is terminal, or that may start in one.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's

    def __init__(
        self,
        mdp: MDP,
        observe: str = INDEX,
        layout: GridLayout | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        self._episodes = Episodes(mdp, 1, observe, layout, max_episode_steps)
        self._mdp = mdp
        self.view = self._episodes.view  # what is observed
        self.observation_space = self._episodes.observation_space
        self.action_space = self._episodes.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        obs, info = self._episodes.begin(self.np_random)
        return obs[0], _first(info)

    def step(self, action: int | np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Raises ResetNeeded where no episode is under way, InvalidAction for a wrong action."""
        if self._episodes.states[1, 0] == ENDED:
            raise ResetNeeded("the episode is over or never began; call reset()")
        actions = np.array([action], dtype=np.int64)
        obs, reward, flags, info = self._episodes.step(actions, self.np_random)
        return obs[0], float(reward[0]), bool(flags[0, 0]), bool(flags[1, 0]), _first(info)

    def mdp(self, gamma: float) -> MDP:
        """The model, with discount `gamma`."""
        return replace(self._mdp, gamma=gamma)

    def observations(self, states: Ints) -> NDArray[Any]:
        """What is observed in states (N,): (N, *obs)."""
        return self._episodes.view(states)

    def get_state(self) -> dict[str, Any]:
        """Where the episode is, for resuming bit for bit (see `rlkit.envs.state`)."""
        return self._episodes.get_state()

    def set_state(self, tree: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned. Raises UsageError where another model did."""
        self._episodes.set_state(tree)


class ModelVectorEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """`num_envs` episodes of a finite MDP side by side; the other arguments as of `ModelEnv`.

    One generator draws for all of them. Where the last step ended an episode, a step begins the
    next one: the action is not looked at, the reward is 0, the flags are False (NEXT_STEP). All
    arrays are new ones, the caller's to keep. Where not every state has every action,
    `info["action_mask"]` is (N, A) int8. The first of a process takes half a second to load what
    was compiled, the first of all some seconds.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        mdp: MDP,
        num_envs: int = 1,
        observe: str = INDEX,
        layout: GridLayout | None = None,
        max_episode_steps: int | None = None,
    ) -> None:
        self._episodes = Episodes(mdp, num_envs, observe, layout, max_episode_steps)
        self.num_envs = num_envs
        self.single_observation_space = self._episodes.observation_space
        self.single_action_space = self._episodes.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._began = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Begin an episode in every environment; the first observations (N, *obs)."""
        super().reset(seed=seed)
        self._began = True
        return self._episodes.begin(self.np_random)

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[Any], Floats, Bools, Bools, dict[str, Any]]:
        """Observations (N, *obs), rewards, terminated, truncated, each (N,), and masks.

        Raises UsageError before the first reset, and for actions of another shape or dtype;
        InvalidAction for an action that a state does not have, with nothing moved.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise UsageError(
                f"actions of shape {actions.shape} and dtype {actions.dtype} were given; give "
                f"{self.num_envs} whole numbers"
            )
        if not self._began:
            raise UsageError("step was called before reset; call reset first")
        given = np.ascontiguousarray(actions, dtype=np.int64)
        obs, reward, flags, info = self._episodes.step(given, self.np_random)
        return obs, reward, flags[0], flags[1], info

    def get_state(self) -> dict[str, Any]:
        """All that the next steps depend on but the generator (see `rlkit.envs.state`)."""
        return self._episodes.get_state()

    def set_state(self, tree: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned. Raises UsageError where others did."""
        self._episodes.set_state(tree)
        self._began = True


def _first(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value[0] for key, value in info.items()}


def check_model(mdp: MDP, max_episode_steps: int | None) -> None:
    """Raise UsageError for a model that no agent can be in, or a time limit that is none."""
    limit = max_episode_steps
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UsageError(f"max_episode_steps is {limit!r}; allowed: a whole number >= 1, or None")
    if mdp.n_pairs == 0:
        raise UsageError("every state of the model is terminal; give a model with an action")
    if (largest := np.abs(mdp.r).max()) > LARGEST_REWARD:
        raise UsageError(
            f"the model has a reward of size {largest:.3g}, beyond float32's {LARGEST_REWARD:.3g}; "
            "scale its rewards down"
        )


def starts_of(mdp: MDP) -> tuple[Ints, Floats]:
    """The states in which episodes begin, and their distribution function beyond 1: (K,) each."""
    p = np.zeros(mdp.n_states)
    p[mdp.live] = 1 / len(mdp.live)
    if mdp.start is not None:
        p = mdp.start
        if (dead := np.flatnonzero((p > 0) & mdp.terminal)).size:
            raise UsageError(
                f"the model starts in its terminal state {dead[0]} with probability "
                f"{p[dead[0]]:.3g}; give a start distribution over states that have actions"
            )
    starts = np.flatnonzero(p > 0)
    cdf = np.cumsum(p[starts])
    cdf[-1] = 2.0  # rounding must not leave u without a state
    return starts, cdf
