"""What agents with a table of action values share: the table, how they act by it, their rates."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from rlkit.agent import Clock, Estimates, Metric, Setting, Stateful
from rlkit.arrays import Array
from rlkit.experience.latest import EVERYTHING, Floats, Ints, Latest, Transitions
from rlkit.experience.noise import Noise
from rlkit.exploration import q_estimates
from rlkit.losses import greedy
from rlkit.schedule import Schedule
from rlkit.tables import StateNumber, check_size, load_choose


class Choice:
    """With probability ε a uniform action, else a greedy one, of equals any; of the allowed ones.

    In a table of equal values, where nothing is known yet, the first of them would be taken over
    and over (the book breaks such ties at random too).
    """

    def __init__(self, n_envs: int, generator: torch.Generator) -> None:
        self._noise = Noise(_pairs, n_envs, generator)
        self._choose = load_choose()

    def __call__(self, q: Floats, epsilon: float, mask: Array | None) -> Ints:
        """The actions (N,) for values q (N, A)."""
        u = self._noise.next(q)  # (N, 2)
        action = np.empty(len(q), dtype=np.int64)
        self._choose(q, u, epsilon, EVERYTHING if mask is None else mask, action)
        return action

    def get_state(self) -> dict[str, Any]:
        return self._noise.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._noise.set_state(state)


def _pairs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand((*shape, 2), generator=generator)  # in [0, 1)


class ControlRecipe(Protocol):
    """The fields of a recipe that are used here."""

    @property
    def gamma(self) -> float: ...

    @property
    def learning_rate(self) -> Schedule: ...

    @property
    def visit_exponent(self) -> float: ...

    @property
    def exploration(self) -> Schedule: ...

    @property
    def initial_value(self) -> float: ...


class Control(nn.Module):
    """Q(s, a) in one table or several, and acting by their sum.

    Attributes:
        q: (tables, S, A) float64; `visits`, likewise int64: how often each entry was updated.
        memory: of the agent; `parts`, likewise.
    """

    q: Tensor
    visits: Tensor

    def __init__(
        self,
        setting: Setting,
        recipe: ControlRecipe,
        clock: Clock,
        generator: torch.Generator,
        tables: int = 1,
    ) -> None:
        super().__init__()
        assert isinstance(setting.action_space, spaces.Discrete)
        self._number = StateNumber(setting.obs_space)
        shape = (tables, self._number.count, int(setting.action_space.n))
        check_size(f"the observation space {setting.obs_space}", *shape)
        initial = torch.full(shape, recipe.initial_value, dtype=torch.float64)
        self.register_buffer("q", initial)
        self.register_buffer("visits", torch.zeros(shape, dtype=torch.int64))
        self._recipe, self._clock = recipe, clock
        self._choice = Choice(setting.n_envs, generator)
        self.memory = Latest(self._number, setting.n_envs)
        self.parts: dict[str, Stateful] = {"memory": self.memory, "choice": self._choice}

    @property
    def epsilon(self) -> float:
        """ε of the ε-greedy policy, now."""
        return self._recipe.exploration(self._clock.progress)

    @property
    def rates(self) -> tuple[float, float, float]:
        """What the kernels take last: γ, α as it is now, and ω (`rlkit.tables.step_size`)."""
        recipe = self._recipe
        return recipe.gamma, recipe.learning_rate(self._clock.progress), recipe.visit_exponent

    def table(self) -> tuple[Floats, Ints]:
        """The only table (S, A) and its visits, to be changed in place."""
        return self.q[0].numpy(), self.visits[0].numpy()

    def act(self, obs: Array, explore: bool, mask: Array | None) -> Array:
        """Actions (N,) for observations (N, ...): ε-greedy, or greedy without chance."""
        s = self._number(obs)
        q: Array = self.q.numpy() if isinstance(s, np.ndarray) else self.q
        values = q[:, s].sum(0)  # (N, A)
        return self._choice(values, self.epsilon, mask) if explore else greedy(values, mask)

    def estimates(self, obs: NDArray[Any], mask: NDArray[np.bool_] | None) -> Estimates:
        """See `rlkit.agent.Agent.estimates`; Q is the tables' mean."""
        tables = self.q.numpy()[:, self._number(obs)]  # (tables, N, A)
        return q_estimates(tables.mean(0), self.epsilon, mask, share_ties=True)

    def metrics(self, total: float, batch: Transitions) -> dict[str, Metric]:
        """What to log, given the sum of the sizes of the errors of a batch's updates."""
        return {
            "td_error": total / max(1, int(np.count_nonzero(batch.valid))),
            "learning_rate": self.rates[1],
            "exploration_rate": self.epsilon,
        }


class Held:
    """Arrays by name that an agent carries from step to step, saved with it."""

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self.arrays = arrays

    def get_state(self) -> dict[str, Any]:
        return {name: array.copy() for name, array in self.arrays.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        self.arrays = {name: state[name] for name in self.arrays}
