"""GridMaps: Gymnasium's checker, its rules cell by cell, and shortest ways against SciPy's."""

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

import rlkit
from rlkit.envs import grid_maps
from rlkit.envs.grid_maps import AGENT, GOALS, LENGTHS, MOVES, WALLS
from rlkit.envs.make import make_env, make_envs
from rlkit.errors import UsageError

N = 7
FREE, SEEN = 0, 255


def seen(obs):
    """The walls (size, size), and the cells of goal and agent, in one observation."""
    (goal,), (agent,) = (np.argwhere(obs[..., channel]) for channel in (GOALS, AGENT))
    return obs[..., WALLS] > 0, tuple(goal.tolist()), tuple(agent.tolist())


def ways(walls, goal):
    """Dijkstra's distances to the goal (size, size) and the moves that begin a shortest way."""
    size = len(walls)
    edges = [
        (r * size + c, (r + down) * size + c + right, math.hypot(down, right))
        for r, c in np.argwhere(~walls)
        for down, right in itertools.product((-1, 0, 1), repeat=2)
        if (down or right) and not walls[r + down, c + right]
    ]
    tail, head, length = (np.array(each) for each in zip(*edges, strict=True))
    graph = coo_array((length, (tail, head)), shape=(size**2, size**2)).tocsr()
    far = dijkstra(graph, indices=goal[0] * size + goal[1]).reshape(size, size)
    best = np.zeros((size, size, 8), dtype=bool)
    for r, c in np.argwhere(np.isfinite(far) & (far > 0)):
        for a, (down, right) in enumerate(MOVES.tolist()):
            rest = far[r + down, c + right]
            best[r, c, a] = abs(rest + math.hypot(down, right) - far[r, c]) < 1e-9
    return far, best


def drawn(size, n, seed=0):
    env = grid_maps.vector(n, size)
    return env.reset(seed=seed)[0]


@pytest.mark.parametrize("size", [4, 8, 16])
def test_gymnasiums_checker_finds_nothing(size):
    check_env(gym.make("rlkit/GridMaps-v0", size=size).unwrapped)
    env = make_env("grid-maps", {"size": size, "render_mode": "rgb_array"})
    env.reset(seed=0)
    assert env.render().shape == (400, 400, 3)


@pytest.mark.parametrize("limit", [4, 100])
def test_the_vector_environment_is_a_row_of_single_ones(limit):
    ours = grid_maps.vector(N, 10, limit)
    one = {"size": 10, "max_episode_steps": limit}
    theirs = SyncVectorEnv(
        [lambda: make_env("grid-maps", one)] * N, autoreset_mode=AutoresetMode.NEXT_STEP
    )
    assert ours.single_observation_space == theirs.single_observation_space
    rng, ends = np.random.default_rng(0), np.zeros(2)
    obs, expected = ours.reset(seed=3)[0], theirs.reset(seed=3)[0]
    for _ in range(60):
        assert obs.tobytes() == expected.tobytes()
        actions = rng.integers(8, size=N)
        obs, *rest, _ = ours.step(actions)
        expected, *their_rest, _ = theirs.step(actions)
        assert [x.tolist() for x in rest] == [x.tolist() for x in their_rest]
        ends += rest[1].sum(), rest[2].sum()
    assert ends[0] > N
    assert (ends[1] > 0) == (limit == 4)


def test_time_limits_come_from_the_registry_and_the_options():
    assert make_envs("grid-maps", 8, 0).max_episode_steps == 100
    envs = make_envs("grid-maps", 8, 0, options={"max_episode_steps": 3, "size": 16})
    assert (envs.max_episode_steps, envs.obs_space.shape) == (3, (16, 16, 3))


@pytest.mark.parametrize("size", [5, 8, 12])
def test_every_move_is_the_definitions(size):
    env = make_env("grid-maps", {"size": size})
    rng = np.random.default_rng(0)
    ends = set()
    for episode in range(60):
        obs, _ = env.reset(seed=episode)
        walls, goal, at = seen(obs)
        assert walls[[0, -1]].all()
        assert walls[:, [0, -1]].all()
        assert not walls[goal]
        assert not walls[at]
        assert at != goal
        over = False
        while not over:
            action = int(rng.integers(8))
            at = tuple(int(x) for x in np.add(at, MOVES[action]))
            obs, reward, over, truncated, _ = env.step(action)
            assert seen(obs)[1:] == (goal, at)
            assert (seen(obs)[0] == walls).all()
            earned = 1 if at == goal else -1 if walls[at] else 0
            assert over == (earned != 0)
            assert not truncated
            assert reward == pytest.approx(earned - 0.01 * math.hypot(*MOVES[action]))
            ends.add(earned)
    assert ends == {0, 1, -1}


