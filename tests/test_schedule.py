"""Schedules: their values, and how they are written."""

import math

import pytest
import torch

from rlkit.schedule import Schedule, schedule


def test_a_constant():
    assert [schedule("0.25")(x) for x in (0.0, 0.5, 1.0)] == [0.25] * 3


def test_linear_is_a_straight_line_to_its_share_and_stays_there():
    fall = schedule("2:1@0.5")
    assert [fall(x) for x in (0.0, 0.125, 0.5, 0.75, 1.0)] == [2.0, 1.75, 1.0, 1.0, 1.0]


def test_cosine_is_torchs():
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=1e-2)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=1e-3)
    fall = schedule("1e-2:1e-3:cosine")
    for step in range(20):
        assert math.isclose(fall(step / 20), optimizer.param_groups[0]["lr"], rel_tol=1e-9)
        optimizer.step()
        reference.step()


WRITTEN = {
    1e-3: Schedule(1e-3),
    3: Schedule(3.0),
    "7e-4": Schedule(7e-4),
    "1e-3:0": Schedule(1e-3, 0.0),
    "1:0.05@0.2": Schedule(1.0, 0.05, share=0.2),
    "0.1:0.3:cosine@0.125": Schedule(0.1, 0.3, "cosine", 0.125),
}


@pytest.mark.parametrize(("text", "meant"), WRITTEN.items())
def test_what_is_written_is_read_and_written_back(text, meant):
    assert schedule(text) == meant
    assert schedule(str(meant)) == meant


def test_numbers_keep_all_their_digits():
    odd = Schedule(1 / 3, 2 / 7, share=1 / 9)
    assert schedule(str(odd)) == odd


@pytest.mark.parametrize("text", ["", ":", "1:", "1:2:3", "1:0@", "1@1", "a", "1:0:cosine:1", None])
def test_what_is_no_schedule(text):
    assert schedule(text) is None
