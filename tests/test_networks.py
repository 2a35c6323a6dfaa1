"""Networks and their ways back, against torch's autograd and torch.distributions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import chisquare
from torch import nn
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal

from rlkit.errors import UsageError
from rlkit.networks.distributions import Categorical, DiagonalGaussian, policy_for
from rlkit.networks.encoder import Flat, OneHot, OneHots, encoder_for
from rlkit.networks.heads import Network
from rlkit.networks.mlp import ACTIVATIONS, MLP
from rlkit.networks.vjp import vjp

TORCH = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
LEADING = [(6,), (3, 4)]


def plain(mlp, activation, head=None):
    """The same network out of torch's own layers, with the same weights."""
    layers = [layer for linear in mlp.linears for layer in (linear, TORCH[activation]())]
    copies = nn.Sequential(*layers, *([head] if head else []))
    made = nn.Sequential(
        *(
            nn.Linear(m.in_features, m.out_features) if isinstance(m, nn.Linear) else type(m)()
            for m in copies
        )
    ).to(next(mlp.parameters()).dtype)
    made.load_state_dict(copies.state_dict())
    return made


def with_gradients(module):
    """Gradients that are allocated and not zero: the way back must add to them."""
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    return module


def assert_same_gradients(module, reference, close):
    ours, theirs = list(module.parameters()), list(reference.parameters())
    assert len(ours) == len(theirs)
    for p, q in zip(ours, theirs, strict=True):
        assert q.grad.abs().max() > 1e-6
        torch.testing.assert_close(p.grad - 1, q.grad, **close)


def test_every_activation_is_tested():
    assert set(TORCH) == set(ACTIVATIONS)


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("hidden", [(8,), (8, 5), (4, 6, 7)])
@pytest.mark.parametrize("activation", TORCH)
def test_the_mlps_way_back_is_autograds(activation, hidden, leading):
    torch.manual_seed(0)
    mlp = with_gradients(MLP(5, hidden, activation).double())
    for _, b in mlp._layers:
        nn.init.normal_(b)  # so that ReLUs stand on either side
    reference = plain(mlp, activation)
    x, g = torch.randn(*leading, 5).double(), torch.randn(*leading, hidden[-1]).double()
    close = {"rtol": 1e-10, "atol": 1e-10}
    with torch.no_grad():  # as agents' updates run
        y, pull = vjp(mlp, x)
        pull(g)
    expected = reference(x)
    expected.backward(g)
    torch.testing.assert_close(y, expected.detach(), **close)
    torch.testing.assert_close(mlp(x), expected, **close)
    assert_same_gradients(mlp, reference, close)


OBS = {
    "box": (spaces.Box(-1, 1, (5,)), lambda shape: torch.randn(*shape, 5)),
    "scalar": (spaces.Box(-1, 1, ()), lambda shape: torch.randn(*shape)),
    "discrete": (spaces.Discrete(4), lambda shape: torch.randint(4, shape)),
    "multidiscrete": (
        spaces.MultiDiscrete([3, 2]),
        lambda shape: torch.stack([torch.randint(3, shape), torch.randint(2, shape)], -1),
    ),
    "multibinary": (spaces.MultiBinary((2, 2)), lambda shape: torch.rand(*shape, 2, 2).round()),
}


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("activation", ["relu", "tanh", "silu"])
@pytest.mark.parametrize("observed", OBS)
def test_a_networks_way_back_is_autograds(observed, activation, leading, kind):
    torch.manual_seed(1)
    space, draw = OBS[observed]
    net = with_gradients(Network(space, (8, 6), activation, 3, head_gain=1.0))
    obs, g = draw(leading), torch.randn(*leading, 3)
    reference = plain(net.encoder.mlp, activation, net.head)
    y, pull = vjp(net, as_kind(obs, kind))
    pull(as_kind(g, kind))
    expected = reference(net.encoder.numbers(obs))
    expected.backward(g)
    close = {"rtol": 1e-4, "atol": 1e-5}
    inferred = net.infer(as_kind(obs, kind))
    assert type(y) is type(inferred) is (np.ndarray if kind == "arrays" else torch.Tensor)
    torch.testing.assert_close(torch.as_tensor(y), expected.detach(), **close)
    torch.testing.assert_close(torch.as_tensor(inferred), expected.detach(), **close)
    torch.testing.assert_close(net(obs), expected, **close)
    assert_same_gradients(net, reference, close)


