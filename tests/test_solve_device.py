"""Solving on a device: values, bounds and refusals. Without a GPU the sweeps run on the CPU."""

import sys
import warnings

import numpy as np
import pytest
import torch
from mdp_referee import discounted_optimum, random_mdp, undiscounted_optimum

import rlkit
from rlkit.errors import ModelError, RlkitWarning, RunError, UsageError
from rlkit.mdp.device import memory, proof, sweep
from rlkit.mdp.device.rows import Csr, Ell
from rlkit.mdp.device.solve import METHODS, _first_value, _Pace, solve, solver_on
from rlkit.mdp.device.upload import on_device
from rlkit.mdp.goal import Goal, Watch
from rlkit.mdp.solver import InterruptedWarning

CPU = torch.device("cpu")
LAYOUTS = {"columns": Ell, "compressed": Csr}


@pytest.fixture(params=LAYOUTS)
def layout(request, monkeypatch):
    """Every model in this layout."""
    padded = {"columns": 1e9, "compressed": -1.0}[request.param]
    monkeypatch.setattr("rlkit.mdp.device.upload._MOST_PADDED", padded)
    return LAYOUTS[request.param]


def solved(mdp, method="auto", tol=1e-6, device=CPU, **told):
    solver, reason = solver_on(mdp, device, method)
    return solver(mdp, tol, reason=reason, **told)


def walk(gamma, n_states=40, slip=0.3, cost=1.0):
    """Left or right on a line that ends at its left side."""
    rows, r = [], []
    for state in range(1, n_states):
        for step in (-1, 1):
            row = np.zeros(n_states)
            row[state + step if state + step < n_states else state] += 1 - slip
            row[state - step if state - step < n_states else state] += slip
            rows.append(row)
            r.append(-cost)
    offsets = np.concatenate([[0, 0], 2 * np.arange(1, n_states)])
    return rlkit.MDP.from_pairs(np.array(rows), r, offsets, gamma)


def assert_holds(solution, optimum, tol):
    assert solution.error_bound <= tol
    for value, low, high, best in zip(
        solution.values, solution.lower, solution.upper, optimum, strict=True
    ):
        assert low <= best <= high  # fractions against floats: exact
        assert abs(value - float(best)) <= tol


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gamma", [0.5, 0.96875])
@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold_against_all_policies_in_rational_arithmetic(seed, gamma, method, layout):
    mdp = random_mdp(seed, gamma)
    model = on_device(mdp, CPU)
    assert isinstance(model.rows, layout) or not mdp.P.nnz
    assert_holds(solved(mdp, method), discounted_optimum(mdp), 1e-6)
    assert_holds(solve(model, method).on_host(), discounted_optimum(mdp), 1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(12))
def test_undiscounted_bounds_hold_or_the_model_is_refused(seed, method, layout):
    mdp = random_mdp(seed, 1.0)
    optimum = undiscounted_optimum(mdp)
    if optimum is None:
        with pytest.raises(ModelError):
            solved(mdp, method)
        return
    assert_holds(solved(mdp, method), optimum, 1e-6)


def test_some_of_these_undiscounted_models_have_a_value():
    found = [undiscounted_optimum(random_mdp(s, 1.0)) for s in range(12)]
    assert 3 <= sum(optimum is not None for optimum in found) <= 11


