"""Activations and how weights start, against the papers' equations."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn

from rlkit import registry
from rlkit.agent import Setting
from rlkit.errors import UsageError
from rlkit.networks.activations import ACTIVATIONS, Activation, before
from rlkit.networks.cnn import Cnn
from rlkit.networks.encoder import encoder_for
from rlkit.networks.initialization import INITS, gain_before, initialize, orthogonal
from rlkit.networks.mlp import MLP
from rlkit.networks.twin import TwinQ
from rlkit.recipe import options

LAYERS = {
    "linear": lambda: nn.Linear(300, 200),
    "window": lambda: nn.Conv1d(60, 40, 5),
    "image": lambda: nn.Conv2d(33, 40, 3),
    "clip": lambda: nn.Conv3d(11, 40, 3),
}


def fans(weight):
    """(in, out): how many numbers each output sums, and how many outputs each input reaches."""
    kernel = math.prod(weight.shape[2:])
    return weight.shape[1] * kernel, weight.shape[0] * kernel


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("init", INITS)
def test_weights_start_as_in_their_paper_with_zero_bias(init, kind):
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    assert initialize(layer, init, 1.5) is layer
    assert not layer.bias.any()
    W = layer.weight.detach().flatten(1)
    fan_in, fan_out = fans(layer.weight)
    if init == "orthogonal":  # Saxe et al. 2014
        torch.testing.assert_close(W @ W.t(), 1.5**2 * torch.eye(len(W)), rtol=0, atol=1e-4)
    elif init == "kaiming":  # He et al. 2015, eq. 10, with gain² for 2
        assert W.std().item() == pytest.approx(1.5 / math.sqrt(fan_in), rel=0.03)
        assert (W.abs() > 2 * W.std()).float().mean().item() == pytest.approx(0.0455, abs=0.005)
    else:  # Glorot & Bengio 2010, eq. 16
        bound = 1.5 * math.sqrt(6 / (fan_in + fan_out))
        assert 0.999 * bound < W.abs().max() <= bound
        assert W.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_layers_without_bias_and_unknown_names():
    initialize(nn.Linear(3, 2, bias=False), "xavier", 1.0)
    with pytest.raises(UsageError, match=r"unknown initialization 'xaver'; did you mean xavier\?"):
        initialize(nn.Linear(3, 2), "xaver", 1.0)
    with pytest.raises(UsageError, match="unknown initialization 'ones'"):
        MLP(3, (2,), "tanh", init="ones")


def test_gains():
    assert gain_before("tanh", "xavier") == pytest.approx(5 / 3)
    assert gain_before("sigmoid", "kaiming") == 1
    for activation in ACTIVATIONS:
        assert gain_before(activation) == 2**0.5


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"sigmoid", "tanh"}))
def test_gains_keep_the_mean_square(activation):
    gain = gain_before(activation, "kaiming")

    def mean_square(f):
        def integrand(z):
            return f(torch.tensor([gain * z], dtype=torch.float64)).item() ** 2 * norm.pdf(z)

        return quad(integrand, -12, 0)[0] + quad(integrand, 0, 12)[0]

    kept = mean_square(torch.sigmoid) * gain**2 if activation == "glu" else None
    assert (kept or mean_square(ACTIVATIONS[activation])) == pytest.approx(1, abs=2e-3)
    torch.manual_seed(0)
    deep = MLP(256, [256] * 12, activation, init="kaiming")
    assert 0.1 < deep(torch.randn(64, 256)).square().mean() < 10


@pytest.mark.parametrize("init", INITS)
def test_networks_start_as_they_are_told(init):
    torch.manual_seed(3)
    mlp = MLP(40, (30,), "tanh", init=init)
    torch.manual_seed(3)
    expected = initialize(nn.Linear(40, 30), init, gain_before("tanh", init))
    assert torch.equal(mlp.linears[0].weight, expected.weight)
    torch.manual_seed(3)
    cnn = Cnn((4, 4, 3), (5,), activation="tanh", init=init)
    torch.manual_seed(3)
    conv = initialize(nn.Conv2d(3, 5, 3), init, gain_before("tanh", init))
    assert torch.equal(cnn.layers[0].weight, conv.weight)


def test_orthogonal_is_the_default():
    torch.manual_seed(3)
    mlp = MLP(4, (3,), "tanh")
    torch.manual_seed(3)
    assert torch.equal(mlp.linears[0].weight, orthogonal(nn.Linear(4, 3), 2**0.5).weight)


def test_activations_by_hand():
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    σ = torch.sigmoid
    assert torch.equal(ACTIVATIONS["glu"](x), x[:, :2] * σ(x[:, 2:]))
    assert torch.equal(ACTIVATIONS["swish"](x), ACTIVATIONS["silu"](x))
    torch.testing.assert_close(ACTIVATIONS["silu"](x), x * σ(x))
    torch.testing.assert_close(ACTIVATIONS["mish"](x), x * torch.tanh(torch.log1p(x.exp())))
    torch.testing.assert_close(ACTIVATIONS["leaky-relu"](x), torch.where(x > 0, x, 0.01 * x))
    planes = torch.randn(2, 4, 3, 3)
    gated = Activation("glu")(planes)
    assert torch.equal(gated, planes[:, :2] * σ(planes[:, 2:]))
    for name, f in ACTIVATIONS.items():
        assert before(name, 6) == (12 if name == "glu" else 6)
        assert Activation(name)(x.clone()).shape == f(x).shape == (1, 2 if name == "glu" else 4)
        assert torch.equal(Activation(name)(x.clone()), f(x))
    with pytest.raises(UsageError, match=r"unknown activation 'tan'; did you mean tanh\?"):
        Activation("tan")


LEVERS = spaces.Discrete(2)
TURNS = spaces.Box(-1, 1, (1,), np.float32)
AGENTS = {**dict.fromkeys(("a2c", "dqn", "ppo", "pqn", "r2d2"), LEVERS), "sac": TURNS}
TORCHS = {  # before ReLU
    "kaiming": lambda W: nn.init.kaiming_normal_(W, nonlinearity="relu"),
    "orthogonal": lambda W: nn.init.orthogonal_(W, 2**0.5),
    "xavier": lambda W: nn.init.xavier_uniform_(W, 2**0.5),
}
VECTOR = spaces.Box(-1, 1, (5,), np.float32)
IMAGES = spaces.Box(0, 255, (9, 9, 2), np.uint8)


def agent_with(name, obs=VECTOR, **recipe):
    kind = registry.load(registry.AGENTS[name].target)
    setting = Setting(obs, AGENTS[name], 2, torch.device("cpu"), seed=0)
    sizes = {"hidden": (8, 6), "activation": "relu"}
    sizes |= {"n_steps": 4} if hasattr(kind.recipe_type(), "epochs") else {}
    torch.manual_seed(0)
    return kind(setting, kind.recipe_type(**sizes, **recipe))


def first(agent, kind):
    return next(m.weight for m in agent.modules() if type(m) is kind)


@pytest.mark.parametrize("recipe", [{}, *({"init": name} for name in INITS)])
@pytest.mark.parametrize("name", AGENTS)
def test_agents_hidden_layers_start_by_torchs_own_initialisers(name, recipe):
    agent = agent_with(name, **recipe)
    torch.manual_seed(0)
    expected = nn.Linear(5, 8)
    TORCHS[recipe.get("init", "orthogonal")](expected.weight)
    torch.testing.assert_close(first(agent, nn.Linear), expected.weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", AGENTS)
def test_agents_convolutions_start_by_torchs_own_initialisers(name, init):
    agent = agent_with(name, IMAGES, encoder="cnn", init=init)
    torch.manual_seed(0)
    expected = nn.Conv2d(2, 16, 3)
    TORCHS[init](expected.weight)
    torch.testing.assert_close(first(agent, nn.Conv2d), expected.weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("stack", [(), (4,)])
@pytest.mark.parametrize("encoder", ["nature", "impala", "cnn", "auto"])
def test_every_trunk_and_every_part_takes_the_initialisation(encoder, stack):
    shape = (*stack, 40, 40, 3)
    space = spaces.Dict({"seen": spaces.Box(0, 255, shape, np.uint8), "felt": VECTOR})
    torch.manual_seed(0)
    net = encoder_for(space, encoder, (8,), "relu", init="xavier")
    weights = [m.weight for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d, nn.Linear))]
    assert len(weights) > 2
    for W in weights:  # orthogonal rows have one norm; uniform entries have one bound
        assert W.abs().max() <= 2**0.5 * math.sqrt(6 / sum(fans(W)))
        norms = W.flatten(1).norm(dim=1)
        assert norms.std() > 1e-3 * norms.mean()


def test_policies_start_near_uniform_whatever_the_initialisation():
    for name in ("a2c", "ppo"):
        heads = [agent_with(name, init=init).ac.nets.actor.head for init in INITS]
        for head in heads:
            W = head.weight.detach()
            torch.testing.assert_close(W @ W.t(), 1e-4 * torch.eye(2), rtol=1e-4, atol=1e-9)


def test_the_heads_own_hidden_layers_take_the_initialisation():
    sizes = {"head_hidden": (7,), "dueling": False, "core": "gru", "core_width": 4}
    agents = agent_with("r2d2", init="xavier", **sizes), agent_with("r2d2", **sizes)
    ours, orthogonals = (a.online.head.stream.linears[0].weight.detach() for a in agents)
    bound = 2**0.5 * math.sqrt(6 / (4 + 7))
    assert 0.7 * bound < ours.abs().max() <= bound
    torch.testing.assert_close(orthogonals.t() @ orthogonals, 2 * torch.eye(4))


@pytest.mark.parametrize("init", INITS)
def test_twin_critics_tell_inputs_from_outputs(init):
    torch.manual_seed(0)
    critics = TwinQ(VECTOR, 395, (50,), "relu", init=init)
    W = critics.weights[0].detach()  # (2, 400, 50)
    assert not torch.allclose(W[0], W[1])
    for each in W:
        if init == "orthogonal":
            torch.testing.assert_close(each.t() @ each, 2 * torch.eye(50), rtol=0, atol=1e-4)
        else:
            fan = 400 if init == "kaiming" else (400 + 50) / 2
            assert each.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.03)
    last = critics.weights[1].detach()
    torch.testing.assert_close(last.transpose(1, 2) @ last, torch.ones(2, 1, 1))


@pytest.mark.parametrize("name", AGENTS)
def test_recipes_offer_each_initialisation_and_refuse_others(name):
    recipe_type = registry.load(registry.AGENTS[name].target).recipe_type
    (about,) = (option for option in options(recipe_type) if option.name == "init")
    assert set(about.choices) == set(INITS)
    assert recipe_type().init == "orthogonal"
    with pytest.raises(UsageError, match=r"init \(--init\) is 'xaver'; .*kaiming.*xavier"):
        recipe_type(init="xaver")