def test_any_module_goes_through_autograd():
    net, reference = nn.Linear(3, 2), nn.Linear(3, 2)
    reference.load_state_dict(net.state_dict())
    x, g = torch.randn(4, 3), torch.randn(4, 2)
    with torch.no_grad():
        y, pull = vjp(with_gradients(net), x)
        pull(g)
    reference(x).backward(g)
    assert not y.requires_grad
    assert_same_gradients(net, reference, {"rtol": 1e-5, "atol": 1e-6})


def test_weights_start_orthogonal_with_the_gains_of_the_paper():
    net = Network(spaces.Box(-1, 1, (6,)), (6, 6), "tanh", 4, head_gain=0.01)
    for layer, gain in zip(
        [*net.encoder.mlp.linears, net.head], [2**0.5, 2**0.5, 0.01], strict=True
    ):
        W = layer.weight.detach()
        torch.testing.assert_close(W @ W.t(), gain**2 * torch.eye(len(W)), rtol=0, atol=1e-5)
        assert not layer.bias.any()


def as_kind(x, kind):
    return x.detach().numpy() if kind == "arrays" else x.detach()


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
@pytest.mark.parametrize("leading", LEADING)
def test_a_categorical_policys_way_back_is_autograds(leading, kind):
    torch.manual_seed(2)
    logits = 3 * torch.randn(*leading, 5).double() + 2000  # whose exponentials overflow
    logits.requires_grad_()
    action = torch.randint(5, leading)
    g_log_prob, g_entropy = torch.randn(2, *leading).double()
    log_prob, entropy, pull = Categorical(5).vjp(as_kind(logits, kind), as_kind(action, kind))
    reference = TorchCategorical(logits=logits)
    assert_equal(log_prob, reference.log_prob(action))
    assert_equal(entropy, reference.entropy())
    for a, b in ((g_log_prob, g_entropy), (g_log_prob, 0 * g_entropy), (0 * g_log_prob, g_entropy)):
        loss = (a * reference.log_prob(action) + b * reference.entropy()).sum()
        (expected,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert_equal(pull(as_kind(a, kind), as_kind(b, kind)), expected)


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
@pytest.mark.parametrize("leading", LEADING)
def test_a_gaussian_policys_way_back_is_autograds(leading, kind):
    torch.manual_seed(3)
    policy = DiagonalGaussian(2).double()
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([0.5, -1.0]))
    mean = torch.randn(*leading, 2).double().requires_grad_()
    action = torch.randn(*leading, 2).double()
    g_log_prob, g_entropy = torch.randn(2, *leading).double()
    log_std = policy.log_std.detach().clone().requires_grad_()
    reference = Independent(Normal(mean, log_std.exp()), 1)
    loss = (g_log_prob * reference.log_prob(action) + g_entropy * reference.entropy()).sum()
    to_mean, to_log_std = torch.autograd.grad(loss, (mean, log_std))
    policy.log_std.grad = torch.ones(2).double()
    log_prob, entropy, pull = policy.vjp(as_kind(mean, kind), as_kind(action, kind))
    assert_equal(log_prob, reference.log_prob(action))
    assert_equal(entropy, reference.entropy())
    assert_equal(pull(as_kind(g_log_prob, kind), as_kind(g_entropy, kind)), to_mean)
    assert_equal(policy.log_std.grad - 1, to_log_std)


def assert_equal(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected.detach().numpy(), rtol=1e-9, atol=1e-10)


