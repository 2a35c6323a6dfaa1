"""Watching solvers: what they report on their way, forecasts, and methods compared."""

from __future__ import annotations

import _thread
import importlib.util
import threading
import time

import numpy as np
import pytest
from scipy.sparse import csr_array

from rlkit import MDP, registry, solve
from rlkit.agents.backward_induction import backward_induction
from rlkit.envs.gridworld import GridWorld
from rlkit.errors import RlkitWarning, UsageError
from rlkit.mdp.compare import Comparison, all_methods, compare
from rlkit.mdp.criteria import FiniteHorizonSolution
from rlkit.mdp.forecast import seconds_left
from rlkit.mdp.goal import Reached, Watch
from rlkit.mdp.plot_curves import curves_figure, plot_curves

METHODS = sorted(registry.SOLVERS)


def fair_walk(n, gamma):
    """On or back, half each, at a cost of 1: sweeps need about n² of them."""
    i = np.arange(n)
    P = np.zeros((n, n))
    P[i[:-1], i[1:]] = P[i[1:], i[:-1]] = 0.5
    return MDP.from_pairs(csr_array(P), -np.ones(n), np.arange(n + 1), gamma)


# --------------------------------------------------------------------------------------- a watcher


@pytest.mark.parametrize("gamma", [0.95, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_watchers_are_told_of_a_solve_and_change_nothing(method, gamma):
    mdp = GridWorld(size=40).mdp(gamma)
    told = []
    watched = solve(mdp, method, watch=Watch(told.append))
    np.testing.assert_array_equal(watched.values, solve(mdp, method).values)
    assert told
    assert [at.sweeps for at in told] == sorted(at.sweeps for at in told)
    assert [at.seconds for at in told] == sorted(at.seconds for at in told)
    assert told[-1].error <= 1e-6
    assert told[-1].seconds <= watched.seconds


def test_what_is_told_is_the_truth():
    mdp = MDP.from_pairs(csr_array([[0.0, 1.0], [0.99, 0.0]]), [-1.0, -1.0], [0, 1, 2], 0.9)
    exact = np.linalg.solve(np.eye(2) - 0.9 * mdp.P.toarray(), -np.ones(2))
    told = []
    solve(mdp, "value-iteration", watch=Watch(told.append))
    V = np.zeros(2)
    for at in told:
        V = -1.0 + 0.9 * mdp.P @ V
        assert at.error >= np.abs(V - exact).max() - 1e-12


def test_compiled_solvers_tell_of_their_latest_values_also_after_a_proof_that_failed():
    mdp, told = fair_walk(200, 0.9999), []
    solve(mdp, "gauss-seidel", watch=Watch(told.append, share=1e9))
    later = [at.error for at in told if at.sweeps > 100]
    assert len(later) > 100
    assert len(set(later)) > len(later) / 4  # one proof in 50 sweeps


def test_nothing_is_told_before_its_time():
    told = []
    solve(GridWorld(size=20).mdp(0.9), "value-iteration", watch=Watch(told.append, after=60.0))
    assert told == []


def test_the_time_of_a_watcher_is_not_the_solvers():
    def slow(reached):
        time.sleep(0.05)

    solution = solve(GridWorld(size=5).mdp(0.9), "value-iteration", watch=Watch(slow))
    assert solution.sweeps > 10
    assert solution.seconds < 0.05 * solution.sweeps / 2


def test_bounds_for_the_watcher_alone_take_no_more_than_their_share():
    mdp = GridWorld(size=150).mdp(0.99)
    solve(mdp, "upwind-gauss-seidel")  # loads what is compiled
    told = {}
    for share in (0.0, 100.0):
        told[share] = []
        solve(mdp, "upwind-gauss-seidel", watch=Watch(told[share].append, share=share))
    assert len(told[0.0]) < len(told[100.0]) / 3


def test_a_second_ctrl_c_ends_the_search_for_bounds(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlkit.mdp.solver.stopped_bounds", interrupted)
    with pytest.warns(RlkitWarning, match="values are certified to nothing yet"):
        solution = solve(
            fair_walk(50, 0.9), "value-iteration", watch=Watch(interrupted, after=1e-9)
        )
    assert np.all(np.isinf(solution.upper))
    assert np.all(np.isfinite(solution.values))


# --------------------------------------------------------------------------------------- forecasts


def falling(rate, points, noise=0.0):
    """An error that falls from 1 at `rate` natural logarithms a second."""
    wobble = np.random.default_rng(0).uniform(-noise, noise, points)
    return [Reached(i, float(i), float(np.exp(-rate * i + wobble[i]))) for i in range(points)]


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_steady_course_is_extended(noise):
    left = seconds_left(falling(0.5, 20, noise), 1e-6)
    assert left == pytest.approx(np.log(1e6) / 0.5 - 19, rel=0.1)


def test_what_cannot_be_foreseen_is_not():
    assert seconds_left([], 1e-6) is None
    assert seconds_left(falling(0.5, 4), 1e-6) is None
    assert seconds_left(falling(0.0, 20), 1e-6) is None
    assert seconds_left(falling(-0.5, 20), 1e-6) is None
    unknown = [Reached(i, float(i), np.inf) for i in range(20)]
    assert seconds_left(unknown, 1e-6) is None
    bend = [
        *falling(0.1, 10),
        *(Reached(i, float(i), 0.4 * 10.0 ** (9 - i)) for i in range(10, 20)),
    ]
    assert seconds_left(bend, 1e-30) is None
    at_once = [Reached(i, 1.0, 10.0**-i) for i in range(20)]
    assert seconds_left(at_once, 1e-30) is None


def test_value_iteration_is_foreseen():
    mdp, told = fair_walk(200, 0.999), []
    sweeps = solve(mdp, "value-iteration", watch=Watch(told.append)).sweeps
    # a second a sweep, so that the machine has no say in it
    course = [Reached(at.sweeps, at.sweeps, at.error) for at in told[sweeps // 4 : sweeps // 2]]
    left = seconds_left(course, 1e-6)
    assert left is not None
    assert left == pytest.approx(sweeps - course[-1].sweeps, rel=0.1)


# -------------------------------------------------------------------------------------- comparison


def test_methods_are_compared():
    mdp = GridWorld(size=30).mdp(0.99)
    found = compare(mdp, METHODS)
    assert [one.method for one in found] == METHODS
    for one in found:
        assert one.solution.method == one.method
        assert (one.note, one.interrupted) == ("", False)
        np.testing.assert_allclose(one.solution.values, found[0].solution.values, atol=2e-6)
        last = one.curve[-1]
        assert (last.sweeps, last.seconds) == (one.solution.sweeps, one.solution.seconds)
        assert last.error == one.solution.error_bound
        sweeps = [at.sweeps for at in one.curve]
        assert sweeps == sorted(set(sweeps))
        assert all(np.isfinite(at.error) for at in one.curve)
    curves = {one.method: one.curve for one in found}
    assert len(curves["value-iteration"]) > 50
    assert len(curves["policy-iteration"]) > 4  # which proves nothing on its way


def test_long_curves_are_thinned():
    one = compare(fair_walk(100, 0.9999), ["value-iteration"], tol=1.0)[0]
    assert one.solution.sweeps > 10_000
    assert len(one.curve) < 1_000


def test_a_method_that_does_not_get_there_says_so_and_the_others_go_on():
    found = compare(fair_walk(400, 1 - 1e-6), ["value-iteration", "policy-iteration"], 1e-2, 0.2)
    assert found[0].note.startswith("max_seconds=0.2 are over")
    assert found[0].solution.error_bound > 1e-2
    assert found[1].solution.error_bound <= 1e-2


def test_a_method_that_fails_says_so_and_the_others_go_on():
    endless = MDP.from_pairs(
        csr_array([[0.0, 1.0], [1.0, 0.0]]), [-1.0, 0.0], [0, 1, 2], 1 - 2**-53
    )
    found = compare(endless, ["value-iteration", "policy-iteration"])
    assert [one.solution for one in found] == [None, None]
    assert "use a smaller gamma" in found[0].note


def test_ctrl_c_ends_a_comparison_with_what_there_is():
    timer = threading.Timer(1.0, _thread.interrupt_main)
    compare(GridWorld(size=5).mdp(0.9), ["gauss-seidel"])  # loads what is compiled
    timer.start()
    found = compare(
        fair_walk(1000, 1 - 1e-6), ["policy-iteration", "value-iteration", "gauss-seidel"]
    )
    timer.join()
    assert [one.method for one in found] == ["policy-iteration", "value-iteration"]
    assert [one.interrupted for one in found] == [False, True]
    assert "interrupted after" in found[1].note


def test_all_methods_leave_out_what_would_take_for_ever():
    assert sorted(all_methods(GridWorld(size=10).mdp(0.9))) == METHODS
    assert "linear-programming" not in all_methods(GridWorld(size=100).mdp(0.9))


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ([], "no methods to compare"),
        (["value-iteratoin"], "did you mean value-iteration"),
        (["value-iteration"] * 2, "'value-iteration' is given twice"),
        (["auto"], "unknown solver 'auto'"),
    ],
)
def test_methods_that_are_none_are_refused_before_anything_is_solved(methods, words):
    with pytest.raises(UsageError, match=words):
        compare(GridWorld(size=5).mdp(0.9), methods)


# ---------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("start", [None, [0.25, 0.75]])
def test_finite_horizons_survive_the_disk_with_and_without_a_start(tmp_path, start):
    walk = fair_walk(2, 1.0)
    mdp = MDP(walk.P, walk.offsets, walk.r, walk.actions, 1.0, start and np.array(start))
    finite = backward_induction(mdp, 3)
    assert (finite.start_value is None) == (start is None)
    finite.save(tmp_path / "finite.npz")
    back = FiniteHorizonSolution.load(tmp_path / "finite.npz")
    for field in vars(finite):
        np.testing.assert_array_equal(getattr(back, field), getattr(finite, field))


def test_an_archive_that_lacks_what_every_solution_has_is_none(tmp_path):
    np.savez(tmp_path / "part.npz", policy=[[0]], error_bound=0.0, gamma=1.0, seconds=0.0)
    with pytest.raises(UsageError, match=r"not a saved finite-horizon solution .*'values'"):
        FiniteHorizonSolution.load(tmp_path / "part.npz")


# ----------------------------------------------------------------------------------------- pictures


def test_curves_are_drawn_for_all_methods_by_sweeps_and_by_seconds(tmp_path):
    found = compare(GridWorld(size=20).mdp(0.95), METHODS)
    drawn = curves_figure(found, 1e-6, "a grid")
    by_sweeps, by_seconds = drawn.axes
    assert by_sweeps.get_xlabel().startswith("sweeps")
    assert by_seconds.get_xlabel() == "seconds"
    assert "units of reward" in by_sweeps.get_ylabel()
    assert {axes.get_yscale() for axes in drawn.axes} == {"log"}
    assert "a grid" in drawn.get_suptitle()
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == METHODS
    for axes, name in ((by_sweeps, "sweeps"), (by_seconds, "seconds")):
        lines = [line for line in axes.lines if line.get_label() in METHODS]
        assert len({line.get_color() for line in lines}) == len(METHODS)
        assert len({line.get_marker() for line in lines}) == len(METHODS)
        for one, line in zip(found, lines, strict=True):
            assert line.get_xdata()[-1] == getattr(one.curve[-1], name)
            assert line.get_ydata()[-1] == one.solution.error_bound
    alone = curves_figure(found[3:4], 1e-6).axes[0].lines[0]  # a method's looks are its own
    among = next(line for line in by_sweeps.lines if line.get_label() == METHODS[3])
    assert (alone.get_color(), alone.get_marker()) == (among.get_color(), among.get_marker())
    plot_curves(found, tmp_path / "curves.svg", 1e-6)
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")


def test_methods_without_a_curve_are_no_trouble(tmp_path):
    failed = Comparison("value-iteration", None, [], "it runs for ever", interrupted=False)
    at_the_end = [Reached(1, 1e-3, 0.0)]
    exact = Comparison("policy-iteration", None, at_the_end, "", interrupted=False)
    for found in ([], [failed], [failed, exact]):
        plot_curves(found, tmp_path / "curves.png", 1e-6)


def test_pictures_that_cannot_be_drawn_are_refused(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="must end in"):
        plot_curves([], tmp_path / "curves.doc", 1e-6)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install matplotlib"):
        plot_curves([], tmp_path / "curves.png", 1e-6)
