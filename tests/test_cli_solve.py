"""`rlkit solve`, as a newcomer calls it."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import rlkit
from rlkit.cli import main
from rlkit.cli.solve_progress import SolveProgress
from rlkit.mdp.goal import Reached


@pytest.fixture
def solve(capsys, monkeypatch, tmp_path):
    """Call `rlkit solve` in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*args):
        with pytest.raises(SystemExit) as end:
            main(["solve", *args])
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


def test_gridworld_is_solved_and_drawn(solve):
    status, out, err = solve("gridworld", "--map", "russell-norvig", "--gamma", "1")
    assert (status, err) == (0, "")
    assert "states              11 (2 terminal)" in out
    assert "method              policy-iteration (chosen by auto)" in out
    assert "value of the start  0.705308" in out
    assert "│  0.812│  0.868│  0.918│  goal │" in out
    assert "\x1b" not in out
    assert all(len(line) <= 80 and line == line.rstrip() for line in out.splitlines())


def test_actions_that_have_names_are_shown_by_them(solve):
    _, out, _ = solve("machine-replacement")
    assert [line.split()[-1] for line in out.splitlines()[-4:]] == [
        "leave",
        "leave",
        "overhaul",
        "replace",
    ]
    _, out, _ = solve("forest", "--policy")
    assert out.splitlines()[-1].split() == ["0", "to", "2", "wait"]


def test_threads_are_taken_and_refused(solve):
    assert solve("forest", "--threads", "2")[0] == 0
    status, _, err = solve("forest", "--threads", "0")
    assert (status, "threads=0 is out of range" in err) == (2, True)
    _, _, err = solve("forest", "--threads", "2", "--average")
    assert "--threads does not go with --average" in err


@pytest.mark.parametrize(
    ("name", "states", "pairs"),
    [
        ("FrozenLake", 16, 44),
        ("FrozenLake8x8-v1", 64, 212),
        ("CliffWalking", 48, 192),
        ("rlkit/GridWorld-v0", 71, 268),
        ("gymnasium:Taxi", 500, 3000),
    ],
)
def test_environments_with_a_model_are_solved(solve, name, states, pairs):
    status, out, _ = solve(name, "--json")
    assert status == 0
    found = json.loads(out.splitlines()[-1])
    assert (found["states"], found["pairs"]) == (states, pairs)


def test_json_is_all_of_standard_output_and_agrees_with_the_library(solve):
    status, out, err = solve("CliffWalking", "--json", "--method", "value-iteration")
    assert status == 0
    assert "certified error" in err
    found = json.loads(out)
    assert list(found) == [
        *("env", "method", "gamma", "states", "pairs"),
        *("sweeps", "seconds", "error_bound", "start_value"),
    ]
    assert found["env"] == "CliffWalking-v1"
    assert found["method"] == "value-iteration"
    assert found["error_bound"] <= 1e-6
    thirteen_moves = -(1 - 0.99**13) / (1 - 0.99)  # along the cliff, one step above it
    assert found["start_value"] == pytest.approx(thirteen_moves, abs=1e-6)


def test_big_models_are_summed_up(solve):
    status, out, _ = solve("gridworld", "--size", "60")
    assert status == 0
    assert len(out.splitlines()) < 15
    assert "A grid of 60 x 60 is too large to draw here; --plot FILE.png does." in out
    status, out, _ = solve("Taxi")
    assert status == 0
    assert len(out.splitlines()) < 15
    assert "values              1.15318 to 20" in out


def test_small_models_without_a_grid_are_listed(solve):
    Path("coin.py").write_text(
        "import gymnasium\n"
        "from gymnasium.spaces import Discrete\n"
        "class Coin(gymnasium.Env):\n"
        "    observation_space, action_space = Discrete(2), Discrete(2)\n"
        "    P = {0: {0: [(1.0, 0, 0.0, False)], 1: [(0.5, 0, 1.0, False), (0.5, 1, 3.0, True)]},\n"
        "         1: {0: [(1.0, 1, 0.0, True)], 1: [(1.0, 1, 0.0, True)]}}\n"
    )
    status, out, _ = solve("coin.py:Coin", "--gamma", "0.5")
    assert status == 0
    rows = [line.split() for line in out.splitlines()[-3:]]
    # V(0) = 2 + 0.5 · 0.5 · V(0)
    assert rows == [["state", "value", "action"], ["0", "2.66667", "1"], ["1", "0", "terminal"]]


