"""Many seeds of one agent that learn at once: every tensor has an axis of P members in front.

A small network leaves a device idle, and a hundred of them, computed as one batch, cost little more
than one (Lu et al. 2022, "Discovered policy optimisation": PureJaxRL). Each member has weights,
optimiser state, moments, environments and minibatches of its own, and learns as it would alone; the
update's equations are the agent's, mapped over the members (`torch.func`).

Environments live on the device, so that a rollout and the update on it are one piece of work
without the host, which on a GPU is captured as one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from rlkit.actor_critic import ActorCritic
from rlkit.arrays import Array
from rlkit.device.graphs import Graphed
from rlkit.device.health import Health
from rlkit.experience.minibatches import parts_of
from rlkit.networks.distributions import masked
from rlkit.networks.images import Images
from rlkit.networks.normalize import EPSILON, FIRST_COUNT, ObsNormalizer
from rlkit.optim import FlatParameters, optimizer_for
from rlkit.returns import discounts, gae, traces

if TYPE_CHECKING:
    from rlkit.envs.device.vector import DeviceEnvs

STATS = 3  # of ended episodes: how many, the sum of their returns and that of their lengths


class Learner(Protocol):
    """An agent whose update's equations are functions of tensors: see `rlkit.agents.ppo.PPO`."""

    recipe: Any
    ac: ActorCritic
    generator: torch.Generator
    steps_type: Any

    def gradients(
        self, head: Array, v: Array, steps: Any, clip: Array, beta: Array
    ) -> tuple[Array, Array, Any]: ...

    def metrics(self, found: Any) -> dict[str, Any]: ...


