"""Both ways through time, and from one sequence to another."""

import pytest
import torch
from torch import nn

from rlkit.networks.seq2seq import (
    Bidirectional,
    RecurrentSeq2Seq,
    TransformerSeq2Seq,
    decode,
    reversed_in_time,
)
from rlkit.networks.transformer import Blocks

T, S, B, WIDTH_IN, TARGET, OUTPUTS, WIDTH = 6, 7, 3, 4, 5, 5, 8
LENGTH = torch.tensor([7, 3, 5])
LAYERS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_both_ways_is_torchs_bidirectional_layer(kind, padded):
    ours = Bidirectional(kind, WIDTH_IN, WIDTH)
    reference = LAYERS[kind](WIDTH_IN, WIDTH, bidirectional=True)
    weights = {f"{k}_l0": p for k, p in ours.onward.cells[0].state_dict().items()}
    weights |= {f"{k}_l0_reverse": p for k, p in ours.back.cells[0].state_dict().items()}
    reference.load_state_dict(weights)
    x = torch.randn(S, B, WIDTH_IN)
    length = LENGTH if padded else torch.full((B,), S)
    packed = nn.utils.rnn.pack_padded_sequence(x, length, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(reference(packed)[0], total_length=S)
    y = ours(x, LENGTH if padded else None)
    assert y.shape == (S, B, ours.width)
    for b in range(B):
        torch.testing.assert_close(y[: length[b], b], expected[: length[b], b])


def test_reversing_leaves_the_padding_where_it_is():
    x = torch.arange(4)[:, None].expand(4, 3)
    found = reversed_in_time(x, torch.tensor([4, 2, 1]))
    assert found.t().tolist() == [[3, 2, 1, 0], [1, 0, 2, 3], [0, 1, 2, 3]]


def models():
    torch.manual_seed(0)
    made = {
        kind: RecurrentSeq2Seq(kind, WIDTH_IN, TARGET, OUTPUTS, WIDTH, layers=2) for kind in LAYERS
    }
    for positions in ("sinusoidal", "rotary"):
        blocks = Blocks(heads=2, positions=positions)
        made[positions] = TransformerSeq2Seq(WIDTH_IN, TARGET, OUTPUTS, WIDTH, blocks=blocks)
    return made


MODELS = models()


@pytest.mark.parametrize("length", [None, LENGTH], ids=["whole", "padded"])
@pytest.mark.parametrize("name", MODELS)
def test_decoding_is_teacher_forcing_with_its_own_outputs(name, length):
    model = MODELS[name]
    source, first = torch.randn(S, B, WIDTH_IN), torch.randn(B, TARGET)
    written = decode(model, source, first, T, torch.tanh, length)
    assert written.shape == (T, B, OUTPUTS)
    inputs = torch.cat([first[None], written[:-1].tanh()])
    torch.testing.assert_close(model(source, inputs, length), written)


@pytest.mark.parametrize("name", MODELS)
def test_the_target_is_written_from_its_past_and_all_of_the_source(name):
    model = MODELS[name]
    source = torch.randn(S, B, WIDTH_IN, requires_grad=True)
    target = torch.randn(T, B, TARGET, requires_grad=True)
    y = model(source, target, LENGTH)
    g_source, g_target = torch.autograd.grad(y[3].sum(), [source, target])
    assert g_target[:4].abs().sum((1, 2)).all()
    assert not g_target[4:].any()
    seen = g_source.abs().sum(-1) > 0  # (S, B)
    assert torch.equal(seen, torch.arange(S)[:, None] < LENGTH)


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name):
    model = MODELS[name]
    source, target = torch.randn(S, B, WIDTH_IN), torch.randn(T, B, TARGET)
    y = model(source, target, LENGTH)
    for b, n in enumerate(LENGTH.tolist()):
        alone = model(source[:n, b : b + 1], target[:, b : b + 1])
        torch.testing.assert_close(y[:, b : b + 1], alone)


def test_greedy_decoding_learns_to_reverse():
    """A task with a known answer: the source's tokens, last one first."""
    torch.manual_seed(0)
    tokens, steps = 4, 3
    model = RecurrentSeq2Seq("gru", tokens, tokens, tokens, 32)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)

    def one_hot(x):
        return nn.functional.one_hot(x, tokens).float()

    first = torch.zeros(64, tokens)
    for _ in range(150):
        source = torch.randint(tokens, (steps, 64))
        target = source.flip(0)
        logits = model(one_hot(source), torch.cat([first[None], one_hot(target)[:-1]]))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    every = torch.cartesian_prod(*[torch.arange(tokens)] * steps).t()  # all 64 sources
    with torch.no_grad():
        greedy = decode(model, one_hot(every), first, steps, lambda y: one_hot(y.argmax(-1)))
    assert (greedy.argmax(-1) == every.flip(0)).float().mean() > 0.95
