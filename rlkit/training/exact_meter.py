"""When a run's agent is held to the exact ruler, and what was found last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from rlkit.agent import Agent
from rlkit.errors import RlkitError, UndefinedError
from rlkit.training.exact import Measured, Ruler
from rlkit.training.exact_model import seen_model
from rlkit.training.options import RunOptions

if TYPE_CHECKING:
    from rlkit.training.build import EnvLike

MOST_STATES = 100_000  # that a run measures by itself
MOST_BYTES = 1 << 30  # of their observations, likewise
# A state costs the ruler about what the fastest agents take for a step, and a measurement as much
# as some hundred states besides: so often, in steps for each state, it takes 2 % of the time.
STEPS_PER_STATE, FEW_STATES = 50, 200


class Meter:
    """Measures `agent`, which trains for `total` steps, `n` at a time, logging every `log_every`.

    At logs, as often as costs about 2 % of the training's time; at evaluations, where the model has
    not too many states for so short a training; and at the end. When is a matter of sizes, not of
    the clock: a run that is resumed measures when one that was never interrupted does.

    Attributes:
        problem: why the agent can't be measured, on an environment that has a model; or None.
    """

    def __init__(
        self,
        make: Callable[[], Ruler | None],
        agent: Agent,
        n: int,
        total: int,
        log_every: int,
    ) -> None:
        self._make: Callable[[], Ruler | None] | None = make
        self._ruler: Ruler | None = None
        self._agent, self._n, self._total, self._log_every = agent, n, total, log_every
        self._latest: tuple[int, Measured] | None = None  # with its step
        self.problem: str | None = None

    def at_log(self, step: int) -> dict[str, float]:
        """The scalars to log at `step`; none where it is not time yet."""
        ruler = self._found()
        if ruler is None:
            return {}
        least = STEPS_PER_STATE * (ruler.n_states + FEW_STATES)
        every = -(-least // self._log_every) * self._log_every
        return self._measured(step) if step // every > (step - self._n) // every else {}

    def at_evaluation(self, step: int) -> dict[str, float]:
        """The scalars to log with the evaluation at `step`; none where it is too short a run."""
        ruler = self._found()
        if ruler is None:
            return {}
        is_last = step >= self._total
        affordable = self._total >= STEPS_PER_STATE * ruler.n_states
        return self._measured(step) if is_last or affordable else {}

    def found_at(self, step: int) -> Measured | None:
        """What was found at `step`, where that is when it was measured last."""
        return self._latest[1] if self._latest and self._latest[0] == step else None

    def _found(self) -> Ruler | None:
        """The ruler, which is made when it is first asked for."""
        make, self._make = self._make, None
        if make is not None:
            try:
                self._ruler = make()
            except RlkitError as error:
                self.problem = str(error)
        return self._ruler

    def _measured(self, step: int) -> dict[str, float]:
        if self._ruler is None or self.found_at(step):
            return {}
        try:
            found = self._ruler.measure(self._agent)
        except RlkitError as error:
            self._ruler, self.problem = None, str(error)
            return {}
        self._latest = step, found
        return {f"exact/{name}": value for name, value in found.scalars().items()}


def ruler_for(
    agent: Agent,
    env: EnvLike,
    options: RunOptions,
    env_options: Mapping[str, Any],
    limited: bool = True,
) -> Ruler | None:
    """The ruler of an agent on the environment that it was made for; None where that has no model.

    `limited`: to what a run measures by itself. Raises UndefinedError where there is a model and no
    agent like this one can be measured.
    """
    space = agent.setting.action_space
    if not isinstance(space, spaces.Discrete):
        return None
    gamma = getattr(getattr(agent, "recipe", None), "gamma", None)
    n_actions = int(space.n)
    seen = seen_model(env, options, env_options, 1.0 if gamma is None else gamma, n_actions)
    if seen is None:
        return None
    if gamma is None:
        raise UndefinedError(f"not defined for {agent.name}: it has no discount gamma")
    agent.estimates(seen.observe(seen.states[:1]), None if seen.mask is None else seen.mask[:1])
    count = len(seen.mdp.live)
    if limited and count > MOST_STATES:
        raise UndefinedError(
            f"not measured: the model has {count:,} states, and training measures up to "
            f"{MOST_STATES:,}; rlkit evaluate RUN --exact measures more"
        )
    size = count * seen.observe(seen.states[:1]).nbytes
    if limited and size > MOST_BYTES:
        raise UndefinedError(
            f"not measured: the observations of all {count:,} states take {size / 1e9:.1f} GB, and "
            f"training measures up to {MOST_BYTES / 1e9:.1f}; rlkit evaluate RUN --exact measures "
            "more"
        )
    return Ruler(seen)