class Population:
    """P agents, which begin with the weights that they have and get what is learned written back.

    Args:
        agents: PPO agents of one recipe, without a memory, on the device.
        envs: P·N environments on the device; the first N are the first agent's.
        graphs: capture each iteration as a CUDA graph, on CUDA.
    """

    def __init__(self, agents: Sequence[Learner], envs: DeviceEnvs, graphs: bool = True) -> None:
        first = agents[0]
        self.agents, self.envs, self.device = agents, envs, envs.device
        self.recipe, self.policy = first.recipe, first.ac.policy
        self.nets: nn.Module = first.ac.nets
        self.P, self.N = len(agents), envs.n // len(agents)
        self.T, self.K = self.recipe.n_steps, self.recipe.n_steps * self.N
        self.quantum = self.K  # environment steps of each member in an iteration
        self._learner = first
        for module in self.nets.modules():
            if isinstance(module, Images):  # torch.func maps over the plain layout alone
                module.memory_format = torch.contiguous_format
        self._names = [name for name, _ in self.nets.named_parameters()]
        self._stacked = nn.ParameterList(
            torch.stack([dict(a.ac.nets.named_parameters())[name].detach() for a in agents])
            for name in self._names
        )
        health = Health(self.device)  # lets optimisers take tensors; what fails, fails by member
        self.flat = FlatParameters(self._stacked, health)
        self.optimizer = optimizer_for(self.recipe.optimizer, self.flat, self.recipe.optimizer_eps)
        self.obs_moments = Moments(self.P, envs.obs.shape[1:], self.device)
        self.return_moments = Moments(self.P, (), self.device)
        self.alive = torch.ones(self.P, dtype=torch.bool, device=self.device)
        self.stats = torch.zeros((STATS, self.P), dtype=torch.float64, device=self.device)
        zeros = torch.zeros((self.P, self.N), dtype=torch.float64, device=self.device)
        self._running = torch.stack([zeros, zeros])  # return and length of the episodes under way
        self._discounted = zeros.clone()  # G of the reward scaler
        self.generator = torch.Generator(self.device)
        self.generator.manual_seed(first.generator.initial_seed())
        self._scalars = torch.zeros(3, device=self.device)  # learning rate, clip, β
        self._load()
        sources = [self.generator, envs.generator]
        self._iterate = Graphed(self._iteration, self.device, graphs, [g for g in sources if g])

    # ---------------------------------------------------------------------------- an iteration

    def iterate(self, progress: float) -> Mapping[str, Tensor]:
        """A rollout of every member and its update on it; scalars to log, (P,) each.

        Args: `progress`: the share of the training that is done, which schedules go by.
        """
        recipe = self.recipe
        rates = recipe.learning_rate, recipe.clip, recipe.entropy_cost
        for place, rate in zip(self._scalars.unbind(), rates, strict=True):
            place.fill_(rate(progress))  # a copy from the host would wait for the device
        told: Mapping[str, Tensor] = self._iterate()
        return told

    @torch.no_grad()
    def _iteration(self) -> Mapping[str, Tensor]:
        rollout, obs = self._rollout()
        A = self._advantages(rollout)  # (T, P, N)
        columns = {
            "obs": obs[:-1],
            "action": rollout["action"],
            "mask": rollout.get("mask"),
            "log_pi_old": rollout["log_pi"],
            "A": A,
            "G": A + rollout["v"][:-1],
            "v_old": rollout["v"][:-1],
            "live": rollout["valid"].float(),
        }
        flat = {k: self._by_member(x) for k, x in columns.items() if x is not None}
        lr, clip, beta = self._scalars.unbind()
        told: Mapping[str, Tensor] = {}
        for _ in range(self.recipe.epochs):
            for rows in self._minibatches():
                part = {name: _taken(column, rows) for name, column in flat.items()}
                told = self._descend(part, lr, clip, beta)
        if self.recipe.normalize_obs:
            self.obs_moments.include(self._by_member(rollout["obs"][:-1]), flat["live"])
        return told

    def _rollout(self) -> tuple[dict[str, Tensor], Tensor]:
        """T steps of all environments, (T, P, N, ...) each; observations, normalised, T + 1."""
        envs, shape = self.envs, (self.P, self.N)
        seen, rows = [], []
        raw = []
        for t in range(self.T + 1):
            o = envs.obs.view(*shape, *envs.obs.shape[1:]).clone()
            x = self._normalised(o)
            head, v = self._forward(x)  # (P, N, outputs), (P, N)
            raw.append(o)
            seen.append(x)
            if t == self.T:
                break
            mask = None if envs.mask is None else envs.mask.view(*shape, -1).clone()
            logits = masked(head, mask)
            noise = torch.empty_like(logits).exponential_(generator=self.generator).log_().neg_()
            action = self.policy.sample(logits, noise)
            log_pi, _, _ = self.policy.vjp(logits, action)
            step = envs.step(action.flatten(0, 1))
            row = {
                "action": action,
                "log_pi": log_pi,
                "v": v,
                "reward": step.reward.view(shape),
                "terminated": step.terminated.view(shape),
                "truncated": step.truncated.view(shape),
                "valid": step.valid.view(shape),
            }
            if mask is not None:
                row["mask"] = mask
            self._count(row)
            rows.append(row)
        rollout = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        rollout["v"] = torch.cat([rollout["v"], v[None]])  # (T + 1, P, N)
        rollout["obs"] = torch.stack(raw)
        return rollout, torch.stack(seen)

    def _count(self, row: Mapping[str, Tensor]) -> None:
        """Count in what a step adds to the episodes under way, and those that it ends."""
        ended = row["terminated"] | row["truncated"]
        self._running[0].add_(row["reward"] * row["valid"])
        self._running[1].add_(row["valid"])
        self.stats[0].add_(ended.sum(1))
        self.stats[1:].add_((self._running * ended).sum(-1))
        self._running.mul_(~ended)

    def _advantages(self, rollout: Mapping[str, Tensor]) -> Tensor:
        """As `rlkit.actor_critic.ActorCritic.advantages`, (T, P, N)."""
        recipe, r = self.recipe, rollout["reward"]
        terminated, truncated = rollout["terminated"], rollout["truncated"]
        if recipe.normalize_reward:
            live, going_on = rollout["valid"].double(), (~(terminated | truncated)).double()
            returns = torch.empty_like(live)
            for t in range(self.T):
                self._discounted.mul_(recipe.gamma).add_(live[t] * r[t])
                returns[t] = self._discounted
                self._discounted.mul_(going_on[t])
            self.return_moments.include(self._by_member(returns), self._by_member(live))
            r = r / (self.return_moments.var + EPSILON).sqrt().float()[:, None]
        v = rollout["v"]
        discount = discounts(recipe.gamma, terminated)
        trace = traces(recipe.gae_lambda, terminated, truncated)
        A: Tensor = gae(r, v[:-1], v[1:], discount, trace)
        return A

    def _minibatches(self) -> list[Tensor]:
        """An epoch's minibatches: of each member its own steps, in an order of its own, (P, M)."""
        order = torch.rand((self.P, self.K), generator=self.generator, device=self.device)
        parts = parts_of(self.K, self.recipe.minibatch_size)
        ends = [round(self.K * part / parts) for part in range(parts + 1)]
        sizes = [b - a for a, b in pairwise(ends)]
        return list(torch.split(order.argsort(1), sizes, 1))

    def _descend(
        self, part: dict[str, Tensor], lr: Tensor, clip: Tensor, beta: Tensor
    ) -> dict[str, Tensor]:
        """A step of every member by its own minibatch; scalars to log, (P,) each."""
        learner = self._learner

        def gradient(
            weights: list[Tensor], steps: dict[str, Tensor]
        ) -> tuple[list[Tensor], Mapping[str, Tensor]]:
            def network(weights: list[Tensor]) -> tuple[Tensor, Tensor]:
                return self._network(weights, steps["obs"])

            (head, v), pull, *_ = vjp(network, weights)
            told = learner.steps_type(**{"mask": None, **steps})
            g_head, g_v, found = learner.gradients(head, v, told, clip, beta)
            (g,) = pull((g_head, g_v))
            return g, learner.metrics(found)

        g, told = vmap(gradient)([*self._stacked], part)
        norm = torch.stack([x.flatten(1).square().sum(1) for x in g]).sum(0).sqrt()  # (P,)
        self.alive.logical_and_(norm.isfinite())
        scale = (self.recipe.max_grad_norm / (norm + 1e-6)).clamp(max=1)
        for parameter, x in zip(self._stacked, g, strict=True):
            each = (-1, *[1] * (x.ndim - 1))
            assert parameter.grad is not None
            # who has failed learns no more; what becomes of its weights, nobody uses
            parameter.grad.copy_(torch.where(self.alive.view(each), x * scale.view(each), 0.0))
        self.optimizer.step(lr)
        return {**told, "grad_norm": norm}

    # -------------------------------------------------------------------------- networks, moments

    def _network(self, weights: Sequence[Tensor], obs: Tensor) -> tuple[Tensor, Tensor]:
        """The head (..., outputs) and the value (...) of one member."""
        named = dict(zip(self._names, weights, strict=True))
        both: tuple[Tensor, Tensor] = functional_call(self.nets, named, (obs,))
        return both

    def _forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """(P, N, *obs) → (P, N, outputs), (P, N)."""
        both: tuple[Tensor, Tensor] = vmap(self._network)([*self._stacked], obs)
        return both

    def _normalised(self, obs: Tensor) -> Tensor:
        if not self.recipe.normalize_obs:
            return obs
        shift, var = self.obs_moments.mean, self.obs_moments.var
        return (obs - shift.float()[:, None]) * (var + EPSILON).rsqrt().float()[:, None]

    def _by_member(self, x: Tensor) -> Tensor:
        """(T, P, N, ...) → (P, T·N, ...)."""
        return x.transpose(0, 1).flatten(1, 2)

    # -------------------------------------------------------------------------- agents in and out

    def _load(self) -> None:
        """Go on from the agents' optimisers and moments."""
        states = [agent.ac.optimizer.get_state() for agent in self.agents]
        state: dict[str, Any] = dict(states[0])
        for name, value in state.items():
            if isinstance(value, Tensor):  # of the whole vector, as it is of each agent's
                state[name] = self._joined([each[name] for each in states])
        self.optimizer.set_state(state)
        for i, agent in enumerate(self.agents):
            if isinstance(agent.ac.normalizer, ObsNormalizer):
                self.obs_moments.put(i, agent.ac.normalizer.moments)
            self.return_moments.put(i, agent.ac.reward_scaler.moments)

    @torch.no_grad()
    def store(self) -> None:
        """Write what was learned back to the agents."""
        state = self.optimizer.get_state()
        for i, agent in enumerate(self.agents):
            ac = agent.ac
            ac.flat.values.copy_(self._of(i, self.flat.values))
            mine = {k: self._of(i, x) if isinstance(x, Tensor) else x for k, x in state.items()}
            ac.optimizer.set_state(mine)
            if isinstance(ac.normalizer, ObsNormalizer):
                self.obs_moments.get(i, ac.normalizer.moments)
                ac.normalizer.follow()
            self.return_moments.get(i, ac.reward_scaler.moments)

    def _joined(self, vectors: Sequence[Tensor]) -> Tensor:
        """The agents' vectors over their parameters (n,) as one over the stacked ones (P·n,)."""
        sizes = [x[0].numel() for x in self._stacked]
        return torch.cat([x.flatten() for x in torch.split(torch.stack([*vectors]), sizes, 1)])

    def _of(self, i: int, vector: Tensor) -> Tensor:
        """The i-th agent's share (n,) of a vector over the stacked parameters."""
        parts = torch.split(vector, [x.numel() for x in self._stacked])
        return torch.cat([part.view(self.P, -1)[i] for part in parts])


