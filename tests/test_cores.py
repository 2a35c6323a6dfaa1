"""What every core must do: be named, saved, cut anywhere, exported and compiled."""

import copy
import io
import pickle
import warnings

import numpy as np
import pytest
import torch

from rlkit.errors import UsageError
from rlkit.networks.cores import CORES, core_for

B, WIDTH_IN, WIDTH = 3, 5, 8


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def segment(core, steps, share=0.2, seed=0):
    """x, the carry after a few steps, and resets."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 + steps, B, WIDTH_IN, generator=generator)
    reset = torch.rand(4 + steps, B, generator=generator) < share
    with torch.no_grad():
        _, carry = core(x[:4], core.initial_carry(B), reset[:4])
    return x[4:], carry, reset[4:]


def made(name):
    torch.manual_seed(0)
    return core_for(name, WIDTH_IN, WIDTH)


def assert_same(found, expected):
    y, carry = found
    expected_y, expected_carry = expected
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.as_tensor(y), expected_y, **close)
    for s, e in zip(carry, expected_carry, strict=True):
        torch.testing.assert_close(torch.as_tensor(s), e, **close)


@pytest.mark.parametrize("name", CORES)
def test_a_core_keeps_its_word(name):
    core = made(name)
    x, carry, reset = segment(core, 7)
    y, last = core(x, carry, reset)
    assert y.shape == (7, B, core.width) == (7, B, WIDTH)
    assert y.dtype == torch.float32
    empty = core.initial_carry(B)
    for before, after in zip(empty, last, strict=True):
        assert before.shape == after.shape
        assert before.shape[0] == B
        assert before.dtype == after.dtype
        assert not before.any()
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in core.parameters())
    assert_same(core(x, last, reset), core(x, last, reset))  # nothing is kept between calls


@pytest.mark.parametrize("name", CORES)
def test_a_segment_may_be_cut_anywhere(name):
    core = made(name)
    x, carry, reset = segment(core, 9)
    whole = core(x, carry, reset)
    for cuts in ([1] * 9, [4, 5], [1, 7, 1]):
        y, now = [], carry
        for part_x, part_reset in zip(x.split(cuts), reset.split(cuts), strict=True):
            part, now = core(part_x, now, part_reset)
            y.append(part)
        assert_same((torch.cat(y), now), whole)


@pytest.mark.parametrize("name", CORES)
def test_a_reset_is_an_empty_carry_and_rows_are_apart(name):
    core = made(name)
    x, carry, _ = segment(core, 6)
    reset = torch.zeros(6, B, dtype=torch.bool)
    reset[3, 1] = True
    y, _ = core(x, carry, reset)
    alone, _ = core(x[3:, 1:2], core.initial_carry(1), torch.zeros(3, 1, dtype=torch.bool))
    torch.testing.assert_close(y[3:, 1:2], alone)
    emptied = tuple(s.clone() for s in carry)
    for s in emptied:
        s[1] = 0
    reset = torch.zeros(6, B, dtype=torch.bool)
    y_emptied, _ = core(x, emptied, reset)
    y_kept, _ = core(x, carry, reset)
    reset[0, 1] = True
    (y_reset, after), (expected, after_emptied) = core(x, carry, reset), core(x, emptied, reset)
    torch.testing.assert_close(y_reset, expected)
    reset[0, 1] = False
    torch.testing.assert_close(core(x, after, reset)[0], core(x, after_emptied, reset)[0])
    assert torch.equal(y_emptied[:, [0, 2]], y_kept[:, [0, 2]])
    assert not torch.allclose(y_emptied[:, 1], y_kept[:, 1])


@pytest.mark.parametrize("name", CORES)
def test_weights_survive_saving_and_copying(name):
    core = made(name)
    args = segment(core, 5)
    file = io.BytesIO()
    torch.save(core.state_dict(), file)
    file.seek(0)
    other = core_for(name, WIDTH_IN, WIDTH)
    assert not torch.allclose(other(*args)[0], core(*args)[0])
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(other(*args), core(*args))
    assert_same(pickle.loads(pickle.dumps(core))(*args), core(*args))
    twin = copy.deepcopy(core)
    assert_same(twin(*args), core(*args))
    for p in twin.parameters():
        p.data.zero_()
    assert_same(other(*args), core(*args))
    assert not torch.allclose(twin(*args)[0], core(*args)[0])


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", CORES)
def test_export_takes_the_carry_in_and_out(name, steps):
    core = made(name).eval()
    program = torch.export.export(core, segment(core, steps))
    names = {spec.target for spec in program.graph_signature.input_specs if spec.target}
    constants = {name for name, _ in core.named_buffers()}
    assert names == set(core.state_dict()) | constants  # and no copies of the weights
    for seed in (1, 2):
        args = segment(core, steps, 0.5, seed)
        assert_same(program.module()(*args), core(*args))


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("name", CORES)
def test_products_in_bfloat16_are_close(name, steps):
    """To what float32 gives, and their gradients are of float32 weights."""
    core = made(name)
    x, carry, reset = segment(core, steps)
    y, last = core(x, carry, reset)
    with torch.autocast("cpu", torch.bfloat16):
        found, after = core(x, carry, reset)
    assert 0 < (found.float() - y).abs().max() < 0.03
    for s, e in zip(after, last, strict=True):
        torch.testing.assert_close(s.to(e.dtype), e, rtol=0, atol=0.03)
    found.float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == p.dtype for p in core.parameters())


@pytest.mark.parametrize("name", CORES)
def test_onnx_runs_step_by_step(name):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    core = made(name).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        model = torch.onnx.export(core, segment(core, 1), dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [i.name for i in session.get_inputs()]
    x, carry, reset = segment(core, 6, 0.3, 1)
    expected = core(x, carry, reset)
    y, now = [], [s.numpy() for s in carry]
    for t in range(6):
        values = [x[t : t + 1].numpy(), *now, reset[t : t + 1].numpy()]
        out, *now = session.run(None, dict(zip(names, values, strict=True)))
        y.append(out)
    assert_same((np.concatenate(y), now), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", CORES)
def test_compiled_it_is_the_same(name):
    core = made(name)
    x, carry, reset = segment(core, 4)
    assert_same(torch.compile(core, fullgraph=True)(x, carry, reset), core(x, carry, reset))


@pytest.mark.cuda
@pytest.mark.parametrize("name", CORES)
def test_cuda_agrees_with_the_cpu(name):
    core = made(name)
    args = segment(core, 12)
    expected = core(*args)
    x, carry, reset = args
    y, last = core.cuda()(x.cuda(), tuple(s.cuda() for s in carry), reset.cuda())
    torch.testing.assert_close(y.cpu(), expected[0], rtol=1e-3, atol=1e-3)
    for s, e in zip(last, expected[1], strict=True):
        torch.testing.assert_close(s.cpu(), e, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bidirectional-gru", "would see the future: .* allowed: rnn, gru, lstm, gtrxl"),
        ("gtrlx", r"unknown core 'gtrlx'; did you mean gtrxl\?"),
        ("", "unknown core ''; known: gru, gtrxl, lstm, rnn"),
    ],
)
def test_other_names_are_refused(name, said):
    with pytest.raises(UsageError, match=said) as refused:
        core_for(name, 4, 4)
    assert "\n" not in str(refused.value)
