"""Solutions drawn: in the terminal and as pictures."""

import importlib.util
import io
import struct

import numpy as np
import pytest
from rich.console import Console

import rlkit
from rlkit.agents.backward_induction import backward_induction
from rlkit.envs.gridworld import GridWorld
from rlkit.envs.make import make_env
from rlkit.errors import UsageError
from rlkit.mdp.draw_grid import layout_of
from rlkit.mdp.plot import figure, plot
from rlkit.mdp.terminal import draw

STEPS = {"↑": (-1, 0), "→": (0, 1), "↓": (1, 0), "←": (0, -1)}


def solved(env, gamma=0.99, tol=1e-6):
    return rlkit.solve(rlkit.MDP.from_gymnasium(env, gamma), tol=tol), layout_of(env)


def printed(text, terminal):
    out = io.StringIO()
    colours = "truecolor" if terminal else "auto"
    Console(file=out, force_terminal=terminal, color_system=colours, width=80).print(text, end="")
    return out.getvalue()


@pytest.mark.parametrize(
    "env",
    [
        make_env("FrozenLake8x8", {"is_slippery": False}),
        make_env("CliffWalking"),
        GridWorld("two-ways", slip=0.0),
    ],
    ids=["FrozenLake8x8", "CliffWalking", "GridWorld"],
)
def test_arrows_point_where_the_environment_moves(env):
    layout = layout_of(env)
    cells = {int(state): cell for cell, state in np.ndenumerate(layout.states) if state >= 0}
    mdp = rlkit.MDP.from_gymnasium(env, 0.9)
    seen = set()
    for pair in range(mdp.n_pairs):
        here = cells[int(mdp.pair_state[pair])]
        successors = mdp.P[[pair]].indices
        if len(successors) == 0 or layout.ends[here]:
            continue
        there = cells[int(successors[0])]
        move = (there[0] - here[0], there[1] - here[1])
        if abs(move[0]) + abs(move[1]) == 1 and there != (3, 0):  # not sent back by the cliff
            arrow = layout.arrows[mdp.actions[pair]]
            assert STEPS[arrow] == move
            seen.add(arrow)
    assert seen == set("↑→↓←")


def test_marks_and_ends_are_those_of_the_environment():
    lake = make_env("FrozenLake8x8")
    layout = layout_of(lake)
    assert (layout.ends == np.isin(lake.unwrapped.desc, [b"H", b"G"])).all()
    assert (layout.tones == -1).sum() == (lake.unwrapped.desc == b"H").sum()
    cliff = layout_of(make_env("CliffWalking"))
    assert ["".join(row) for row in cliff.marks][3] == "SCCCCCCCCCCG"
    assert cliff.tones[3].tolist() == [0, *[-1] * 10, 1]
    assert layout_of(make_env("Taxi")) is None
    legend = layout_of(GridWorld(["S#ab", "a: 0.5", "b: -1 terminal"]))
    assert legend.states.tolist() == [[0, -1, 1, 2]]
    assert legend.tones.tolist() == [[0, 0, 1, -1]]
    assert legend.ends.tolist() == [[False, False, False, True]]


def test_russell_and_norvigs_figure_in_the_terminal():
    solution, layout = solved(GridWorld("russell-norvig"), gamma=1.0)
    assert draw(solution, layout).plain == (
        "┌───────┬───────┬───────┬───────┐\n"
        "│  0.812│  0.868│  0.918│  goal │\n"
        "│   →   │   →   │   →   │       │\n"
        "├───────┼───────┼───────┼───────┤\n"
        "│  0.762│███████│  0.660│  pit  │\n"
        "│   ↑   │███████│   ↑   │       │\n"
        "├───────┼───────┼───────┼───────┤\n"
        "│  0.705│  0.655│  0.611│  0.388│\n"
        "│S  ↑   │   ←   │   ←   │   ←   │\n"
        "└───────┴───────┴───────┴───────┘\n"
    )
    plain = draw(solution, layout, ascii_only=True).plain
    assert plain.isascii()
    assert "|S  ^   |   <   |   <   |   <   |" in plain


@pytest.mark.parametrize("name", ["FrozenLake", "FrozenLake8x8", "CliffWalking"])
def test_drawings_fit_into_80_columns_with_every_value(name):
    solution, layout = solved(make_env(name))
    text = printed(draw(solution, layout), terminal=False)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 3 * layout.shape[0] + 1
    shown = [float(word) for word in text.translate(str.maketrans("│", " ")).split() if "." in word]
    inside = ~layout.ends
    assert np.allclose(shown, solution.values[layout.states[inside]], atol=0.051)


def test_colours_are_for_terminals_alone():
    solution, layout = solved(GridWorld())
    text = draw(solution, layout)
    assert "\x1b[" not in printed(text, terminal=False)
    assert "\x1b[" in printed(text, terminal=True)


def test_higher_values_are_lighter():
    solution, layout = solved(GridWorld(["S...G"], slip=0.0))
    text = draw(solution, layout)
    grounds = [
        sum(span.style.bgcolor.triplet)
        for span in text.spans
        if span.style.bgcolor and any(c in "→" for c in text.plain[span.start : span.end])
    ]
    assert len(grounds) == 4
    assert grounds == sorted(grounds)
    assert grounds[0] < grounds[-1]


