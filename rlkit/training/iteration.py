"""Acting, and whole iterations on a device: a rollout and the update on it as one piece of work.

Where environments live on the device, nothing in an iteration needs the host: so a GPU repeats it
as one CUDA graph (`rlkit.device.graphs`). What the host does for each step when it goes along is
done for all of an iteration's steps before it begins (noise is drawn, schedules are read), or after
it (steps are counted). All else is tensors that stay where they are.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from rlkit.agent import Agent, Clock, Metric
from rlkit.arrays import as_tensor
from rlkit.carry import Carry, renewed
from rlkit.device.engine import Place
from rlkit.envs.vector import Envs
from rlkit.experience.noise import Noise
from rlkit.experience.rollout import Rollout, RolloutBatch
from rlkit.experience.step import Step
from rlkit.training.episodes import DeviceEpisodes, Episodes

# Steps and gradient steps in one graph, of about a hundred kernels each: a graph takes memory for
# every kernel, and time to be captured. Beyond, the update has graphs of its own.
LONGEST = 1024


class Acting:
    """An agent in its environments, where it begins with an episode in each.

    Attributes:
        obs: what the next action is chosen from, (N, *obs).
        carry: what the agent's memory holds before it; None without one.
        sent: the action that the environments are at; None: they are at none.
    """

    def __init__(self, agent: Agent, envs: Envs) -> None:
        self.agent, self.envs = agent, envs
        self.obs = envs.reset()
        self.carry: Carry = agent.initial_carry(envs.n)
        self.sent: Any = None

    def step(self) -> Step:
        """A step of all environments, which the agent's memory keeps."""
        agent, envs = self.agent, self.envs
        action, carry = agent.act(self.obs, self.carry, mask=envs.mask)
        self.sent = action
        step = envs.step(action)
        self.sent = None
        step.carry = self.carry
        agent.memory.add(step)
        if carry is not None:
            self.carry = renewed(carry, as_tensor(step.begins, agent.setting.device))
        self.obs = step.next_obs
        return step


@runtime_checkable
class Learner(Protocol):
    """An agent that learns from rollouts, whose update is its three parts one after the other.

    Attributes:
        noise: all that it draws as it acts.
        gradient_steps: how many an update on a device takes.
    """

    memory: Rollout
    noise: Noise
    place: Place
    clock: Clock
    gradient_steps: int

    def prepare(self) -> None:
        """Put what changes from update to update where the others read it; draws on the host."""

    def learn(self, batch: RolloutBatch) -> dict[str, Metric]:
        """The work itself, which on a device neither reads anything back nor draws on the host."""

    def told(self, found: dict[str, Metric]) -> dict[str, Metric]:
        """The scalars to log, by what `learn` found; raises RunError, as `Agent.update`."""


class Iteration:
    """`n_steps` steps of all environments and the update on them, without the host.

    It is what as many calls of `Acting.step` and one of `Agent.update` would do, but that noise is
    drawn for all steps at once. Call `run`, then `told`.
    """

    def __init__(
        self, acting: Acting, learner: Learner, episodes: Episodes | DeviceEpisodes
    ) -> None:
        self._acting, self._learner, self._episodes = acting, learner, episodes
        self.n_steps = learner.memory.n_steps
        self.quantum = learner.memory.quantum  # environment steps
        self._is_whole = self.n_steps + learner.gradient_steps <= LONGEST
        generators = [getattr(acting.envs, "generator", None)]
        self._graph = learner.place.captured(self._work, generators)
        self._found: dict[str, Metric] | None = None

    @property
    def is_due(self) -> bool:
        """Whether a rollout begins now: one that was resumed in its midst is taken step by step."""
        return self._learner.memory.t == 0

    def run(self, steps: int, total: int) -> None:
        """Begin an iteration at `steps` environment steps of `total`; the device goes on with it.

        Raises what the environments and the networks do, and nothing that depends on values.
        """
        acting, learner, envs = self._acting, self._learner, self._acting.envs
        obs: Any = acting.obs
        clock, stood_at = learner.clock, envs.steps
        clock.ahead = [(steps + t * envs.n) / total for t in range(self.n_steps)]
        clock.progress = clock.ahead[-1]
        noise = learner.noise.block(self.n_steps, obs)
        learner.prepare()
        acting.carry, self._found = self._graph(noise, acting.carry)
        clock.ahead = ()
        envs.steps = stood_at + self.n_steps  # a replayed graph counts nothing on the host
        if self._found is None:
            learner.memory.t = self.n_steps
            self._found = self._learned()

    def told(self) -> dict[str, Metric]:
        """The update's scalars to log; raises RunError where something was not finite."""
        assert self._found is not None
        return self._learner.told(self._found)

    def steps(self) -> list[Step]:
        """The steps of the newest iteration, as they stand in memory; none of one broken off."""
        if self._found is None or not self.is_due:
            return []
        rows = self._learner.memory.storage
        return [
            Step(
                rows.obs[t],
                rows.action[t],
                rows.reward[t],
                rows.terminated[t],
                rows.truncated[t],
                rows.valid[t],
                rows.obs[t + 1],
            )
            for t in range(self.n_steps)
        ]

    def _work(self, noise: Tensor, carry: Carry) -> tuple[Carry, dict[str, Metric] | None]:
        """All steps and, unless it would be too much for one graph, the update.

        It begins from what it is given even after a capture that broke off anywhere.
        """
        acting, learner = self._acting, self._learner
        learner.memory.restart()
        learner.noise.use(noise)
        acting.carry = carry
        for _ in range(self.n_steps):
            self._episodes.add(acting.step())
        return acting.carry, self._learned() if self._is_whole else None

    def _learned(self) -> dict[str, Metric]:
        (batch,) = self._learner.memory.batches()
        return self._learner.learn(batch)


def iteration_of(acting: Acting, episodes: Episodes | DeviceEpisodes) -> Iteration | None:
    """Whole iterations, where environments and updates are on a device; else None.

    Several ranks meet on the host: for them there are none.
    """
    agent: Any = acting.agent
    there = acting.envs.device is not None and agent.place.ahead
    if not there or agent.setting.peers is not None or not isinstance(agent, Learner):
        return None
    return Iteration(acting, agent, episodes)
