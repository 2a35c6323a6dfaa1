"""GridWorld: its maps, and its simulator held to its model."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from scipy import stats
from scipy.sparse import csgraph

import rlkit
import rlkit.envs
from rlkit import system
from rlkit.envs import gridmap
from rlkit.envs.gridworld import DOWN, LEFT, RIGHT, UP, GridWorld
from rlkit.errors import UsageError

MOVES = {UP: (-1, 0), RIGHT: (0, 1), DOWN: (1, 0), LEFT: (0, -1)}
# Every free cell is a start, so that a reset samples states; walls, the border, ends and rewards.
SAMPLED = ["SaS#", "S#SG", "SSPS", "a: 0.5"]


def by_definition(env, rewards):
    """P[s][a] = {s': p} and r[s][a], from the docstring's words, one cell at a time."""
    cells = env.grid.cells
    free = [(row, col) for row, col in np.ndindex(cells.shape) if cells[row, col] != "#"]
    P, r = {}, {}
    for s, (row, col) in enumerate(free):
        if cells[row, col] in "GPH":
            continue
        for a in MOVES:
            P[s, a], r[s, a] = {}, -env.step_cost
            sides = [b for b in MOVES if np.dot(MOVES[a], MOVES[b]) == 0]
            for b, p in [(a, 1 - env.slip), *((side, env.slip / 2) for side in sides)]:
                target = (row + MOVES[b][0], col + MOVES[b][1])
                if target not in free:
                    target = (row, col)
                P[s, a][free.index(target)] = P[s, a].get(free.index(target), 0.0) + p
                r[s, a] += p * rewards.get(cells[target], 0.0)
    return P, r


@pytest.mark.parametrize("slip", [0.0, 0.2, 0.7, 1.0])
def test_the_model_is_its_definition(slip):
    env = GridWorld(SAMPLED, slip=slip, step_cost=0.1, goal_reward=2.0, pit_reward=-3.0)
    mdp = env.mdp(0.9)
    P, r = by_definition(env, {"G": 2.0, "P": -3.0, "a": 0.5})
    assert mdp.n_pairs == len(P)
    for pair in range(mdp.n_pairs):
        key = mdp.pair_state[pair], mdp.actions[pair]
        expected = np.zeros(mdp.n_states)
        for target, p in P[key].items():
            expected[target] = p
        np.testing.assert_allclose(mdp.P[[pair]].toarray()[0], expected, atol=1e-15)
        assert mdp.r[pair] == pytest.approx(r[key])


def test_the_simulator_follows_the_model():
    env = GridWorld(SAMPLED, slip=0.3)
    mdp = env.mdp(0.9)
    counts = np.zeros((mdp.n_pairs, mdp.n_states))
    reward_of = np.full(mdp.n_states, np.nan)
    state, _ = env.reset(seed=3)
    for draw in range(40_000):
        action = draw % 4
        successor, reward, terminated, truncated, _ = env.step(action)
        counts[mdp.offsets[state] + action, successor] += 1
        assert terminated == mdp.terminal[successor]
        assert not truncated
        assert np.isnan(reward_of[successor]) or reward_of[successor] == reward
        reward_of[successor] = reward
        state = env.reset()[0] if terminated else successor

    P = mdp.P.toarray()
    assert np.all(counts[P == 0] == 0)
    expected = counts.sum(axis=1, keepdims=True) * P
    statistic = ((counts - expected)[P > 0] ** 2 / expected[P > 0]).sum()
    freedom = np.count_nonzero(P) - mdp.n_pairs
    assert stats.chi2.sf(statistic, freedom) > 0.001
    np.testing.assert_allclose(P @ reward_of, mdp.r)  # the reward depends on the successor alone


def test_starts_are_equally_likely():
    env = GridWorld(["S.S", ".S.", "..G"])
    env.reset(seed=1)
    drawn = np.bincount([env.reset()[0] for _ in range(6000)], minlength=env.n_states)
    start = env.mdp(0.9).start
    assert set(np.flatnonzero(drawn)) == set(np.flatnonzero(start)) == {0, 2, 4}
    assert stats.chisquare(drawn[start > 0], 6000 * start[start > 0]).pvalue > 0.001


def test_russell_and_norvig_published_utilities():
    """AIMA, 4x3 world, R(s) = −0.04, γ = 1: the table of utilities, and the optimal policy."""
    env = GridWorld("russell-norvig")
    solution = rlkit.solve(env.mdp(1.0))
    published = [0.812, 0.868, 0.918, 0, 0.762, 0.660, 0, 0.705, 0.655, 0.611, 0.388]
    np.testing.assert_allclose(solution.values, published, atol=0.0005)
    assert [*solution.policy] == [
        *(RIGHT, RIGHT, RIGHT, -1),
        *(UP, UP, -1),
        *(UP, LEFT, LEFT, LEFT),
    ]


def test_the_default_map_has_two_ways():
    """Along the pits (row 4) where moves are sure; around them (column 2, up) where they slip."""
    fork = GridWorld().state_at(4, 2)
    assert rlkit.solve(GridWorld(slip=0.0).mdp(0.99)).policy[fork] == RIGHT
    assert rlkit.solve(GridWorld().mdp(0.99)).policy[fork] == UP
    assert rlkit.solve(GridWorld().mdp(0.99)).start_value > 0


def test_four_rooms_has_104_cells():
    assert GridWorld("four-rooms").n_states == 104  # Sutton, Precup and Singh, 1999


@pytest.mark.parametrize("options", [{}, {"map": SAMPLED}, {"size": 9}])
@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_gymnasium_finds_nothing_to_warn_of(options, render_mode):
    made = gymnasium.make("rlkit/GridWorld-v0", render_mode=render_mode, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made.unwrapped)


def test_a_vector_of_them_is_cut_off_by_the_time_limit():
    envs = gymnasium.make_vec(
        "rlkit/GridWorld-v0", num_envs=3, vectorization_mode="sync", max_episode_steps=5
    )
    envs.reset(seed=0)
    for _ in range(5):
        *_, terminated, truncated, _ = envs.step(np.full(3, LEFT))
    assert not terminated.any()
    assert truncated.all()


def test_gymnasium_registers_it_by_itself_and_lightly():
    code = (
        "import sys, gymnasium; env = gymnasium.make('rlkit.envs:rlkit/GridWorld-v0');"
        "assert env.spec.max_episode_steps == 500; assert 'torch' not in sys.modules;"
        "import rlkit.envs"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    code = "import sys, rlkit.envs; assert not {'scipy', 'torch', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [2, 3, 5, 40])
def test_random_maps_can_be_solved_from_every_cell(size, seed):
    env = GridWorld(size=size, seed=seed, slip=0.0)
    mdp = env.mdp(0.9)
    goal = env.state_at(size - 1, size - 1)
    assert mdp.terminal.nonzero()[0] == [goal]
    links = np.zeros((mdp.n_states, mdp.n_states))
    links[mdp.pair_state, mdp.P.indices] = 1
    assert np.isfinite(csgraph.shortest_path(links.T, unweighted=True, indices=goal)).all()


def test_random_maps_are_drawn_by_their_seed():
    first, again, other = (GridWorld(size=40, seed=seed).grid.cells for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert 0.07 < np.mean(first == "#") < 0.14


def test_states_and_positions():
    env = GridWorld(["S#.", "..G"])
    assert [env.position(state) for state in range(5)] == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert all(env.state_at(*env.position(state)) == state for state in range(5))
    for row, col in [(0, 1), (-1, 0), (2, 0), (0, 3)]:
        with pytest.raises(UsageError, match=f"row {row}, column {col} is not a free cell"):
            env.state_at(row, col)
    with pytest.raises(UsageError, match="state is 5; allowed: 0 to 4"):
        env.position(5)


def test_legend_rewards_and_ends():
    env = GridWorld("Sab\nG..\n\na: +0.5\nb: -2 terminal\nG: 10\n", slip=0.0, step_cost=0.0)
    env.reset(seed=0)
    assert env.step(RIGHT)[:3] == (1, 0.5, False)
    assert env.step(UP)[:3] == (1, 0.5, False)  # against the border: the move ends there again
    assert env.step(RIGHT)[:3] == (2, -2.0, True)
    env.reset()
    assert env.step(DOWN)[:3] == (3, 10.0, True)


def test_episodes_have_an_end_and_actions_a_range():
    env = GridWorld(["SG"])
    with pytest.raises(ResetNeeded):
        env.step(RIGHT)
    env.reset(seed=0)
    for action in (-1, 4):
        with pytest.raises(InvalidAction, match=f"action is {action}"):
            env.step(action)
    while not env.step(RIGHT)[2]:
        pass
    with pytest.raises(ResetNeeded):
        env.step(RIGHT)


def test_an_episode_goes_on_from_its_saved_state():
    env, other = GridWorld("four-rooms"), GridWorld("four-rooms")
    env.reset(seed=5)
    env.step(DOWN)
    saved, generator = env.get_state(), env.np_random.bit_generator.state
    played = [env.step(DOWN)[:2] for _ in range(20)]
    other.reset(seed=6)
    other.set_state(saved)
    other.np_random.bit_generator.state = generator
    assert [other.step(DOWN)[:2] for _ in range(20)] == played
    with pytest.raises(UsageError, match="state is 104"):
        other.set_state({"state": 104})


def test_rendering():
    env = GridWorld(["S#G", "..P"], render_mode="ansi")
    assert env.render() == "S#G\n..P\n"
    env.reset(seed=0)
    assert env.render() == "@#G\n..P\n"
    env = GridWorld(["S#G", "..P"], render_mode="rgb_array")
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.shape[:2] == (340, 510)
    centres = picture[85::170, 85::170]
    assert len(np.unique(centres.reshape(-1, 3), axis=0)) == 5  # start, wall, goal, floor, pit
    env.reset(seed=0)
    assert (env.render() != picture).any(axis=2)[:170, :170].mean() > 0.2
    assert (env.render() == picture)[:, 170:].all()
    assert GridWorld(size=1000, render_mode="rgb_array").render().shape == (1000, 1000, 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("S.\n.@\n", "map line 2, column 2: '@' is not a cell; allowed: '#' wall"),
        ("\n\nS.\n\t.\n", r"map line 4, column 1: '\\t' is not a cell"),
        ("S..\n..\n", "map line 2 has 2 cells, line 1 has 3"),
        ("S..\n\n..G\n", "map line 2 has 0 cells, line 1 has 3"),
        ("...\n..G\n", "map has no start; mark one or more cells with S"),
        ("\n", "map is empty"),
        ([], "map is empty"),
        ("Sa\na: much\n", "map line 2: 'a: much' is not a legend"),
        ("Sa\na: nan\n", "map line 2: 'a: nan' is not a legend"),
        ("Sa\na: 1 final\n", "map line 2: 'a: 1 final' is not a legend"),
        ("Sa\na: 1\na: 2\n", "map line 3: 'a' has a reward already"),
        ("S.\n#: 1\n", "map line 2: '#' can't have a reward"),
        ("fourrooms", "map 'fourrooms' was not found; did you mean four-rooms"),
        ("nowhere/maze.txt", "map 'nowhere/maze.txt' was not found; give a text file or one of"),
        (".", "map '.' is not a file"),
    ],
)
def test_bad_maps_are_refused_with_their_place(rows, message):
    with pytest.raises(UsageError, match=message) as refusal:
        GridWorld(rows)
    assert "\n" not in str(refusal.value)


def test_map_files(tmp_path, monkeypatch):
    file = tmp_path / "maze.txt"
    file.write_bytes("\ufeffS.\r\n#G\r\n".encode())  # as Windows' editor writes it
    assert GridWorld(file).grid.cells.tolist() == [["S", "."], ["#", "G"]]
    assert GridWorld(str(file)).n_states == 3
    file.write_text("S.\n?G\n")
    with pytest.raises(UsageError, match=r"maze\.txt' line 2, column 1: '\?' is not a cell"):
        GridWorld(file)
    file.write_bytes(b"S.\n\xff\xfe")
    with pytest.raises(UsageError, match=r"maze\.txt' is not UTF-8 text \(byte 3\)"):
        GridWorld(file)
    monkeypatch.setattr(gridmap, "MAX_FILE_BYTES", 4)
    with pytest.raises(UsageError, match=r"maze\.txt' has 5 bytes; allowed: up to 4"):
        GridWorld(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slip": 2.0}, "slip is 2.0; allowed: a probability, 0 to 1"),
        ({"slip": float("nan")}, "slip is nan"),
        ({"step_cost": float("inf")}, "step_cost is inf; allowed: a finite number"),
        ({"pit_reward": float("nan")}, "pit_reward is nan"),
        ({"size": 1}, "size is 1; allowed: a whole number, 2 or more"),
        ({"size": 3, "seed": -1}, "seed is -1"),
        ({"size": 3, "map": "two-ways"}, "map and size are both given"),
        ({"render_mode": "human"}, "render_mode is 'human'; allowed: None, 'ansi', 'rgb_array'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        GridWorld(**options)


def test_what_does_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr(system, "available_memory", lambda: 2**30)
    with pytest.raises(UsageError, match=r"100000 is 10,000,000,000 cells.* up to about 1,158 x"):
        GridWorld(size=100_000)
    monkeypatch.setattr(system, "available_memory", lambda: 100)
    with pytest.raises(UsageError, match="the map is 96 cells"):
        GridWorld()
