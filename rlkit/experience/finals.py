"""The last observations of episodes under SAME_STEP autoreset, which a ring has no rows for."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.experience.observations import Observations
from rlkit.experience.step import FinalObs


class Finals:
    """What each step of a ring that ended an episode led to, and what was allowed there.

    A step is named by the flat index of its cell, row·N + environment.
    """

    def __init__(self, n_envs: int) -> None:
        self.n_envs = n_envs
        self.obs: dict[int, Tensor] = {}  # what `Observations.final` keeps
        self.masks: dict[int, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self.obs)

    def forget(self, row: int) -> None:
        """Another step takes the place of the row's."""
        for cell in range(row * self.n_envs, (row + 1) * self.n_envs) if self.obs else ():
            self.obs.pop(cell, None)
            self.masks.pop(cell, None)

    def put(self, row: int, obs: NDArray[Any], final: FinalObs, kept: Observations) -> None:
        """Keep the `final` observations of episodes whose last step was from `obs` (N, *obs)."""
        for k, env in enumerate(final.index):
            cell = row * self.n_envs + int(env)
            self.obs[cell] = kept.final(obs[env], final.obs[k])
            if final.mask is not None:
                self.masks[cell] = torch.tensor(final.mask[k])

    def take(
        self, last: list[int], next_obs: Tensor, next_mask: Tensor | None, kept: Observations
    ) -> None:
        """Put them in their place, where the `last` step of a window has one.

        Without a mask of its own all is allowed at a final observation.
        """
        for i, cell in enumerate(last):
            final = self.obs.get(cell)
            if final is not None:
                next_obs[i] = kept.take_final(*divmod(cell, self.n_envs), final)
                if next_mask is not None:
                    next_mask[i] = self.masks.get(cell, torch.tensor(True))

    def get_state(self) -> dict[str, Any]:
        return {"finals": _packed(self.obs), "final_masks": _packed(self.masks)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.obs, self.masks = _unpacked(state["finals"]), _unpacked(state["final_masks"])


def _packed(table: dict[int, Tensor]) -> dict[str, Tensor] | None:
    if not table:
        return None
    return {"cell": torch.tensor(list(table)), "value": torch.stack(list(table.values()))}


def _unpacked(table: dict[str, Tensor] | None) -> dict[int, Tensor]:
    return {} if table is None else dict(zip(table["cell"].tolist(), table["value"], strict=True))
