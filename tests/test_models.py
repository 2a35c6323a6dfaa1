"""The models by name, against the numbers that their books and papers print."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import MAPS
from scipy import ndimage
from scipy.sparse.csgraph import connected_components, shortest_path

import rlkit
from rlkit import MDP, evaluate_policy
from rlkit.envs.grids import lake_model
from rlkit.envs.mazes import perfect_maze
from rlkit.envs.models import make_model, model_options
from rlkit.errors import UsageError
from rlkit.mdp.terminal import draw
from rlkit.registry import MODELS


def made(name, gamma=None, **options):
    return make_model(name, gamma, options).mdp


def solved(name, gamma=None, **options):
    return rlkit.solve(made(name, gamma, **options))


def printed(text):
    return np.array([[float(x) for x in row.split()] for row in text.strip().splitlines()])


def test_sutton_and_bartos_gridworld():
    # Sutton and Barto (2018), figure 3.2: the values of the equiprobable random policy.
    random = printed("""
        3.3  8.8  4.4  5.3  1.5
        1.5  3.0  2.3  1.9  0.5
        0.1  0.7  0.7  0.4 -0.4
       -1.0 -0.4 -0.4 -0.6 -1.2
       -1.9 -1.3 -1.2 -1.4 -2.0""")
    values = evaluate_policy(made("sutton-barto-3.5"), np.full((25, 4), 0.25))
    np.testing.assert_array_equal(values.reshape(5, 5).round(1), random)
    # Figure 3.5: the optimal ones.
    optimal = printed("""
        22.0 24.4 22.0 19.4 17.5
        19.8 22.0 19.8 17.8 16.0
        17.8 19.8 17.8 16.0 14.4
        16.0 17.8 16.0 14.4 13.0
        14.4 16.0 14.4 13.0 11.7""")
    np.testing.assert_array_equal(solved("sutton-barto-3.5").values.reshape(5, 5).round(1), optimal)


def test_the_small_gridworld_of_chapter_4():
    # Sutton and Barto (2018), figure 4.1, k = ∞, random policy.
    random = printed("""
          0 -14 -20 -22
        -14 -18 -20 -20
        -20 -20 -18 -14
        -22 -20 -14   0""")
    mdp = made("sutton-barto-4.1")
    values = evaluate_policy(mdp, np.full((16, 4), 0.25))
    np.testing.assert_allclose(values.reshape(4, 4), random, atol=1e-9)
    optimal = printed("0 -1 -2 -3\n-1 -2 -3 -2\n-2 -3 -2 -1\n-3 -2 -1 0")
    np.testing.assert_allclose(rlkit.solve(mdp).values.reshape(4, 4), optimal, atol=1e-6)


# Sutton and Barto (2018), figure 4.2: the policy π₄ of Jack's car rental, cars moved from the first
# location (rows 0 to 20) to the second (columns 0 to 20).
CAR_RENTAL = """
0 0 0 0 0 0 0 0 -1 -1 -2 -2 -2 -3 -3 -3 -3 -3 -4 -4 -4
0 0 0 0 0 0 0 0 0 -1 -1 -1 -2 -2 -2 -2 -2 -3 -3 -3 -3
0 0 0 0 0 0 0 0 0 0 0 -1 -1 -1 -1 -1 -2 -2 -2 -2 -2
0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 -1 -1 -1 -1 -1 -2
0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 -1 -1
1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
2 2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
3 2 2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
3 3 2 2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
4 3 3 2 2 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
4 4 3 3 2 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
5 4 4 3 2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0
5 5 4 3 2 2 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0
5 5 4 3 3 2 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0
5 5 4 4 3 2 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0
5 5 5 4 3 2 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0
5 5 5 4 3 2 1 1 0 0 0 0 0 0 0 0 0 0 0 0 0
5 5 5 4 3 2 2 1 0 0 0 0 0 0 0 0 0 0 0 0 0
5 5 5 4 3 3 2 2 1 1 1 1 0 0 0 0 0 0 0 0 0
5 5 5 4 4 3 3 2 2 2 2 1 1 1 1 1 0 0 0 0 0
5 5 5 5 4 4 3 3 3 3 2 2 2 2 2 1 1 1 0 0 0
"""


def test_jacks_car_rental():
    solution = solved("jacks-car-rental")
    policy = solution.policy.reshape(21, 21) - 5
    # In one state the figure has 0 where moving one car is better, by less than 0.01 %.
    differ = np.argwhere(policy != printed(CAR_RENTAL))
    assert differ.tolist() == [[17, 8]]
    q = solution.q_table()[17 * 21 + 8]
    assert 0 < q[6] - q[5] < 1e-4 * q[6]


def test_car_rental_by_simulation():
    """One pair's row and reward against the book's description, played out."""
    mdp, n = made("jacks-car-rental"), 200_000
    rng = np.random.default_rng(0)
    here, there, moved = 7, 3, 2
    cars = np.tile([here - moved, there + moved], (n, 1))
    rented = np.minimum(rng.poisson([3, 4], size=(n, 2)), cars)
    cars = np.minimum(cars - rented + rng.poisson([3, 2], size=(n, 2)), 20)
    pair = np.flatnonzero((mdp.pair_state == 21 * here + there) & (mdp.actions == 5 + moved))[0]
    assert mdp.r[pair] == pytest.approx(10 * rented.sum(axis=1).mean() - 2 * moved, abs=0.15)
    p = mdp.P[[pair]].toarray().reshape(21, 21)
    counted = np.zeros((21, 21))
    np.add.at(counted, tuple(cars.T), 1 / n)
    assert np.abs(p - counted).max() < 5 * np.sqrt(p.max() / n)
    assert np.abs(p.sum(axis=1) - counted.sum(axis=1)).max() < 0.006


def test_the_gamblers_problem():
    solution = solved("gambler")
    # V(1/2) = p for the bold gambler; V(1/4) = p², V(3/4) = p + (1 − p) p (Dubins and Savage 1965).
    np.testing.assert_allclose(solution.values[[25, 50, 75]], [0.16, 0.4, 0.64], atol=1e-9)
    # Sutton and Barto (2018), figure 4.3, below: the policy's peaks.
    stakes = solution.policy
    assert stakes[[25, 50, 75]].tolist() == [25, 50, 25]
    assert stakes[[1, 2, 51, 99]].tolist() == [1, 2, 1, 1]
    assert stakes[[0, 100]].tolist() == [-1, -1]
    assert solved("gambler", goal=8, heads=0.5).values.tolist() == pytest.approx(
        [*np.arange(8) / 8, 0]
    )


def test_the_random_walks_of_chapters_6_and_7():
    # Sutton and Barto (2018), example 6.2: A to E are worth 1/6, 2/6, 3/6, 4/6 and 5/6; example
    # 7.1 has 19 states, and -1 on the left.
    small = made("random-walk", length=5, left=0.0)
    np.testing.assert_allclose(
        solved("random-walk", length=5, left=0.0).values, np.arange(1, 6) / 6
    )
    assert small.start.tolist() == [0, 0, 1, 0, 0]
    np.testing.assert_allclose(solved("random-walk").values, np.arange(-18, 19, 2) / 20, atol=1e-9)
    assert made("random-walk").start[9] == 1


def test_the_model_of_maximisation_bias():
    # Sutton and Barto (2018), example 6.7: whatever follows left is worth -0.1, right is worth 0.
    solution = solved("maximisation-bias")
    np.testing.assert_allclose(solution.q_table()[0, :2], [-0.1, 0])
    np.testing.assert_allclose(solution.values, [0, -0.1])
    assert solution.policy[0] == 1
    assert np.diff(made("maximisation-bias", actions=4).offsets).tolist() == [2, 4]
    assert np.diff(made("maximisation-bias", actions=1).offsets).tolist() == [2, 1]
    q = solved("maximisation-bias", actions=3, mean=0.5).q_table()
    np.testing.assert_allclose(q, [[0.5, 0, -np.inf], [0.5] * 3])


def test_russell_and_norvigs_world():
    # Russell and Norvig (2010), figure 17.3; walls and exits left out.
    utilities = [0.812, 0.868, 0.918, 0.762, 0.660, 0.705, 0.655, 0.611, 0.388]
    solution = solved("russell-norvig")
    np.testing.assert_array_equal(solution.values[solution.policy >= 0].round(3), utilities)


def test_the_cliff_and_the_windy_grid():
    # Sutton and Barto (2018), example 6.6: the optimal path along the edge has 13 moves.
    assert solved("cliff").start_value == pytest.approx(-13)
    ours = rlkit.solve(made("cliff"))
    theirs = rlkit.solve(MDP.from_gymnasium(gym.make("CliffWalking-v1"), 1.0))
    reached = ours.policy >= 0
    np.testing.assert_allclose(ours.values[reached], theirs.values[reached], atol=1e-6)
    assert solved("cliff", rows=3, cols=7).start_value == pytest.approx(-8)
    # Example 6.5: "15 steps is the minimum".
    assert solved("windy-grid").start_value == pytest.approx(-15)


@pytest.mark.parametrize("slippery", [True, False])
@pytest.mark.parametrize("name", sorted(MAPS))
def test_frozen_lakes_have_gymnasiums_rules(name, slippery):
    cells = np.array([list(row) for row in MAPS[name]])
    ours = lake_model(cells, 0.9, slippery)
    env = gym.make("FrozenLake-v1", map_name=name, is_slippery=slippery)
    theirs = MDP.from_gymnasium(env, 0.9)
    np.testing.assert_array_equal(ours.terminal, theirs.terminal)
    np.testing.assert_array_equal(ours.start, theirs.start)
    # Gymnasium's table ends the episode on entering a hole; here the hole is terminal.
    inside = np.flatnonzero(~ours.terminal)
    np.testing.assert_allclose(ours.r, theirs.r, atol=1e-15)
    np.testing.assert_allclose(
        ours.P.toarray()[:, inside], theirs.P.toarray()[:, inside], atol=1e-15
    )


def test_drawn_lakes_can_be_crossed():
    for seed in range(5):
        model = make_model("frozen-lake", None, {"size": 9, "seed": seed, "frozen": 0.7})
        ice = model.layout.marks != "H"
        parts, _ = ndimage.label(ice)
        assert parts[0, 0] == parts[-1, -1]
    marks = [make_model("frozen-lake", None, {"seed": seed}).layout.marks for seed in (1, 1, 2)]
    assert (marks[0] == marks[1]).all()
    assert (marks[0] != marks[2]).any()


@pytest.mark.parametrize("size", [2, 3, 10])
def test_perfect_mazes_are_trees(size):
    rows = perfect_maze(size, seed=4)
    assert perfect_maze(size, seed=4) == rows
    assert size == 2 or perfect_maze(size, seed=5) != rows
    mdp = made("maze", size=size, seed=4, slip=0.0)
    assert mdp.n_states == 2 * size**2 - 1
    steps = mdp.P.tocoo()
    tails, heads = mdp.pair_state[steps.coords[0]], steps.coords[1]
    adjacent = np.zeros((mdp.n_states, mdp.n_states), dtype=bool)
    adjacent[tails, heads] = adjacent[heads, tails] = True
    np.fill_diagonal(adjacent, False)
    assert connected_components(adjacent)[0] == 1
    assert adjacent.sum() / 2 == mdp.n_states - 1
    # With sure moves the start's value is that of the only way.
    way = shortest_path(adjacent, unweighted=True)[0, -1]
    value = rlkit.solve(made("maze", 1.0, size=size, seed=4, slip=0.0)).start_value
    assert value == pytest.approx(1 - 0.04 * way)


def test_machine_replacement():
    # Hillier and Lieberman, Introduction to Operations Research, the prototype example with a
    # discount factor of 0.9: V = 14,949, 16,262, 18,636, 19,454.
    solution = solved("machine-replacement")
    np.testing.assert_allclose(-solution.values, [14949, 16262, 18636, 19454], atol=0.6)
    assert solution.policy.tolist() == [0, 0, 1, 2]


def test_forest_management():
    # The documentation of pymdptoolbox, mdptoolbox.mdp.PolicyIteration: forest(), discount 0.9.
    solution = solved("forest", 0.9)
    np.testing.assert_allclose(solution.values, [26.244, 29.484, 33.484], atol=1e-6)
    assert solution.policy.tolist() == [0, 0, 0]


def test_inventory_control_is_putermans():
    # Puterman (1994), §3.2.2: the table of r(s, a) and of p(j | s, a) by s + a.
    mdp = made("inventory")
    r = {(s, a): x for s, a, x in zip(mdp.pair_state, mdp.actions, mdp.r, strict=True)}
    rewards = {0: [0, -1, -2, -5], 1: [5, 0, -3], 2: [6, -1], 3: [5]}
    assert r == {(s, a): x for s, row in rewards.items() for a, x in enumerate(row)}
    p = printed("1 0 0 0\n0.75 0.25 0 0\n0.25 0.5 0.25 0\n0 0.25 0.5 0.25")
    np.testing.assert_allclose(mdp.P.toarray(), p[mdp.pair_state + mdp.actions])


def test_large_inventories_have_poisson_demand_and_order_up_to_a_level():
    solution = solved("inventory", 0.95, capacity=40, mean=6.0, fixed=20.0)
    orders = np.flatnonzero(solution.policy > 0)
    # Scarf (1960): order up to S wherever the stock is below s.
    assert orders.tolist() == list(range(orders.size))
    assert np.unique(solution.policy[orders] + orders).size == 1


def test_two_queues_are_served_by_the_c_mu_rule():
    # Baras, Ma and Makowski (1985): the larger product of cost and rate goes first. A full queue,
    # which loses customers that would cost, is another matter: look away from the edge.
    for cost1, first in ((2.0, 0), (1.0, 1)):  # cμ: 1.0 or 0.5 against 0.8
        solution = solved("two-queues", 0.999, capacity=30, cost1=cost1, arrival1=0.1, arrival2=0.1)
        policy = solution.policy.reshape(31, 31)
        assert (policy[1:8, 1:8] == first).all()
        assert (policy[0, 1:8] == 1).all()
        assert (policy[1:8, 0] == 0).all()


def test_garnets_have_the_branching_that_is_asked_for():
    for states, branching in ((50, 3), (6, 5), (6, 6), (500, 40), (3, 1)):
        mdp = made("garnet", states=states, actions=4, branching=branching, seed=2)
        assert (np.diff(mdp.P.indptr) == branching).all()
        np.testing.assert_allclose(mdp.P.sum(axis=1), 1.0)
    counts = np.bincount(made("garnet", states=50, actions=40, branching=3).P.indices)
    assert np.abs(counts - 120).max() < 6 * np.sqrt(120)
    same = made("garnet", seed=7), made("garnet", seed=7)
    assert (same[0].P != same[1].P).nnz == 0
    assert (same[0].r == same[1].r).all()


def test_all_models_have_sound_options_and_layouts():
    for name, entry in MODELS.items():
        model = make_model(name)
        assert entry.summary
        assert (model.layout is None) == (entry.layout is None)
        if model.layout is not None:
            inside = model.layout.states[model.layout.states >= 0]
            assert sorted(inside.tolist()) == list(range(model.mdp.n_states))
            ends = model.layout.states[(model.layout.states >= 0) & model.layout.ends]
            assert model.mdp.terminal[ends].all()
            assert draw(rlkit.solve(model.mdp), model.layout, 200) is not None
        for option, default in model_options(name).items():
            if default is not None:
                with pytest.raises(UsageError, match=rf"^{option} is 'x'; allowed: "):
                    make_model(name, None, {option: "x"})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jacks-car-rentl", {}, "unknown model 'jacks-car-rentl'; did you mean jacks-car-rental"),
        ("maze", {"sise": 3}, "model maze has no option 'sise'; did you mean size"),
        ("windy-grid", {"size": 3}, "model windy-grid has no option 'size'; it takes none"),
        ("maze", {"size": 1}, "size is 1; allowed: a whole number, 2 or more"),
        ("maze", {"size": 2.5}, "size is 2.5; allowed: a whole number"),
        ("forest", {"fire": 1.5}, "fire is 1.5; allowed: a probability, 0 to 1"),
        ("forest", {"old": float("nan")}, "old is nan; allowed: a finite number"),
        ("inventory", {"mean": -1.0}, "mean is -1.0; allowed: a finite number, 0 or more"),
        ("garnet", {"states": 4, "branching": 5}, "branching is 5; allowed: up to the number"),
        ("cliff", {"gamma": 1.0}, "model cliff has no option 'gamma'"),
    ],
)
def test_wrong_options_are_named(name, options, message):
    with pytest.raises(UsageError, match=message) as refusal:
        make_model(name, None, options)
    assert "\n" not in str(refusal.value)


def test_models_too_large_for_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr("rlkit.system.available_memory", lambda: 10**8)
    with pytest.raises(UsageError, match="n_states is 1,000,000,000: the model would take"):
        made("chain", length=10**9)


def test_the_command_line_solves_models_by_name(cli):
    found = json.loads(cli("solve", "jacks-car-rental", "--json").out)
    assert (found["env"], found["gamma"], found["states"]) == ("jacks-car-rental", 0.9, 441)
    called = cli("solve", "cliff", "--plot", "cliff.png")
    assert "value of the start  -13" in called.out
    assert "│S ↑  │" in called.out
    assert Path("cliff.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(
        cli(
            "solve", "maze", "--size", "4", "--env-option", "seed=3", "--gamma", "0.5", "--json"
        ).out
    )
    assert (found["states"], found["gamma"]) == (31, 0.5)


def test_the_command_line_shows_the_policy_alone(cli):
    grid = cli("solve", "windy-grid", "--policy").out
    assert "→ → → → → → → G → ↓" in grid
    assert "│" not in grid
    lines = [line.split() for line in cli("solve", "gambler", "--policy").out.splitlines()]
    assert ["0", "terminal"] in lines
    assert ["50", "50"] in lines
    cars = cli("solve", "jacks-car-rental", "--policy").out
    assert " 0 to 7       5\n" in cars


def test_the_command_line_solves_files(cli):
    made("forest", 0.9).save("forest.npz")
    made("forest").save("forest.drn")
    found = json.loads(cli("solve", "forest.npz", "--json").out)
    assert (found["gamma"], found["states"]) == (0.9, 3)
    assert json.loads(cli("solve", "forest.npz", "--gamma", "0.5", "--json").out)["gamma"] == 0.5
    assert json.loads(cli("solve", "forest.drn", "--json").out)["gamma"] == 0.99
    best = cli("solve", "forest.drn", "--gamma", "0.9")
    assert "values              26.244 to 33.484" in best.out
    costs = cli("solve", "forest.drn", "--gamma", "0.9", "--env-option", "costs=True")
    assert "values              -2 to 0" in costs.out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("jacks-car-rentl", "unknown env 'jacks-car-rentl'; did you mean jacks-car-rental"),
        ("missing.drn", "model file 'missing.drn' was not found"),
        ("broken.csv", "model file 'broken.csv' line 1: found 'x'"),
        ("forest.drn --env-option reward=x", "no option 'reward'; did you mean rewards"),
        ("forest.drn --env-option costs=3", "costs is 3; allowed: True or False"),
        ("forest.drn --env-option rewards=x", "has no reward model 'x'; it has: reward"),
        ("forest.drn --size 3", "--size: for gridworld alone, not for a file"),
        ("forest --map a.txt", "model forest has no option 'map'"),
        ("forest --gamma 2", "gamma=2.0 is out of range"),
    ],
)
def test_the_command_line_refuses_on_one_line(cli, args, words):
    made("forest").save("forest.drn")
    Path("broken.csv").write_text("x\n")
    called = cli("solve", *args.split())
    assert (called.status, called.out) == (2, "")
    assert words in called.error


def test_the_command_line_lists_models(cli):
    listed = json.loads(cli("list", "models", "--json").out.splitlines()[-1])["models"]
    assert [row["model"] for row in listed] == list(MODELS)
    assert {"model": "maze", "what": MODELS["maze"].summary}.items() <= listed[0].items()
    assert "branching" in cli("list", "models").out