def test_options_of_gridworld_reach_it(solve):
    Path("maze.txt").write_text("S.\n.G\n")
    sure = json.loads(solve("gridworld", "--map", "maze.txt", "--slip", "0", "--json")[1])
    assert sure["states"] == 4
    assert sure["start_value"] == pytest.approx(-0.04 + 0.99 * 0.96)
    slips = json.loads(solve("gridworld", "--map", "maze.txt", "--json")[1])
    assert slips["start_value"] < sure["start_value"]
    assert json.loads(solve("gridworld", "--size", "2", "--json")[1])["states"] <= 4


def test_solutions_are_saved_and_drawn(solve):
    status, out, _ = solve("FrozenLake", "--save", "lake.npz", "--plot", "lake.png")
    assert status == 0
    assert out.endswith("saved lake.npz\ndrew lake.png\n")
    saved = rlkit.Solution.load("lake.npz")
    assert saved.values.shape == (16,)
    assert saved.start_value == pytest.approx(0.5420, abs=5e-5)
    assert np.all(saved.lower <= saved.upper)
    assert Path("lake.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("gridworld --gamma 1.5", "gamma=1.5"),
        ("gridworld --gamma nan", "gamma=nan"),
        ("gridworld --tol 0", "tol=0.0"),
        ("gridworld --tol nan", "tol=nan"),
        ("gridworld --tol -1", "tol=-1.0"),
        ("gridworld --gamma 2 --save x.npz --plot x.png", "gamma=2"),
        ("gridworld --slip 2", "slip is 2.0; allowed: a probability, 0 to 1"),
        ("gridworld --size 0", "size is 0; allowed: a whole number, 2 or more"),
        ("gridworld --size 100000", "10,000,000,000 cells: its model would take"),
        ("gridworld --size 5 --map two-ways", "map and size are both given"),
        ("gridworld --map missing.txt", "map 'missing.txt' was not found"),
        ("gridworld --save nowhere/x.npz", "--save 'nowhere/x.npz' can't be written: No such"),
        ("gridworld --save .", "--save '.' can't be written: Is a directory"),
        ("gridworld --plot nowhere/x.png", "--plot 'nowhere/x.png' can't be written: No such"),
        ("gridworld --plot x.jpeg2", "plot 'x.jpeg2': the name must end in .png"),
        ("gridworld --method policy-iteraton", "did you mean policy-iteration"),
        ("gridworld --compare valeu-iteration", "did you mean value-iteration"),
        ("gridworld --compare all,gauss-seidel", "unknown solver 'all'"),
        ("gridworld --compare all --method auto", "--method does not go with --compare"),
        ("gridworld --compare all --save x.npz", "--save does not go with --compare"),
        ("gridworld --compare all --horizon 5", "--horizon does not go with --compare"),
        ("gridworld --compare all --plot x.jpeg2", "plot 'x.jpeg2': the name must end in .png"),
        ("gridwrld", "unknown env 'gridwrld'; did you mean gridworld"),
        ("FrozenLake --slip 0.1", "--slip: for gridworld alone, not for FrozenLake-v1"),
        ("Taxi --map a.txt --size 3", "--map, --size: for gridworld alone"),
        ("CartPole", "CartPoleEnv has no model"),
    ],
)
def test_bad_usage_is_one_line_and_nothing_is_left_behind(solve, args, words):
    status, out, err = solve(*args.split())
    assert (status, out) == (2, "")
    assert err.startswith("Error: ")
    assert words in err
    assert err.count("\n") == 1
    assert not list(Path().iterdir())


