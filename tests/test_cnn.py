"""Convolutional trunks, against the papers' sizes, torch's functions and finite differences."""

import copy
import io
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from rlkit.errors import RlkitWarning, UsageError
from rlkit.networks.cnn import Cnn, Impala, conv1d, nature, small, trunk_for
from rlkit.networks.convs import NORMS, warn_of_batch_norm
from rlkit.networks.images import Images, image_layout

BYTE = torch.uint8
LEADING = [(), (3,), (2, 3), (2, 1, 2)]
TEXTBOOK = {"pool": ("max", "avg"), "activation": "mish"}

# name → how to make it, and the shape and dtype of its observations
TRUNKS = {
    "nature": (nature, (36, 40, 4), BYTE),
    "nature, channels first": (nature, (4, 36, 40), BYTE),
    "nature, grey": (nature, (36, 40), BYTE),
    "impala": (Impala, (12, 9, 3), BYTE),
    "small": (small, (10, 10, 6), torch.float32),
    "small, bits": (small, (5, 7, 2), torch.bool),
    "window": (conv1d, (7, 3), torch.float32),
    "clip": (small, (4, 8, 9, 3), BYTE),
    "clip, channels first": (small, (4, 3, 8, 9), BYTE),
    "textbook": (lambda s: Cnn(s, (4, 6), norm="group", hidden=(5,), **TEXTBOOK), (8, 9, 3), BYTE),
    "batch": (lambda s: Cnn(s, (4, 6), norm="batch", **TEXTBOOK), (8, 9, 3), BYTE),
    "residual": (lambda s: Cnn(s, (4, 4), residual=True, **TEXTBOOK), (8, 9, 3), BYTE),
    "gated": (lambda s: Cnn(s, (4, 6), activation="glu", hidden=(5,), classes=2), (6, 6, 3), BYTE),
    "spectral": (lambda s: Cnn(s, (4, 6), spectral=True, hidden=(5,)), (6, 6, 3), BYTE),
    "dropout": (lambda s: Cnn(s, (4,), dropout=0.5, hidden=(5,)), (6, 6, 3), BYTE),
}


def made(name):
    torch.manual_seed(0)
    make, shape, dtype = TRUNKS[name]
    return make(shape).eval(), shape, dtype


def drawn(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator, dtype=dtype)
    top = 2 if dtype == torch.bool else 256
    return torch.randint(top, shape, generator=generator).to(dtype)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def images_of(x):
    """(N, H, W, C) bytes as torch's convolutions take them."""
    return x.movedim(-1, 1).float() / 255


# Shapes


@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("name", TRUNKS)
def test_any_leading_axes_give_each_observation_its_own_features(name, leading):
    trunk, shape, dtype = made(name)
    x = drawn((*leading, *shape), dtype)
    before = x.clone()
    with torch.no_grad():
        y = trunk(x)
        each = {index: trunk(x[index]) for index in itertools.product(*map(range, leading))}
    assert y.shape == (*leading, trunk.width)
    assert y.dtype == torch.float32
    assert torch.equal(x, before)
    for index, alone in each.items():
        torch.testing.assert_close(y[index], alone, rtol=1e-4, atol=1e-5)
    assert y.std() > 1e-3


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((84, 84), "HW"),
        ((84, 84, 1), "HWC"),
        ((84, 84, 4), "HWC"),
        ((4, 84, 84), "CHW"),
        ((1, 84, 84), "CHW"),
        ((10, 10, 7), "HWC"),  # MinAtar
        ((7, 10, 10), "CHW"),
        ((7, 7, 21), "HWC"),  # MiniGrid's cells, one-hot
        ((21, 7, 7), "CHW"),
        ((10, 10, 10), "HWC"),
        ((3, 5, 4), "HWC"),
        ((210, 160, 3), "HWC"),
        ((12, 64, 64), "CHW"),
        ((16, 84, 84, 3), "THWC"),
        ((16, 3, 84, 84), "TCHW"),
    ],
)
def test_layouts_by_their_shape(shape, layout):
    images = Images(shape)
    assert image_layout(shape) == images.layout == layout
    sides = dict(zip(layout, shape, strict=True))
    assert images.channels == sides.get("C", 1)
    assert images.size == tuple(sides[letter] for letter in layout if letter != "C")


