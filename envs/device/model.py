"""Any finite MDP on a device: transitions drawn by inverting distribution functions.

All rows of P lie behind one another in **one** increasing sequence of whole numbers: entry k of
row l, up to which the row's distribution function is F, ends at (l + F)·2ᵇ. A successor is found by
one bisection (`torch.searchsorted`) for (l + u)·2ᵇ, whatever the rows' lengths: the same one that
`rlkit.envs.model_dynamics` finds within the row for the same u. Probabilities are exact to 2⁻ᵇ;
with L rows b is 62 − log₂ L, and at most 53, as many bits as u has: 42 for a million rows.

A row's missing mass is an entry of its own. Terminal successors s are kept as −1 − s.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlkit.envs import model_dynamics as dynamics
from rlkit.envs.device.views import device_view
from rlkit.envs.model_env import check_model, starts_of
from rlkit.envs.model_views import View
from rlkit.experience.placing import require_there
from rlkit.mdp.model import MDP

Ints = NDArray[np.int64]

BITS = 53  # of a uniform number
ENTRY_BYTES = 16  # of P: where it ends, and where it leads
NO_SUCH = 1  # rows beyond the model's: the one of actions that a state does not have


class Model:
    """A finite MDP; a state is its number: (1, N) int64.

    Where not every state has every action there are masks, and an action that its state does not
    have earns NaN, which stops training at the next update, and ends the episode.

    Args:
        mdp: the model; its discount plays no part.
        view: what is observed.
        device: where everything lies: 16 bytes for each entry of P, 4 for each pair.

    Raises UsageError where `rlkit.envs.model_env.ModelEnv` does.
    """

    draws = 1

    def __init__(self, mdp: MDP, view: View, device: torch.device) -> None:
        check_model(mdp, None)
        entries = mdp.P.nnz + mdp.n_pairs
        require_there(
            ENTRY_BYTES * entries,
            device,
            f"the model has {entries:,} transitions",
            "its tables on the device",
            lambda free: f"{int(free // ENTRY_BYTES):,}",
        )
        self._view = device_view(view, device)
        ends, codes, self._bits = _entries(mdp)
        self._ends, self._codes = _on(device, ends), _on(device, codes)
        self._r = _on(device, np.append(mdp.r, np.nan).astype(np.float32))
        starts, start_cdf = starts_of(mdp)
        self._starts, self._start_cdf = _on(device, starts), _on(device, start_cdf)
        self._n_actions = n_actions = int(mdp.actions.max()) + 1
        self._masks: Tensor | None = None
        if mdp.n_pairs == n_actions * len(mdp.live):
            self._first = _on(device, np.where(mdp.terminal, 0, mdp.offsets[:-1]))
            return
        pairs = np.full((mdp.n_states, n_actions), mdp.n_pairs)
        pairs[_states_of_pairs(mdp), mdp.actions] = np.arange(mdp.n_pairs)
        allowed = pairs < mdp.n_pairs
        allowed[mdp.terminal] = True  # where an episode ends, nothing is chosen
        self._first, self._masks = _on(device, pairs.ravel()), _on(device, allowed)

    def start(self, u: Tensor) -> Tensor:
        if len(self._starts) == 1:
            return self._starts.expand_as(u)
        return self._starts[torch.searchsorted(self._start_cdf, u, right=True)]

    def step(self, state: Tensor, action: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = state[0]
        if self._masks is None:
            pair = self._first[s] + action
        else:
            pair = self._first[torch.add(action, s, alpha=self._n_actions)]
        key = (pair << self._bits) + (u[0] * 2.0**self._bits).long()
        code = self._codes[torch.searchsorted(self._ends, key, right=True)]
        # the code where it is not negative, else -1 - code
        return (code ^ (code >> 63)).unsqueeze(0), self._r[pair], code < 0

    def observe(self, state: Tensor) -> Tensor:
        return self._view(state[0])

    def mask(self, state: Tensor) -> Tensor | None:
        return None if self._masks is None else self._masks[state[0]]


def _entries(mdp: MDP) -> tuple[Ints, Ints, int]:
    """Where the entries of all rows end, and their successors (see the module); the bits b."""
    indptr, successors = mdp.P.indptr, mdp.P.indices
    cdf = np.empty(mdp.P.nnz)
    dynamics.load_cumulative(f"i{indptr.dtype.itemsize}")(indptr, mdp.P.data, mdp.ends, cdf)
    n_rows = mdp.n_pairs + NO_SUCH
    bits = min(BITS, 62 - n_rows.bit_length())
    lengths = np.append(np.diff(indptr) + mdp.ends, 1)
    last = np.cumsum(lengths) - 1  # of each row
    is_mass = np.ones(len(mdp.ends) + NO_SUCH, dtype=np.bool_)
    is_mass[:-1] = mdp.ends
    drawn = np.ones(lengths.sum(), dtype=np.bool_)
    drawn[last[is_mass]] = False
    within = np.empty(drawn.size, dtype=np.int64)
    within[drawn] = np.rint(np.minimum(cdf, 1.0) * 2.0**bits)
    within[last] = 1 << bits
    codes = np.empty_like(within)
    codes[drawn] = np.where(mdp.terminal[successors], -1 - successors, successors)
    # the missing mass ends an episode where it stands
    codes[~drawn] = -1 - np.append(_states_of_pairs(mdp)[mdp.ends], 0)
    return within + np.repeat(np.arange(n_rows) << bits, lengths), codes, bits


def _states_of_pairs(mdp: MDP) -> Ints:
    return np.repeat(np.arange(mdp.n_states), np.diff(mdp.offsets))


def _on(device: torch.device, array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)
