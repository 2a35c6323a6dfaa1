"""Sweeps over rows on a device, against sums over dense arrays; what waits for the device."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from mdp_referee import random_mdp

import rlkit
from rlkit.mdp.device import upload
from rlkit.mdp.device.generate import from_function
from rlkit.mdp.device.model import DeviceMDP
from rlkit.mdp.device.proof import Proof
from rlkit.mdp.device.rows import Csr, Ell
from rlkit.mdp.device.sweep import backup, change, fused
from rlkit.mdp.device.upload import on_device
from rlkit.mdp.goal import Goal

CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def random_model(seed, gamma=0.9, n_states=50):
    return random_mdp(seed, gamma, n_states=n_states, n_actions=4)


def wide_model(n_states=30, actions=3, width=20):
    rng = np.random.default_rng(0)
    P = np.zeros((n_states, actions, n_states))
    for row in P.reshape(-1, n_states):
        chosen = rng.choice(n_states, size=width, replace=False)
        row[chosen] = rng.dirichlet(np.ones(width))
    return rlkit.MDP.from_arrays(P, rng.normal(size=(n_states, actions)), 0.95)


def in_layout(mdp, layout, device="cpu"):
    place = torch.device(device)
    widest = max(1, int(np.diff(mdp.offsets).max(initial=1)))
    if layout is Csr:
        rows = upload._csr(mdp, place)
    else:
        rows = upload._ell(mdp, widest, max(1, mdp.width), place)
    return replace(on_device(mdp, place), rows=rows)


def dense_backup(mdp, V):
    """Q (L,), TV (S,) and the first best pair of each state, counted from 0, by definition."""
    Q = mdp.r + mdp.gamma * mdp.P.toarray() @ V
    pairs = [Q[a:b] for a, b in zip(mdp.offsets[:-1], mdp.offsets[1:], strict=True)]
    best = np.array([q.max(initial=-np.inf) if q.size else 0.0 for q in pairs])
    return Q, best, np.array([int(np.argmax(q)) if q.size else 0 for q in pairs])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [Ell, Csr])
@pytest.mark.parametrize("mdp", [random_model(1), random_model(2), wide_model()], ids=repr)
def test_a_sweep_is_bellmans_operator(mdp, layout, device):
    model = in_layout(mdp, layout, device)
    rng = np.random.default_rng(3)
    values = rng.normal(size=mdp.n_states) * ~mdp.terminal
    V = torch.tensor(np.append(values, 0.0), device=device)
    TV = torch.full_like(V, torch.nan)
    TV[-1] = 0.0
    choice = torch.full((mdp.n_states,), -7, device=device)
    found = change(backup(model.rows, V, TV, choice))
    Q, best, first = dense_backup(mdp, values)
    np.testing.assert_allclose(TV[:-1].cpu(), best, atol=1e-13)
    np.testing.assert_allclose(model.in_order(model.rows.q(V)).cpu(), Q, atol=1e-13)
    low, high = found.tolist()
    assert low == pytest.approx((best - values).min(), abs=1e-13)
    assert high == pytest.approx((best - values).max(), abs=1e-13)
    if layout is Csr:
        choice -= model.rows.off[:-1]
    np.testing.assert_array_equal(choice.cpu(), first)
    np.testing.assert_array_equal(model.rows.first_best(V, 0.0).cpu(), first)
    assert TV[-1] == 0.0
    untouched = torch.zeros_like(V)
    backup(model.rows, V, untouched)
    torch.testing.assert_close(untouched, TV, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [Ell, Csr])
@pytest.mark.parametrize("mdp", [random_model(4), wide_model()], ids=repr)
def test_the_rows_of_a_policy_are_its_operator(mdp, layout, device):
    model = in_layout(mdp, layout, device)
    rng = np.random.default_rng(5)
    counts = np.diff(mdp.offsets)
    slots = rng.integers(0, np.maximum(counts, 1))
    values = rng.normal(size=mdp.n_states)
    choice = torch.tensor(slots, device=device)
    if layout is Csr:
        choice += model.rows.off[:-1]
    V = torch.tensor(np.append(values, 0.0), device=device)
    TV = torch.zeros_like(V)
    backup(model.rows.following(choice), V, TV)
    live = np.flatnonzero(counts)
    Q, _, _ = dense_backup(mdp, values)
    expected = np.zeros(mdp.n_states)
    expected[live] = Q[mdp.offsets[:-1][live] + slots[live]]
    np.testing.assert_allclose(TV[:-1].cpu(), expected, atol=1e-13)


@pytest.mark.parametrize("layout", [Ell, Csr])
def test_other_rewards_for_some_of_the_pairs_alone(layout):
    mdp = random_model(6)
    model = in_layout(mdp, layout)
    rng = np.random.default_rng(7)
    V = torch.tensor(np.append(rng.normal(size=mdp.n_states), 0.0))
    r = torch.ones_like(model.rows.r)
    Q = model.rows.rewarded(r, model.rows.pairs).q(V)
    expected = 1.0 + mdp.P @ V[:-1].numpy()
    np.testing.assert_allclose(model.in_order(Q), expected, atol=1e-13)
    allowed = model.rows.pairs & (model.rows.per_pair(torch.arange(mdp.n_states)) % 2 == 0)
    only = model.in_order(model.rows.rewarded(r, allowed).q(V))
    odd = torch.tensor(mdp.pair_state % 2 == 1)
    assert torch.all(only[odd] == -torch.inf)
    assert torch.all(only[~odd].isfinite())


def test_the_layout_is_columns_where_few_places_stay_empty():
    assert isinstance(on_device(wide_model(width=16), CPU).rows, Ell)
    assert isinstance(on_device(wide_model(width=17), CPU).rows, Csr)
    P = np.eye(40)[None].repeat(40, axis=0).reshape(-1, 40)[: 40 + 39]
    ragged = rlkit.MDP.from_pairs(P, np.ones(79), [0, 40, *range(41, 80)], 0.9)
    assert isinstance(on_device(ragged, CPU).rows, Csr)
    ends = rlkit.MDP.from_pairs(np.zeros((2, 2)), [1.0, 2.0], [0, 2, 2], 0.9)
    assert isinstance(on_device(ends, CPU).rows, Ell)


@pytest.mark.parametrize("layout", [Ell, Csr])
def test_a_model_is_the_same_on_the_device(layout):
    mdp = random_model(8)
    model = in_layout(mdp, layout)
    np.testing.assert_array_equal(model.in_order(model.rows.r), mdp.r)
    np.testing.assert_array_equal(model.live, ~mdp.terminal)
    counts = model.rows.counts * model.live
    np.testing.assert_array_equal(counts, np.diff(mdp.offsets))
    labels = model.in_order(model.rows.labels)
    np.testing.assert_array_equal(labels, np.arange(mdp.n_pairs) - mdp.offsets[mdp.pair_state])
    ends = [mdp.terminal[s] or mdp.ends[mdp.pair_state == s].any() for s in range(50)]
    np.testing.assert_array_equal(model.ends, ends)
    assert model.closed == (not np.any(ends))


def test_models_larger_than_a_block_are_put_in_place(monkeypatch):
    mdp = random_model(9)
    whole = on_device(mdp, CPU)
    monkeypatch.setattr("rlkit.mdp.device.upload.BLOCK_OUTCOMES", 100)
    in_blocks = on_device(mdp, CPU)
    for name in ("successors", "p", "r"):
        assert torch.equal(getattr(whole.rows, name), getattr(in_blocks.rows, name))


def on_meta(rows):
    moved = {
        field.name: getattr(rows, field.name).to("meta")
        for field in fields(rows)
        if isinstance(getattr(rows, field.name), torch.Tensor)
    }
    return replace(rows, **moved)


@pytest.mark.parametrize("layout", [Ell, Csr])
def test_a_sweep_does_not_wait_for_the_device(layout):
    """On torch's meta device whatever reads a number back raises."""
    rows = on_meta(in_layout(random_model(10), layout).rows)
    V = torch.zeros(rows.n_states + 1, dtype=torch.float64, device="meta")
    TV, choice = torch.zeros_like(V), torch.zeros(rows.n_states, dtype=torch.int64, device="meta")
    assert change(backup(rows, V, TV, choice)).shape == (2,)
    assert change(backup(rows, V, TV)).shape == (2,)
    if layout is Ell:
        backup(rows.following(choice), V, TV)
    with pytest.raises((RuntimeError, NotImplementedError)):
        change(backup(rows, V, TV)).tolist()


