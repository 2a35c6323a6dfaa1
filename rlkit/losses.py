"""Losses and targets: one pure function per equation."""

from __future__ import annotations

from torch import Tensor


def q_target(r: Tensor, discount: Tensor, q_next: Tensor) -> Tensor:
    """The Q-learning target (Mnih et al. 2015, eq. 2): y = r + discount·max_a Q(s', a).

    Args: r, discount (...,), q_next (..., A). Returns y, (...,).
    """
    return r + discount * q_next.amax(-1)


def double_q_target(r: Tensor, discount: Tensor, q_next: Tensor, q_select: Tensor) -> Tensor:
    """Double Q-learning's target (van Hasselt et al. 2016, eq. 4).

        y = r + discount·Q_target(s', argmax_a Q_online(s', a))

    Args: r, discount (...,); q_next = Q_target(s', ·), q_select = Q_online(s', ·), both (..., A).
    Returns y, (...,).
    """
    a_star = q_select.argmax(-1, keepdim=True)
    return r + discount * q_next.gather(-1, a_star).squeeze(-1)
