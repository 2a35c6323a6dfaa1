"""Attention and positions, against torch's own and against the papers' sums, term by term."""

import math

import pytest
import torch
from torch import nn
from torch_twins import torchs

from rlkit.errors import UsageError
from rlkit.networks.attention import (
    Attention,
    RelativeAttention,
    causal_mask,
    episode_mask,
    padding_mask,
)
from rlkit.networks.positions import (
    LearnedPositions,
    Sinusoids,
    positions_for,
    rotated,
    sinusoids,
)

T, S, B, WIDTH, HEADS = 4, 7, 3, 8, 2


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def masks():
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(B, T, S, generator=generator) < 0.6
    mask[..., 0] = True  # torch's own gives NaN for a query without keys
    return {"none": None, "shared": mask[0], "each": mask, "padding": mask[:, :1]}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", masks())
def test_cross_attention_is_torchs(masked, causal):
    ours = Attention(WIDTH, HEADS)
    reference = torchs(ours)
    x, memory = torch.randn(T, B, WIDTH), torch.randn(S, B, WIDTH)
    mask = masks()[masked]
    allowed = torch.ones(B, T, S, dtype=torch.bool) if mask is None else mask.expand(B, T, S)
    if causal:  # the last query stands at the last key
        allowed = allowed & torch.tensor([[j <= i + S - T for j in range(S)] for i in range(T)])
    hidden = ~allowed.repeat_interleave(HEADS, 0)
    expected = reference(x, memory, memory, attn_mask=hidden, need_weights=False)[0]
    torch.testing.assert_close(ours(x, memory, mask, causal), expected)


def test_causal_self_attention_sees_no_later_step():
    ours = Attention(WIDTH, HEADS)
    reference = torchs(ours)
    x = torch.randn(T, B, WIDTH, requires_grad=True)
    y = ours(x, causal=True)
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
    torch.testing.assert_close(y, reference(x, x, x, attn_mask=hidden, need_weights=False)[0])
    (g,) = torch.autograd.grad(y[1].sum(), x)
    assert g[:2].abs().sum((1, 2)).all()
    assert not g[2:].any()


def test_a_query_that_sees_nothing_gets_zeros():
    ours = Attention(WIDTH, HEADS)
    mask = torch.ones(T, T, dtype=torch.bool)
    mask[2] = False
    y = ours(torch.randn(T, B, WIDTH), mask=mask)
    assert y.isfinite().all()
    torch.testing.assert_close(y[2], ours.output(torch.zeros(B, WIDTH)))


def test_masks_by_hand():
    assert causal_mask(2, 3, torch.device("cpu")).int().tolist() == [[1, 1, 0], [1, 1, 1]]
    assert padding_mask(torch.tensor([2, 3]), 3).int().tolist() == [[[1, 1, 0]], [[1, 1, 1]]]
    reset = torch.tensor([[True, False], [False, True], [False, False]])
    first, second = episode_mask(reset).int().tolist()
    assert first == [[1, 1, 1]] * 3
    assert second == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize("T", [1, 2, 4, 6])
def test_relative_attention_is_the_papers_sum(T):
    """Dai et al. 2019, §3.3: the four terms (a) to (d), for each query, key and head apart."""
    length = S - T
    ours = RelativeAttention(WIDTH, HEADS, length=length).double()
    for p in (ours.u, ours.v):
        nn.init.normal_(p)
    x, memory = torch.randn(T, B, WIDTH).double(), torch.randn(S, B, WIDTH).double()
    mask = torch.rand(B, T, length + 1) < 0.7
    mask[..., -1] = True
    hidden = torch.zeros(mask.shape).double().masked_fill(~mask, -math.inf)
    y, n = ours(x, memory, hidden), WIDTH // HEADS
    W_q, W_r, W_o = ours.query.weight, ours.position.weight, ours.output.weight
    W_k, W_v = ours.key_value.weight.chunk(2)
    for b in range(B):
        for i in range(T):
            heads = []
            for h in range(HEADS):
                rows = slice(h * n, (h + 1) * n)
                u, v = ours.u[h, 0], ours.v[h, 0]
                seen = [j for j in range(i, i + length + 1) if mask[b, i, j - i]]
                scores = []
                for j in seen:
                    R = by_formula(length + i - j)
                    q, k, r = W_q[rows] @ x[i, b], W_k[rows] @ memory[j, b], W_r[rows] @ R
                    scores.append((q @ k + q @ r + u @ k + v @ r) / math.sqrt(n))
                p = torch.stack(scores).softmax(0)
                heads.append(sum(p[m] * (W_v[rows] @ memory[j, b]) for m, j in enumerate(seen)))
            torch.testing.assert_close(y[i, b], W_o @ torch.cat(heads), rtol=1e-5, atol=1e-6)