def test_a_layout_can_be_said():
    x = drawn((2, 3, 5, 4), torch.float32)
    assert torch.equal(Images((3, 5, 4), "CHW")(x), x)
    assert torch.equal(Images((3, 5, 4))(x), x.movedim(-1, 1))
    with pytest.raises(UsageError, match=r"unknown layout 'HCW'; did you mean"):
        Images((3, 5, 4), "HCW")
    with pytest.raises(UsageError, match=r"layout 'HW' does not fit observations .*\(3, 5, 4\)"):
        Images((3, 5, 4), "HW")
    with pytest.raises(UsageError, match=r"shape \(5,\) are no images"):
        Images((5,))


@pytest.mark.parametrize(
    ("last", "first"), [((36, 40, 4), (4, 36, 40)), ((3, 12, 13, 2), (3, 2, 12, 13))]
)
def test_layouts_and_memory_formats_are_equal_but_for_their_order(last, first):
    torch.manual_seed(0)
    x = drawn((2, 3, *last), BYTE)
    features = []
    for shape, given in ((last, x), (first, x.movedim(-1, -3))):
        for channels_last in (True, False):
            images = Images(shape, channels_last=channels_last)
            trunk = small(images)
            torch.manual_seed(1)
            for p in trunk.parameters():
                nn.init.normal_(p, std=0.1)
            features.append(trunk(given))
            planes = images(given)
            assert planes.is_contiguous() is not channels_last
    for other in features[1:]:
        torch.testing.assert_close(other, features[0], rtol=1e-4, atol=1e-5)


# Scales


def test_bytes_are_the_same_image_as_floats_from_0_to_1():
    trunk, shape, _ = made("nature")
    x = drawn((3, *shape), BYTE)
    torch.testing.assert_close(trunk(x), trunk(x.float() / 255), rtol=1e-4, atol=1e-5)
    for box, given in (
        (spaces.Box(0, 255, shape, np.uint8), x),
        (spaces.Box(0, 255, shape), x.float()),
        (spaces.Box(0, 1, shape), x.float() / 255),
        (spaces.Box(-1, 1, shape), x.float() / 255 * 2 - 1),
        (spaces.Box(0, 255, shape, np.int64), x.long()),
    ):
        again = trunk_for(box, "nature")
        again.load_state_dict(trunk.state_dict())
        torch.testing.assert_close(again(given), trunk(x), rtol=1e-4, atol=1e-5)


def test_scales_by_hand():
    x = torch.tensor([[[-2.0, 0.0], [4.0, 1.0]]])  # (1, H, W)
    low, high = np.array([[-2, 0], [0, 1]]), np.array([[2, 4], [8, 1]])
    assert Images((2, 2), bounds=(low, high))(x).tolist() == [[[[0, 0], [0.5, 0]]]]
    by_channel = Images((1, 2, 2), "HWC", bounds=([[[-2, 0]]], [[[6, 1]]]))
    assert by_channel(x[:, None]).tolist() == [[[[0, 0.75]], [[0, 1]]]]
    for open_ended in (np.inf, 3.4e38):
        for bounds in ((low, open_ended), (-open_ended, high)):
            assert torch.equal(Images((2, 2), bounds=bounds)(x)[0], x)
    assert torch.equal(Images((2, 2))(x)[0], x)
    assert Images((1, 2))(torch.tensor([[[51, 255]]], dtype=BYTE)).allclose(torch.tensor([0.2, 1]))
    bits = Images((1, 2), bounds=(0, 1))(torch.tensor([[[0, 1]]], dtype=BYTE))
    assert bits.tolist() == [[[[0, 1]]]]