def test_shared_probabilities_are_not_copied_for_a_policy():
    def f(states):
        S = 6
        successors = torch.stack([(states + 1) % S, states], dim=-1)[:, None, :]
        return successors.expand(-1, 3, -1), torch.tensor([0.75, 0.25]), torch.ones(len(states), 3)

    model = from_function(f, 6, 0.9, CPU)
    policy = model.rows.following(torch.zeros(6, dtype=torch.int64))
    assert model.rows.p.untyped_storage().nbytes() == 2 * 8
    assert policy.p.untyped_storage().data_ptr() == model.rows.p.untyped_storage().data_ptr()
    assert policy.p.shape == (1, 2, 6)


def line(n_states=20):
    """To the left with a chance of .8, at a cost of 1; ends at the left side. V* is -1.25 s."""
    here = np.arange(1, n_states)
    P = np.zeros((n_states - 1, n_states))
    P[here - 1, here - 1], P[here - 1, here] = 0.8, 0.2
    offsets = np.concatenate([[0, 0], here])
    return rlkit.MDP.from_pairs(P, -np.ones(n_states - 1), offsets, 1.0)


def test_undiscounted_bounds_are_checked_on_both_sides():
    model = on_device(line(), CPU)
    proof = Proof(model, Goal(1e-6, np.inf), 1)
    V = torch.cat([-1.25 * torch.arange(20, dtype=torch.float64), torch.zeros(1)])
    width = -1e-3 * V  # a multiple of the times to the end
    every = model.rows.pairs
    assert proof._hold(V - width, V + width, every)
    assert not proof._hold(V - width, V, every)  # not strictly above T upper
    assert not proof._hold(V - width, V - width, every)
    assert not proof._hold(V + width, V + width, every)
    assert not proof._hold(V - width, V + 1e-17 * width, every)  # nothing but rounding between
    up = torch.where(torch.arange(21) == 20, 0.0, 0.01)  # T upper above upper, at state 1
    assert not proof._hold(V - width, V + up, every)


