"""The model behind an environment, and what an agent sees of its states.

An environment has a model where `rlkit.MDP.from_gymnasium` finds one: a table `P`, or a method
`mdp(gamma)`. A state's observation is its number where the observations are Discrete(S); other
environments say it by a method `observations(states)`, (N,) → (N, *obs). One that gives action
masks says them by `action_mask(state)`, (A,), as Gymnasium's Taxi does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import (
    AddRenderObservation,
    Autoreset,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformObservation,
)
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from rlkit.envs.foreign import describe
from rlkit.envs.make import make_env
from rlkit.envs.masks import KEY, METHOD
from rlkit.envs.model_env import ModelEnv
from rlkit.envs.observations import obs_port
from rlkit.envs.pixels import with_byte_images
from rlkit.errors import RlkitError, UndefinedError
from rlkit.mdp.model import MDP, BoolArray, FloatArray, IntArray
from rlkit.training.options import RunOptions

if TYPE_CHECKING:
    from rlkit.training.build import EnvLike

# Wrappers that change neither what is seen nor what is earned; time limits are left out of values.
_SILENT = (Autoreset, OrderEnforcing, PassiveEnvChecker, RecordEpisodeStatistics, TimeLimit)
_BLOCK = 1024  # observations that are looked through at a time
_EPISODES = 4  # that are begun to see whether all have one model
_STEPS = 200  # that are taken to see whether the table says what they do


@dataclass(frozen=True, eq=False)
class SeenModel:
    """A model, and how an agent sees it.

    Fields:
        mdp: of the states that can be reached from the start, with the actions that the environment
            allows there; it names a start.
        states: (S,) the environment's numbers of these states.
        observe: gives the observations (N, *obs) of states (N,), by the environment's numbers, as
            the agent sees them.
        mask: (S, A) bool, the actions that are allowed; None where the environment gives no masks.
    """

    mdp: MDP
    states: IntArray
    observe: Callable[[IntArray], NDArray[Any]]
    mask: BoolArray | None


def seen_model(
    env: EnvLike, options: RunOptions, env_options: Mapping[str, Any], gamma: float, n_actions: int
) -> SeenModel | None:
    """The model of a run's environment with discount `gamma`; None where there is none.

    Makes environments of its own, and plays none that others play. Raises UndefinedError where
    there is a model, and values by it would be those of another environment, or say what stands in
    the way.
    """
    if isinstance(env, VectorEnv):
        return None
    try:
        made, again = _made(env, env_options), None
        if not _has_model(made):
            return None
        again = _made(env, env_options)
        return _seen(made, again, options, gamma, n_actions)
    except UndefinedError:
        raise
    except RlkitError as error:
        raise UndefinedError(f"not defined: {error}") from error
    except Exception as error:  # the environment's own code
        raise UndefinedError(
            f"not defined: the environment's model raised {describe(error)}"
        ) from error


def _made(env: str | Callable[[], gym.Env[Any, Any]], options: Mapping[str, Any]) -> Any:
    return with_byte_images(make_env(env, options) if isinstance(env, str) else env())


def _has_model(env: gym.Env[Any, Any]) -> bool:
    inner: Any = env.unwrapped
    return callable(getattr(inner, "mdp", None)) or isinstance(getattr(inner, "P", None), Mapping)


def _seen(
    env: gym.Env[Any, Any],
    again: gym.Env[Any, Any],
    options: RunOptions,
    gamma: float,
    n_actions: int,
) -> SeenModel:
    if options.pixels or options.frame_stack > 1:
        option = "--pixels" if options.pixels else "--frame-stack"
        raise UndefinedError(
            f"not defined with {option}: the observation is no function of the model's state"
        )
    drawn = isinstance(env.unwrapped, ModelEnv) or options.vectorization == "model"
    first, info = env.reset(seed=0)
    mdp = MDP.from_gymnasium(env, gamma)
    if varies(again, mdp):
        raise UndefinedError(
            "not defined: each environment that is made, or each episode, has another model"
        )
    if mdp.actions.max(initial=-1) >= n_actions:
        raise UndefinedError(
            f"not defined: the model has the action {mdp.actions.max()}, and the agent {n_actions}"
        )
    observe = _observations(env, mdp.n_states)
    start = _start(mdp, drawn)
    allowed = np.ones(mdp.n_pairs, dtype=np.bool_)
    masked = drawn and mdp.n_pairs < n_actions * len(mdp.live)
    if not drawn and (KEY in info or env.has_wrapper_attr(METHOD)):
        masked, allowed = True, _allowed(env.unwrapped, mdp)
    if not (masked or mdp.n_pairs == n_actions * len(mdp.live)):
        raise UndefinedError(
            "not defined: some states of the model lack an action, and the environment gives no "
            "action masks"
        )
    reached = _reachable(mdp, allowed, start)
    part = _part(mdp, allowed, reached, start)
    _check_first(
        observe, np.flatnonzero(start > 0), obs_port(env.observation_space, 1, False), first
    )
    if not drawn:
        _check_steps(again.unwrapped)
    mask = None
    if masked:
        mask = np.zeros((part.n_states, n_actions), dtype=np.bool_)
        mask[part.pair_state, part.actions] = True
    return SeenModel(part, np.flatnonzero(reached), observe, mask)


def varies(again: gym.Env[Any, Any], mdp: MDP) -> bool:
    """Whether an environment, made `again`, begins some episode with another model than `mdp`."""
    for seed in range(1, 2 if isinstance(again.unwrapped, ModelEnv) else _EPISODES):
        again.reset(seed=seed)
        if not _same(mdp, MDP.from_gymnasium(again, mdp.gamma)):
            return True
    return False


def _same(mdp: MDP, other: MDP) -> bool:
    def arrays(mdp: MDP) -> tuple[Any, ...]:
        return mdp.P.indptr, mdp.P.indices, mdp.P.data, mdp.r, mdp.offsets, mdp.actions, mdp.start

    return all(map(np.array_equal, arrays(mdp), arrays(other)))


def _check_steps(inner: Any) -> None:
    """Refuse an environment whose steps are not those of its table `P`.

    Steps at random from seeded resets; where states are observed by their numbers, nothing else
    says which state the environment is in.
    """
    table, numbered = (
        getattr(inner, "P", None),
        isinstance(inner.observation_space, spaces.Discrete),
    )
    if not (isinstance(table, Mapping) and numbered) or callable(getattr(inner, "mdp", None)):
        return
    generator, over, state = np.random.default_rng(0), True, 0
    for number in range(_STEPS):
        if over:
            state = int(inner.reset(seed=number)[0])
        action = int(generator.choice(list(table[state])))
        seen, reward, over, _, _ = inner.step(action)
        if not any(
            p > 0 and int(seen) == after and bool(over) == bool(done) and np.isclose(reward, paid)
            for p, after, paid, done in table[state][action]
        ):
            raise UndefinedError(
                f"not defined: action {action} in state {state} led to state {seen} with reward "
                f"{reward:g}{' and the end' if over else ''}, which {type(inner).__name__}'s table "
                "P does not have"
            )
        state = int(seen)


def _start(mdp: MDP, drawn: bool) -> FloatArray:
    """Where episodes begin: an environment that draws from a model without one takes any state."""
    if mdp.start is not None:
        return mdp.start
    if not drawn:
        raise UndefinedError("not defined: the environment's model names no start")
    start = np.zeros(mdp.n_states)
    start[mdp.live] = 1 / len(mdp.live)
    return start


def _observations(env: gym.Env[Any, Any], n_states: int) -> Callable[[IntArray], NDArray[Any]]:
    """What gives the observations of states, past the environment's wrappers."""
    wrappers = _wrappers(env)
    inner: Any = env.unwrapped
    space = inner.observation_space
    raw: Callable[[IntArray], Any] = getattr(inner, "observations", None) or np.array
    if raw is np.array and not (
        isinstance(space, spaces.Discrete) and space.n == n_states and space.start == 0
    ):
        raise UndefinedError(
            f"not defined: the observations are {space}, and what is seen of the model's "
            f"{n_states} states is not known; give {type(inner).__name__} a method "
            "observations(states)"
        )
    port = obs_port(env.observation_space, 1, strict=False)

    def observe(states: IntArray) -> NDArray[Any]:
        rows = raw(states)
        if wrappers:
            rows = port.collate([_through(wrappers, row) for row in rows], states, "its model")
        return port.take(rows, "its model", states)

    return observe