@pytest.mark.parametrize("gamma", [0.95, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_solutions_are_those_of_linear_programming(gamma, method, layout):
    mdp = walk(gamma)
    referee = rlkit.solve(mdp, "linear-programming", tol=1e-6)
    found = solved(mdp, method, tol=1e-7)
    np.testing.assert_allclose(found.values, referee.values, atol=1e-5)
    np.testing.assert_array_equal(found.policy[1:], 0)
    assert found.policy[0] == -1
    np.testing.assert_array_equal(found.offsets, mdp.offsets)
    assert found.q.shape == (mdp.n_pairs,)
    np.testing.assert_allclose(found.q, mdp.r + gamma * (mdp.P @ found.values), atol=1e-12)


def test_bounds_of_a_model_that_never_ends_are_of_float64(layout):
    """The shift of all values, thousands, in single precision would be off by 1e-4."""
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(30), size=(30, 3))
    mdp = rlkit.MDP.from_arrays(P, 10 + rng.random((30, 3)), 0.999)
    referee = rlkit.solve(mdp, "policy-iteration", tol=1e-6)
    for method in METHODS:
        found = solved(mdp, method)
        assert found.error_bound <= 1e-6
        assert np.all(found.lower <= referee.upper)
        assert np.all(referee.lower <= found.upper)
        np.testing.assert_allclose(found.values, referee.values, atol=2e-6)


def test_what_all_values_rise_by_together_is_no_change_where_nothing_ends():
    parts = torch.tensor([[3.0, 1.0], [2.0, 5.0]], dtype=torch.float64)
    endless = rlkit.MDP.from_pairs(np.eye(2), [1.0, 0.0], [0, 1, 2], 0.9)
    for mdp, size in ((endless, 2.0), (walk(0.9), 5.0)):
        judge = proof.Proof(on_device(mdp, CPU), Goal(1e-6, np.inf), 1)
        assert judge.size_of(parts) == size
    assert judge.size_of(-parts[[1, 0]]) == 5.0


def test_value_iteration_is_so_many_applications_of_the_operator():
    mdp = walk(0.9)
    found = solved(mdp, "value-iteration", tol=1e-2)
    V = np.zeros(40)
    for _ in range(found.sweeps):
        V = np.append(0.0, (mdp.r + 0.9 * (mdp.P @ V)).reshape(39, 2).max(axis=1))
    assert np.abs(V - rlkit.solve(mdp, tol=1e-9).values).max() > 1e-5  # under way
    np.testing.assert_allclose(found.values, V, atol=1e-12)


def test_modified_policy_iteration_starts_below_the_optimum():
    assert _first_value(on_device(walk(0.9), CPU)) == pytest.approx(-10.0)
    assert _first_value(on_device(walk(0.9, cost=-1.0), CPU)) == 0.0
    assert _first_value(on_device(walk(1.0), CPU)) == 0.0


def test_the_pace_is_that_of_the_bottleneck():
    pace = _Pace(METHODS[0])
    assert (pace.of_policy, pace.of_all) == (4, 0)
    steps = [(1.0, np.inf, 8, 0), (2.0, 1.0, 16, 0), (2.1, 1.0, 8, 0), (9.0, 1.0, 4, 0)]
    steps += [(9.0, 1.0, 4, 16), (9.0, 1.0, 4, 16), (0.5, 1.0, 8, 0)]
    for improved, settled, of_policy, of_all in steps:
        pace.adapt(improved, settled)
        assert (pace.of_policy, pace.of_all) == (of_policy, of_all)
    for _ in range(9):
        pace.adapt(1.0, 1.0)
    assert pace.of_policy == 64


def test_modified_policy_iteration_reads_less_than_value_iteration(monkeypatch):
    """In units of sweeps over all actions, of a model that needs many of a policy's."""
    read = []

    def counted(rows, V, TV, choice=None):
        read.append(rows.r.numel())
        return sweep.backup(rows, V, TV, choice)

    monkeypatch.setattr("rlkit.mdp.device.solve.backup", counted)
    model = on_device(walk(0.999, n_states=60, slip=0.45), CPU)
    totals = []
    for method in METHODS:
        read.clear()
        solve(model, method)
        totals.append(sum(read))
    assert totals[0] < 0.7 * totals[1]


def test_policies_earn_what_they_promise(layout):
    for seed in range(4):
        mdp = random_mdp(seed, 0.96875, n_states=12)
        found = solved(mdp)
        earned = rlkit.evaluate_policy(mdp, found.policy)
        np.testing.assert_allclose(earned, found.values, atol=5e-5)


def test_action_labels_need_not_count_from_0(layout):
    mdp = walk(0.9)
    labels = np.tile([3, 8], mdp.n_pairs // 2)
    named = rlkit.MDP.from_pairs(mdp.P, mdp.r, mdp.offsets, 0.9, labels)
    np.testing.assert_array_equal(np.unique(solved(named).policy), [-1, 3])
    np.testing.assert_array_equal(np.unique(solve(on_device(named, CPU)).policy), [-1, 0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gamma", [0.999, 1.0])
def test_where_time_ends_what_is_certified_holds(gamma, method):
    mdp = walk(gamma)
    referee = rlkit.solve(mdp, tol=1e-9)
    with pytest.warns(RlkitWarning, match=r"max_seconds=1e-09 are over .* certified (to|from)"):
        found = solved(mdp, method, max_seconds=1e-9)
    assert found.error_bound > 1e-6
    assert np.all(found.lower <= referee.values)
    assert np.all(referee.values <= found.upper)
    with pytest.warns(RlkitWarning, match="max_seconds=1e-09 are over"):
        stayed = solve(on_device(mdp, CPU), method, max_seconds=1e-9)
    assert np.all(stayed.lower.numpy() <= referee.values)
    assert np.all(referee.values <= stayed.upper.numpy())
    if gamma < 1.0:
        assert np.isfinite(found.error_bound)
        assert np.isfinite(stayed.error_bound)


def test_late_values_at_gamma_1_are_certified_where_they_can_be(monkeypatch):
    mdp = walk(1.0, cost=0.125)
    calls, judge = [], proof.Proof.__call__

    def late(self, *args):
        calls.append(1)
        self.goal.max_seconds = -1.0 if len(calls) > 40 else np.inf
        return judge(self, *args)

    monkeypatch.setattr(proof.Proof, "__call__", late)
    with pytest.warns(RlkitWarning, match="certified to within"):
        found = solve(on_device(mdp, CPU), "value-iteration", tol=1e-12)
    referee = rlkit.solve(mdp, tol=1e-9)
    assert 1e-12 < found.error_bound < 1.0
    assert np.all(found.lower.numpy() <= referee.upper)
    assert np.all(referee.lower <= found.upper.numpy())


def test_what_float64_cannot_certify_is_said(layout):
    with pytest.warns(RlkitWarning, match="tol=1e-18 cannot be certified in float64"):
        found = solved(walk(0.9), tol=1e-18)
    assert found.error_bound < 1e-12
    with pytest.warns(RlkitWarning, match="tol=1e-18 cannot be certified in float64"):
        solved(walk(1.0), tol=1e-18)
    with pytest.raises(RunError, match="tol=1e-18 cannot be certified in float64"):
        solve(on_device(walk(1.0), CPU), tol=1e-18)


def test_loops_at_a_cost_that_drowns_in_rounding_are_refused():
    P = np.array([[1.0, 0.0], [0.0, 1.0]])
    mdp = rlkit.MDP.from_pairs(P, [-1e-18, 1.0], [0, 2, 2], 1.0)
    for run in (rlkit.solve, solved):
        with pytest.raises(ModelError, match=r"state 0 can loop for ever at no cost"):
            run(mdp)
    with pytest.raises(RunError, match="states can loop at no cost"):
        solve(on_device(mdp, CPU))


def test_undiscounted_models_on_the_device_alone_are_refused_where_values_are_not_finite():
    P = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    endless = rlkit.MDP.from_pairs(P, [-1.0, -1.0], [0, 1, 2, 2], 1.0)
    with pytest.raises(ModelError, match="states 0, 1 can reach no terminal state"):
        solve(on_device(endless, CPU))
    P = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    gainful = rlkit.MDP.from_pairs(P, [2.0, -1.0, 0.0], [0, 1, 3, 3], 1.0)
    with pytest.raises(RunError, match="or will do so for ever"):
        solve(on_device(gainful, CPU))


def test_ctrl_c_ends_with_what_is_certified(monkeypatch):
    mdp, calls, judge = walk(0.999), [], proof.Proof.__call__

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) % 5 == 0:
            raise KeyboardInterrupt
        return judge(self, *args)

    monkeypatch.setattr(proof.Proof, "__call__", interrupted)
    referee = rlkit.solve(mdp, tol=1e-9)
    for run in (solved, lambda mdp: solve(on_device(mdp, CPU)).on_host()):
        with pytest.warns(InterruptedWarning, match="interrupted after .* certified to within"):
            found = run(mdp)
        assert 1e-6 < found.error_bound < np.inf
        assert np.all(found.lower <= referee.values)
        assert np.all(referee.values <= found.upper)


def test_a_watcher_is_told_how_the_error_falls():
    told = []
    solved(walk(0.99), watch=Watch(told.append))
    errors = [reached.error for reached in told]
    assert len(errors) > 2
    assert errors[-1] <= 1e-6 < errors[0]


def test_the_method_says_the_device_and_the_reason_says_how():
    found = solved(walk(0.9))
    assert found.method == "modified-policy-iteration on cpu"
    assert (
        "reads 1/2 of the model; rows of 2 x 2 successors on cpu, swept by torch's" in found.reason
    )
    single = rlkit.MDP.from_pairs(np.array([[0.5]]), [1.0], [0, 1], 0.9)
    assert solved(single).method == "value-iteration on cpu"


def test_methods_that_no_device_can_do_are_refused():
    with pytest.raises(UsageError, match="'topological'; on a device it may be auto, modified-"):
        solved(walk(0.9), "topological")
    with pytest.raises(UsageError, match="did you mean value-iteration"):
        solved(walk(0.9), "value-iterations")
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UsageError, match="tol"):
            solve(on_device(walk(0.9), CPU), tol=bad)


def test_a_model_that_does_not_fit_is_refused_before_it_is_copied(monkeypatch):
    mdp = walk(0.9, n_states=1000)
    monkeypatch.setattr("rlkit.mdp.device.upload._ell", lambda *_: pytest.fail("it was copied"))
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**16)
    with pytest.raises(UsageError) as refusal:
        solved(mdp)
    found = str(refusal.value)
    assert found.startswith("1,000 states on cpu: the model and its sweeps would take 0.0 GiB and ")
    fits = int(found.partition("up to about ")[2].partition(" states")[0].replace(",", ""))
    assert 0 < fits < 1000
    monkeypatch.undo()
    monkeypatch.setattr(memory, "free_memory", lambda device: None)  # unknown: nothing is refused
    assert solved(mdp).error_bound <= 1e-6


def test_a_full_device_is_told_in_a_line(monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("rlkit.mdp.device.solve.backup", full)
    for run in (solved, lambda mdp: solve(on_device(mdp, CPU))):
        with pytest.raises(RunError, match="the memory of cpu is full"):
            run(walk(0.9))


def test_device_cpu_and_auto_without_a_gpu_are_the_compiled_engine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cpu", "auto"):
        assert rlkit.solve(walk(0.9), device=device).method == "policy-iteration"


def test_a_gpu_that_is_not_there_is_told_as_in_training(monkeypatch, cli):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError) as library:
        rlkit.solve(walk(0.9), device="cuda")
    assert "sees 0 CUDA devices here; use --device cpu or auto" in str(library.value)
    called = cli("solve", "gridworld", "--device", "cuda")
    assert (called.status, called.error) == (2, str(library.value))
    assert cli("train", "a2c", "CartPole", "--device", "cuda").error == called.error
    assert "allowed: auto, cpu, cuda, cuda:I" in cli("solve", "forest", "--device", "tpu").error


def test_options_that_a_device_does_not_take_are_refused(cli):
    for other in (["--threads", "2"], ["--average"], ["--horizon", "3"], ["--compare", "all"]):
        called = cli("solve", "forest", "--device", "cuda", *other)
        assert called.status == 2
        assert {other[0], "--device"} <= set(called.error.replace(";", "").split())
    with pytest.raises(UsageError, match="threads=2 is for device cpu"):
        rlkit.solve(walk(0.9), threads=2, device="cuda")


def test_the_command_line_solves_on_the_device(cli, monkeypatch):
    """A device that is called a GPU, since there may be none."""
    monkeypatch.setattr("rlkit.device.names.device_for", lambda name: torch.device("meta"))
    there = "rlkit.mdp.device.solve.solver_on"
    monkeypatch.setattr(there, lambda mdp, device, method: solver_on(mdp, CPU, method))
    called = cli("solve", "gridworld", "--device", "cuda")
    assert called.status == 0
    assert "modified-policy-iteration on cpu (chosen by auto)" in called.out
    asked = cli("solve", "gridworld", "--device", "cuda", "--method", "value-iteration")
    assert "value-iteration on cpu\n" in asked.out
    on_cpu = cli("solve", "gridworld")
    assert (
        called.out.partition("value of the start")[2]
        == on_cpu.out.partition("value of the start")[2]
    )


def test_where_triton_cannot_compile_sweeps_go_by_torch_and_it_is_said(monkeypatch):
    class Broken:
        def backup(self, *args):
            raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    sweep.fused.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "rlkit.mdp.device.triton_kernels", Broken())
    monkeypatch.setattr("rlkit.mdp.device.triton_kernels", Broken(), raising=False)
    monkeypatch.setattr(sweep, "_smallest", lambda device: None)
    monkeypatch.setattr(torch, "zeros", lambda *size, **told: torch.ones(*size))
    with pytest.warns(RlkitWarning, match="can't be compiled on cuda .*Failed to find C compiler"):
        assert not sweep.fused(torch.device("cuda"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not sweep.fused(torch.device("cuda"))  # said once
    sweep.fused.cache_clear()


@pytest.mark.cuda
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gamma", [0.95, 1.0])
def test_a_gpu_finds_what_the_cpu_finds(gamma, method, layout):
    for mdp in (walk(gamma, n_states=1000, slip=0.1), walk(gamma, n_states=2)):
        referee = rlkit.solve(mdp, tol=1e-7)
        found = solved(mdp, method, device=torch.device("cuda"))
        assert found.error_bound <= 1e-6
        assert np.all(found.lower <= referee.upper)
        assert np.all(referee.lower <= found.upper)
        np.testing.assert_allclose(found.values, referee.values, atol=1.2e-6)


@pytest.mark.cuda
def test_the_public_call_solves_on_a_gpu():
    found = rlkit.solve(walk(0.9), device="cuda")
    assert found.method == "modified-policy-iteration on cuda"
    np.testing.assert_allclose(found.values, rlkit.solve(walk(0.9)).values, atol=2e-6)