def test_windows_keep_their_units_unless_they_are_integers():
    x = torch.tensor([[[2.0], [-1.0]]])
    window = trunk_for(spaces.Box(-2, 2, (2, 1)))
    assert window.images(x).tolist() == [[[2, -1]]]
    counts = trunk_for(spaces.Box(0, 4, (2, 1), np.int32))
    assert counts.images(torch.tensor([[[4], [2]]])).tolist() == [[[1, 0.5]]]


# Sizes as published


def test_the_worked_example_of_a_classifier_has_its_parameters():
    net = Cnn(
        (48, 48, 3),
        (32, 64, 128),
        pool=(None, "max", "max"),
        hidden=(512,),
        dropout=0.5,
        classes=10,
    )
    layers = [layer for layer in net.layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert [count(layer) for layer in layers] == [896, 18_496, 73_856, 9_437_696, 5130]
    assert count(net) == 9_536_074
    assert [layer.p for layer in net.layers if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    assert net(drawn((2, 48, 48, 3), BYTE)).shape == (2, 10)
    W = layers[-1].weight.detach()  # no activation follows: gain 1
    torch.testing.assert_close(W @ W.t(), torch.eye(10), rtol=0, atol=1e-5)


def test_nature_is_as_large_as_in_the_paper():
    trunk = nature((84, 84, 4))
    assert trunk.width == 7 * 7 * 64
    assert count(trunk) == 4 * 64 * 32 + 32 + 32 * 16 * 64 + 64 + 64 * 9 * 64 + 64
    assert count(trunk, nn.Linear(trunk.width, 512)) == 1_684_128


def test_impala_is_as_large_as_published():
    """626,256 parameters on Procgen's 64×64 RGB images, with 15 actions and a value."""
    trunk = Impala((64, 64, 3))
    assert trunk.width == 2048
    assert count(trunk, nn.Linear(2048, 256), nn.Linear(256, 15), nn.Linear(256, 1)) == 626_256
    convs = [m for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 15  # the paper's 15 convolutional layers


# Arithmetic


def gradients_of(y, parameters):
    torch.manual_seed(9)
    return torch.autograd.grad((y * torch.randn(y.shape)).sum(), list(parameters))


def assert_same(trunk, y, reference):
    torch.testing.assert_close(y, reference, rtol=1e-4, atol=1e-5)
    ours, theirs = (gradients_of(out, trunk.parameters()) for out in (y, reference))
    for g, h in zip(ours, theirs, strict=True):
        assert h.abs().max() > 1e-6
        torch.testing.assert_close(g, h, rtol=1e-3, atol=1e-4)


def with_biases(trunk):
    for name, p in trunk.named_parameters():
        if p.ndim == 1:
            nn.init.normal_(p, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return trunk


def test_natures_equations():
    torch.manual_seed(0)
    trunk = with_biases(nature((44, 36, 2)))
    x = drawn((3, 44, 36, 2), BYTE)
    p = list(trunk.parameters())
    h = F.relu(F.conv2d(images_of(x), p[0], p[1], stride=4))
    h = F.relu(F.conv2d(h, p[2], p[3], stride=2))
    h = F.relu(F.conv2d(h, p[4], p[5]))
    assert_same(trunk, trunk(x), h.flatten(1))


def test_impalas_equations():
    torch.manual_seed(0)
    trunk = with_biases(Impala((10, 9, 2), (3, 5)))
    x = drawn((3, 10, 9, 2), BYTE)
    p = iter(trunk.parameters())

    def conv(h):
        return F.conv2d(h, next(p), next(p), padding=1)

    h = images_of(x)
    for _ in range(2):
        h = F.max_pool2d(conv(h), 3, 2, 1)
        for _ in range(2):
            h = h + conv(F.relu(conv(F.relu(h))))
    assert_same(trunk, trunk(x), F.relu(h).flatten(1))


NORM_FUNCTIONS = {
    None: lambda h, w, b: h,
    "batch": lambda h, w, b: F.batch_norm(h, None, None, w, b, training=True),
    "layer": lambda h, w, b: F.group_norm(h, 1, w, b),
    "instance": lambda h, w, b: F.instance_norm(h, weight=w, bias=b),
    "group": lambda h, w, b: F.group_norm(h, math.gcd(8, h.shape[1]), w, b),
}


def test_every_norm_is_tested():
    assert set(NORM_FUNCTIONS) == {None, *NORMS}


@pytest.mark.parametrize("norm", NORM_FUNCTIONS)
def test_a_layer_is_convolution_norm_activation_and_pooling(norm):
    torch.manual_seed(0)
    channels = (6, 12)
    trunk = Cnn((9, 12, 2), channels, (3, 5), stride=(1, (2, 1)), padding=((0, 1), 2), norm=norm,
                pool=("max", "avg"), activation="silu", hidden=(4,), classes=3)  # fmt: skip
    trunk = with_biases(trunk.train())
    x = drawn((4, 9, 12, 2), BYTE)
    p = iter(trunk.parameters())
    h = images_of(x)
    for stride, padding, pool in ((1, (0, 1), F.max_pool2d), ((2, 1), 2, F.avg_pool2d)):
        h = F.conv2d(h, next(p), next(p) if norm is None else None, stride, padding)
        scale, shift = (None, None) if norm is None else (next(p), next(p))
        h = pool(F.silu(NORM_FUNCTIONS[norm](h, scale, shift)), 2)
    h = F.silu(F.linear(h.flatten(1), next(p), next(p)))
    h = F.linear(h, next(p), next(p))
    assert next(p, None) is None
    assert_same(trunk, trunk(x), h)


def test_a_residual_layer_is_a_basic_block():
    torch.manual_seed(0)
    trunk = Cnn((8, 8, 2), (4, 4), stride=(2, 1), residual=True, norm="layer", activation="tanh")
    trunk, x = with_biases(trunk), drawn((3, 8, 8, 2), BYTE)
    p = dict(trunk.named_parameters())

    def normed(h, name, stride=1):
        W = p[f"layers.{name}.weight"]
        h = F.conv2d(h, W, None, stride, W.shape[-1] // 2)
        head, _, last = name.rpartition(".")
        after = f"layers.{head}.{int(last) + 1}"
        return F.group_norm(h, 1, p[f"{after}.weight"], p[f"{after}.bias"])

    h = images_of(x)
    first = torch.tanh(normed(h, "0.residual.0", 2))
    h = torch.tanh(normed(first, "0.residual.3") + normed(h, "0.shortcut.0", 2))
    h = torch.tanh(normed(torch.tanh(normed(h, "1.residual.0")), "1.residual.3") + h)
    assert not list(trunk.layers[1].shortcut.parameters())
    assert_same(trunk, trunk(x), h.flatten(1))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda s: Cnn(s, (3, 3), norm="layer", residual=True, **TEXTBOOK), (4, 5, 2)),
        (lambda s: Cnn(s, (2,), activation="glu", hidden=(3,), classes=2), (3, 3, 2)),
        (lambda s: Cnn(Images(s, "TF"), (3, 2), activation="tanh"), (5, 2)),
        (lambda s: Cnn(s, (2, 2), activation="gelu", pool="avg", norm="group"), (4, 4, 4, 1)),
    ],
)
def test_gradients_are_finite_differences(make, shape):
    torch.manual_seed(0)
    trunk = make(shape).double()
    names = [name for name, _ in trunk.named_parameters()]
    x = drawn((2, *shape), torch.float64)

    def f(*values):
        return torch.func.functional_call(trunk, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(f, tuple(trunk.parameters()))


# State


@pytest.mark.parametrize("name", TRUNKS)
def test_saved_weights_give_the_same_features(name):
    trunk, shape, dtype = made(name)
    x = drawn((3, *shape), dtype)
    trunk.train()(x)  # statistics and singular vectors move
    trunk.eval()
    make = TRUNKS[name][0]
    again = make(shape).eval()
    assert not torch.equal(again(x), trunk(x))
    again.load_state_dict(trunk.state_dict())
    assert torch.equal(again(x), trunk(x))
    assert torch.equal(copy.deepcopy(trunk)(x), trunk(x))


@pytest.mark.parametrize("name", TRUNKS)
def test_forward_changes_nothing_and_draws_nothing(name):
    trunk, shape, dtype = made(name)
    for training in (False, True):
        trunk.train(training)
        state = {key: value.clone() for key, value in trunk.state_dict().items()}
        rng = torch.get_rng_state()
        trunk(drawn((4, *shape), dtype))
        changed = [key for key, value in trunk.state_dict().items() if not value.equal(state[key])]
        assert bool(changed) is (training and name in ("batch", "spectral")), changed
        drew = not torch.equal(rng, torch.get_rng_state())
        assert drew is (training and name == "dropout")


def test_dropout_drops_features_and_hidden_units_alike():
    torch.manual_seed(0)
    trunk = Cnn((30, 30, 1), (8,), dropout=0.25)
    x = drawn((4, 30, 30, 1), BYTE)
    kept, dropped = trunk.eval()(x), trunk.train()(x)
    gone = (dropped == 0) & (kept != 0)
    share = gone.sum() / (kept != 0).sum()
    assert share == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(dropped[~gone], (kept / 0.75)[~gone])


def test_spectral_normalisation_holds_the_largest_singular_value_at_1():
    torch.manual_seed(0)
    trunk = Cnn((6, 6, 3), (8, 8), spectral=True, hidden=(5,), classes=2, init="kaiming")
    x = drawn((2, 6, 6, 3), BYTE)
    for _ in range(200):
        trunk(x)
    trunk.eval()
    layers = [layer for layer in trunk.layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 4
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert largest.item() == pytest.approx(1, abs=1e-3)
        raw = layer.parametrizations.weight.original
        assert torch.linalg.matrix_norm(raw.flatten(1), 2) > 1.2
    blocks = Impala((8, 8, 1), (2,), spectral=True)
    assert sum("original" in name for name, _ in blocks.named_parameters()) == 5


def test_batch_normalisation_warns_once():
    net = nn.Sequential(Cnn((8, 8, 1), (2, 2), norm="batch"), nn.BatchNorm1d(3))
    with pytest.warns(RlkitWarning, match="statistics follow the policy.*'layer'") as warned:
        warn_of_batch_norm(net)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for norm in (None, "layer", "instance", "group"):
            warn_of_batch_norm(Cnn((8, 8, 1), (2,), norm=norm))


# What fits


@pytest.mark.parametrize(
    ("space", "name", "width", "layout"),
    [
        (spaces.Box(0, 255, (84, 84, 4), np.uint8), "nature", 3136, "HWC"),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), "nature", 3136, "CHW"),
        (spaces.Box(0, 1, (84, 84, 4)), "nature", 3136, "HWC"),
        (spaces.Box(0, 255, (36, 36), np.uint8), "nature", 64, "HW"),
        (spaces.Box(0, 255, (35, 84, 3), np.uint8), "cnn", 32 * 5 * 6, "HWC"),
        (spaces.Box(0, 1, (10, 10, 4), np.bool_), "cnn", 32 * 5 * 5, "HWC"),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), "cnn", 32 * 4 * 4, "HWC"),
        (spaces.Box(0, 255, (5, 5), np.uint8), "cnn", 32 * 5 * 5, "HW"),
        (spaces.Box(0, 1, (5, 6), np.bool_), "cnn", 32 * 5 * 6, "HW"),
        (spaces.Box(-1, 1, (8, 4)), "conv1d", 32 * 4, "TF"),
        (spaces.Box(-1, 1, (4, 2)), "conv1d", 32 * 4, "TF"),
        (spaces.Box(-1, 1, (84, 84)), "conv1d", 32 * 6, "TF"),
        (spaces.Box(0, 255, (4, 84, 84, 3), np.uint8), "conv3d", 32 * 4 * 6 * 6, "THWC"),
    ],
)
def test_the_trunk_that_fits_a_space(space, name, width, layout):
    torch.manual_seed(0)
    chosen = trunk_for(space)
    torch.manual_seed(0)
    named = trunk_for(space, name)
    x = torch.as_tensor(space.sample())
    assert torch.equal(chosen(x), named(x))
    assert chosen(x).shape == (chosen.width,) == (width,)
    assert chosen.images.layout == layout


