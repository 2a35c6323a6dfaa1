"""Losses and targets, against numbers worked by hand, the papers' loops and torch's autograd."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.nn import functional as F

from rlkit import losses
from rlkit.losses import (
    cross_entropy,
    greedy,
    huber,
    project,
    quantile_huber,
    squared,
)
from rlkit.networks.values import ScalarValues, take

R = torch.tensor([1.0, 2.0, 3.0])
DISCOUNT = torch.tensor([0.5, 0.25, 0.0])  # the last one ended in a terminal state
Q_NEXT = torch.tensor([[4.0, 8.0], [-4.0, -8.0], [100.0, 200.0]])
MASK = torch.tensor([[True, False], [False, True], [False, False]])  # nothing left at the end
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def targets(q_select, mask=None):
    """y = r + discount·Q_target(s', argmax_a Q_select(s', a)), as DQN puts it together."""
    return ScalarValues("huber").target(R, DISCOUNT, take(Q_NEXT, greedy(q_select, mask))).tolist()


def test_a_single_nets_target_takes_the_greatest_value():
    assert targets(Q_NEXT) == [5.0, 1.0, 3.0]


def test_a_double_target_values_the_action_that_the_online_net_selects():
    assert targets(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])) == [3.0, 0.0, 3.0]


def test_targets_look_only_at_allowed_actions():
    assert targets(Q_NEXT, MASK) == [3.0, 0.0, 3.0]
    assert targets(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), MASK) == [3.0, 0.0, 3.0]


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
def test_greedy_actions(kind):
    q, mask = (x.numpy() if kind == "arrays" else x for x in (Q_NEXT, MASK))
    assert greedy(q).tolist() == [1, 0, 1]
    assert greedy(q, mask).tolist() == [0, 1, 0]
    assert type(greedy(q, mask)) is type(q)
    assert greedy(q[None, None], mask[None, None]).tolist() == [[[0, 1, 0]]]


@pytest.mark.parametrize(
    ("loss", "reference"),
    [(huber, F.smooth_l1_loss), (squared, lambda q, y, reduction: 0.5 * (q - y) ** 2)],
)
def test_losses_of_the_td_error_and_their_gradients(loss, reference):
    q = torch.linspace(-3, 3, 61).double().requires_grad_()  # through both corners of Huber's
    y = torch.zeros(61).double()
    expected = reference(q, y, reduction="none")
    (g_expected,) = torch.autograd.grad(expected.sum(), q)
    found, g = loss(q.detach(), y)
    torch.testing.assert_close(found, expected.detach(), **EXACT)
    torch.testing.assert_close(g, g_expected, **EXACT)


def algorithm_1(r, discount, p, z):
    """Bellemare et al. 2017, algorithm 1, atom by atom; mass on an atom stays there."""
    dz = (z[-1] - z[0]) / (len(z) - 1)
    m = np.zeros((len(r), len(z)))
    for k in range(len(r)):
        for j in range(len(z)):
            b = (min(max(r[k] + discount[k] * z[j], z[0]), z[-1]) - z[0]) / dz
            lower, upper = math.floor(b), math.ceil(b)
            if lower == upper:
                m[k, lower] += p[k, j]
            else:
                m[k, lower] += p[k, j] * (upper - b)
                m[k, upper] += p[k, j] * (b - lower)
    return m


@pytest.fixture(params=["_split", "_hats"])
def project_by(request, monkeypatch):
    """The projection, by each of the two ways to spread the mass (CPU's and CUDA's)."""
    monkeypatch.setattr(losses, "_split", getattr(losses, request.param))
    return project


@pytest.mark.parametrize(("v_min", "v_max", "atoms"), [(-10, 10, 51), (0, 3, 4), (-1, 7, 2)])
def test_the_projection_is_algorithm_1s(project_by, v_min, v_max, atoms):
    g = torch.Generator().manual_seed(0)
    z = torch.linspace(v_min, v_max, atoms, dtype=torch.float64)
    p = torch.randn(300, atoms, generator=g).double().softmax(-1)
    r = 4 * torch.randn(300, generator=g).double()  # some beyond both ends
    r[:20] = torch.randint(-3, 4, (20,), generator=g)  # on atoms, and on the ends
    r[20:22] = torch.tensor([v_min, v_max])
    discount = torch.rand(300, generator=g).double()
    discount[:30:2], discount[1:30:2] = 0.0, 1.0
    m = project_by(r, discount, p, z)
    expected = algorithm_1(*(x.numpy() for x in (r, discount, p, z)))
    np.testing.assert_allclose(m.numpy(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(m.sum(-1), torch.ones(300).double(), **EXACT)
    single = project_by(r.float(), discount.float(), p.float(), z.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=0, atol=1e-5)


def test_the_projection_by_hand(project_by):
    z = torch.tensor([0.0, 1.0, 2.0])
    p = torch.tensor([0.25, 0.25, 0.5])
    for r, discount, expected in [
        (0.0, 1.0, [0.25, 0.25, 0.5]),  # nothing moves
        (1.0, 0.0, [0.0, 1.0, 0.0]),  # a terminal state: all of it on one atom
        (0.75, 0.0, [0.25, 0.75, 0.0]),
        (2.0, 0.0, [0.0, 0.0, 1.0]),  # on the upper end
        (0.0, 0.0, [1.0, 0.0, 0.0]),  # on the lower end
        (9.0, 1.0, [0.0, 0.0, 1.0]),  # clipped
        (-9.0, 1.0, [1.0, 0.0, 0.0]),
        (1.0, 1.0, [0.0, 0.25, 0.75]),  # the mass at 3 is clipped to 2
        (0.5, 0.5, [0.125, 0.625, 0.25]),  # 0.5, 1 and 1.5
    ]:
        m = project_by(torch.tensor([r]), torch.tensor([discount]), p[None], z)
        assert m.tolist() == [expected]


def test_the_projection_keeps_the_mean_where_nothing_is_clipped(project_by):
    g = torch.Generator().manual_seed(1)
    z = torch.linspace(-10, 10, 51, dtype=torch.float64)
    p = torch.randn(100, 51, generator=g).double().softmax(-1)
    discount, r = torch.rand(2, 100, generator=g).double()
    discount = 0.9 * discount  # r + discount·z stays within [−9, 10]
    m = project_by(r, discount, p, z)
    torch.testing.assert_close(m @ z, r + discount * (p @ z), **EXACT)


def test_the_projection_takes_any_leading_shape(project_by):
    g = torch.Generator().manual_seed(2)
    z = torch.linspace(-2, 2, 5)
    p = torch.randn(3, 4, 5, generator=g).softmax(-1)
    r, discount = torch.rand(2, 3, 4, generator=g)
    m = project_by(r, discount, p, z)
    each = project_by(r.flatten(), discount.flatten(), p.flatten(0, 1), z)
    assert torch.equal(m, each.view(3, 4, 5))


def test_cross_entropy_and_its_gradient():
    g = torch.Generator().manual_seed(3)
    logits = (5 * torch.randn(8, 6, generator=g)).double() + 2000  # whose exponentials overflow
    m = torch.randn(8, 6, generator=g).double().softmax(-1)
    logits.requires_grad_()
    expected = F.cross_entropy(logits, m, reduction="none")
    (g_expected,) = torch.autograd.grad(expected.sum(), logits)
    found, g_found = cross_entropy(logits.detach(), m)
    torch.testing.assert_close(found, expected.detach(), **EXACT)
    torch.testing.assert_close(g_found, g_expected, **EXACT)


def equation_10(theta, target, tau):
    """Dabney et al. 2018, eq. 10 with eq. 9's Huber loss, pair by pair, κ = 1."""
    total = 0.0
    for theta_i, tau_i in zip(theta, tau, strict=True):
        for target_j in target:
            u = target_j - theta_i
            size = 0.5 * u**2 if abs(u) <= 1 else abs(u) - 0.5
            total = total + abs(tau_i - (1.0 if u < 0 else 0.0)) * size / len(target)
    return total


