"""A model's rows on a device, in two layouts, and what a sweep does with torch's operations.

Both add an end to the S states: values are (S + 1,), the last of them 0. Every state has a pair; a
terminal one has one of reward 0 without a successor. Nothing here waits for the device, but where
it says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_NO_PAIR = -torch.inf  # the reward of a slot without a pair


@dataclass(frozen=True, eq=False)
class Ell:
    """A slots for pairs in every state, K for successors in every pair (ELLPACK), by columns.

    The entries that all states have in one slot lie side by side, as the threads do that read them.

    Fields:
        successors: (A, K, S) int32; S, the end, fills what is not needed.
        p: (A, K, S) float64, 0 there; with strides of 0 where all states have the same.
        r: (A, S) float64; -inf where a state has fewer pairs.
        gamma: () float64.
    """

    successors: Tensor
    p: Tensor
    r: Tensor
    gamma: Tensor

    @property
    def n_states(self) -> int:
        return self.r.shape[1]

    @property
    def name(self) -> str:
        actions, width, _ = self.successors.shape
        return f"rows of {actions} x {width} successors"

    def backup(self, V: Tensor, TV: Tensor, choice: Tensor | None = None) -> Tensor:
        """TV(s) = max_a r(s, a) + γ Σ p(s' | s, a) V(s'), and the first slot that attains it.

        V, TV: (S + 1,), not the same. choice: (S,) int64. Returns (2,), the least and the largest
        TV − V.
        """
        best = TV[:-1]
        for a in range(self.r.shape[0]):
            q = self._q(a, V)
            if a == 0:
                best.copy_(q)
                if choice is not None:
                    choice.zero_()
                continue
            if choice is not None:
                choice.masked_fill_(q > best, a)
            torch.maximum(best, q, out=best)
        return torch.stack(torch.aminmax(best - V[:-1]))

    def q(self, V: Tensor) -> Tensor:
        """(A, S) of V (S + 1,); -inf where there is no pair."""
        Q = torch.empty_like(self.r)
        for a in range(self.r.shape[0]):
            Q[a] = self._q(a, V)
        return Q

    def first_best(self, V: Tensor, slack: float) -> Tensor:
        """(S,) int64, the first slot whose Q is the largest but for the slack. V: (S + 1,)."""
        best = V.clone()
        choice = torch.empty(self.n_states, dtype=torch.int64, device=V.device)
        self.backup(V, best)
        for a in reversed(range(self.r.shape[0])):
            choice.masked_fill_(self._q(a, V) >= best[:-1] - slack, a)
        return choice

    def _q(self, a: int, V: Tensor) -> Tensor:
        outcomes = V.index_select(0, self.successors[a].flatten()).view_as(self.successors[a])
        return self.r[a] + self.gamma * (self.p[a] * outcomes).sum(0)

    def per_pair(self, x: Tensor) -> Tensor:
        """For each slot what `x` (S,) has for its state."""
        return x.expand_as(self.r)

    @property
    def pairs(self) -> Tensor:
        """(A, S) bool: the slots that hold a pair."""
        return self.r > _NO_PAIR

    @property
    def counts(self) -> Tensor:
        """(S,) int64: how many pairs each state has."""
        return self.pairs.sum(0)

    @property
    def labels(self) -> Tensor:
        """(A, S) int64: the number of each slot's action."""
        return torch.arange(self.r.shape[0], device=self.r.device)[:, None].expand_as(self.r)

    def rewarded(self, r: Tensor, allowed: Tensor) -> Ell:
        """Undiscounted, with other rewards and of the allowed pairs alone; both (A, S)."""
        only = torch.where(allowed, r, _NO_PAIR)
        return replace(self, r=only, gamma=torch.ones_like(self.gamma))

    def following(self, choice: Tensor) -> Ell:
        """The rows of one pair a state, in slots (S,) int64, copied."""
        _, width, n_states = self.successors.shape
        slots = choice.expand(1, width, n_states)
        every_p = self.p
        shared = every_p.stride(0) == every_p.stride(2) == 0
        return replace(
            self,
            successors=self.successors.gather(0, slots),
            p=every_p[:1] if shared else every_p.gather(0, slots),
            r=self.r.gather(0, choice[None]),
        )


