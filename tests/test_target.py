"""Target networks, against their definition over a run of updates."""

import pytest
import torch
from torch import nn

from rlkit.networks.target import TargetParameters
from rlkit.optim import FlatParameters


def follower(interval, rate):
    torch.manual_seed(0)
    online, target = (FlatParameters(nn.Linear(3, 2)) for _ in range(2))
    assert not torch.equal(online.values, target.values)
    return TargetParameters(online, target, interval, rate)


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.005])
@pytest.mark.parametrize("interval", [1, 3, 10])
def test_the_target_moves_after_every_so_many_updates(interval, rate):
    following = follower(interval, rate)
    online, target = following.online.values, following.target.values
    assert torch.equal(online, target)  # from the start
    expected = target.double()
    for update in range(1, 24):
        assert following.stands_for == interval - (update - 1) % interval
        online.normal_()
        before = target.clone()
        following.follow()
        moved = update % interval == 0
        if moved:
            expected = (1 - rate) * expected + rate * online.double()
        assert torch.equal(target, before) == (not moved)
        torch.testing.assert_close(target.double(), expected, rtol=0, atol=1e-6)
        assert torch.equal(target, online) == (moved and rate == 1)


def test_the_target_shares_no_memory_with_what_it_follows():
    following = follower(1, 1.0)
    following.follow()
    following.online.values.add_(1)
    assert not torch.equal(following.online.values, following.target.values)


def test_a_restored_count_goes_on():
    following, other = follower(5, 1.0), follower(5, 1.0)
    for _ in range(3):
        following.follow()
    other.set_state(following.get_state())
    assert other.stands_for == following.stands_for == 2