def _wrappers(env: gym.Env[Any, Any]) -> list[gym.ObservationWrapper[Any, Any, Any]]:
    """The wrappers that change what is observed, the innermost first."""
    found: list[gym.ObservationWrapper[Any, Any, Any]] = []
    while isinstance(env, gym.Wrapper):
        stateful = type(env).__module__.startswith("gymnasium.") and not isinstance(
            env, TransformObservation
        )
        if isinstance(env, gym.ObservationWrapper) and not (
            stateful or isinstance(env, AddRenderObservation)
        ):
            found.insert(0, env)
        elif not isinstance(env, _SILENT):
            raise UndefinedError(
                f"not defined with the wrapper {type(env).__name__}: what is seen, done or earned "
                "through it is not what the model says"
            )
        env = env.env
    return found


def _through(wrappers: list[gym.ObservationWrapper[Any, Any, Any]], row: Any) -> Any:
    for wrapper in wrappers:
        row = wrapper.observation(row)
    return row


def _allowed(inner: Any, mdp: MDP) -> BoolArray:
    """(L,) the pairs that an environment with masks allows."""
    if not callable(getattr(inner, "action_mask", None)):
        raise UndefinedError(
            "not defined: the environment gives action masks, and not what they are in each state; "
            f"give {type(inner).__name__} a method action_mask(state)"
        )
    masks = {int(state): np.asarray(inner.action_mask(int(state))) for state in mdp.live}
    return np.array(
        [bool(masks[s][a]) for s, a in zip(mdp.pair_state.tolist(), mdp.actions, strict=True)]
    )