class Moments:
    """Mean and variance of what each of P members has seen, as `rlkit.networks.normalize` has them.

    mean, var: (P, *shape) float64; count: (P,).
    """

    def __init__(self, P: int, shape: Sequence[int], device: torch.device) -> None:
        self.mean = torch.zeros((P, *shape), dtype=torch.float64, device=device)
        self.var = torch.ones_like(self.mean)
        self.count = torch.full((P,), FIRST_COUNT, dtype=torch.float64, device=device)

    def include(self, rows: Tensor, weight: Tensor) -> None:
        """Count in rows (P, K, *shape) with weights (P, K), each 0 or 1."""
        each = (..., *[None] * (self.mean.ndim - 1))
        w = weight.double()
        count = w.sum(1)  # (P,)
        w, rows = w[each], rows.double()
        n = count.clamp(min=1)[each]
        mean = (w * rows).sum(1) / n  # (P, *shape)
        var = (w * (rows - mean[:, None]) ** 2).sum(1) / n
        share = (count / (self.count + count))[each]
        delta = mean - self.mean
        self.var.copy_((1 - share) * self.var + share * (var + (1 - share) * delta * delta))
        self.mean.add_(share * delta)
        self.count.add_(count)

    def put(self, i: int, own: nn.Module) -> None:
        """Take the i-th member's from a module that has them."""
        for name in ("mean", "var", "count"):
            getattr(self, name)[i] = getattr(own, name)

    def get(self, i: int, own: nn.Module) -> None:
        """Give the i-th member's to a module that has them."""
        for name in ("mean", "var", "count"):
            getattr(own, name).copy_(getattr(self, name)[i])


def _taken(x: Tensor, rows: Tensor) -> Tensor:
    """x (P, K, ...) at the rows (P, M) of each member: (P, M, ...)."""
    member = torch.arange(len(x), device=x.device)[:, None]
    return x[member, rows]