def test_policies_are_of_the_kind_of_their_observations():
    for policy in (Categorical(3), DiagonalGaussian(3)):
        head, noise = torch.randn(4, 3), torch.randn(4, 3)
        for found in (policy.sample(head.numpy(), noise.numpy()), policy.mode(head.numpy())):
            assert isinstance(found, np.ndarray)
        assert np.array_equal(
            policy.sample(head.numpy(), noise.numpy()), policy.sample(head, noise)
        )
        assert np.array_equal(policy.mode(head.numpy()), policy.mode(head))


def test_gumbel_noise_samples_the_softmax():
    draws, logits = 100_000, torch.tensor([1.0, -2.0, 0.0, 0.5])
    policy = Categorical(4)
    noise = policy.draw_noise((draws,), torch.Generator().manual_seed(4))
    counts = policy.sample(logits, noise).bincount(minlength=4)
    expected = draws * logits.double().softmax(-1)
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3
    assert policy.mode(logits).item() == 0


def test_normal_noise_samples_mean_and_deviation():
    policy = DiagonalGaussian(2)
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([0.5, -1.0]))
        noise = policy.draw_noise((100_000,), torch.Generator().manual_seed(5))
        sample = policy.sample(torch.tensor([3.0, -4.0]), noise)
    assert sample.mean(0).tolist() == pytest.approx([3.0, -4.0], abs=0.02)
    assert sample.std(0).tolist() == pytest.approx(np.exp([0.5, -1.0]).tolist(), rel=0.02)
    correlation = np.corrcoef(sample.numpy().T)[0, 1]
    assert abs(correlation) < 0.02


def test_policies_fit_their_spaces():
    assert policy_for(spaces.Discrete(3)).outputs == 3
    assert policy_for(spaces.Box(-1, 1, (2,))).outputs == 2
    for space in (spaces.Box(-1, 1, (2, 2)), spaces.Box(-1, 1, (0,)), spaces.MultiBinary(2)):
        with pytest.raises(UsageError, match="no policy for the action space") as refused:
            policy_for(space)
        assert str(space) in str(refused.value)


def test_encodings_by_hand():
    assert OneHot(3)(torch.tensor([[2], [0]])).tolist() == [[[0, 0, 1]], [[1, 0, 0]]]
    pairs = OneHots([2, 3, 2])(torch.tensor([[1, 2, 0], [0, 0, 1]]))
    assert pairs.tolist() == [[0, 1, 0, 0, 1, 1, 0], [1, 0, 1, 0, 0, 0, 1]]
    grid = torch.arange(8, dtype=torch.uint8).view(2, 2, 2)
    assert Flat((2, 2))(grid).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert Flat(())(torch.tensor([5.0, 6.0])).tolist() == [[5], [6]]
    for encoder, x in (
        (OneHot(3), torch.tensor([1])),
        (Flat((2,)), torch.ones(1, 2, dtype=torch.int64)),
    ):
        assert encoder(x).dtype == torch.float32
        assert encoder(x).shape[-1] == encoder.width


@pytest.mark.parametrize("kind", OBS)
def test_encoders_are_as_wide_as_they_say(kind):
    space, draw = OBS[kind]
    encoder = encoder_for(space, (7,), "relu")
    assert encoder.numbers(draw((2, 3))).shape == (2, 3, encoder.numbers.width)
    assert encoder(draw((2, 3))).shape == (2, 3, encoder.width) == (2, 3, 7)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Discrete(10**9), r"Discrete\(1000000000\); allowed: up to 100000"),
        (spaces.Box(-1, 1, (0,)), "is empty"),
        (spaces.Box(0, 255, (84, 84, 3), np.uint8), "no encoder .*FlattenObservation"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "no encoder .*FlattenObservation"),
        (spaces.Text(5), "no encoder"),
    ],
)
def test_spaces_without_an_encoder_are_refused(space, said):
    with pytest.raises(UsageError, match=said) as refused:
        encoder_for(space, (8,), "relu")
    assert "\n" not in str(refused.value)
