"""Transformer blocks and stacks, against torch's own with the same weights."""

import pytest
import torch
from torch import nn
from torch_twins import torchs

from rlkit.errors import UsageError
from rlkit.networks.attention import causal_mask, episode_mask, padding_mask
from rlkit.networks.positions import POSITIONS
from rlkit.networks.transformer import Block, Blocks, FeedForward, Transformer

T, S, B, WIDTH = 5, 6, 3, 8
BLOCKS = Blocks(heads=2)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def torchs_block(ours, cross):
    """torch's layer of the same architecture, pre-norm, with the same weights."""
    kind = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
    layer = kind(WIDTH, 2, 4 * WIDTH, dropout=0.0, activation="gelu", norm_first=True)
    layer.self_attn = torchs(ours.attention)
    norms = [ours.norm_attention, ours.norm_feed_forward]
    if cross:
        layer.multihead_attn = torchs(ours.cross)
        norms.insert(1, ours.norm_cross)
    for i, norm in enumerate(norms, 1):
        nn.init.normal_(norm.weight)
        setattr(layer, f"norm{i}", norm)
    layer.linear1, layer.linear2 = ours.feed_forward.widen, ours.feed_forward.narrow
    return layer


def hidden_from(mask):
    return ~mask.repeat_interleave(2, 0)  # torch's masks are True where hidden, for each head


@pytest.mark.parametrize("causal", [False, True])
def test_an_encoder_block_is_torchs(causal):
    ours = Block(WIDTH, BLOCKS)
    reference = torchs_block(ours, cross=False)
    x = torch.randn(T, B, WIDTH)
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[2, 1] = True
    mask = episode_mask(reset)
    seen = mask & causal_mask(T, T, x.device) if causal else mask
    torch.testing.assert_close(ours(x, mask, causal), reference(x, hidden_from(seen)))


def test_a_decoder_block_with_cross_attention_is_torchs():
    ours = Block(WIDTH, BLOCKS, cross=True)
    reference = torchs_block(ours, cross=True)
    x, memory, length = torch.randn(T, B, WIDTH), torch.randn(S, B, WIDTH), torch.tensor([6, 2, 4])
    padding = padding_mask(length, S)
    expected = reference(
        x,
        memory,
        tgt_mask=~causal_mask(T, T, x.device),
        memory_key_padding_mask=~padding[:, 0],
    )
    torch.testing.assert_close(ours(x, None, True, memory, padding), expected)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_decoder_writes_each_step_from_the_past_alone(positions):
    blocks = Blocks(heads=2, positions=positions)
    decoder, encoder = (Transformer(3, WIDTH, causal=c, blocks=blocks) for c in (True, False))
    x = torch.randn(T, B, 3, requires_grad=True)
    for model, sees_future in ((decoder, False), (encoder, True)):
        y = model(x)
        assert y.shape == (T, B, model.width) == (T, B, WIDTH)
        g = torch.autograd.grad((y[2] * torch.randn(WIDTH)).sum(), x)[0].abs().sum((1, 2))
        assert g[:3].all()
        assert bool(g[3:].any()) is sees_future
    torch.testing.assert_close(decoder(x[:3]), decoder(x)[:3])


@pytest.mark.parametrize("positions", POSITIONS)
def test_only_positions_tell_the_order(positions):
    encoder = Transformer(3, WIDTH, blocks=Blocks(heads=2, positions=positions))
    x = torch.randn(T, B, 3)
    order = torch.tensor([4, 2, 0, 1, 3])
    same = torch.allclose(encoder(x[order]), encoder(x)[order], atol=1e-5)
    assert same is (positions == "none")


def test_steps_hidden_by_a_mask_do_not_count():
    encoder = Transformer(3, WIDTH, blocks=BLOCKS)
    x, length = torch.randn(T, B, 3), torch.tensor([5, 2, 3])
    changed = x.clone()
    changed[2:, 1] += 1
    mask = padding_mask(length, T)
    torch.testing.assert_close(encoder(changed, mask)[:2, 1], encoder(x, mask)[:2, 1])
    assert not torch.allclose(encoder(changed)[:2, 1], encoder(x)[:2, 1])


def test_a_stack_is_its_blocks_one_after_the_other():
    model = Transformer(3, WIDTH, 3, causal=True, cross=True, blocks=BLOCKS)
    x, memory = torch.randn(T, B, 3), torch.randn(S, B, WIDTH)
    h = model.positions(model.embed(x))
    for block in model.blocks:
        h = block(h, causal=True, memory=memory)
    torch.testing.assert_close(model(x, memory=memory), model.norm(h))
    assert len(model.blocks) == 3


def test_dropout_is_in_training_alone_and_everywhere():
    model = Transformer(3, WIDTH, cross=True, blocks=Blocks(heads=2, dropout=0.3))
    x, memory = torch.randn(T, B, 3), torch.randn(S, B, WIDTH)
    assert not torch.equal(model(x, memory=memory), model(x, memory=memory))
    model.eval()
    assert torch.equal(model(x, memory=memory), model(x, memory=memory))
    block = model.blocks[0].train()
    parts = (block.attention, block.cross, block.feed_forward, block.dropout)
    for part in parts:
        assert not torch.equal(part(memory), part(memory))


@pytest.mark.parametrize("activation", ["glu", "relu"])
def test_feed_forward_takes_every_activation(activation):
    layer = FeedForward(WIDTH, activation)
    h = layer.widen(torch.ones(2, WIDTH))
    h = nn.functional.glu(h) if activation == "glu" else h.relu()
    torch.testing.assert_close(layer(torch.ones(2, WIDTH)), layer.narrow(h))
    with pytest.raises(UsageError, match="unknown activation 'gleu'"):
        FeedForward(WIDTH, "gleu")


@pytest.mark.parametrize("cross", [False, True])
def test_a_stack_can_be_exported(cross):
    model = Transformer(3, WIDTH, causal=True, cross=cross, blocks=BLOCKS).eval()
    args = (torch.randn(T, B, 3), None, torch.randn(S, B, WIDTH) if cross else None)
    program = torch.export.export(model, args)
    torch.testing.assert_close(program.module()(*args), model(*args))
