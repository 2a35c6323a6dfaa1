"""Q-learning's targets, on numbers worked by hand."""

import torch

from rlkit.losses import double_q_target, q_target

R = torch.tensor([1.0, 2.0, 3.0])
DISCOUNT = torch.tensor([0.5, 0.25, 0.0])  # the last one ended in a terminal state
Q_NEXT = torch.tensor([[4.0, 8.0], [-4.0, -8.0], [100.0, 200.0]])


def test_q_target_takes_the_greatest_value():
    assert q_target(R, DISCOUNT, Q_NEXT).tolist() == [5.0, 1.0, 3.0]


def test_double_q_target_values_the_action_that_the_online_net_selects():
    q_select = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert double_q_target(R, DISCOUNT, Q_NEXT, q_select).tolist() == [3.0, 0.0, 3.0]


def test_double_q_target_with_one_net_is_the_plain_one():
    assert torch.equal(double_q_target(R, DISCOUNT, Q_NEXT, Q_NEXT), q_target(R, DISCOUNT, Q_NEXT))
