"""The exact ruler: an agent's true quality on an environment with a model, computed, not estimated.

With V^π and Q^π of the agent's policy π, V* and Q* of the optimal one, all of the model with the
discount γ that the agent's recipe has and without a time limit; μ, the distribution of the first
state; d, the share of the discounted visits (1 − γ)·μᵀ(I − γP_π)⁻¹ that each state gets (scaled to
sum 1, as episodes end); and the agent's estimates V̂ and Q̂:

    value                    J(π) = Σ_s μ(s)·V^π(s)
    regret                   J(π*) − J(π)
    fraction                 (J(π) − J(random)) / (J(π*) − J(random))
    optimal_actions          mean over s of the probability that π takes an optimal action
    optimal_actions_visited  Σ_s d(s)·(the same)
    v_error_max              max_s |V̂(s) − V^π(s)|,  with V̂(s) = Σ_a π(a|s)·Q̂(s, a) of a Q-agent
    v_error_mean             Σ_s d(s)·|V̂(s) − V^π(s)|
    q_error_max              max_{s,a} |Q̂(s, a) − Q^π(s, a)|
    q_error_mean             Σ_{s,a} d(s)·π(a|s)·|Q̂(s, a) − Q^π(s, a)|
    q_star_error_max, _mean  the same against Q*
    overestimation           Σ_s d(s)·[max_a Q̂(s, a) − Q^π(s, argmax_a Q̂(s, a))], or of an agent
                             with V alone Σ_s d(s)·[V̂(s) − V^π(s)]
    overestimation_star      Σ_s d(s)·[max_a Q̂(s, a) − max_a Q*(s, a)]

(the bias of van Hasselt et al., Deep Reinforcement Learning with Double Q-learning, 2016, against
the true values of the policy, and against the optimal ones as in van Hasselt, Double Q-learning,
2010). States are those that some policy reaches from the start.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from rlkit.agent import Agent, Estimates
from rlkit.errors import ModelError, RlkitWarning, RunError, UndefinedError
from rlkit.mdp.bellman import rounding
from rlkit.mdp.model import BoolArray, FloatArray
from rlkit.mdp.solution import Solution
from rlkit.mdp.solve import solve
from rlkit.training.exact_chain import Valued, mixes_fast, valued
from rlkit.training.exact_model import SeenModel

TOLERANCE = 1e-6  # of the optimum, in units of the largest reward of a step
BLOCK_BYTES = 1 << 25  # of observations that are looked at together


@dataclass(frozen=True)
class Exact:
    """What one policy of an agent is worth; see the module for the formulas.

    None stands where a quantity is not defined: for lack of an estimate, or, at γ = 1, because the
    policy may go on for ever from the start and earn rewards all the while. The maxima are then
    over the states where V^π is finite.
    """

    value: float | None = None
    regret: float | None = None
    fraction: float | None = None
    optimal_actions: float | None = None
    optimal_actions_visited: float | None = None
    v_error_max: float | None = None
    v_error_mean: float | None = None
    q_error_max: float | None = None
    q_error_mean: float | None = None
    q_star_error_max: float | None = None
    q_star_error_mean: float | None = None
    overestimation: float | None = None
    overestimation_star: float | None = None


@dataclass(frozen=True)
class Measured:
    """What `Ruler.measure` finds.

    Fields:
        states: how many states are reached from the start and are not terminal.
        gamma: the discount γ of all values.
        optimum: J(π*), within `optimum_error`, which is certified.
        random_value: J(random), of the uniformly random policy; None where it is not finite.
        greedy: of `act(explore=False)`.
        exploring: of `act(explore=True)` with the exploration of the moment; None where its action
            probabilities have no closed form (noisy layers).
    """

    states: int
    gamma: float
    optimum: float
    optimum_error: float
    random_value: float | None
    greedy: Exact
    exploring: Exact | None

    def scalars(self) -> dict[str, float]:
        """All that is defined, by name: "optimum", "greedy_value", "exploring_regret", ..."""
        found = {"optimum": self.optimum}
        for name, exact in (("greedy", self.greedy), ("exploring", self.exploring)):
            if exact is not None:
                for field in fields(exact):
                    value = getattr(exact, field.name)
                    if value is not None:
                        found[f"{name}_{field.name}"] = value
        return found


class Ruler:
    """Measures agents on one model.

    Attributes:
        n_states: n, how many of the model's states are reached from the start and not terminal.
        solution: the model's certified solution.
        optimum, optimum_error, random_value: see `Measured`.

    Raises UndefinedError where the model has no optimum that can be certified.
    """

    def __init__(self, seen: SeenModel) -> None:
        self._seen = seen
        self._mdp = mdp = seen.mdp
        self.solution = _solved(seen)
        live = mdp.live
        self.n_states = n = len(live)
        assert mdp.start is not None
        self._start = mdp.start[live]
        self._P = mdp.P[:, live]  # (L, n)
        self._row = np.repeat(np.arange(n), np.diff(mdp.offsets)[live])  # (L,): of a pair's state
        self._indptr = np.append(mdp.offsets[live], mdp.n_pairs)
        self._ends = mdp.ends.copy()
        if n < mdp.n_states:
            self._ends |= mdp.P[:, np.flatnonzero(mdp.terminal)].sum(axis=1) > 0
        self._best = self.solution.values[live]  # V*, (n,)
        # An action may be optimal where the bounds on V* do not say that another one is better.
        slack = (1 + mdp.gamma) * self.solution.error_bound + 4 * rounding(mdp, self._best)
        self._is_optimal = self.solution.q >= self._best[self._row] - slack
        self.optimum = float(self._start @ self._best)
        above, below = self.solution.upper[live], self.solution.lower[live]
        error = self._start @ np.maximum(above - self._best, self._best - below)
        self.optimum_error = float(error)
        uniform = 1 / np.diff(self._indptr)[self._row]
        self._iterate = mixes_fast(*self._chain(uniform), mdp.gamma)
        random = self._valued(uniform)
        self.random_value = None if random is None else self._value(random)
        blocks = max(1, -(-self._bytes() // BLOCK_BYTES))
        self._blocks = np.array_split(np.arange(n), min(n, blocks))
        self._obs = [self._observe(self._blocks[0])] if len(self._blocks) == 1 else []

    def measure(self, agent: Agent) -> Measured:
        """What the agent is worth as it is now; changes nothing of it, and draws nothing.

        One forward over all states, in blocks where their observations are large, and a sparse
        factorisation for each of its two policies. Raises UndefinedError where its policy is no
        function of the model's state over finitely many actions.
        """
        found = self._estimates(agent)
        greedy = self._exact(found.greedy, found)
        exploring = None
        if found.exploring is not None:
            exploring = greedy
            if not np.array_equal(found.exploring, found.greedy):
                exploring = self._exact(found.exploring, found)
        return Measured(
            self.n_states,
            self._mdp.gamma,
            self.optimum,
            self.optimum_error,
            self.random_value,
            greedy,
            exploring,
        )

    def _estimates(self, agent: Agent) -> Estimates:
        """The agent's estimates at all n states."""
        parts = []
        for i, block in enumerate(self._blocks):
            obs = self._obs[i] if self._obs else self._observe(block)
            mask = None
            if self._seen.mask is not None:
                mask = self._seen.mask[self._mdp.live[block]]
            parts.append(agent.estimates(obs, mask))

        greedy, exploring, v, q = (
            _joined([getattr(part, field.name) for part in parts]) for field in fields(Estimates)
        )
        assert greedy is not None
        return Estimates(greedy, exploring, v, q)

    def _observe(self, rows: NDArray[np.int64]) -> NDArray[np.generic]:
        return self._seen.observe(self._seen.states[self._mdp.live[rows]])

    def _bytes(self) -> int:
        """What the observations of all states take."""
        return self.n_states * self._observe(np.zeros(1, dtype=np.int64)).nbytes

    def _chain(self, weights: FloatArray) -> tuple[csr_array, FloatArray]:
        """P_π (n, n) and r_π (n,), for the weights π(a|s) of the pairs, (L,)."""
        pairs = np.arange(weights.size)
        chosen = csr_array(
            (weights, pairs, self._indptr), shape=(self.n_states, weights.size), copy=True
        )
        chosen.eliminate_zeros()  # of the other actions: what they lead to would fill the factors
        return (chosen @ self._P).tocsr(), chosen @ self._mdp.r

    def _valued(self, weights: FloatArray) -> Valued | None:
        """Values and visits; None where the policy goes on practically for ever."""
        mdp, taken = self._mdp, weights > 0
        earns, ends = np.zeros((2, self.n_states), dtype=np.bool_)
        earns[self._row[taken & (mdp.r != 0)]] = True
        ends[self._row[taken & self._ends]] = True
        P, r = self._chain(weights)
        try:
            return valued(P, r, earns, ends, self._start, mdp.gamma, self._iterate)
        except RunError:  # what float64 makes of the equations is singular
            return None

    def _value(self, found: Valued) -> float | None:
        return None if found.visits is None else float(self._start @ found.values)

    def _exact(self, probabilities: FloatArray, estimates: Estimates) -> Exact:
        """`probabilities` (n, A), of the policy."""
        mdp, row = self._mdp, self._row
        weights = probabilities[row, mdp.actions]  # (L,)
        optimal = np.bincount(row, weights * self._is_optimal, minlength=self.n_states)  # (n,)
        found = self._valued(weights)
        if found is None:
            return Exact(optimal_actions=float(optimal.mean()))
        V, visits = found.values, found.visits
        value = self._value(found)
        exact = Exact(
            value,
            None if value is None else self.optimum - value,
            self._fraction(value),
            float(optimal.mean()),
            None if visits is None else float(visits @ optimal),
        )
        if estimates.q is not None:
            q = estimates.q[row, mdp.actions]  # (L,)
            exact = self._with_q_errors(exact, found, weights, q)
            v = np.asarray(np.bincount(row, weights * q, minlength=self.n_states), np.float64)
        elif estimates.v is not None:
            v = estimates.v
            bias = None if visits is None else float(visits @ (v - V))
            exact = replace(exact, overestimation=bias)
        else:
            return exact
        error = np.where(found.finite, np.abs(v - V), 0.0)
        return replace(
            exact,
            v_error_max=_largest(error, found.finite),
            v_error_mean=None if visits is None else float(visits @ error),
        )

    def _fraction(self, value: float | None) -> float | None:
        if value is None or self.random_value is None:
            return None
        span = self.optimum - self.random_value
        scale = max(abs(self.optimum), abs(self.random_value))
        if span <= self.optimum_error + 1e-9 * scale:  # at random is optimal, too
            return None
        return (value - self.random_value) / span

    def _with_q_errors(
        self, exact: Exact, found: Valued, weights: FloatArray, q: FloatArray
    ) -> Exact:
        """`exact` with what compares q (L,) of the pairs with Q^π and Q*."""
        mdp, row = self._mdp, self._row
        Q = mdp.r + mdp.gamma * (self._P @ found.values)  # (L,)
        leads_on = self._P @ (~found.finite).astype(np.float64) > 0  # where V^π is not finite
        error = np.where(leads_on, 0.0, np.abs(q - Q))
        error_star = np.abs(q - self.solution.q)
        exact = replace(
            exact,
            q_error_max=_largest(error, ~leads_on),
            q_star_error_max=float(error_star.max()),
        )
        if found.visits is None:
            return exact
        occupied = found.visits[row] * weights  # (L,)
        q_max = np.maximum.reduceat(q, self._indptr[:-1])  # (n,)
        # the first of the best, as argmax takes it
        place = np.where(q == q_max[row], np.arange(q.size), q.size)
        best = np.minimum.reduceat(place, self._indptr[:-1])
        # where V^π is not finite there is nothing to overestimate, and nobody comes
        over = np.where(leads_on[best], 0.0, q_max - Q[best])
        defined = not np.any(leads_on[best] & (found.visits > 0))
        return replace(
            exact,
            q_error_mean=float(occupied @ error),
            q_star_error_mean=float(occupied @ error_star),
            overestimation=float(found.visits @ over) if defined else None,
            overestimation_star=float(found.visits @ (q_max - self._best)),
        )


def _joined(columns: list[FloatArray | None]) -> FloatArray | None:
    there = [column for column in columns if column is not None]
    return np.concatenate(there) if there else None


def _largest(error: FloatArray, counts: BoolArray) -> float | None:
    return float(error.max()) if counts.any() else None


def _solved(seen: SeenModel) -> Solution:
    """The certified optimum; as close as float64 can certify it, where that is less."""
    mdp = seen.mdp
    unit = float(np.abs(mdp.r).max(initial=0.0)) or 1.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RlkitWarning)  # `optimum_error` says the same
            return solve(mdp, tol=TOLERANCE * unit)
    except (ModelError, RunError) as error:
        raise UndefinedError(f"not defined, as the optimum is not: {error}") from error
