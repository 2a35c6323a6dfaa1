"""What is seen of a finite MDP's state (`rlkit.envs.model_views`), on a device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rlkit.envs.model_views import AGENT, Coordinates, OneHot, Picture, View


def device_view(view: View, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The observations (N, *obs) of states (N,), as `view` has them."""
    if isinstance(view, OneHot):
        return partial(_one_hot, torch.arange(view.space.shape[0], device=device))
    if isinstance(view, Coordinates):
        return partial(torch.index_select, torch.from_numpy(view.places).to(device), 0)
    if isinstance(view, Picture):
        return partial(
            _picture,
            torch.from_numpy(view.states_of_pixels()).to(device),
            torch.from_numpy(view.picture).to(device),
            torch.tensor(AGENT, dtype=torch.uint8, device=device),
        )
    return torch.clone  # the state's number


def blocks(cells: Tensor, side: int) -> Tensor:
    """Every cell of (h, w) as `side` x `side` pixels: (h·side, w·side)."""
    return cells.repeat_interleave(side, 0).repeat_interleave(side, 1)


def _one_hot(states: Tensor, state: Tensor) -> Tensor:
    return states == state.unsqueeze(-1)


def _picture(states_of_pixels: Tensor, picture: Tensor, agent: Tensor, state: Tensor) -> Tensor:
    """The picture (h, w, 3) with `agent`'s colour where the pixels (h, w) are of the state."""
    here = states_of_pixels == state.unsqueeze(-1).unsqueeze(-1)  # (N, h, w)
    return torch.where(here.unsqueeze(-1), agent, picture)