def test_grids_too_tall_for_values_show_arrows_and_larger_ones_nothing():
    env = GridWorld(size=30)
    solution, layout = solved(env)
    lines = draw(solution, layout).plain.splitlines()
    assert [len(line) for line in lines] == [59] * 30
    for (row, col), cell in np.ndenumerate(env.grid.cells):
        shown = lines[row][2 * col]
        if cell == "#":
            assert shown == "█"
        elif cell == "G":
            assert shown == "G"
        else:
            assert shown == "↑→↓←"[solution.policy[layout.states[row, col]]]
    assert draw(solution, layout, width=58) is None
    assert draw(*solved(GridWorld(size=41)), width=200) is None


def test_grids_that_do_not_fit_are_not_looked_at_value_by_value(monkeypatch):
    env = GridWorld(size=120)
    solution = solved(env)
    monkeypatch.setattr("rlkit.mdp.terminal.fixed_point", None)
    assert draw(solution, layout_of(env)) is None


def test_wide_values_lose_decimals_before_they_are_left_out():
    env = GridWorld(["S" + "." * 11 + "G"], goal_reward=1e3)
    assert "0.99" not in draw(*solved(env, 1.0)).plain
    assert "1000" in draw(*solved(env, 1.0)).plain
    env = GridWorld(["S" + "." * 11 + "G"], goal_reward=1e7)
    assert len(draw(*solved(env, 1.0, tol=1e-3)).plain.splitlines()) == 1


def test_zero_has_no_sign():
    solution, layout = solved(GridWorld(["SG"], slip=0.0, goal_reward=0.0399))
    assert -1e-3 < solution.values[0] < 0
    assert "  0.000" in draw(solution, layout).plain
    assert "0.000" in {text.get_text() for text in figure(solution, layout).axes[0].texts}


def test_the_picture_has_an_arrow_in_every_cell_that_points_the_right_way():
    solution, layout = solved(make_env("FrozenLake8x8"))
    axes = figure(solution, layout).axes[0]
    assert axes.yaxis_inverted()  # rows count downwards, as in the map
    (arrows,) = [item for item in axes.collections if hasattr(item, "U")]
    places = zip(arrows.X, arrows.Y, arrows.U, arrows.V, strict=True)
    assert len(arrows.X) == (~layout.ends).sum()
    for x, y, dx, dy in places:
        action = solution.policy[layout.states[round(y), round(x)]]
        assert (np.sign(dy), np.sign(dx)) == STEPS[layout.arrows[action]]


def test_the_picture_says_values_method_discount_and_error():
    solution, layout = solved(GridWorld("russell-norvig"), gamma=1.0)
    drawn = figure(solution, layout, title="4x3")
    words = {text.get_text() for text in drawn.axes[0].texts}
    assert {"0.812", "0.868", "0.918", "0.762", "0.660", "0.705", "0.388", "G", "P", "S"} <= words
    assert "4x3 · policy-iteration, γ = 1" in words
    assert any("certified error ≤" in word and "start 0.7053" in word for word in words)
    assert drawn.axes[0].child_axes[0].get_ylabel() == "value V(s)"


def test_the_picture_of_a_horizon_is_that_of_its_first_step():
    env = GridWorld("russell-norvig")
    layout = layout_of(env)
    short = backward_induction(rlkit.MDP.from_gymnasium(env, 1.0), 3)
    drawn = figure(short, layout)
    words = {text.get_text() for text in drawn.axes[0].texts}
    assert f"{short.values[0].max():.3f}" in words
    assert "backward-induction, γ = 1, 3 steps to go" in words
    (arrows,) = [item for item in drawn.axes[0].collections if hasattr(item, "U")]
    for x, y, dx, dy in zip(arrows.X, arrows.Y, arrows.U, arrows.V, strict=True):
        action = short.policy[0][layout.states[round(y), round(x)]]
        assert (np.sign(dy), np.sign(dx)) == STEPS[layout.arrows[action]]
    (line,) = figure(short).axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), np.sort(short.values[0])[::-1])


@pytest.mark.parametrize(("size", "arrows"), [(50, 2228), (150, 50 * 50)])
def test_fine_grids_show_fewer_arrows(size, arrows):
    env = GridWorld(size=size)
    solution, layout = solved(env)
    (drawn,) = [item for item in figure(solution, layout).axes[0].collections if hasattr(item, "U")]
    assert 0.85 * arrows < len(drawn.X) <= arrows


def test_models_without_a_grid_are_drawn_as_sorted_values():
    solution, layout = solved(make_env("Taxi"))
    assert layout is None
    (line,) = figure(solution).axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), np.sort(solution.values)[::-1])


@pytest.mark.parametrize(
    ("ending", "first"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_pictures_are_written_in_the_format_of_the_name(tmp_path, ending, first):
    solution, layout = solved(GridWorld())
    path = tmp_path / f"grid.{ending}"
    plot(solution, path, layout)
    data = path.read_bytes()
    assert data.startswith(first)
    if ending == "png":
        width, height = struct.unpack(">II", data[16:24])
        assert width > 1000
        assert height > 600


def test_what_hinders_a_picture_is_said(tmp_path, monkeypatch):
    solution, layout = solved(GridWorld())
    with pytest.raises(UsageError, match=r"must end in \.png or \.pdf or \.svg"):
        plot(solution, tmp_path / "grid.bmp", layout)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install matplotlib"):
        plot(solution, tmp_path / "grid.png", layout)
