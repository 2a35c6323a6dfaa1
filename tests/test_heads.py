"""Heads and noisy layers, against the papers' equations and torch's autograd."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import kstest, norm
from torch import nn

from rlkit.networks.heads import DuelingHead, Head, LinearHead, StreamHead
from rlkit.networks.network import Network
from rlkit.networks.noisy import NoisyLinear, resample
from rlkit.networks.twin import TwinQ
from rlkit.optim import FlatParameters

OBS = spaces.Box(-1, 1, (5,))
HEADS = {
    "linear": (Head(), LinearHead),
    "hidden": (Head(hidden=(6,)), StreamHead),
    "dueling": (Head(dueling=True), DuelingHead),
    "dueling hidden": (Head(dueling=True, hidden=(6, 4)), DuelingHead),
    "noisy": (Head(noisy=True), StreamHead),
    "noisy hidden": (Head(noisy=True, hidden=(6,)), StreamHead),
    "rainbow": (Head(dueling=True, noisy=True, hidden=(6,)), DuelingHead),
}
NOISY = [name for name, (head, _) in HEADS.items() if head.noisy]
LEADING = [(6,), (3, 4), ()]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def network(name, atoms=None, activation="relu", norm="none"):
    """A network with noise in its noisy layers, gradients of 1 and biases that are not 0."""
    torch.manual_seed(0)
    net = Network(OBS, (8, 7), activation, 3, 1.0, atoms=atoms, head=HEADS[name][0], norm=norm)
    net.resample(torch.Generator().manual_seed(1))
    for p in net.parameters():
        if p.ndim == 1:
            nn.init.normal_(p)
        p.grad = torch.ones_like(p)
    return net


def layer_output(layer, x, noise):
    """Fortunato et al. 2018, eq. 9, entry by entry of the noise."""
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(x, layer.weight, layer.bias)
    f_in, f_out = layer.noise_in, layer.noise_out
    W, b = layer.weight, layer.bias
    if noise:
        rows = [torch.stack([f_in[i] * f_out[j] for i in range(len(f_in))]) for j in range(len(b))]
        W, b = W + layer.weight_sigma * torch.stack(rows), b + layer.bias_sigma * f_out
    return x @ W.t() + b


def stream_output(stream, x, noise):
    for layer in stream.linears[:-1]:
        x = torch.relu(layer_output(layer, x, noise))
    return layer_output(stream.linears[-1], x, noise)


def reference(net, obs, atoms, noise):
    """The network out of its parameters by the equations, with a graph."""
    x, head = net.encoder(obs), net.head
    if isinstance(head, LinearHead):
        y = layer_output(head, x, noise)
    elif isinstance(head, StreamHead):
        y = stream_output(head.stream, x, noise)
    else:
        V, A = (stream_output(s, x, noise) for s in (head.value, head.advantage))
        k = atoms or 1
        per_action = [A[..., a * k : (a + 1) * k] for a in range(3)]
        mean = sum(per_action) / 3
        y = torch.cat([V + A_a - mean for A_a in per_action], -1)  # Wang et al. 2016, eq. 9
    return y if atoms is None else y.reshape(*obs.shape[:-1], 3, atoms)


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("atoms", [None, 1, 4])
@pytest.mark.parametrize("name", HEADS)
def test_outputs_and_ways_back_are_the_equations_and_autograds(name, atoms, leading):
    net, like = network(name, atoms), network(name, atoms)
    assert isinstance(net.head, HEADS[name][1])
    obs = torch.randn(*leading, 5)
    expected = reference(like, obs, atoms, noise=True)
    assert expected.shape == (*leading, 3, *([] if atoms is None else [atoms]))
    g = torch.randn(expected.shape)
    expected.backward(g)
    with torch.no_grad():  # as agents' updates run
        y, pull = net.vjp(obs)
        pull(g)
    assert not y.requires_grad
    for found in (y, net(obs).detach(), net.infer(obs), torch.tensor(net.infer(obs.numpy()))):
        torch.testing.assert_close(found, expected.detach(), **CLOSE)
    for (at, p), q in zip(net.named_parameters(), like.parameters(), strict=True):
        assert (q.grad - 1).abs().max() > 1e-6, at
        torch.testing.assert_close(p.grad, q.grad, **CLOSE)


@pytest.mark.parametrize("name", HEADS)
def test_ways_back_on_arrays(name):
    on_arrays, on_tensors = network(name, 2), network(name, 2)
    obs, g = torch.randn(4, 5), torch.randn(4, 3, 2)
    y, pull = on_arrays.vjp(obs.numpy())
    pull(g.numpy())
    assert isinstance(y, np.ndarray)
    on_tensors.vjp(obs)[1](g)
    for p, q in zip(on_arrays.parameters(), on_tensors.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, **CLOSE)


@pytest.mark.parametrize(("activation", "norm"), [("silu", "none"), ("relu", "layer")])
@pytest.mark.parametrize("name", ["linear", "rainbow"])
def test_heads_stand_on_every_encoder(name, activation, norm):
    net, like = (network(name, 2, activation, norm) for _ in range(2))
    assert len(net.encoder.mlp.norms) == (2 if norm == "layer" else 0)
    obs, g = torch.randn(4, 5), torch.randn(4, 3, 2)
    like(obs).backward(g)
    net.vjp(obs)[1](g)
    for p, q in zip(net.parameters(), like.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, **CLOSE)


def test_the_mean_advantage_is_zero():
    """What makes V and A identifiable: the mean of Q over the actions is V."""
    net = network("dueling hidden", 4)
    obs = torch.randn(6, 5)
    V = net.head.value(net.encoder(obs), noise=False)
    torch.testing.assert_close(net(obs).mean(-2), V, **CLOSE)


@pytest.mark.parametrize("name", HEADS)
def test_without_noise_noisy_layers_are_their_means_and_draw_nothing(name):
    net, obs = network(name, 2), torch.randn(4, 5)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    everywhere = torch.get_rng_state()
    mean = reference(net, obs, 2, noise=False).detach()
    torch.testing.assert_close(net.infer(obs, noise=False), mean, **CLOSE)
    torch.testing.assert_close(net(obs, noise=False).detach(), mean, **CLOSE)
    assert torch.equal(net.infer(obs), mean) == (name not in NOISY)
    assert torch.equal(torch.get_rng_state(), everywhere)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", HEADS)
def test_noise_comes_from_the_generator_alone(name):
    one, other, obs = network(name), network(name), torch.randn(4, 5)
    everywhere, g = torch.get_rng_state(), torch.Generator().manual_seed(7)
    start = g.get_state()
    first = one.infer(obs)
    one.resample(g)
    assert torch.equal(torch.get_rng_state(), everywhere)
    assert torch.equal(g.get_state(), start) == (name not in NOISY)
    assert torch.equal(one.infer(obs), first) == (name not in NOISY)
    other.resample(torch.Generator().manual_seed(7))
    assert torch.equal(one.infer(obs), other.infer(obs))


def test_the_state_holds_the_noise_and_the_parameters_do_not():
    net, obs = network("rainbow"), torch.randn(4, 5)
    resumed = Network(OBS, (8, 7), "relu", 3, 1.0, head=HEADS["rainbow"][0])
    resumed.load_state_dict(net.state_dict())
    assert torch.equal(resumed.infer(obs), net.infer(obs))
    target = copy.deepcopy(net)
    target.resample(torch.Generator().manual_seed(9))
    noise = target.head.value.linears[0].noise_in.clone()
    FlatParameters(target).values.copy_(FlatParameters(net).values)
    assert torch.equal(target.head.value.linears[0].noise_in, noise)
    assert torch.equal(target.infer(obs, noise=False), net.infer(obs, noise=False))


def test_a_networks_state_holds_nothing_twice():
    names = list(network("linear").state_dict())
    assert names == [
        *(f"encoder.mlp.linears.{i}.{which}" for i in (0, 1) for which in ("weight", "bias")),
        "head.weight",
        "head.bias",
    ]


def test_noise_is_signed_roots_of_normals_and_its_own_for_each_layer():
    layers = [NoisyLinear(4000, 3000), NoisyLinear(3000, 4000)]
    assert not any(layer.noise_in.any() or layer.noise_out.any() for layer in layers)
    resample(layers, torch.Generator().manual_seed(3))
    vectors = [noise for layer in layers for noise in (layer.noise_in, layer.noise_out)]
    for noise in vectors:
        x = (noise.sign() * noise * noise).numpy()  # f is undone
        assert kstest(x, norm.cdf).pvalue > 1e-3
    for i, one in enumerate(vectors):
        for other in vectors[:i]:
            n = min(len(one), len(other))
            assert abs(np.corrcoef(one[:n].numpy(), other[:n].numpy())[0, 1]) < 0.08


def test_noisy_layers_start_as_in_the_paper():
    """μ uniform within ±1/√p and σ = 0.5/√p, of p inputs (Fortunato et al. 2018, §3.2)."""
    torch.manual_seed(5)
    layer = NoisyLinear(16, 4000)
    for mean in (layer.weight, layer.bias):
        scaled = mean.detach().flatten().numpy() * 4
        assert kstest(scaled, "uniform", args=(-1, 2)).pvalue > 1e-3
    for sigma in (layer.weight_sigma, layer.bias_sigma):
        assert (sigma == 0.125).all()


def test_plain_streams_start_orthogonal():
    torch.manual_seed(6)
    net = Network(OBS, (4,), "relu", 4, 0.01, head=Head(dueling=True, hidden=(4,)))
    for stream in (net.head.value, net.head.advantage):
        for layer, gain in zip(stream.linears, (2**0.5, 0.01), strict=True):
            W = layer.weight.detach()
            torch.testing.assert_close(W @ W.t(), gain**2 * torch.eye(len(W)), rtol=0, atol=1e-5)
            assert not layer.bias.any()


@pytest.mark.parametrize("name", ["hidden", "rainbow"])
def test_streams_gate_with_glu(name):
    net = network(name, activation="glu")
    features = torch.randn(4, 7)
    stream = net.head.stream if name == "hidden" else net.head.value
    first, last = stream.linears
    h = layer_output(first, features, True)
    expected = layer_output(last, h[:, :6] * torch.sigmoid(h[:, 6:]), True)
    torch.testing.assert_close(stream(features, True), expected, **CLOSE)
    assert net(torch.randn(4, 5)).shape == (4, 3)


def test_twin_critics_gate_with_glu():
    torch.manual_seed(0)
    critics = TwinQ(OBS, 2, (6, 4), "glu")
    obs, action = torch.randn(3, 5), torch.randn(3, 2)
    for i, q in enumerate(critics(obs, action)):
        (W1, W2, W3), h = [W[i] for W in critics.weights], torch.cat([obs, action], -1)
        h = nn.functional.glu(h @ W1)
        h = nn.functional.glu(h @ W2)
        torch.testing.assert_close(q, (h @ W3)[:, 0], **CLOSE)
