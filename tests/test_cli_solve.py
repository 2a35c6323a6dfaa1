"""`rlkit solve`, as a newcomer calls it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rlkit
from rlkit.cli import main


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
