"""What a Q-network's output says, for each model of the return; one update for all of them."""

import numpy as np
import pytest
import torch

from rlkit.errors import UsageError
from rlkit.losses import greedy, huber, squared
from rlkit.networks.values import (
    LOSSES,
    CategoricalValues,
    QuantileValues,
    ScalarValues,
    put,
    take,
)

CPU = torch.device("cpu")
VALUES = {
    "scalar": lambda: ScalarValues("huber"),
    "categorical": lambda: CategoricalValues(11, -5.0, 15.0, CPU),
    "quantile": lambda: QuantileValues(8, CPU),
}


def output(values, *shape):
    """A random output for these leading dimensions and actions."""
    return torch.randn(*shape, *([] if values.atoms is None else [values.atoms]))


@pytest.mark.parametrize("name", VALUES)
def test_take_and_put_are_indexing_and_its_gradient(name):
    torch.manual_seed(0)
    values = VALUES[name]()
    for leading in [(6,), (2, 3), ()]:
        out = output(values, *leading, 4).requires_grad_()
        action = torch.randint(4, leading)
        expected = torch.empty(leading + out.shape[len(leading) + 1 :])
        for at in np.ndindex(*leading):
            expected[at] = out[at][action[at]].detach()
        assert torch.equal(take(out, action), expected)
        g = torch.randn_like(expected)
        (g_out,) = torch.autograd.grad((take(out, action) * g).sum(), out)
        assert torch.equal(put(g, action, out.detach()), g_out)


@pytest.mark.parametrize("name", VALUES)
def test_expected_values_by_their_definition(name):
    torch.manual_seed(1)
    values = VALUES[name]()
    out = output(values, 2, 3, 4)
    q = values.expected(out)
    assert q.shape == (2, 3, 4)
    for at in np.ndindex(2, 3, 4):
        x = out[at].double().numpy()
        if name == "categorical":
            p = np.exp(x) / np.exp(x).sum()
            x = sum(p_i * (-5 + 2 * i) for i, p_i in enumerate(p))
        assert q[at].item() == pytest.approx(x.mean(), abs=1e-5)


@pytest.mark.parametrize("name", VALUES)
def test_the_targets_expectation_is_the_q_learning_target(name):
    """Where C51 clips nothing; at a terminal state it is the reward."""
    torch.manual_seed(2)
    values = VALUES[name]()
    out_next = output(values, 64, 4)
    r, discount = torch.rand(64), torch.rand(64) * 0.9
    discount[::3] = 0
    q_next = values.expected(out_next)
    target = values.target(r, discount, take(out_next, greedy(q_next)))
    means = values.expected(target.log() if name == "categorical" else target)
    torch.testing.assert_close(means, r + discount * q_next.amax(-1), rtol=0, atol=1e-5)
    torch.testing.assert_close(means[::3], r[::3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", VALUES)
def test_losses_and_their_gradients_have_the_shapes_they_say(name):
    torch.manual_seed(3)
    values = VALUES[name]()
    out, target = output(values, 5), output(values, 5)
    if name == "categorical":
        target = target.softmax(-1)
    loss, g = values.loss(out, target)
    assert loss.shape == (5,)
    assert g.shape == out.shape
    assert loss.dtype == g.dtype == torch.float32


@pytest.mark.parametrize("name", VALUES)
def test_one_update_for_all_learns_a_random_return(name):
    """Of one state and two actions: the returns are −1 or 3 evenly, and 2."""
    torch.manual_seed(4)
    # (Huber's minimum is no mean)
    values = ScalarValues("squared") if name == "scalar" else VALUES[name]()
    out = torch.zeros_like(output(values, 1, 2))
    r = torch.tensor([-1.0, 3.0, 2.0, 2.0])
    action = torch.tensor([0, 0, 1, 1])
    for _ in range(1500):
        rows = out.expand(4, *out.shape[1:])
        target = values.target(r, torch.zeros(4), take(rows, greedy(values.expected(rows))))
        loss, g = values.loss(take(rows, action), target)
        assert loss.shape == (4,)
        out = out - 0.2 * put(g, action, rows).sum(0, keepdim=True)
    assert values.expected(out)[0].tolist() == pytest.approx([1.0, 2.0], abs=0.02)
    if name == "categorical":  # the support has −1, 1, 3: the mass lies on both returns, and on 2's
        p = out.softmax(-1)[0]
        assert p[0, [2, 4]].tolist() == pytest.approx([0.5, 0.5], abs=0.02)
        assert p[1, [3, 4]].tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_scalar_values_take_either_loss():
    q, y = torch.tensor([0.0, 0.5]), torch.tensor([3.0, 0.0])
    assert LOSSES.keys() == {"huber", "squared"}
    for name, loss in (("huber", huber), ("squared", squared)):
        for found, expected in zip(ScalarValues(name).loss(q, y), loss(q, y), strict=True):
            assert torch.equal(found, expected)


def test_the_midpoints_are_the_papers():
    """τ̂_i = (τ_{i−1} + τ_i)/2 with τ_i = i/N (Dabney et al. 2018, lemma 2)."""
    assert QuantileValues(4, CPU).tau.tolist() == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CategoricalValues(51, 10, -10, CPU), "v_min is 10 and v_max is -10; .*v_min < v"),
        (lambda: CategoricalValues(51, 1, 1, CPU), "v_min is 1 and v_max is 1; "),
        (lambda: CategoricalValues(51, 0, float("inf"), CPU), "v_max is inf; .*finite"),
        (lambda: CategoricalValues(51, float("nan"), 1, CPU), "v_min is nan .*finite"),
        (lambda: CategoricalValues(1, 0, 1, CPU), "atoms is 1; allowed: at least 2"),
        (lambda: QuantileValues(0, CPU), "atoms is 0; allowed: at least 1"),
    ],
)
def test_supports_that_are_none_are_refused(make, said):
    with pytest.raises(UsageError, match=said) as refused:
        make()
    assert "\n" not in str(refused.value)