@pytest.mark.parametrize(("N", "N_target"), [(5, 5), (4, 7), (1, 3)])
def test_the_quantile_loss_is_equation_10_and_its_gradient(N, N_target):
    g = torch.Generator().manual_seed(4)
    theta = (2 * torch.randn(6, N, generator=g)).double().requires_grad_()
    target = (2 * torch.randn(6, N_target, generator=g)).double()
    tau = (torch.arange(N).double() + 0.5) / N
    expected = torch.stack([equation_10(*rows, tau) for rows in zip(theta, target, strict=True)])
    (g_expected,) = torch.autograd.grad(expected.sum(), theta)
    before = target.clone()
    loss, grad = quantile_huber(theta.detach(), target, tau)
    torch.testing.assert_close(loss, expected.detach(), **EXACT)
    torch.testing.assert_close(grad, g_expected, **EXACT)
    assert torch.equal(target, before)
    single, single_grad = quantile_huber(theta.detach().float(), target.float(), tau.float())
    assert single.dtype == single_grad.dtype == torch.float32


def test_descending_the_quantile_loss_finds_a_distributions_quantiles():
    """Of a wide normal; the smoothing within 1 of a quantile shifts it by ½ − τ to first order."""
    N, scale = 9, 100.0
    tau = (torch.arange(N).double() + 0.5) / N
    samples = scale * norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    target = torch.from_numpy(samples)[None]
    theta = torch.zeros(1, N).double()
    for _ in range(200):
        theta -= scale * quantile_huber(theta, target, tau)[1]
    quantiles = scale * norm.ppf(tau.numpy())
    np.testing.assert_allclose(theta[0].numpy() - (0.5 - tau.numpy()), quantiles, rtol=0, atol=0.05)
