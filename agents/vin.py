"""Value iteration network, VIN (Tamar et al. 2016), learned by imitating the exact solution.

The network plans: it makes a reward image of the map, does K sweeps of value iteration on a model
that it learns (rlkit/networks/vin.py), and acts by the values at its own place,

    π(a|s) = softmax(W·ψ(s)),   ψ(s) = Q̄(·, s)                       (§3.1, §4.1)

so that it can find its way on maps that it has never seen. The teacher is `rlkit.solve`, which
solves new maps by the hundred and knows all that is optimal in every state, A*(s). Learned is

    min_θ E[−log Σ_{a ∈ A*(s)} π(a|s; θ)]

over states of all maps seen so far; with one action in A*(s), as a demonstrated path has it, this
is the paper's cross-entropy. What the network knows of the environment is what it learns from this.
To train the same network by reinforcement, give it to another agent: `--encoder vin`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces

from rlkit.agent import Agent, Metric, Setting
from rlkit.arrays import Array, as_tensor, like
from rlkit.carry import Carry
from rlkit.errors import UsageError
from rlkit.experience.demonstrations import Demonstrations, Lesson, Schooling
from rlkit.experience.noise import Noise
from rlkit.networks.distributions import Categorical, masked
from rlkit.networks.images import Images
from rlkit.networks.map_policies import PlanningPolicy, ReactivePolicy
from rlkit.networks.vin import Planner
from rlkit.optim import FlatParameters, optimizer_for
from rlkit.recipe import Recipe, Result, Tuned, option
from rlkit.registry import TEACHERS, load
from rlkit.schedule import Schedule


@dataclass(frozen=True)
class VINRecipe(Recipe):
    """VIN's hyperparameters."""

    steps: int = option(50_000, "environment steps to train for", low=1)
    envs: int = option(64, "environments that step together", low=1, high=65536)
    teacher: str = option("grid-maps", "whose exact solution is imitated", choices=("grid-maps",))
    network: str = option(
        "vin", "what learns: one that plans, or a convolutional one", choices=("vin", "cnn")
    )
    k: int = option(
        0, "sweeps of value iteration; 0: 5/4 of the map's longer side", low=0, high=1000
    )
    reward_channels: int = option(32, "channels of the reward's hidden layer", low=1, high=4096)
    action_channels: int = option(18, "actions of the model that is learned", low=1, high=4096)
    maps: int = option(20_000, "maps that are kept to learn from", low=1)
    train_every: int = option(1024, "environment steps between times of learning", low=1)
    gradient_steps: int = option(64, "updates each time", low=1)
    batch_size: int = option(32, "maps in a minibatch", low=1)
    states: int = option(128, "states of each map in a minibatch", low=1)
    learning_rate: Schedule = option("1e-2:0", "learning rate", above=0)
    optimizer: str = option(
        "adam", "optimiser", choices=("sgd", "momentum", "rmsprop", "adam", "adamw")
    )
    optimizer_eps: float = option(1e-8, "added to the optimiser's denominator", above=0)
    max_grad_norm: float = option(10.0, "the gradient's norm is clipped to this", above=0)


RECIPES = {
    "rlkit/GridMaps-v0": Tuned(
        VINRecipe(),
        # 99.9, 99.9 and 99.4 % arrive. The seconds are those of a processor's one thread.
        Result(mean_return=0.96, worst_return=0.953, seeds=3, episodes=1000, seconds=28),
    ),
}


class VIN(Agent):
    """A policy that plans, and demonstrations from the exact solution."""

    name = "vin"
    recipe_type = VINRecipe
    recipes = RECIPES

    def __init__(self, setting: Setting, recipe: VINRecipe) -> None:
        super().__init__(setting)
        assert isinstance(setting.action_space, spaces.Discrete)
        self.recipe = recipe
        shape, n = _map_shape(setting.obs_space), int(setting.action_space.n)
        images = Images(shape, "HWC")
        self.net: PlanningPolicy | ReactivePolicy
        if recipe.network == "vin":
            planner = Planner(images, recipe.k, recipe.reward_channels, recipe.action_channels)
            self.net = PlanningPolicy(planner, n)
        else:
            self.net = ReactivePolicy(images, n)
        self.to(setting.device)
        self.flat = FlatParameters(self, peers=setting.peers)
        self.optimizer = optimizer_for(recipe.optimizer, self.flat, recipe.optimizer_eps)
        self.policy = Categorical(n)
        self.noise = Noise(self.policy.draw_noise, setting.n_envs, self.generator)
        schooling = Schooling(
            maps=recipe.maps,
            every=recipe.train_every,
            minibatches=recipe.gradient_steps,
            batch_size=recipe.batch_size,
            states=recipe.states,
        )
        teacher = load(TEACHERS[recipe.teacher])
        self.memory = Demonstrations(
            shape, n, setting.n_envs, schooling, teacher, setting.device, self.generator
        )
        self.parts = {"memory": self.memory, "optimizer": self.optimizer, "noise": self.noise}

    def act(
        self, obs: Array, carry: Carry, explore: bool = True, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        with torch.no_grad():
            logits = like(obs, self.net(as_tensor(obs, self.setting.device)))  # (N, n)
        logits = masked(logits, mask)
        if explore:
            return self.policy.sample(logits, self.noise.next(logits)), carry
        return self.policy.mode(logits), carry

    def update(self, batch: Lesson) -> dict[str, Metric]:
        recipe, lr = self.recipe, self.recipe.learning_rate(self.clock.progress)
        logits = self.net.at(batch.images, batch.cells)  # (B, P, n)
        # L = E[−log Σ_{a ∈ A*(s)} π(a|s)],  π = softmax(logits)
        log_pi = masked(logits, batch.optimal).logsumexp(-1) - logits.logsumexp(-1)  # (B, P)
        loss = -log_pi.mean()
        self.flat.grad.zero_()
        loss.backward()
        grad_norm = self.flat.clip_grad(recipe.max_grad_norm)
        self.optimizer.step(lr)
        chosen = batch.optimal.gather(-1, logits.argmax(-1, keepdim=True))
        return {
            "loss": loss.detach(),
            "optimal_share": chosen.float().mean(),
            "grad_norm": grad_norm,
            "learning_rate": lr,
        }


def _map_shape(space: spaces.Space[object]) -> tuple[int, ...]:
    """(H, W, 3) of images of walls, goal and agent; raises UsageError for what can't be that."""
    shape = space.shape or ()
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or shape[2:] != (3,):
        raise UsageError(
            f"vin learns to find its way on maps, images (H, W, 3) uint8 of walls, goal and agent, "
            f"as grid-maps has them; the environment's observations are {space}; take another "
            "agent for it"
        )
    return shape