def test_times_that_were_found_for_looser_ties_do_not_spoil_the_last_try():
    model = on_device(line(), CPU)
    proof = Proof(model, Goal(1e-9, np.inf), 1)
    V = torch.cat([-1.25 * torch.arange(20, dtype=torch.float64), torch.zeros(1)])
    proof._w = -1e9 * V
    found, _ = proof._inductive(V, 4 * model.rounding(25.0), 1e-9, np.inf)
    assert found is not None
    assert found.error <= 1e-9


def test_bounds_hold_for_whatever_values_are_asked_about():
    """Not only for those of an algorithm: V is drawn, V* known."""
    mdp = random_model(11)
    model: DeviceMDP = on_device(mdp, CPU)
    referee = rlkit.solve(mdp, tol=1e-10)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drawn = rng.normal(scale=10.0 ** rng.integers(-6, 3), size=mdp.n_states)
        V = torch.tensor(np.append((referee.values + drawn) * ~mdp.terminal, 0.0))
        found = Proof(model, Goal(1e-6, np.inf), 1).reached(V, "asked")
        assert torch.all(found.lower <= torch.tensor(referee.upper))
        assert torch.all(torch.tensor(referee.lower) <= found.upper)


_INTERPRETED = """
import torch
from test_solve_device_rows import *
from rlkit.mdp.device import triton_kernels

torch.set_num_threads(1)
for mdp in (random_model(1), random_model(2, n_states=300), wide_model(), wide_model(4, 2, 3)):
    for layout in (Ell, Csr):
        rows = in_layout(mdp, layout).rows
        V = torch.randn(mdp.n_states + 1, dtype=torch.float64)
        V[-1] = 0
        every = torch.zeros(mdp.n_states, dtype=torch.int64)
        for some in (rows, rows.following(every if layout is Ell else rows.off[:-1])):
            for choose in (False, True):
                TV, fast = torch.zeros_like(V), torch.full_like(V, torch.nan)
                fast[-1] = 0
                a, b = (torch.full((mdp.n_states,), -7) if choose else None for _ in range(2))
                expected = some.backup(V, TV, a)
                found = change(triton_kernels.backup(some, V, fast, b))
                torch.testing.assert_close(fast, TV, rtol=1e-13, atol=1e-13)
                torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
                if choose:
                    assert torch.equal(a, b)
print("all equal")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton, whose interpreter runs its kernels on the CPU, is not installed",
)
def test_triton_kernels_do_what_torchs_operations_do():
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
    }
    run = subprocess.run(
        [sys.executable, "-c", _INTERPRETED], env=environment, capture_output=True, text=True
    )
    assert run.stdout.endswith("all equal\n"), run.stderr


@pytest.mark.cuda
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="this torch came without Triton"
)
def test_sweeps_on_a_gpu_are_single_kernels():
    assert fused(torch.device("cuda"))
