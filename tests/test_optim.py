"""Optimisers over one flat vector, against torch's own."""

import pytest
import torch
from torch import nn

import rlkit.optim
from rlkit.errors import RunError
from rlkit.optim import OPTIMIZERS, FlatParameters, optimizer_for


def module(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def random_gradients(seed, like):
    """Gradients of very different sizes, zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    for p in like:
        g = torch.randn(p.shape, generator=generator)
        scale = 10.0 ** torch.randint(-6, 3, p.shape, generator=generator)
        yield g * scale * (torch.rand(p.shape, generator=generator) > 0.1)


TORCHS = {
    "sgd": lambda ps: torch.optim.SGD(ps, lr=1),
    "momentum": lambda ps: torch.optim.SGD(ps, lr=1, momentum=0.9),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=1, eps=1e-5),
    "adam": lambda ps: torch.optim.Adam(ps, lr=1, eps=1e-5),
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=1, eps=1e-5),
}


def test_every_optimiser_is_held_to_torchs():
    assert list(TORCHS) == list(OPTIMIZERS)


@pytest.fixture(params=[True, False], ids=["fused", "plain"])
def fused(request, monkeypatch):
    """With torch's fused Adam, and without, as where torch should drop it."""
    monkeypatch.setattr(rlkit.optim, "HAS_FUSED_ADAM", request.param)


def test_this_torch_has_the_fused_adam():
    assert rlkit.optim.HAS_FUSED_ADAM


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("name", TORCHS)
def test_fifty_steps_equal_torchs(name):
    ours, theirs = module(), module()
    flat = FlatParameters(ours)
    optimizer, reference = optimizer_for(name, flat, 1e-5), TORCHS[name](theirs.parameters())
    for step in range(50):
        gradients = list(random_gradients(step, theirs.parameters()))
        for p, q, g in zip(ours.parameters(), theirs.parameters(), gradients, strict=True):
            p.grad.copy_(g)
            q.grad = g.clone()
        lr = 1e-2 - 9e-3 * step / 49
        reference.param_groups[0]["lr"] = lr
        optimizer.step(lr)
        reference.step()
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(flat.values, FlatParameters(module()).values, atol=0.05)


@pytest.mark.parametrize("name", TORCHS)
def test_a_restored_optimizer_goes_on_bit_for_bit(name):
    one, other = FlatParameters(module()), FlatParameters(module())
    a, b = optimizer_for(name, one, 1e-5), optimizer_for(name, other, 1e-5)
    for step in range(6):
        if step == 3:
            b.set_state(a.get_state())
            other.values.copy_(one.values)
        (g,) = random_gradients(step, [one.grad])
        for flat, optimizer in ((one, a), (other, b))[: 2 if step >= 3 else 1]:
            flat.grad.copy_(g)
            optimizer.step(0.01)
    assert torch.equal(one.values, other.values)
    assert all(
        x is not y
        for x, y in zip(a.get_state().values(), b.get_state().values(), strict=True)
        if isinstance(x, torch.Tensor)
    )


def assert_views(net, flat):
    """Writing the vectors is writing the parameters and their gradients, in order."""
    flat.values.copy_(torch.arange(flat.values.numel()))
    flat.grad.copy_(-torch.arange(flat.values.numel()))
    parameters = list(net.parameters())
    assert torch.equal(torch.cat([p.detach().flatten() for p in parameters]), flat.values)
    assert torch.equal(torch.cat([p.grad.flatten() for p in parameters]), flat.grad)


def test_parameters_are_views_and_keep_their_values():
    net, before = module(), module()
    flat = FlatParameters(net)
    for p, q in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not flat.grad.any()
    assert_views(net, flat)


def test_loading_a_state_dict_keeps_the_views():
    net, other = module(), module(1)
    flat = FlatParameters(net)
    net.load_state_dict(other.state_dict())
    assert torch.equal(flat.values, FlatParameters(other).values)
    assert_views(net, flat)


def test_autograd_writes_into_the_flat_gradient():
    net, plain = module(), module()
    flat = FlatParameters(net)
    x = torch.randn(4, 5)
    for m in (net, plain):
        m(x).square().sum().backward()
    torch.testing.assert_close(flat.grad, torch.cat([p.grad.flatten() for p in plain.parameters()]))


@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 1e6])
def test_clipping_equals_torchs(max_norm):
    net, plain = module(), module()
    flat = FlatParameters(net)
    for p, q, g in zip(
        net.parameters(), plain.parameters(), random_gradients(3, plain.parameters()), strict=True
    ):
        p.grad.copy_(g)
        q.grad = g.clone()
    norm = flat.clip_grad(max_norm)
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(plain.parameters(), max_norm)))
    clipped = torch.cat([p.grad.flatten() for p in plain.parameters()])
    torch.testing.assert_close(flat.grad, clipped, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_a_gradient_that_overflowed_stops_before_the_weights(bad):
    """Two of 1e38 are finite each, and their norm is not."""
    flat = FlatParameters(module())
    before = flat.values.clone()
    flat.grad[3:6] = bad
    if bad == 1e38:
        flat.grad[:] = 3e38
    with pytest.raises(RunError, match=r"gradient's norm is (nan|inf)"):
        flat.clip_grad(0.5)
    assert torch.equal(flat.values, before)
