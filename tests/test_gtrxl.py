"""GTrXL: the cache, its window and its gates."""

import pytest
import torch
from torch import nn

from rlkit.errors import UsageError
from rlkit.networks.gtrxl import Gate, GTrXL, GTrXLBlock

B, WIDTH_IN, WIDTH = 3, 5, 8


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def made(length, layers=2):
    torch.manual_seed(0)
    core = GTrXL(WIDTH_IN, WIDTH, layers, heads=2, length=length).double()
    for block in core.blocks:  # open gates, so that what is attended to is seen in the output
        nn.init.zeros_(block.gate_attention.bias)
    return core


def stepwise(core, x, reset):
    y, carry = [], core.initial_carry(x.shape[1])
    for t in range(len(x)):
        out, carry = core(x[t : t + 1], carry, reset[t : t + 1])
        y.append(out)
    return torch.cat(y), carry


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("length", [1, 5, 12, 20])
def test_step_by_step_is_the_whole_segment_at_once(length, share):
    """With a cache that is shorter than the segment, as long, and longer; gradients too."""
    core, T = made(length), 12
    x = torch.randn(T, B, WIDTH_IN).double().requires_grad_()
    reset = torch.rand(T, B) < share
    y, carry = core(x, core.initial_carry(B), reset)
    steps, after = stepwise(core, x, reset)
    torch.testing.assert_close(steps, y)
    torch.testing.assert_close(after, carry)
    g = torch.randn_like(y)
    ours = torch.autograd.grad(y, [x, *core.parameters()], g)
    torch.testing.assert_close(torch.autograd.grad(steps, [x, *core.parameters()], g), ours)


def test_each_step_sees_layers_times_length_steps_of_its_own_episode():
    core, T = made(length=3), 12
    x = torch.randn(T, 2, WIDTH_IN).double().requires_grad_()
    reset = torch.zeros(T, 2, dtype=torch.bool)
    reset[7, 1] = True
    y, _ = core(x, core.initial_carry(2), reset)
    (g,) = torch.autograd.grad(y[10].sum(), x)
    seen = g.abs().sum(-1) > 0
    assert seen[:, 0].nonzero().flatten().tolist() == list(range(4, 11))
    assert seen[:, 1].nonzero().flatten().tolist() == [7, 8, 9, 10]


def test_gradients_flow_into_the_carry_up_to_a_reset():
    core, T = made(length=6), 4
    x, no_reset = torch.randn(T, B, WIDTH_IN).double(), torch.zeros(T, B, dtype=torch.bool)
    cache, valid = core(x, core.initial_carry(B), no_reset)[1]
    cache = cache.detach().requires_grad_()
    reset = no_reset.clone()
    reset[1, 2] = True
    y, _ = core(x, (cache, valid), reset)
    (g,) = torch.autograd.grad(y[1:].sum(), cache)
    assert g[:2, :, -T:].any(-1).all()  # what is valid
    assert not g[:, :, :-T].any()  # what is not
    assert not g[2].any()


def test_the_cache_holds_each_layers_inputs():
    core, T = made(length=4), 6
    x, no_reset = torch.randn(T, B, WIDTH_IN).double(), torch.zeros(T, B, dtype=torch.bool)
    inputs = []
    for block in core.blocks:
        block.register_forward_pre_hook(lambda block, args: inputs.append(args[0]))
    cache, valid = core(x, core.initial_carry(B), no_reset)[1]
    assert valid.all()
    for layer in range(2):
        torch.testing.assert_close(cache[:, layer], inputs[layer][-4:].transpose(0, 1))
    torch.testing.assert_close(inputs[0], core.embed(x))


def test_the_gate_by_the_papers_equations():
    gate = Gate(WIDTH).double()
    nn.init.normal_(gate.bias)
    x, y = torch.randn(WIDTH).double(), torch.randn(WIDTH).double()
    W_r, W_z, W_g = gate.W.weight.split(WIDTH)
    U_r, U_z = gate.U.weight.split(WIDTH)
    r = torch.sigmoid(W_r @ y + U_r @ x)
    z = torch.sigmoid(W_z @ y + U_z @ x - gate.bias)
    h = torch.tanh(W_g @ y + gate.U_g.weight @ (r * x))
    torch.testing.assert_close(gate(x, y), (1 - z) * x + z * h)
    assert Gate(WIDTH).bias.tolist() == [2] * WIDTH


def test_a_step_sees_the_cache_by_the_definition():
    """Each step's window, step by step: of its own episode, no further back than the cache."""
    core, T = made(length=4), 9
    valid, reset = torch.rand(B, 4) < 0.6, torch.rand(T, B) < 0.3
    seen, after = core._sight(valid, reset)
    assert seen.shape == (B, T, 5)
    for b in range(B):
        begun = [t for t in range(T) if reset[t, b]]
        for t in range(T):
            start = max((s for s in begun if s <= t), default=-4)
            steps = range(t - 4, t + 1)
            own = [s >= start and (s >= 0 or bool(valid[b, s])) for s in steps]
            assert seen[b, t].tolist() == own
        assert after[b].tolist() == own[1:]


def test_carries_do_not_share_memory_with_what_was_given():
    """Rollouts keep a carry while the agent steps on."""
    core, no_reset = made(length=4), torch.zeros(1, B, dtype=torch.bool)
    carry = core.initial_carry(B)
    kept = [part.clone() for part in carry]
    for _ in range(3):
        carry, earlier = core(torch.randn(1, B, WIDTH_IN).double(), carry, no_reset)[1], carry
        for part, was in zip(earlier, kept, strict=True):
            assert torch.equal(part, was)
        kept = [part.clone() for part in carry]


def test_steps_run_through_on_meta():
    """So nothing waits for the host, and nothing is made on another device."""
    core = GTrXL(WIDTH_IN, WIDTH, heads=2, length=4).to("meta")
    carry = core.initial_carry(B)
    for T in (1, 6):
        x = torch.empty(T, B, WIDTH_IN, device="meta")
        y, after = core(x, carry, torch.empty(T, B, dtype=torch.bool, device="meta"))
        y.sum().backward()
        assert y.shape == (T, B, WIDTH)
        assert [part.shape for part in after] == [part.shape for part in carry]


def test_a_block_by_the_papers_equations():
    block = GTrXLBlock(WIDTH, 2, length=4)
    memory = torch.randn(7, B, WIDTH)
    x, mask = memory[-3:], torch.zeros(B, 3, 5)
    h = block.norm_attention(memory)
    y = block.gate_attention(x, block.attention(h[-3:], h, mask).relu())
    hidden = block.feed_forward.widen(block.norm_feed_forward(y)).relu()
    expected = block.gate_feed_forward(y, block.feed_forward.narrow(hidden).relu())
    torch.testing.assert_close(block(x, memory, mask), expected)


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(UsageError, match="4 attention heads over a width of 10"):
        GTrXL(3, 10)