def test_maps_differ_and_cover_about_what_the_papers_do():
    for size, least, most in ((8, 0.15, 0.25), (16, 0.1, 0.25), (28, 0.1, 0.25)):
        obs = drawn(size, 300)
        inner = obs[:, 1:-1, 1:-1, WALLS] > 0
        assert least < inner.mean() < most
        assert len({image.tobytes() for image in obs}) == 300
        assert set(np.unique(obs)) == {FREE, SEEN}
        for channel in (GOALS, AGENT):
            assert ((obs[..., channel] > 0).sum((1, 2)) == 1).all()
            row, col = np.divmod(obs[..., channel].reshape(300, -1).argmax(1), size)
            assert {*row.tolist()} == {*col.tolist()} == set(range(1, size - 1))


@pytest.mark.parametrize(("size", "n"), [(4, 30), (8, 60), (16, 20), (28, 5)])
def test_shortest_ways_are_dijkstras(size, n):
    obs = drawn(size, n)
    walls, goal = grid_maps.read(obs)
    lengths, best = grid_maps.shortest_ways(walls, goal)
    for i, image in enumerate(obs):
        far, starts = ways(walls[i], seen(image)[1])
        np.testing.assert_allclose(lengths[i], far, atol=1e-4)
        assert (best[i] == starts).all()
        assert np.isfinite(far[seen(image)[2]])  # from the start there is one
    assert (grid_maps.optimal_actions(obs) == best).all()


def test_what_no_way_connects_with_the_goal_has_no_best_move():
    walls = np.ones((2, 5, 6), dtype=bool)[:, :, :5]
    walls[:, 1, 1:4] = walls[:, 3, 1:4] = False
    walls[1, 2, 2] = False  # the first map is cut in two
    lengths, best = grid_maps.shortest_ways(walls, np.array([6, 6]))
    assert lengths[0, 1].tolist() == pytest.approx([np.inf, 0, 1, 2, np.inf])
    assert np.isinf(lengths[0, 3]).all()
    assert not best[0, 3].any()
    diagonal = math.sqrt(2)
    assert lengths[1, 3].tolist() == pytest.approx(
        [np.inf, 2 * diagonal, 1 + diagonal, 2 * diagonal, np.inf], abs=1e-4
    )
    assert best.any(-1).sum((1, 2)).tolist() == [2, 6]


@pytest.mark.parametrize("seed", range(5))
def test_the_model_is_what_the_environment_does(seed):
    env = make_env("grid-maps").unwrapped
    obs, _ = env.reset(seed=seed)
    walls, goal, at = seen(obs)
    mdp = rlkit.MDP.from_gymnasium(env, gamma=1.0)
    state = env.get_state()
    assert mdp.start.nonzero()[0].tolist() == [at[0] * 8 + at[1]]
    ends = walls.copy()
    ends[goal] = True
    assert (mdp.terminal.reshape(8, 8) == ends).all()
    for pair in range(mdp.offsets[at[0] * 8 + at[1]], mdp.offsets[at[0] * 8 + at[1] + 1]):
        env.set_state(state)
        obs, reward, over, _, _ = env.step(mdp.actions[pair])
        assert reward == pytest.approx(mdp.r[pair])
        row = mdp.P[[pair]].toarray()[0]
        assert row.sum() == (not over)
        if not over:
            assert row.argmax() == obs[..., AGENT].argmax()
    far, _ = ways(walls, goal)
    best = rlkit.solve(mdp).values.reshape(8, 8)
    there = np.isfinite(far) & (far > 0)
    np.testing.assert_allclose(best[there], 1 - 0.01 * far[there], atol=2e-6)


def test_the_best_policy_earns_its_value():
    env = grid_maps.vector(200, 12)
    obs, _ = env.reset(seed=5)
    lengths, best = grid_maps.shortest_ways(*grid_maps.read(obs))
    each = np.arange(200)
    expected = 1 - 0.01 * lengths.reshape(200, -1)[each, obs[..., AGENT].reshape(200, -1).argmax(1)]
    earned, over = np.zeros(200), np.zeros(200, dtype=bool)
    while not over.all():
        at = obs[..., AGENT].reshape(200, -1).argmax(1)
        action = best.reshape(200, -1, 8)[each, at].argmax(1)
        obs, reward, terminated, _, _ = env.step(action)
        earned += reward * ~over
        over |= terminated
    np.testing.assert_allclose(earned, expected, atol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="size is 3; allowed: 4 to 100"):
        make_env("grid-maps", {"size": 3})
    with pytest.raises(
        UsageError, match="a map of its own, and there is none yet; call reset first"
    ):
        grid_maps.single().mdp(1.0)
    with pytest.raises(UsageError, match="a map is open at its edge; its outer cells must be wall"):
        grid_maps.shortest_ways(np.zeros((1, 4, 4), dtype=bool), np.array([5]))
    assert LENGTHS.tolist() == pytest.approx([1] * 4 + [math.sqrt(2)] * 4)
