"""Recurrent cores against a loop over the steps with torch's own cells and layers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from rlkit.errors import UsageError
from rlkit.networks import rnn
from rlkit.networks.rnn import KINDS, Recurrent

CELLS = {"rnn": nn.RNNCell, "gru": nn.GRUCell, "lstm": nn.LSTMCell}
LAYERS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
CLOSE = {
    torch.float64: {"rtol": 1e-9, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}
T, B, WIDTH_IN, WIDTH = 24, 5, 4, 6
PLANS = {"stretches": False, "rectangles": True}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(core, dtype=torch.float32, steps=T):
    """x, a carry that is not zero, and both with gradients."""
    x = torch.randn(steps, B, WIDTH_IN, dtype=dtype, requires_grad=True)
    carry = tuple(torch.randn_like(s).requires_grad_() for s in core.initial_carry(B))
    return x, carry


def resets(share, steps=T):
    """At random, but the first environment resets at once and the last one never does."""
    reset = torch.rand(steps, B, generator=torch.Generator().manual_seed(3)) < share
    reset[0, 0], reset[:, -1] = True, False
    return reset


def loop(core, kind, x, carry, reset):
    """One step, one layer and one environment's reset after the other, with torch's cells."""
    cells = [CELLS[kind](c.input_size, c.hidden_size).to(x.dtype) for c in core.cells]
    for cell, given in zip(cells, core.cells, strict=True):
        for name, p in given.named_parameters():  # the same tensors, so that gradients meet
            delattr(cell, name)
            setattr(cell, name, p)
    states = [[s[:, layer] for s in carry] for layer in range(len(cells))]
    y = []
    for t in range(len(x)):
        h = x[t]
        for layer, cell in enumerate(cells):
            rows = [
                torch.stack([0 * row if reset[t, b] else row for b, row in enumerate(s)])
                for s in states[layer]
            ]
            new = cell(h, tuple(rows)) if kind == "lstm" else (cell(h, rows[0]),)
            states[layer], h = list(new), new[0]
        y.append(h)
    carry = tuple(torch.stack(s, 1) for s in zip(*states, strict=True))
    return torch.stack(y), carry


def outcome(call, core, x, carry):
    """What it gives and every gradient of a random sum of it."""
    y, last = call(x, carry)
    out = [y, *last]
    generator = torch.Generator().manual_seed(4)
    g = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in out]
    return out + list(torch.autograd.grad(out, [x, *carry, *core.parameters()], g))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("dtype", CLOSE, ids=["float64", "float32"])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 1.0])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_at_once_is_the_loop_over_its_steps(
    kind, layers, share, dtype, plan, monkeypatch
):
    monkeypatch.setattr(Recurrent, "_pays", lambda *_: PLANS[plan])
    torch.manual_seed(0)
    core = Recurrent(kind, WIDTH_IN, WIDTH, layers).to(dtype)
    (x, carry), reset = drawn(core, dtype), resets(share)
    found = outcome(lambda x, c: core(x, c, reset), core, x, carry)
    expected = outcome(lambda x, c: loop(core, kind, x, c, reset), core, x, carry)
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == dtype
        torch.testing.assert_close(f, e, **CLOSE[dtype])


def test_both_plans_are_taken(monkeypatch):
    """Few resets: time is cut; many: episodes lie side by side, in far fewer calls."""
    core, calls = Recurrent("gru", WIDTH_IN, WIDTH), []
    over_time = KINDS["gru"].over_time

    def counted(x, state, weights):
        calls.append(len(x))
        return over_time(x, state, weights)

    monkeypatch.setitem(KINDS, "gru", replace(KINDS["gru"], over_time=counted))
    x, carry = drawn(core, steps=200)
    few, many = torch.zeros(200, B, dtype=torch.bool), torch.rand(200, B) < 0.5
    few[[0, 30, 120], [1, 2, 3]] = True
    core(x, carry, few)
    assert calls == [30, 90, 80]
    calls.clear()
    many[:150:2, 0] = True
    core(x, carry, many)
    assert len(calls) < 8
    assert sum(calls) < 80


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 1.0])
def test_rectangles_are_few_and_mostly_full(share):
    reset = torch.rand(100, 8) < share
    rectangles = rnn._rectangles(reset)
    filled = [i.lt(100 * 8).sum(0) for i in rectangles.index]
    assert len(filled) <= 7  # lengths of 1, 2 to 3, …, 64 to 100
    assert all(2 * n > len(i) for i, n in zip(rectangles.index, map(min, filled), strict=True))
    assert sum(len(n) for n in filled) == 8 + int(reset[1:].sum())
    rows = torch.cat([i[i < 100 * 8] for i in rectangles.index])
    assert torch.equal(rows.sort()[0], torch.arange(100 * 8))  # each step once


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_without_resets_it_is_torchs_own_layer(kind, layers):
    core = Recurrent(kind, WIDTH_IN, WIDTH, layers).double()
    reference = LAYERS[kind](WIDTH_IN, WIDTH, layers).double()
    reference.load_state_dict(
        {
            f"{name}_l{layer}": p
            for layer, cell in enumerate(core.cells)
            for name, p in cell.state_dict().items()
        }
    )
    x, carry = drawn(core, torch.float64)
    hx = tuple(s.transpose(0, 1).contiguous() for s in carry)
    y, last = core(x, carry, torch.zeros(T, B, dtype=torch.bool))
    expected, end = reference(x, hx if kind == "lstm" else hx[0])
    torch.testing.assert_close(y, expected)
    for s, e in zip(last, end if kind == "lstm" else (end,), strict=True):
        torch.testing.assert_close(s, e.transpose(0, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_passes_a_reset(kind):
    core = Recurrent(kind, WIDTH_IN, WIDTH)
    x, carry = drawn(core)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[10, 2] = True
    y, _ = core(x, carry, reset)
    g_x, *g_carry = torch.autograd.grad(y[10:].sum(), [x, *carry])
    assert not g_x[:10, 2].any()
    assert not any(g[2].any() for g in g_carry)
    others = [0, 1, 3, 4]
    assert g_x[:10, others].abs().amin((0, 1)).max() > 0
    assert all(g[others].any() for g in g_carry)


@pytest.mark.parametrize("kind", KINDS)
def test_a_carry_without_a_graph_truncates_the_gradient_alone(kind):
    """Truncated backpropagation: the second half's outputs are the same, its past is a constant."""
    core = Recurrent(kind, WIDTH_IN, WIDTH)
    (x, carry), reset, half = drawn(core), resets(0.05), T // 2
    y, last = core(x, carry, reset)
    _, middle = core(x[:half], carry, reset[:half])
    late, end = core(x[half:], tuple(s.detach() for s in middle), reset[half:])
    torch.testing.assert_close(late, y[half:])
    for s, e in zip(end, last, strict=True):
        torch.testing.assert_close(s, e)
    (g_cut,) = torch.autograd.grad(late.sum(), x)
    (g,) = torch.autograd.grad(y[half:].sum(), x)
    assert not g_cut[:half].any()
    assert g[:half].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_forgets_even_a_carry_that_is_not_finite(kind):
    core = Recurrent(kind, WIDTH_IN, WIDTH)
    x, _ = drawn(core)
    broken = tuple(torch.full_like(s, torch.nan) for s in core.initial_carry(B))
    for steps in (1, T):
        reset = torch.zeros(steps, B, dtype=torch.bool)
        reset[0] = True
        y, _ = core(x[:steps], broken, reset)
        expected, _ = core(x[:steps], core.initial_carry(B), reset)
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_start_orthogonal(kind):
    core = Recurrent(kind, WIDTH_IN, WIDTH, layers=2)
    for cell in core.cells:
        for U in cell.weight_hh.detach().split(WIDTH):
            torch.testing.assert_close(U @ U.t(), torch.eye(WIDTH), rtol=0, atol=1e-5)
        for W in cell.weight_ih.detach().split(WIDTH):
            assert W.abs().max() <= (6 / sum(W.shape)) ** 0.5
        for i, b in enumerate((cell.bias_ih + cell.bias_hh).detach().split(WIDTH)):
            assert b.any() == (i == 1 and kind != "rnn")


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_units_start_with_time_scales_from_2_to_100_steps(kind):
    torch.manual_seed(0)
    core = Recurrent(kind, WIDTH_IN, 2000)
    for cell in core.cells:  # nothing else speaks: what is left of a state after a step
        torch.nn.init.zeros_(cell.weight_ih)
        torch.nn.init.zeros_(cell.weight_hh)
    carry = tuple(torch.full_like(s, 0.5) for s in core.initial_carry(1))
    _, after = core(torch.zeros(1, 1, WIDTH_IN), carry, torch.zeros(1, 1, dtype=torch.bool))
    kept = (after[-1] / carry[-1]).flatten()
    scale = (1 / (1 - kept)).sort().values  # uniform in [2, 100]
    torch.testing.assert_close(scale, torch.linspace(2, 100, 2000), rtol=0, atol=3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_carry_has_the_batch_first(kind):
    core = Recurrent(kind, WIDTH_IN, WIDTH, layers=3)
    carry = core.initial_carry(B)
    assert len(carry) == (2 if kind == "lstm" else 1)
    for s in carry:
        assert s.shape == (B, 3, WIDTH)
        assert s.dtype == torch.float32
        assert not s.any()


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match=r"unknown recurrent core 'gur'; did you mean gru\?"):
        Recurrent("gur", 3, 4)