def test_a_file_that_was_there_survives_the_check_of_its_place(solve):
    Path("lake.npz").write_bytes(b"mine")
    assert solve("FrozenLake", "--save", "lake.npz", "--tol", "0")[0] == 2
    assert Path("lake.npz").read_bytes() == b"mine"


def test_a_map_error_names_the_place(solve):
    Path("maze.txt").write_text("S.\n.@\n")
    status, _, err = solve("gridworld", "--map", "maze.txt")
    assert status == 2
    assert err.startswith("Error: map 'maze.txt' line 2, column 2: '@' is not a cell; allowed: ")
    assert err.count("\n") == 1


def test_methods_are_compared(solve):
    status, out, err = solve("FrozenLake8x8", "--compare", "all", "--plot", "curves.png")
    assert (status, err) == (0, "")
    head, _, table = out.partition("\n\n")
    assert "error asked for     at most 1e-06" in head
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()[2:-1]}
    assert sorted(rows) == sorted(rlkit.registry.SOLVERS)
    assert [row[-1] for row in rows.values()].count("fastest") == 1
    assert next(iter(rows.values()))[-1] == "fastest"
    assert len({row[3] for row in rows.values()}) == 1  # they agree on the start's value
    assert all(float(row[2]) <= 1e-6 for row in rows.values())
    assert all(len(line) <= 80 for line in out.splitlines())
    assert out.endswith("\ndrew curves.png\n")
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")


def test_compared_curves_are_in_the_json(solve):
    named = "value-iteration, policy-iteration"
    found = json.loads(solve("Taxi", "--compare", named, "--json")[1])
    assert list(found) == ["env", "gamma", "states", "pairs", "tol", "comparison"]
    assert [one["method"] for one in found["comparison"]] == named.split(", ")
    for one in found["comparison"]:
        curve = one["curve"]
        assert len(curve["sweeps"]) == len(curve["seconds"]) == len(curve["error"])
        assert (curve["sweeps"][-1], curve["error"][-1]) == (one["sweeps"], one["error_bound"])
        assert one["error_bound"] <= found["tol"]
    assert len(found["comparison"][0]["curve"]["error"]) > 5


def test_methods_that_do_not_get_there_are_told_from_those_that_do(solve):
    # Without slips a maze takes value iteration as many sweeps as its longest way has steps.
    methods = "value-iteration,upwind-gauss-seidel"
    status, out, _ = solve("maze", "--size", "300", "--compare", methods, "--max-seconds", "2")
    assert status == 0
    lines = out.splitlines()
    assert lines[-1].startswith("value-iteration: max_seconds=2 are over")
    ends = [(line.split()[0], line.split()[-1]) for line in lines[-3:-1]]
    assert ends == [("upwind-gauss-seidel", "fastest"), ("value-iteration", "missed")]


# A model on which sweeps take for ever: its changes hardly fade.
QUEUES = ("two-queues", "--env-option", "capacity=60", "--gamma", "0.9999999")
SLOW = (*QUEUES, "--method", "value-iteration")