def by_formula(position):
    """Vaswani et al. 2017, §3.5, sines first."""
    angles = [position / 10000 ** (2 * i / WIDTH) for i in range(WIDTH // 2)]
    return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)]).double()


def test_sinusoids_are_the_papers():
    for position in (0, 1, 5, 300):
        found = sinusoids(torch.tensor(position), WIDTH)
        torch.testing.assert_close(found.double(), by_formula(position), rtol=1e-4, atol=1e-4)
    x = torch.randn(T, B, WIDTH)
    expected = x + torch.stack([by_formula(2 + t) for t in range(T)]).float()[:, None]
    torch.testing.assert_close(Sinusoids()(x, start=2), expected, rtol=1e-4, atol=1e-5)


def test_rotary_products_depend_on_the_distance_alone():
    q, k = torch.randn(WIDTH).double(), torch.randn(WIDTH).double()
    step = torch.arange(40)
    scores = rotated(q.expand(40, -1), step) @ rotated(k.expand(40, -1), step).t()
    for distance in (-7, 0, 1, 20):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[0].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert scores[0].std() > 0.1  # and on the distance they do depend
    torch.testing.assert_close(scores[3, 3], q @ k, rtol=1e-4, atol=1e-5)
    # A plane's worth, by the definition: the pair (i, i + width/2) turned by its angle.
    turned = rotated(torch.eye(WIDTH).double()[1].expand(6, -1), torch.arange(6))[5]
    angle = 5 / 10000 ** (2 / WIDTH)
    expected = torch.zeros(WIDTH).double()
    expected[1], expected[1 + WIDTH // 2] = math.cos(angle), math.sin(angle)
    torch.testing.assert_close(turned, expected, rtol=1e-5, atol=1e-6)


def test_rotary_attention_knows_order_and_no_absolute_time():
    ours = Attention(WIDTH, HEADS, rotary=True)
    plain = Attention(WIDTH, HEADS)
    plain.load_state_dict(ours.state_dict())
    memory = torch.randn(S, B, WIDTH)
    longer = torch.cat([torch.randn(5, B, WIDTH), memory])
    seen = (torch.arange(S + 5) >= 5).expand(T, -1)
    x = memory[-T:]
    y = ours(x, memory, causal=True)
    torch.testing.assert_close(ours(x, longer, seen, causal=True), y, rtol=1e-4, atol=1e-5)
    shuffled = torch.cat([memory[[1, 0]], memory[2:]])
    torch.testing.assert_close(plain(x, shuffled), plain(x, memory))
    assert not torch.allclose(ours(x, shuffled), ours(x, memory), atol=1e-4)


def test_learned_positions_are_rows_of_a_table():
    positions = LearnedPositions(6, WIDTH)
    x = torch.randn(T, B, WIDTH)
    for t in range(T):
        torch.testing.assert_close(positions(x, start=2)[t], x[t] + positions.table[2 + t])
    with pytest.raises(UsageError, match="reaches step 7; learned positions were made for 6"):
        positions(x, start=3)


def test_dropout_is_in_training_alone():
    ours = Attention(WIDTH, HEADS, dropout=0.5)
    x = torch.randn(T, B, WIDTH)
    assert not torch.equal(ours(x), ours(x))
    ours.eval()
    assert torch.equal(ours(x), ours(x))


def test_bad_choices_are_refused():
    with pytest.raises(UsageError, match=r"4 attention heads over a width of 10; .* try 8"):
        Attention(10, 4)
    with pytest.raises(UsageError, match="width of a positional encoding is 5"):
        sinusoids(torch.arange(3), 5)
    with pytest.raises(UsageError, match="unknown positional encoding 'rotari'; did you mean"):
        positions_for("rotari", 8, 8)
