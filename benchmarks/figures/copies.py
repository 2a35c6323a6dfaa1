"""Many runs of one tabular agent in one: each environment has a part of the table to itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.random import Generator

from rlkit.agent import Agent
from rlkit.agents.td_lambda import TDLambda
from rlkit.control import Control
from rlkit.envs.make import make_envs
from rlkit.experience.latest import Bools, Floats, Ints
from rlkit.experience.step import Step
from rlkit.training import build
from rlkit.training.options import RunOptions

Pay: TypeAlias = Callable[[Ints, Floats, Bools, Generator], Floats]


class Copies(VectorWrapper):
    """Has environment i show its state s of 0 ... S − 1 as i·S + s.

    What an agent learns in one then never touches what it learns in another: N independent runs.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.single_observation_space, spaces.Discrete)
        states = int(env.single_observation_space.n)
        self._first = states * np.arange(env.num_envs)
        self.single_observation_space = spaces.Discrete(states * env.num_envs)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return obs + self._first, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, *rest, info = self.env.step(actions)
        reward, terminated, truncated = rest
        return obs + self._first, reward, terminated, truncated, info


class Paid(VectorWrapper):
    """Has a model's environments pay as `pay` says, where the model knows what is expected alone.

    It is called with the states (N,) that the actions were taken in, the expected rewards, whether
    each episode ended with the step, and the environments' generator; it returns the rewards.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], pay: Pay) -> None:
        super().__init__(env)
        self._pay = pay

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._state, info = self.env.reset(seed=seed, options=options)
        return self._state, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        state = self._state
        self._state, expected, terminated, truncated, info = self.env.step(actions)
        reward = self._pay(state, expected, terminated, self.np_random)
        return self._state, reward, terminated, truncated, info


@dataclass(frozen=True)
class Moment:
    """One step of N runs, after what was learned from it.

    Fields:
        agent: that of all runs.
        step: the states are i·S + s for run i.
        state: (N,) the s of the states in which the actions were taken.
        episode: (N,) which episode of its run each step belongs to, counted from 0.
    """

    agent: Agent
    step: Step
    state: Ints
    episode: Ints

    @property
    def tables(self) -> Floats:
        """(tables, N, S, A) the action values of each run; of TD(λ), (1, N, S, 1) state values."""
        n = len(self.state)
        if isinstance(self.agent, TDLambda):
            return self.agent.v.numpy().reshape(1, n, -1, 1)
        assert isinstance(self.agent.control, Control)
        q = self.agent.control.q.numpy()
        return q.reshape(len(q), n, -1, q.shape[-1])


def play(
    name: str,
    venv: VectorEnv[Any, Any, Any],
    recipe: Mapping[str, object],
    episodes: int,
    seed: int = 0,
) -> Iterator[Moment]:
    """Have rlkit's agent of that name learn in N environments of its own, a run in each.

    It goes on until every run has been through so many episodes; those of the others go on with it,
    and their `episode` is then `episodes` or more.
    """
    assert isinstance(venv.single_observation_space, spaces.Discrete)
    states, n = int(venv.single_observation_space.n), venv.num_envs
    envs = make_envs(Copies(venv), n, seed)
    agent_type = build.agent_class(name)
    told = build.defaults(agent_type).but({"envs": n, **recipe})
    agent = build.make_agent(agent_type, told, envs, RunOptions(device="cpu", seed=seed))
    agent.memory.allocate()
    obs, episode = envs.reset(), np.zeros(n, dtype=np.int64)
    while episode.min() < episodes:
        action, _ = agent.act(obs, None, mask=envs.mask)
        step = envs.step(action)
        agent.memory.add(step)
        for batch in agent.memory.batches():
            agent.update(batch)
        yield Moment(agent, step, obs % states, episode.copy())
        episode += step.terminated
        obs = step.next_obs