@pytest.mark.parametrize("name", ["impala", "cnn"])
def test_residual_and_small_trunks_take_images_of_any_size(name):
    for side in (1, 2, 5, 6, 13, 37):
        trunk = trunk_for(spaces.Box(0, 255, (side, 40, 3), np.uint8), name)
        assert trunk(drawn((2, side, 40, 3), BYTE)).shape == (2, trunk.width)
    assert trunk_for(spaces.Box(0, 255, (64, 64, 3), np.uint8), "cnn").width <= 32 * 6 * 6


def test_the_small_trunk_halves_what_is_long():
    strides = {
        side: [layer.stride[0] for layer in small((side, 3, 3)).layers if hasattr(layer, "stride")]
        for side in (6, 7, 36, 37, 84)
    }
    assert strides == {
        6: [1, 1],
        7: [1, 2],
        36: [1, 2, 2, 2],
        37: [2, 2, 2],
        84: [2, 2, 2, 2],
    }
    assert small((9, 9, 3)).layers[0].out_channels == 16
    assert conv1d((9, 3)).layers[0].out_channels == 32


@pytest.mark.parametrize(
    ("space", "name", "said"),
    [
        (spaces.Box(0, 1, (84, 84, 4)), "natur", r"unknown trunk 'natur'; did you mean nature\?"),
        (spaces.Box(0, 1, (0, 84, 4)), "auto", "is empty: there is nothing to learn from"),
        (spaces.Box(0, 1, (3,)), "auto", r"takes images .*shape \(3,\); take an MLP"),
        (spaces.Box(0, 1, (2, 2, 2, 2, 2)), "auto", "takes images .*another trunk, or reshape"),
        (spaces.Box(0, 1, (84, 84, 4)), "conv1d", r"'conv1d' takes windows \(T, F\); .*another"),
        (spaces.Box(0, 1, (8, 4)), "conv3d", r"'conv3d' takes clips"),
        (spaces.Box(0, 1, (4, 8, 8, 3)), "impala", r"'impala' takes images"),
        (
            spaces.Box(0, 255, (84, 35, 3), np.uint8),
            "nature",
            r"\(84, 35, 3\) \(HWC: 84×35\) are too small for the trunk 'nature'; allowed: 36×36 or "
            "more; take the trunk 'cnn', or resize",
        ),
    ],
)
def test_spaces_that_do_not_fit_are_refused(space, name, said):
    with pytest.raises(UsageError, match=said) as refused:
        trunk_for(space, name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "setting",
    [
        {"channels": (2, 2, 2), "kernel": (5, 4, 3), "stride": (2, 3, 1), "padding": (0, 1, 0)},
        {"channels": (2, 2), "padding": 0, "pool": ("max", "avg"), "pool_size": 3},
        {"channels": (2, 2), "kernel": ((3, 5), (1, 7)), "padding": 0, "stride": ((2, 1), 3)},
    ],
)
def test_the_least_size_is_the_least(setting):
    with pytest.raises(UsageError, match=r"too small for this Cnn; .*take fewer layers") as refused:
        Cnn((1, 1), **setting)
    least = tuple(map(int, str(refused.value).split("allowed: ")[1].split(" or")[0].split("×")))
    assert Cnn(least, **setting)(drawn(least, BYTE)).shape[0] == 2
    layers = Cnn(least, **setting).layers
    for axis in (0, 1):
        size = list(least)
        size[axis] -= 1
        with pytest.raises(UsageError, match="too small"):
            Cnn(size, **setting)
        with pytest.raises(RuntimeError, match=r"(?i)size"):
            layers(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"pool": "mean"}, "unknown pool 'mean'; known: avg, max"),
        ({"pool": ("max",)}, "pool has 1 entries for 2 layers"),
        ({"kernel": (3, 3, 3)}, "kernel has 3 entries for 2 layers"),
        ({"kernel": 0}, "kernel of a layer is 0; allowed: a number of at least 1"),
        ({"stride": ((1, 2, 1), 1)}, r"stride of a layer is \(1, 2, 1\); .*each of the 2 axes"),
        ({"padding": -1}, "padding of a layer is -1; allowed: a number of at least 0"),
        ({"norm": "btch"}, r"unknown norm 'btch'; did you mean batch\?"),
        ({"activation": "rellu"}, r"unknown activation 'rellu'; did you mean relu"),
        ({"init": "he"}, "unknown initialization 'he'"),
        ({"dropout": 1.0}, "dropout is 1.0; allowed: 0 to less than 1"),
        ({"channels": ()}, r"channels is \(\); allowed: one layer or more"),
        ({"channels": (4, 0)}, r"channels is \(4, 0\); allowed"),
        ({"residual": True, "activation": "glu"}, "activation is 'glu' in a residual network"),
        ({"residual": True, "kernel": 4}, r"kernel is \(4, 4\) and padding \(2, 2\) in a residual"),
        ({"residual": True, "padding": 0}, r"padding \(0, 0\) in a residual"),
    ],
)
def test_what_a_cnn_cannot_be(setting, said):
    with pytest.raises(UsageError, match=said) as refused:
        Cnn((8, 8, 3), **{"channels": (4, 4), **setting})
    assert "\n" not in str(refused.value)


