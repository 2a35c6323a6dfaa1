"""Transfer: a new run that begins with another run's encoder, to learn on or to stay as it is.

What is taken is what stands between observations and heads, or a memory: convolutions, embeddings
and hidden layers, with the moments that observations are normalised by. Heads, memories and the
optimiser's state are new.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from rlkit.agent import Agent
from rlkit.errors import CheckpointError, UsageError
from rlkit.networks.encoder import Encoder
from rlkit.networks.normalize import ObsNormalizer
from rlkit.recipe import Recipe
from rlkit.run.checkpoint import FOLDER, Checkpoint, load_checkpoint
from rlkit.run.folder import CONFIG, RunFolder
from rlkit.training.options import RunOptions
from rlkit.training.trainer import about


@contextmanager
def encoders_frozen(wanted: bool) -> Iterator[None]:
    """Within, if `wanted`, the encoders of agents that are built take no gradient, and are in eval
    mode, as is what normalises their observations.

    They are so from the moment that a network gets them: the agent's constructor, which sees to the
    optimiser and the target net afterwards, need not know.
    """

    def freeze(owner: nn.Module, name: str, part: nn.Module | None) -> None:
        if isinstance(part, (Encoder, ObsNormalizer)):
            part.requires_grad_(False).eval()

    if not wanted:
        yield
        return
    handle = register_module_module_registration_hook(freeze)
    try:
        yield
    finally:
        handle.remove()


def take_encoder(agent: Agent, recipe: Recipe, options: RunOptions) -> str:
    """Give a new agent the encoder of the run `options.encoder_from`; returns what was taken.

    That run may be of another agent. An actor's encoder is taken for an actor's where both have one
    each, else the one that the other agent acts by is taken for all. The run's files are read as
    numbers and JSON alone: nothing that it names is imported.

    Raises UsageError where there is no such run, and where the encoders are not alike;
    CheckpointError where the run holds no checkpoint that is whole.
    """
    return _Transfer(options).into(agent, recipe)


class _Transfer:
    """What a run has to give, and how its errors begin."""

    def __init__(self, options: RunOptions) -> None:
        self.told = f"encoder_from (--encoder-from) is {options.encoder_from}"
        given = Path(options.encoder_from)
        is_checkpoint = given.parent.name == FOLDER
        try:
            run = given.parent.parent if is_checkpoint else given
            self.folder = RunFolder.open(run, Path(options.run_dir))
            home = self.folder.path
            place = home / FOLDER / given.name if is_checkpoint else home
            self.checkpoint: Checkpoint = load_checkpoint(place, part=("agent", "weights"))
        except (UsageError, CheckpointError) as error:
            raise type(error)(f"{self.told}: {error}") from None
        self.weights = self.checkpoint.tree

    def into(self, agent: Agent, recipe: Recipe) -> str:
        encoders = {
            name: part
            for name, part in agent.named_modules()
            if isinstance(part, Encoder) and part.state_dict()
        }
        if not encoders:
            raise UsageError(f"{self.told}, and {agent.name} has no encoder; leave it out")
        first = self._first("encoder")
        if first is None:
            raise UsageError(
                f"{self.told}, a run of {self.checkpoint.about.get('agent')}, which has no "
                "encoder; take a run of an agent with networks"
            )
        self._require_activation(recipe)
        for name, encoder in encoders.items():
            owner = next((other for other in _counterparts(name) if self._under(other)), first)
            self._load(agent, encoder, self._under(owner))
        taken = f"the encoder of {self.checkpoint.path}"
        if self._take_moments(agent):
            taken += " and its observations' moments"
        return f"{taken}, frozen" if not all(map(_learns, encoders.values())) else taken

    def _first(self, part: str) -> str | None:
        """The first module of that name: of several encoders, the one that acts."""
        pattern = re.compile(rf"((?:\w+\.)*{part})\.")
        found = (pattern.match(name) for name in self.weights)
        return next((match[1] for match in found if match), None)

    def _under(self, module: str) -> dict[str, Any]:
        """The state dict of a module, by its name."""
        start = f"{module}."
        return {
            name.removeprefix(start): value
            for name, value in self.weights.items()
            if name.startswith(start)
        }

    def _require_activation(self, recipe: Recipe) -> None:
        """Weights of another activation would fit, and mean something else."""
        theirs = self.folder.config.get("recipe")
        there = theirs.get("activation") if isinstance(theirs, dict) else None
        here = recipe.to_json().get("activation")
        if there != here:
            raise UsageError(
                f"{self.told}, whose activation is {there}, and this run's is {here}; set "
                f"activation (--activation) to {there}"
            )

    def _take_moments(self, agent: Agent) -> bool:
        """The moments of the observations, where both runs normalise them; whether they do."""
        here = [part for part in agent.modules() if isinstance(part, ObsNormalizer)]
        there = self._first("normalizer")
        if bool(here) != (there is not None):
            scaled, raw = ("it", "this run") if there else ("this run", "it")
            raise UsageError(
                f"{self.told}; {scaled} normalises observations and {raw} does not, so that the "
                "encoder would see them on another scale; set normalize_obs (--normalize-obs) as "
                f"in {self.folder.path / CONFIG}"
            )
        for normalizer in here:
            self._load(agent, normalizer, self._under(there or ""))
        return bool(here)

    def _load(self, agent: Agent, part: nn.Module, found: Mapping[str, Any]) -> None:
        """Give a module its weights, or say which of them is not as it has it."""
        here = _shapes(part.state_dict())
        there = _shapes(found)
        for name in [*here, *there]:
            if here.get(name) != there.get(name):
                raise UsageError(
                    f"{self.told}, where the encoder's {name} is {there.get(name, 'not there')}, "
                    f"and in this run it is {here.get(name, 'not there')}; {self._way_out(agent)}"
                )
        part.load_state_dict(dict(found))

    def _way_out(self, agent: Agent) -> str:
        key = "observation_space"
        there, here = self.checkpoint.about.get(key), about(agent)[key]
        if there != here:
            return (
                f"observations are {there} there and {here} here: show both environments in one "
                "shape, as grids do with --env-option observe=pixels-84"
            )
        return f"set encoder, hidden and norm as in {self.folder.path / CONFIG}"


def _counterparts(module: str) -> list[str]:
    """What a module of a new agent may be called in a run of its kind.

    A target net begins as a copy of what it follows: its own lags behind.
    """
    if "target" not in module:
        return [module]
    return [module.replace("target", followed) for followed in ("online", "critic")]


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...] | str]:
    return {
        name: tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        for name, x in state.items()
    }


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