def interrupted(*args, after="certified error"):
    """Run `rlkit solve`, and send a SIGINT once a line of standard error has `after`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rlkit", "solve", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = ""
    while after not in seen.rpartition("\n")[2]:
        line = process.stderr.readline()
        assert line, seen
        seen += "\n" + line.strip()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, f"{seen}\n{err}"


def test_ctrl_c_shows_and_saves_the_bounds_reached_so_far(tmp_path):
    path = tmp_path / "reached.npz"
    status, out, err = interrupted(*SLOW, "--save", str(path))
    assert status == 130
    assert f"saved {path}" in out
    assert "Traceback" not in err
    (warning,) = [line for line in err.splitlines() if line.startswith("Warning: ")]
    assert "interrupted after" in warning
    saved = rlkit.Solution.load(path)
    assert f"certified error     at most {saved.error_bound:.2g} in any state" in out
    assert warning.endswith(f"values are certified to within {saved.error_bound:.2g}")
    assert saved.error_bound > 1e-6
    optimum = rlkit.solve(_queues(), "policy-iteration", tol=1.0)
    assert np.all(saved.lower <= optimum.upper)
    assert np.all(optimum.lower <= saved.upper)


def _queues():
    from rlkit.envs.models import make_model

    return make_model("two-queues", 0.9999999, {"capacity": 60}).mdp


def test_ctrl_c_ends_a_comparison_with_what_there_is():
    methods = "policy-iteration,value-iteration,gauss-seidel"
    status, out, err = interrupted(*QUEUES, "--compare", methods, after="value-iteration:")
    assert status == 130
    assert "Traceback" not in err
    assert "value-iteration: interrupted after" in out
    assert "gauss-seidel" not in out


# ----------------------------------------------------------------------------------- its progress


def shown(updates, tol=1e-6, terminal=False, method=""):
    """What is shown of these certified errors, a tenth of a second apart."""
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    with SolveProgress(console, tol) as progress:
        for number, error in enumerate(updates):
            progress.update(Reached(10.0 * number, number / 10, error), method)
    return console.file.getvalue()


@pytest.fixture
def clock(monkeypatch):
    """Time that goes on by a tenth of a second at each look."""
    now = iter(np.arange(0, 1e6, 0.1))
    monkeypatch.setattr("rlkit.cli.solve_progress.time.monotonic", lambda: float(next(now)))


def test_steps_are_counted_where_it_is_known_how_many_there_are(clock):
    console = Console(file=io.StringIO(), width=120)
    with SolveProgress(console, 1e-6, steps=400) as progress:
        for step in range(1, 101):
            progress.update(Reached(step, step / 10, 1e-15))
    first, *_, last = console.file.getvalue().splitlines()
    assert first == "step 10 of 400  1 s  about 39 s left"
    assert last.endswith(" left")


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_shown_of_a_short_solve(clock, terminal):
    assert shown([1.0] * 10, terminal=terminal) == ""


def test_plain_lines_tell_the_error_and_the_time_left_now_and_then(clock):
    # an error that halves each second
    lines = shown([2.0 ** (-i / 10) for i in range(600)], tol=2.0**-120).splitlines()
    assert lines[0] == "certified error 5.0e-01 (asked: 7.52316e-37)  100 sweeps  1 s"
    assert lines[-1].endswith(" left")
    assert 5 < len(lines) < 25
    for line in lines[1:]:
        seconds = int(line.split("sweeps")[1].split()[0])
        assert seconds < 60
        if "left" in line:
            words = line.split("about ")[1].split()
            left = float(words[0]) * (60 if words[1] == "min" else 1)
            assert left == pytest.approx(120 - seconds, rel=0.05)


def test_nothing_is_said_of_the_time_left_where_it_cannot_be_known(clock):
    text = shown([np.inf] * 200, method="upwind-gauss-seidel")
    assert text.startswith("upwind-gauss-seidel: certified error not known yet (asked: 1e-06)")
    assert "left" not in text
    assert "left" not in shown([3.0] * 200)


def test_a_bar_is_drawn_on_a_terminal_and_taken_away(clock):
    text = shown([2.0 ** (-i / 10) for i in range(100)], terminal=True)
    assert "certified error" in text
    assert "━" in text
    assert "left" in text
    assert text.endswith("\x1b[2K")  # the line is cleared for what follows


def test_help_names_maps_methods_and_defaults(solve):
    status, out, _ = solve("--help")
    assert status == 0
    words = " ".join(out.split()).replace("- ", "-")
    assert "two-ways, russell-norvig, four-rooms" in words
    for default in ("[default: auto]", "[default: 0.99]", "[default: 1e-06]"):
        assert default in words


def test_torch_is_never_imported_and_ascii_output_holds_no_more_than_that():
    code = (
        "import sys, click\n"
        "from rlkit.cli import main\n"
        "try:\n    main(['solve', 'FrozenLake'])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        timeout=100,
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"|S  <   |   ^   |   ^   |   ^   |" in done.stdout