def test_an_impala_has_layers():
    with pytest.raises(UsageError, match=r"channels is \(\)"):
        Impala((8, 8, 3), ())


# Elsewhere

EXPORTED = ["nature", "impala", "window", "clip", "batch", "residual", "gated", "spectral"]


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_program_is_the_trunk_for_any_batch(name):
    trunk, shape, dtype = made(name)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(trunk, (drawn((3, 2, *shape), dtype),), dynamic_shapes=(batch,))
    x = drawn((5, 2, *shape), dtype, seed=1)
    torch.testing.assert_close(program.module()(x), trunk(x))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["impala", "window", "batch", "gated"])
def test_onnxruntime_gives_the_same_features(name):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    trunk, shape, dtype = made(name)
    batch = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        trunk, (drawn((3, *shape), dtype),), dynamo=True, dynamic_shapes=(batch,), verbose=False
    )
    written = io.BytesIO()
    program.save(written)
    session = onnxruntime.InferenceSession(written.getvalue(), providers=["CPUExecutionProvider"])
    x = drawn((5, *shape), dtype, seed=1)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), trunk(x).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_trunk_is_the_trunk():
    trunk, shape, dtype = made("impala")
    compiled, x = torch.compile(trunk), drawn((2, 3, *shape), dtype)
    assert_same(trunk, compiled(x), trunk(x))


@pytest.mark.cuda
@pytest.mark.parametrize("name", TRUNKS)
def test_the_gpu_agrees(name):
    trunk, shape, dtype = made(name)
    x = drawn((5, *shape), dtype)
    y = copy.deepcopy(trunk).cuda()(x.cuda()).cpu()
    torch.testing.assert_close(y, trunk(x), rtol=1e-2, atol=1e-2)