def _reachable(mdp: MDP, allowed: BoolArray, start: FloatArray) -> BoolArray:
    """(S,) the states that some policy reaches from the start."""
    S, pairs = mdp.n_states, np.flatnonzero(allowed)
    P = mdp.P[pairs]
    begins = np.flatnonzero(start > 0)
    tails = np.concatenate(
        [np.repeat(mdp.pair_state[pairs], np.diff(P.indptr)), np.full(begins.size, S)]
    )
    heads = np.concatenate([P.indices, begins])
    ways = csr_array((np.ones(tails.size), (tails, heads)), shape=(S + 1, S + 1))
    reached = np.zeros(S + 1, dtype=np.bool_)
    reached[breadth_first_order(ways, S, directed=True, return_predecessors=False)] = True
    return reached[:S]


def _part(mdp: MDP, allowed: BoolArray, reached: BoolArray, start: FloatArray) -> MDP:
    """The model of the `reached` states and `allowed` pairs alone."""
    pairs = np.flatnonzero(allowed & reached[mdp.pair_state])
    counts = np.bincount(mdp.pair_state[pairs], minlength=mdp.n_states)[reached]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    P = mdp.P[pairs][:, np.flatnonzero(reached)]
    return MDP.from_pairs(
        P, mdp.r[pairs], offsets, mdp.gamma, mdp.actions[pairs], start[reached], copy=False
    )


def _check_first(
    observe: Callable[[IntArray], NDArray[Any]], begins: IntArray, port: Any, first: Any
) -> None:
    """Refuse an environment that begins with an observation of none of its model's first states."""
    seen = port.take(port.collate([first], np.zeros(1, dtype=np.intp), "the reset"), "the reset")
    for block in np.array_split(begins, -(-begins.size // _BLOCK)):
        rows = observe(block)
        if (rows == seen).reshape(len(rows), -1).all(1).any():
            return
    raise UndefinedError(
        "not defined: an episode begins with an observation that the model's first states do not "
        "have; give the environment a method observations(states) that says what is seen"
    )
