"""Networks and their ways back, against torch's autograd and torch.distributions."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlkit.errors import UsageError
from rlkit.networks.encoder import encoder_for
from rlkit.networks.mlp import ACTIVATIONS, MLP, NORMS
from rlkit.networks.network import Network
from rlkit.networks.normalize import obs_normalizer
from rlkit.networks.numbers import Flat, OneHot, OneHots
from rlkit.networks.vjp import vjp

TORCH = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "glu": nn.GLU,
    "leaky-relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}
LEADING = [(6,), (3, 4)]


def plain(mlp, activation, head=None):
    """The same network out of torch's own layers, with the same weights."""
    layers = [layer for group in zip_parts(mlp) for layer in (*group, TORCH[activation]())]
    copies = nn.Sequential(*layers, *([head] if head else []))
    made = nn.Sequential(
        *(
            nn.Linear(m.in_features, m.out_features)
            if isinstance(m, nn.Linear)
            else nn.LayerNorm(m.normalized_shape)
            if isinstance(m, nn.LayerNorm)
            else type(m)()
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


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("hidden", [(8,), (8, 5), (4, 6, 7)])
@pytest.mark.parametrize("activation", TORCH)
def test_the_mlps_way_back_is_autograds(activation, hidden, leading, norm):
    torch.manual_seed(0)
    mlp = with_gradients(MLP(5, hidden, activation, norm).double())
    for vector in (p for p in mlp.parameters() if p.ndim == 1):
        nn.init.normal_(vector)  # so that ReLUs stand on either side, and norms scale and shift
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
    in_order = nn.ModuleList(part for group in zip_parts(mlp) for part in group)
    assert_same_gradients(in_order, reference, close)


def zip_parts(mlp):
    """Its linear layers, each with its norm if there is one."""
    return zip(mlp.linears, mlp.norms, strict=True) if mlp.norms else zip(mlp.linears)


@pytest.mark.parametrize("leading", LEADING)
def test_an_mlp_without_layers_hands_its_input_on(leading):
    mlp, x = MLP(5, (), "relu", "layer"), torch.randn(*leading, 5)
    y, pull = vjp(mlp, x)
    pull(torch.ones_like(x))
    assert torch.equal(y, x)
    assert torch.equal(mlp(x), x)
    assert mlp.width == 5


def test_an_unknown_norm_is_refused():
    with pytest.raises(UsageError, match=r"unknown norm 'layers'; did you mean layer\?"):
        MLP(5, (8,), "relu", "layers")


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
    encoder = encoder_for(space, hidden=(7,), activation="relu")
    assert encoder.numbers(draw((2, 3))).shape == (2, 3, encoder.numbers.width)
    assert encoder(draw((2, 3))).shape == (2, 3, encoder.width) == (2, 3, 7)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (spaces.Discrete(10**9), r"Discrete\(1000000000\); allowed: up to 100000 "),
        (spaces.Box(-1, 1, (0,)), "is empty"),
        (spaces.Dict({"a": spaces.Box(-1, 1, (0,))}), "is empty"),
        (spaces.Sequence(spaces.Discrete(2)), "no encoder .*Text, and for Dict and Tuple"),
    ],
)
def test_spaces_without_an_encoder_are_refused(space, said):
    with pytest.raises(UsageError, match=said) as refused:
        encoder_for(space, hidden=(8,), activation="relu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["cnn", "impala"])
def test_stacked_images_are_channels_to_an_encoder_of_images(name):
    stack = spaces.Box(0, 255, (3, 12, 10, 2), np.uint8)
    torch.manual_seed(0)
    encoder = encoder_for(stack, name, (8,))
    torch.manual_seed(0)
    folded = encoder_for(spaces.Box(0, 255, (12, 10, 6), np.uint8), name, (8,))
    x = torch.randint(0, 256, (5, 3, 12, 10, 2), dtype=torch.uint8)
    side_by_side = torch.cat([x[:, k] for k in range(3)], -1)
    torch.testing.assert_close(encoder(x), folded(side_by_side))


def test_what_is_normalised_is_not_scaled_again():
    space = spaces.Box(0, 255, (6, 6, 1), np.float32)
    seen = obs_normalizer(space, True)
    seen.include(torch.rand(100, 6, 6, 1) * 255)
    x = seen.forward(torch.rand(50, 6, 6, 1) * 255)
    images = encoder_for(seen.space).numbers.images
    torch.testing.assert_close(images(x).flatten(), x.flatten())
    assert float(x.std()) == pytest.approx(1, rel=0.1)
