"""Action distributions against torch.distributions, their ways back against autograd."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import chisquare, kstest, norm
from torch import distributions as torchs
from torch import nn

from rlkit.errors import UsageError
from rlkit.networks.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    SquashedGaussian,
    masked,
    policy_for,
    uniform_allowed,
)

KINDS = ("arrays", "tensors")
LEADING = [(6,), (3, 4)]
NVEC = {"equal": [3, 3, 3], "ragged": [2, 5, 1, 3], "one": [4]}


def as_kind(x, kind):
    return x.detach().numpy() if kind == "arrays" else x.detach()


def assert_equal(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected.detach().numpy(), rtol=1e-9, atol=1e-10)


def assert_vjp(policy, reference, head, action, parameters, kind, log_std=None):
    """log π, H and the gradients of a·log π + b·H, for several a and b, are the reference's.

    `reference()` gives (log π, H) in autograd's graph of `parameters`, of which the first is the
    head; `log_std` is the policy's own.
    """
    g_log_prob, g_entropy = torch.randn(2, *head.shape[:-1]).double()
    for a, b in ((g_log_prob, g_entropy), (g_log_prob, 0 * g_entropy), (0 * g_log_prob, g_entropy)):
        expected_log_prob, expected_H = reference()
        loss = (a * expected_log_prob + b * expected_H).sum()
        expected = torch.autograd.grad(loss, parameters, allow_unused=True)
        if log_std is not None:
            log_std.grad = torch.ones_like(log_std)  # the way back must add to it
        log_prob, H, pull = policy.vjp(as_kind(head, kind), as_kind(action, kind))
        assert type(log_prob) is type(H) is type(as_kind(head, kind))
        assert_equal(log_prob, expected_log_prob)
        assert_equal(H, expected_H)
        assert_equal(pull(as_kind(a, kind), as_kind(b, kind)), expected[0])
        if log_std is not None:
            found = log_std.grad - 1
            assert_equal(found, torch.zeros_like(found) if expected[1] is None else expected[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", LEADING)
def test_a_categorical_is_torchs(leading, kind):
    torch.manual_seed(2)
    logits = (3 * torch.randn(*leading, 5).double() + 2000).requires_grad_()  # exp overflows
    action = torch.randint(5, leading)

    def reference():
        policy = torchs.Categorical(logits=logits)
        return policy.log_prob(action), policy.entropy()

    assert_vjp(Categorical(5), reference, logits, action, (logits,), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("nvec", NVEC.values(), ids=NVEC)
def test_a_multicategorical_is_the_sum_of_torchs(nvec, leading, kind):
    torch.manual_seed(3)
    logits = (3 * torch.randn(*leading, sum(nvec)).double()).requires_grad_()
    action = torch.stack([torch.randint(n, leading) for n in nvec], -1)

    def reference():
        each = [torchs.Categorical(logits=part) for part in logits.split(nvec, -1)]
        log_prob = sum(p.log_prob(action[..., i]) for i, p in enumerate(each))
        return log_prob, sum(p.entropy() for p in each)

    assert_vjp(MultiCategorical(nvec), reference, logits, action, (logits,), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", LEADING)
def test_a_bernoulli_is_torchs(leading, kind):
    torch.manual_seed(4)
    logits = 4 * torch.randn(*leading, 3).double()
    logits.view(-1)[:2] = torch.tensor([300.0, -300.0])  # whose p and 1 − p are 0 in float64
    logits.requires_grad_()
    action = torch.randint(2, (*leading, 3), dtype=torch.int8)

    def reference():
        log_prob = torchs.Bernoulli(logits=logits).log_prob(action.double())
        p = torch.sigmoid(logits)  # torchs.Bernoulli.entropy has NaN gradients where p is 0
        H = nn.functional.softplus(logits) - p * logits
        return log_prob.sum(-1), H.sum(-1)

    mild = logits.detach().clamp(-8, 8)
    entropy = torchs.Bernoulli(logits=mild).entropy().sum(-1)
    assert_equal(Bernoulli(3).vjp(mild, action)[1], entropy)
    assert_vjp(Bernoulli(3), reference, logits, action, (logits,), kind)


SHAPES = [(2,), (2, 3), ()]


def with_log_std(policy, normal):
    with torch.no_grad():
        normal.log_std.copy_(torch.linspace(-1, 0.5, normal.outputs).double())
    return policy, normal.log_std.detach().clone().requires_grad_()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gaussian_is_torchs(shape, leading, kind):
    torch.manual_seed(5)
    policy = DiagonalGaussian(shape).double()
    policy, log_std = with_log_std(policy, policy)
    mean = torch.randn(*leading, policy.outputs).double().requires_grad_()
    action = torch.randn(*leading, *shape).double()

    def reference():
        normal = torchs.Independent(torchs.Normal(mean, log_std.exp()), 1)
        return normal.log_prob(action.reshape(mean.shape)), normal.entropy()

    assert_vjp(policy, reference, mean, action, (mean, log_std), kind, policy.log_std)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leading", LEADING)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_squashed_gaussian_is_torchs(shape, leading, kind):
    torch.manual_seed(6)
    policy = SquashedGaussian(shape).double()
    policy, log_std = with_log_std(policy, policy.normal)
    mean = torch.randn(*leading, policy.outputs).double().requires_grad_()
    u = 1.5 * torch.randn(*leading, *shape).double()
    action = u.tanh()
    with torch.no_grad():
        noise = (u.reshape(mean.shape) - mean) / log_std.exp()

    def reference():
        normal = torchs.Normal(mean, log_std.exp())
        squashed = torchs.TransformedDistribution(normal, torchs.TanhTransform(cache_size=1))
        drawn = (mean + log_std.exp() * noise).tanh()  # the stored action, reparametrised
        H = normal.entropy() + torch.log(1 - drawn**2)
        return squashed.log_prob(action.reshape(mean.shape)).sum(-1), H.sum(-1)

    assert_vjp(policy, reference, mean, action, (mean, log_std), kind, policy.normal.log_std)


def test_the_squashed_entropys_estimate_and_its_gradient_are_unbiased():
    """Against quadrature of −∫ p·log p over (−1, 1), and its derivative by differences."""

    def entropy(mean, log_std):
        u = mean + math.exp(log_std) * np.linspace(-9, 9, 20001)
        log_p = norm.logpdf(u, mean, math.exp(log_std)) - np.log1p(-(np.tanh(u) ** 2))
        return np.trapezoid(-norm.pdf(u, mean, math.exp(log_std)) * log_p, u)

    draws, mean, log_std = 200_000, 0.4, -0.3
    policy = SquashedGaussian((1,)).double()
    with torch.no_grad():
        policy.normal.log_std.fill_(log_std)
    policy.normal.log_std.grad = torch.zeros(1).double()
    head = torch.full((draws, 1), mean).double()
    noise = policy.draw_noise((draws,), torch.Generator().manual_seed(7))
    _, H, pull = policy.vjp(head, policy.sample(head, noise))
    assert H.mean().item() == pytest.approx(entropy(mean, log_std), abs=0.01)
    to_mean = pull(torch.zeros(draws), torch.full((draws,), 1 / draws)).sum().item()
    h = 1e-3
    slope = (entropy(mean + h, log_std) - entropy(mean - h, log_std)) / (2 * h)
    assert to_mean == pytest.approx(slope, abs=0.01)
    slope = (entropy(mean, log_std + h) - entropy(mean, log_std - h)) / (2 * h)
    assert policy.normal.log_std.grad.item() == pytest.approx(slope, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_squashed_actions_stay_finite_where_tanh_is_one(dtype, kind):
    policy = SquashedGaussian((2,)).to(dtype)
    policy.normal.log_std.grad = torch.zeros(2, dtype=dtype)
    head = as_kind(torch.tensor([[50.0, -50.0]], dtype=dtype), kind)
    noise = as_kind(torch.zeros(1, 2, dtype=dtype), kind)
    for action in (policy.sample(head, noise), policy.mode(head)):
        assert (abs(action) < 1).all()
        log_prob, H, pull = policy.vjp(head, action)
        g = pull(0 * log_prob + 1, 0 * H + 1)
        for x in (log_prob, H, g, policy.normal.log_std.grad):
            assert np.isfinite(np.asarray(x)).all()
    at_the_end = as_kind(torch.tensor([[1.0, -1.0]], dtype=dtype), kind)
    assert np.isfinite(np.asarray(policy.vjp(head, at_the_end)[0])).all()


def drawn(policy, head, draws, seed):
    noise = policy.draw_noise((draws,), torch.Generator().manual_seed(seed))
    return policy.sample(head.numpy(), noise.numpy())


def test_gumbel_noise_samples_the_softmax():
    logits = torch.tensor([1.0, -2.0, 0.0, 0.5])
    counts = np.bincount(drawn(Categorical(4), logits, 100_000, 4), minlength=4)
    expected = 100_000 * logits.double().softmax(-1)
    assert chisquare(counts, expected.numpy()).pvalue > 1e-3
    assert Categorical(4).mode(logits).item() == 0


@pytest.mark.parametrize("nvec", [[2, 3], [2, 2]])
def test_the_choices_of_a_multicategorical_are_drawn_independently(nvec):
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5, 2.0])[: sum(nvec)]
    actions = drawn(MultiCategorical(nvec), logits, 100_000, 5)
    counts = np.bincount(actions @ [nvec[1], 1], minlength=math.prod(nvec))
    first, second = (part.double().softmax(-1) for part in logits.split(nvec))
    expected = 100_000 * (first[:, None] * second).flatten()
    assert chisquare(counts, expected.numpy()).pvalue > 1e-3
    each = [part.argmax().item() for part in logits.split(nvec)]
    assert MultiCategorical(nvec).mode(logits).tolist() == each


def test_the_bits_of_a_bernoulli_are_drawn_independently():
    logits = torch.tensor([1.0, -2.0])
    actions = drawn(Bernoulli(2), logits, 100_000, 6)
    assert actions.dtype == np.int8
    p, q = logits.double().sigmoid().tolist()
    expected = 100_000 * np.array([(1 - p) * (1 - q), (1 - p) * q, p * (1 - q), p * q])
    assert chisquare(np.bincount(actions @ [2, 1], minlength=4), expected).pvalue > 1e-3
    assert Bernoulli(2).mode(logits).tolist() == [1, 0]


@pytest.mark.parametrize("kind", [DiagonalGaussian, SquashedGaussian])
def test_gaussian_actions_are_drawn_with_mean_and_deviation(kind):
    policy = kind((2,))
    normal = getattr(policy, "normal", policy)
    with torch.no_grad():
        normal.log_std.copy_(torch.tensor([0.2, -1.0]))
    actions = drawn(policy, torch.tensor([0.3, -0.4]), 20_000, 7)
    u = np.arctanh(actions) if kind is SquashedGaussian else actions
    for i, (mean, std) in enumerate([(0.3, math.exp(0.2)), (-0.4, math.exp(-1))]):
        assert kstest(u[:, i], norm(mean, std).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(u.T)[0, 1]) < 0.03
    mode = policy.mode(torch.tensor([0.3, -0.4]))
    expected = torch.tensor([0.3, -0.4])
    torch.testing.assert_close(mode, expected.tanh() if kind is SquashedGaussian else expected)


POLICIES = [
    spaces.Discrete(3),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([2, 2]),
    spaces.MultiBinary(3),
    spaces.Box(-1, 1, (3,)),
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(-1, 1, ()),
]


@pytest.mark.parametrize("space", POLICIES, ids=str)
@pytest.mark.parametrize("squash", [False, True])
def test_actions_are_of_their_space_and_of_the_kind_of_their_observations(space, squash):
    if squash and not isinstance(space, spaces.Box):
        return
    policy = policy_for(space, squash)
    head = torch.randn(4, policy.outputs, generator=torch.Generator().manual_seed(8))
    noise = policy.draw_noise((4,), torch.Generator().manual_seed(9))
    pairs = (
        (policy.sample(head.numpy(), noise.numpy()), policy.sample(head, noise)),
        (policy.mode(head.numpy()), policy.mode(head)),
    )
    for array, tensor in pairs:
        assert isinstance(array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        np.testing.assert_allclose(array, tensor.detach().numpy(), rtol=1e-6)
        assert array.shape == (4, *space.shape)
        if squash or not isinstance(space, spaces.Box):
            assert all(space.contains(np.asarray(row, space.dtype)) for row in array)
        log_prob, H, _ = policy.vjp(head.numpy(), array)
        assert log_prob.shape == H.shape == (4,)


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-1, 1, (0,)), spaces.MultiBinary((2, 3)), spaces.MultiDiscrete([[2], [3]])],
    ids=str,
)
def test_spaces_without_a_policy_are_refused(space):
    with pytest.raises(UsageError, match="no policy for the action space") as refused:
        policy_for(space)
    assert str(space) in str(refused.value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32)),
    ],
    ids=str,
)
def test_only_bounded_boxes_are_squashed_into(space):
    with pytest.raises(UsageError, match="finite bounds on both sides; leave squash off"):
        policy_for(space, squash=True)


def random_mask(shape, seed):
    """At least one action is allowed in each row, and in the first row only one."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < 0.5
    mask[..., 1] = True
    mask[0] = False
    mask[0, ..., 2] = True
    return mask