@dataclass(frozen=True, eq=False)
class Csr:
    """Compressed rows: any number of pairs in a state and of successors in a pair.

    Fields:
        off: (S + 1,) int64; the pairs of state s are off[s]:off[s + 1], at least one.
        ptr: (L + 1,) int64; the successors of pair l are ptr[l]:ptr[l + 1].
        owner: (L,) int32, the state of each pair.
        successors: (N,) int32. p: (N,) float64. r: (L,) float64. gamma: () float64.
        width: how many successors a pair has on average, rounded up.
    """

    off: Tensor
    ptr: Tensor
    owner: Tensor
    successors: Tensor
    p: Tensor
    r: Tensor
    gamma: Tensor
    width: int

    @property
    def n_states(self) -> int:
        return self.off.shape[0] - 1

    @property
    def name(self) -> str:
        return "compressed rows"

    def backup(self, V: Tensor, TV: Tensor, choice: Tensor | None = None) -> Tensor:
        """As `Ell.backup`; choice: (S,) int64, numbers of pairs."""
        Q, best = self.q(V), TV[:-1]
        best.copy_(torch.segment_reduce(Q, "max", offsets=self.off, unsafe=True))
        if choice is not None:
            choice.copy_(self._first(Q, best))
        return torch.stack(torch.aminmax(best - V[:-1]))

    def q(self, V: Tensor) -> Tensor:
        """(L,) of V (S + 1,)."""
        terms = self.p * V.index_select(0, self.successors)
        expected = torch.segment_reduce(terms, "sum", offsets=self.ptr, unsafe=True)
        return self.r + self.gamma * expected

    def first_best(self, V: Tensor, slack: float) -> Tensor:
        """(S,) int64 as of `Ell`; counted in each state from 0."""
        Q = self.q(V)
        best = torch.segment_reduce(Q, "max", offsets=self.off, unsafe=True)
        return self._first(Q, best - slack).to(torch.int64) - self.off[:-1]

    def _first(self, Q: Tensor, floor: Tensor) -> Tensor:
        """(S,) float64, exact: the first pair of each state with a Q (L,) of its floor (S,)."""
        numbers = torch.arange(Q.shape[0], dtype=Q.dtype, device=Q.device)
        first = torch.where(self.per_pair(floor) <= Q, numbers, torch.inf)
        return torch.segment_reduce(first, "min", offsets=self.off, unsafe=True)

    def per_pair(self, x: Tensor) -> Tensor:
        """(L,) for each pair what `x` (S,) has for its state."""
        return x.index_select(0, self.owner)

    @property
    def pairs(self) -> Tensor:
        """(L,) bool: all of them."""
        return torch.ones_like(self.r, dtype=torch.bool)

    @property
    def counts(self) -> Tensor:
        """(S,) int64: how many pairs each state has."""
        return self.off.diff()

    @property
    def labels(self) -> Tensor:
        """(L,) int64: the number of each pair's action, counted in each state from 0."""
        pairs = torch.arange(self.r.shape[0], device=self.r.device)
        return pairs - self.per_pair(self.off[:-1])

    def rewarded(self, r: Tensor, allowed: Tensor) -> Csr:
        """Undiscounted, with other rewards and of the allowed pairs alone; both (L,)."""
        only = torch.where(allowed, r, _NO_PAIR)
        return replace(self, r=only, gamma=torch.ones_like(self.gamma))

    def following(self, choice: Tensor) -> Csr:
        """The rows of one pair a state (S,) int64, copied. Waits for the device: how many?"""
        begin = self.ptr[choice]
        lengths = self.ptr[choice + 1] - begin
        ptr = torch.zeros_like(self.off)
        torch.cumsum(lengths, 0, out=ptr[1:])
        total = int(ptr[-1])
        entries = torch.arange(total, device=ptr.device)
        entries += torch.repeat_interleave(begin - ptr[:-1], lengths, output_size=total)
        states = torch.arange(self.n_states + 1, device=ptr.device)
        return replace(
            self,
            off=states,
            ptr=ptr,
            owner=states[:-1].to(torch.int32),
            successors=self.successors[entries],
            p=self.p[entries],
            r=self.r[choice],
        )


Rows = Ell | Csr