@pytest.mark.parametrize("kind", KINDS)
def test_masking_renormalises_the_softmax(kind):
    """By brute force: the exponentials of the allowed logits over their sum."""
    torch.manual_seed(9)
    mask = random_mask((8, 5), 10)
    logits = (3 * torch.randn(8, 5).double()).requires_grad_()
    action = torch.stack([row.nonzero()[-1, 0] for row in mask])

    def reference():
        p = logits.exp() * mask
        p = p / p.sum(-1, keepdim=True)
        log_p = torch.where(mask, p, 1).log()  # 0·log 0 = 0
        return log_p[torch.arange(8), action], -(p * log_p).sum(-1)

    class Masked:
        def vjp(self, head, action):
            return Categorical(5).vjp(masked(head, as_kind(mask, kind)), action)

    assert_vjp(Masked(), reference, logits, action, (logits,), kind)
    assert masked(logits, None) is logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_choices_of_a_multicategorical(dtype):
    torch.manual_seed(11)
    nvec = [2, 4]
    mask = torch.tensor([[True, False, False, True, True, False]])
    logits = torch.randn(1, 6, dtype=dtype)
    policy = MultiCategorical(nvec)
    noise = policy.draw_noise((20_000,), torch.Generator().manual_seed(12))
    head = masked(logits, mask)
    actions = policy.sample(head.expand(20_000, 6), noise)
    assert (actions[:, 0] == 0).all()
    assert sorted(set(actions[:, 1].tolist())) == [1, 2]
    p = logits[0, [3, 4]].softmax(-1)
    log_prob, H, pull = policy.vjp(head, torch.tensor([[0, 2]]))
    torch.testing.assert_close(log_prob[0], p[1].log())
    torch.testing.assert_close(H[0], -(p * p.log()).sum())
    g = pull(torch.ones(1, dtype=dtype), torch.ones(1, dtype=dtype))
    assert (g[~mask] == 0).all()
    assert (g[0, [3, 4]] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_uniform_draw_is_among_the_allowed(kind):
    mask = as_kind(torch.tensor([[False, True, True, False, True]]).expand(30_000, 5), kind)
    u = torch.rand(30_000, generator=torch.Generator().manual_seed(13))
    found = np.asarray(uniform_allowed(as_kind(u, kind), mask))
    counts = np.bincount(found, minlength=5)
    assert counts[[0, 3]].sum() == 0
    assert chisquare(counts[[1, 2, 4]]).pvalue > 1e-3
    ends = as_kind(torch.tensor([0.0, 1 / 3 + 1e-6, 1 - 2**-24]), kind)
    assert uniform_allowed(ends, mask[:3]).tolist() == [1, 2, 4]
    u, everything = as_kind(u, kind), as_kind(torch.ones(30_000, 5, dtype=torch.bool), kind)
    assert np.array_equal(uniform_allowed(u, everything), np.asarray(u * 5, dtype=np.int64))
