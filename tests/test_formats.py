"""Models in files: each format against files that others wrote, or against the model it came from;
and files that are not what they say."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from mdp_referee import random_mdp
from scipy.sparse import csr_array

import rlkit
from rlkit import MDP
from rlkit.errors import ModelError, UsageError
from rlkit.mdp.formats import is_model_file

# The robot on a 2x3 grid of PRISM's lectures and tests, as PRISM exports it
# (github.com/prismmodelchecker/prism, prism-tests/functionality/export/mdp/robot.prism.*).
ROBOT = {
    "robot.tra": """6 10 16
0 0 1 0.1 south
0 0 3 0.8 south
0 0 4 0.1 south
0 1 0 0.4 east
0 1 1 0.6 east
1 0 2 0.5 south
1 0 4 0.5 south
1 1 2 1 east
2 0 2 1 stuck
3 0 3 1 stuck
4 0 3 0.6 west
4 0 4 0.4 west
4 1 5 1 east
5 0 2 0.9 north
5 0 5 0.1 north
5 1 4 1 west
""",
    "robot2.srew": """# Reward structure: "energy"
# State rewards
6 6
0 2.3
1 2.3
2 0.1
3 0.1
4 2.3
5 2.3
""",
    "robot2.trew": """# Reward structure "energy"
# Transition rewards
6 10 2
2 0 2 3.5
3 0 3 3.5
""",
    "robot3.srew": "6 1\n4 1\n",
    "robot.lab": '# Labels\n0="init" 1="deadlock" 2="hazard" 3="goal1" 4="goal2"\n'
    "0: 0\n1: 2\n2: 4\n3: 4\n5: 3\n",
    "robot.sta": "(s)\n0:(0)\n1:(1)\n2:(2)\n3:(3)\n4:(4)\n5:(5)\n",
    "robot.drn": """// Exported by prism
// Original model type: MDP
@type: MDP
@parameters

@reward_models
move energy time
@nr_states
6
@nr_choices
10
@model
state 0 [0, 2.3, 1] init
	action south [1, 0, 0]
		1 : 0.1
		3 : 0.8
		4 : 0.1
	action east [1, 0, 0]
		0 : 0.4
		1 : 0.6
state 1 [0, 2.3, 1] hazard
	action south [1, 0, 0]
		2 : 0.5
		4 : 0.5
	action east [1, 0, 0]
		2 : 1
state 2 [0, 0.1, 1] goal2
	action stuck [0, 3.5, 0]
		2 : 1
state 3 [0, 0.1, 1] goal2
	action stuck [0, 3.5, 0]
		3 : 1
state 4 [0, 2.3, 1]
	action west [1, 0, 0]
		3 : 0.6
		4 : 0.4
	action east [1, 0, 0]
		5 : 1
state 5 [0, 2.3, 1] goal1
	action north [1, 0, 0]
		2 : 0.9
		5 : 0.1
	action west [1, 0, 0]
		4 : 1
""",
}

# The noisy one-dimensional maze of the examples to Cassandra's format (1d.noisy.POMDP).
MAZE = """# Stochastic version of the 1D maze
discount: 0.75
values: reward
states: left middle right goal
actions: w0 e0
observations: nothing goal

start:
0.333333 0.333333 0.333333 0.0

T: w0
0.9 0.1 0.0 0.0
0.9 0.0 0.0 0.1
0.0 0.0 0.1 0.9
0.333333 0.333333 0.333333 0.0

T: e0
0.1 0.9 0.0 0.0
0.1 0.0 0.0 0.9
0.0 0.0 0.9 0.1
0.333333 0.333333 0.333333 0.0

O: *
1.0 0.0
1.0 0.0
1.0 0.0
0.0 1.0

R: * : * : goal : goal 1.0
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(**files):
    for name, text in files.items():
        Path(name).write_text(text)


def same(a, b, tolerance=1e-12):
    """Whether two models are the same, but for the rounding of their numbers."""
    assert a.n_states == b.n_states
    np.testing.assert_array_equal(a.offsets, b.offsets)
    np.testing.assert_array_equal(a.actions, b.actions)
    np.testing.assert_allclose(a.P.toarray(), b.P.toarray(), atol=tolerance)
    np.testing.assert_allclose(a.r, b.r, atol=tolerance)
    assert (a.start is None) == (b.start is None)
    if a.start is not None:
        np.testing.assert_allclose(a.start, b.start, atol=tolerance)


def test_prism_and_drn_files_of_one_model_agree():
    write(**ROBOT)
    from_tra = MDP.load("robot.tra", 0.9, rewards="energy", goal="goal2")
    from_drn = MDP.load("robot.drn", 0.9, rewards="energy", goal="goal2")
    same(from_tra, from_drn)
    assert from_tra.terminal.tolist() == [False, False, True, True, False, False]
    assert from_tra.start.tolist() == [1, 0, 0, 0, 0, 0]
    assert from_tra.r.tolist() == [2.3] * 8
    # Without the goal its states earn 0.1 + 3.5 for ever.
    values = rlkit.solve(MDP.load("robot.tra", 0.5, rewards="2")).values
    assert values[2] == pytest.approx(3.6 / 0.5)
    np.testing.assert_allclose(
        rlkit.solve(MDP.load("robot.drn", 0.5, rewards="energy")).values, values, atol=1e-6
    )


def test_costs_are_the_negatives():
    write(**ROBOT)
    fewest = rlkit.solve(MDP.load("robot.drn", 1.0, rewards="move", goal="goal2", costs=True))
    # From 5 straight north: a geometric number of tries with probability 0.9.
    assert fewest.values[5] == pytest.approx(-1 / 0.9)
    assert fewest.values[0] == pytest.approx(-(1 + 0.1 * 1 + 0.1 / 0.6))  # south; then east, west


@pytest.mark.parametrize("suffix", [".npz", ".drn"])
@pytest.mark.parametrize("seed", range(4))
def test_models_come_back_from_what_they_are_saved_to(suffix, seed):
    mdp = random_mdp(seed, 0.9, n_states=7)
    mdp = MDP.from_pairs(mdp.P, mdp.r, mdp.offsets, 0.9, 3 * mdp.actions, np.eye(7)[2])
    mdp.save(f"model{suffix}")
    back = MDP.load(f"model{suffix}", 0.9)
    if suffix == ".npz":
        same(mdp, back)
        assert MDP.load("model.npz").gamma == 0.9
        assert MDP.load("model.npz", 0.5).gamma == 0.5
    assert back.n_states == 7 + (suffix == ".drn" and mdp.ends.any())
    ours, theirs = rlkit.solve(mdp), rlkit.solve(back)
    np.testing.assert_allclose(theirs.values[:7], ours.values, atol=2e-6)
    assert theirs.start_value == pytest.approx(ours.start_value, abs=2e-6)
    np.testing.assert_array_equal(back.actions[: mdp.n_pairs], mdp.actions)


def test_a_saved_drn_file_is_what_storms_documentation_asks_for():
    P = csr_array(np.array([[0.5, 0.25, 0.0], [0.0, 0.0, 1.0]]))
    MDP.from_pairs(P, [1.5, -2.0], [0, 2, 2, 2], 0.9, [1, 4]).save("small.drn")
    # https://www.stormchecker.org/documentation/background/drn.html
    assert Path("small.drn").read_text().splitlines() == [
        *("// Exported by rlkit; discount 0.9", "@type: MDP", "@parameters", ""),
        *("@reward_models", "reward", "@nr_states", "4", "@nr_choices", "5", "@model"),
        *("state 0 [0] init", "\taction 1 [1.5]", "\t\t0 : 0.5", "\t\t1 : 0.25", "\t\t3 : 0.25"),
        *("\taction 4 [-2.0]", "\t\t2 : 1.0"),
        *("state 1 [0] end", "\taction 0 [0]", "\t\t1 : 1"),
        *("state 2 [0] end", "\taction 0 [0]", "\t\t2 : 1"),
        *("state 3 [0] end", "\taction 0 [0]", "\t\t3 : 1"),
    ]


def test_a_pomdps_observations_matter_for_its_rewards_alone():
    write(**{"maze.POMDP": MAZE})
    mdp = MDP.load("maze.POMDP")
    assert (mdp.gamma, mdp.n_states, mdp.n_pairs) == (0.75, 4, 8)
    np.testing.assert_allclose(mdp.start, [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-12)
    np.testing.assert_allclose(mdp.P.sum(axis=1), 1.0)  # 0.999999 in the file
    np.testing.assert_allclose(mdp.r, [0, 0, 0.1, 0.9, 0.9, 0.1, 0, 0])
    V = rlkit.solve(mdp).values
    # Bellman's equation, written out with the numbers of the file.
    assert V[0] == pytest.approx(0.75 * (0.1 * V[0] + 0.9 * V[1]), abs=1e-5)
    assert V[1] == pytest.approx(0.9 + 0.75 * (0.1 * V[0] + 0.9 * V[3]), abs=1e-5)
    assert V[2] == pytest.approx(0.9 + 0.75 * (0.1 * V[2] + 0.9 * V[3]), abs=1e-5)


# The tiger of Kaelbling, Littman and Cassandra, Planning and Acting in Partially Observable
# Stochastic Domains (1998), §5.1, in most of the ways in which the format lets one say it.
TIGER = """discount: 0.95
values: {values}
states: left right
actions: listen open-left open-right
observations: hear-left hear-right
start include: left
T: * : * : * 0.5
T: listen
identity
T: open-right
0.5 0.5   # a comment
0.5 0.5
O: * uniform
O: listen : left : hear-left 0.85
O: listen : left : hear-right 0.15
R: * : * : * : * {sign}1.0
R: listen : 0 : * : * {one}
R: 0 : right
{one} {one}
{one} {one}
R: open-left : left : * : * {sign}100
R: open-left : right : left
{ten} {ten}
R: open-left : right : 1 : * {ten}
R: open-right : left : * : hear-left {ten}
R: open-right : left : * : 1 {ten}
R: open-right : right : * : * {sign}100.0
"""


@pytest.mark.parametrize("values", ["reward", "cost"])
def test_entries_may_be_said_in_many_ways(values):
    reward = values == "reward"
    sign, one, ten = ("-", "-1", "10") if reward else ("", "1", "-10")
    write(**{"tiger.pomdp": TIGER.format(values=values, sign=sign, one=one, ten=ten)})
    mdp = MDP.load("tiger.pomdp")
    assert mdp.r.tolist() == [-1, -100, 10, -1, 10, -100]
    assert mdp.start.tolist() == [1, 0]
    listen, opened = [[1, 0], [0, 1]], [0.5, 0.5]
    expected = [listen[0], opened, opened, listen[1], opened, opened]
    np.testing.assert_allclose(mdp.P.toarray(), expected)
    # Who sees the tiger opens the other door: V = 10 + 0.95 V.
    np.testing.assert_allclose(rlkit.solve(mdp).values, [200, 200], atol=1e-5)


def test_what_is_said_last_holds():
    head = "discount: 0.5\nvalues: reward\nstates: 2\nactions: 2\nT: * identity\n"
    said = "T: 0 : 0 : 0 0.9\nT: 0 : 0 : 1 0.1\nT: 0 : 0 uniform\nT: 1 : 1 uniform\n"
    more = "T: 1 : 1 : 0 0.25\nT: 1 : 1 : 1 0.75\nR: 0 : 0 : 0 5\nR: 0 : * : * 1\nR: 0 : 0 : 1 3\n"
    write(**{"model.MDP": head + said + more})
    mdp = MDP.load("model.MDP")
    expected = [[0.5, 0.5], [1, 0], [0, 1], [0.25, 0.75]]
    np.testing.assert_allclose(mdp.P.toarray(), expected)
    assert mdp.r.tolist() == [2, 0, 1, 0]


def test_a_fully_observable_file_needs_no_observations():
    write(
        **{
            "chain.MDP": "discount: 0.5\nvalues: reward\nstates: 3\nactions: 1\nstart: 1\n"
            "T: 0 : 0 : 1 1.0\nT: 0 : 1\n0.0 0.0 1.0\nT: 0 : 2 : 2 1.0\n"
            "R: 0 : 1 : 2 8.0\n"
        }
    )
    mdp = MDP.load("chain.MDP")
    assert mdp.terminal.tolist() == [False, False, True]
    assert mdp.start.tolist() == [0, 1, 0]
    assert rlkit.solve(mdp).values.tolist() == pytest.approx([4.0, 8.0, 0.0])


CSV = """# gamma: 0.5
# states: 4
# start: 0
state,action,successor,probability,reward,note
0,3,1,0.25,2,a
0,3,-1,0.75,4,b
1,0,1,1,0,stays
0,1,2,1/3,3,
0,1,2,2/3,0,
"""


def test_triplets_as_text():
    write(**{"model.csv": CSV})
    mdp = MDP.load("model.csv")
    assert (mdp.gamma, mdp.start.tolist()) == (0.5, [1, 0, 0, 0])
    assert mdp.terminal.tolist() == [False, True, True, True]
    assert mdp.actions.tolist() == [1, 3]
    np.testing.assert_allclose(mdp.P.toarray(), [[0, 0, 1, 0], [0, 0.25, 0, 0]])
    np.testing.assert_allclose(mdp.r, [1.0, 0.25 * 2 + 0.75 * 4])


def test_triplets_as_arrays_in_any_order_are_the_model_they_came_from():
    mdp = random_mdp(5, 0.8, n_states=6)
    coo = mdp.P.tocoo()
    pair, successor = coo.coords
    missing = np.flatnonzero(mdp.ends)
    pairs = np.concatenate([pair, missing])
    p = np.concatenate([coo.data, 1 - mdp.P.sum(axis=1)[missing]])
    shuffled = np.random.default_rng(0).permutation(pairs.size)
    columns = [
        mdp.pair_state[pairs],
        mdp.actions[pairs],
        np.concatenate([successor, np.full(missing.size, -1)]),
        p,
        mdp.r[pairs],
    ]
    columns = [column[shuffled] for column in columns]
    same(MDP.from_triplets(*columns, 0.8, n_states=6), mdp)
    names = ("states", "actions", "successors", "probabilities", "rewards")
    np.savez("t.npz", **dict(zip(names, columns, strict=True)), gamma=0.8, n_states=6)
    same(MDP.load("t.npz"), mdp)


def drn(**changes):
    """A small .drn file with some of its lines in another form."""
    lines = {
        "type": "@type: MDP",
        "models": "@reward_models\ncost",
        "states": "@nr_states\n2",
        "choices": "@nr_choices\n2",
        "model": "@model",
        "s0": "state 0 [1] init",
        "a0": "\taction 0 [2]",
        "t0": "\t\t0 : 0.5",
        "t1": "\t\t1 : 0.5",
        "s1": "state 1 done",
        "a1": "\taction 0",
        "t2": "\t\t1 : 1",
    }
    return "\n".join({**lines, **changes}.values()) + "\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"type": "@type: CTMC"}, r"line 1: found type 'CTMC'; expected MDP or DTMC or POMDP"),
        ({"type": ""}, "no section @type: MDP"),
        ({"states": ""}, "no section @nr_states"),
        ({"states": "@nr_states\nmany"}, "line 4: found 'many' after @nr_states; expected a whole"),
        ({"states": "@nr_states\n3"}, "@nr_states declares 3 states; the file lists 2"),
        ({"states": "@nr_states\n1000000000000000"}, "declares 1000000000000000 states"),
        ({"states": "@nr_states\n99999999999999999999"}, "expected a whole number"),
        ({"choices": "@nr_choices\n7"}, "@nr_choices declares 7 actions; the file lists 2"),
        ({"model": ""}, "found 'state 0 .*|no section @model"),
        ({"models": "@reward_modles\ncost"}, "line 2: found '@reward_modles'"),
        ({"models": "", "s0": "state 0", "a0": "action 0"}, "has no rewards; expected @reward_mod"),
        ({"s1": "state 9999999999999999999"}, r"line 13: found .*; expected 'state NUMBER"),
        ({"s1": "state 2"}, r"line 13: found 2; expected the states' numbers in order, from 0"),
        ({"s1": "stat 1"}, r"line 13: found 'stat 1'; expected 'state NUMBER \[REWARDS\] LABELS'"),
        ({"a0": ""}, "declares 2 actions; the file lists 1"),
        ({"a0": "", "choices": ""}, r"line 10: found 0 : 0.5; expected an action before"),
        ({"a0": "action 0 [x]"}, r"line 10: found rewards \[x\]; expected a number"),
        ({"t1": "\t\t5 : 0.5"}, "line 12: found 5; expected a state, 0 to 1"),
        ({"t1": "\t\t1 : 0.4"}, "state 0, action 0: probabilities sum to 0.9; .*must sum to 1"),
        ({"t1": "\t\t1 : -0.5"}, "line 12: found -0.5; expected a probability, 0 to 1"),
        ({"t1": "\t\t1 : nan"}, "line 12: found nan; expected a probability, 0 to 1"),
        ({"t1": "\t\t1 : [0.4, 0.6]"}, r"line 12: found '1 : \[0.4, 0.6\]'; expected 'SUCCESSOR"),
        ({"t1": "\t\t1 : p"}, "line 12: found '1 : p'; expected 'SUCCESSOR : PROBABILITY'"),
        ({"t1": "\t\t1 0.5"}, "line 12: found '1 0.5'; expected 'SUCCESSOR : PROBABILITY'"),
        ({"t1": "\t\t1 : __import__('os')"}, "line 12: found"),
    ],
)
def test_a_drn_file_that_is_not_what_it_says(changes, message):
    write(**{"model.drn": drn(**changes)})
    if message is None:
        mdp = MDP.load("model.drn", 0.9)
        assert (mdp.r.tolist(), mdp.terminal.tolist()) == ([3.0], [False, True])
        return
    refused(message)


def refused(message, name="model.drn", kind=ModelError, **options):
    with pytest.raises(kind, match=message) as refusal:
        MDP.load(name, 0.9, **options)
    assert "\n" not in str(refusal.value)
    assert name.partition(".")[0] in str(refusal.value)


def test_fractions_are_numbers_too():
    write(**{"model.drn": drn(t0="\t\t0 : 1/3", t1="\t\t1 : 2/3")})
    np.testing.assert_allclose(MDP.load("model.drn", 0.9).P.toarray(), [[1 / 3, 2 / 3]])


def test_rounded_probabilities_do_not_end_episodes():
    write(**{"model.drn": drn(t0="\t\t0 : 0.333333", t1="\t\t1 : 0.666666")})
    mdp = MDP.load("model.drn", 0.9)
    assert not mdp.ends.any()
    np.testing.assert_allclose(mdp.P.toarray(), [[1 / 3, 2 / 3]], atol=1e-6)


TRA = "3 2 3\n0 0 1 0.5\n0 0 2 0.5\n1 0 2 1 go\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"m.tra": "", "m.srew": "3 0\n"}, "is empty; expected 'states choices transitions'"),
        ({"m.tra": "three\n"}, "line 1: found 'three'; expected 'states choices transitions'"),
        ({"m.tra": "3 2 9\n0 0 1 1\n"}, "line 1: declares 9 transitions; the file lists 1"),
        ({"m.tra": TRA.replace("3 2 3", "3 5 3")}, "line 1: declares 5 choices; the file lists 2"),
        ({"m.tra": TRA.replace("3 2 3", "123456789012 2 3")}, "found 123456789012 states; expect"),
        ({"m.tra": TRA.replace("3 2 3", "2 2 3")}, "line 3: found 2; expected a state, 0 to 1"),
        (
            {"m.tra": TRA.replace("0 0 2 0.5", "0 0 2 0.4"), "m.srew": "3 0\n"},
            "state 0, action 0: probabilities sum to 0.9",
        ),
        ({"m.tra": TRA.replace("0 0 2 0.5", "0 0 2")}, "line 3: found '0 0 2'; expected 'state ch"),
        ({"m.tra": TRA.replace("0 0 2", "0 -1 2")}, "line 3: found -1; expected a choice, 0 to 2"),
        ({"m.tra": TRA.replace("0 0 2", "0 99999999 2")}, "line 3: found 99999999; expected a cho"),
        ({"m.tra": "3 2 3\n0 0.5:1 0.5:2 go\n"}, "line 2: .* expected one transition a line"),
        ({"m.tra": TRA}, r"'m.tra' has no rewards; expected m.srew or m.trew beside it"),
        ({"m.tra": TRA, "m.srew": "9 1\n0 1\n"}, "'m.srew' line 1: found '9 1'; .*with 3 states"),
        ({"m.tra": TRA, "m.srew": "3 4\n0 1\n"}, "'m.srew' line 1: declares 4 entries; .*lists 1"),
        ({"m.tra": TRA, "m.srew": "3 1\n7 1\n"}, "'m.srew' line 2: found 7; expected a state"),
        ({"m.tra": TRA, "m.trew": "3 2 1\n1 1 2 5\n"}, "'m.trew' line 2: found 1; expected a choi"),
        (
            {"m.tra": TRA, "m.trew": "3 2 1\n2 0 2 5\n"},
            "line 2: found 2; expected a state and a",
        ),
        ({"m.tra": TRA, "m.trew": "3 2 1\n1 0 0 5\n"}, "line 2: found 0; expected a successor"),
        ({"m.tra": TRA, "m.srew": "3 0\n", "m.sta": "(s)\n0:(1)\n"}, "'m.sta' lists 1 states"),
        ({"m.tra": TRA, "m.srew": "3 0\n", "m.lab": '0="init"\n9: 0\n'}, "'m.lab' line 2: found"),
        ({"m.tra": TRA, "m.srew": "3 0\n", "m.lab": '0="init"\n1: 4\n'}, "'m.lab' line 2: found"),
    ],
)
def test_prism_files_that_are_not_what_they_say(files, message):
    write(**files)
    refused(message, "m.tra")


def test_prism_files_with_one_reward_structure_and_a_markov_chain():
    write(**{"m.tra": TRA, "m.srew": "3 1\n1 7\n", "m.trew": "3 2 2\n0 0 1 4\n0 0 2 8\n"})
    mdp = MDP.load("m.tra", 0.9)
    assert mdp.r.tolist() == [6.0, 7.0]
    assert mdp.terminal.tolist() == [False, False, True]
    assert mdp.start.tolist() == [1, 0, 0]
    write(**{"c.tra": "2 3\n0 0 0.5\n0 1 0.5\n1 1 1\n", "c.trew": "2 1\n0 1 3\n"})
    chain = MDP.load("c.tra", 0.9)
    assert (chain.r.tolist(), chain.terminal.tolist()) == ([1.5], [False, True])


def test_the_rewards_of_a_model_of_a_similar_name_are_left_alone():
    write(**{"m.tra": TRA, "m.srew": "3 1\n1 7\n", "m2.srew": "3 1\n1 8\n"})
    assert MDP.load("m.tra", 0.9).r.tolist() == [0.0, 7.0]
    write(**{"n.tra": TRA, "n1.srew": "3 1\n1 7\n", "n2.tra": TRA, "n2.srew": "3 1\n1 8\n"})
    assert MDP.load("n.tra", 0.9).r.tolist() == [0.0, 7.0]


def test_a_choice_is_asked_for_by_name():
    write(**ROBOT)
    refused("has 2 reward structures; it has: energy, 3; choose one", "robot.tra", UsageError)
    refused("did you mean energy", "robot.tra", UsageError, rewards="enrgy")
    refused("did you mean goal2 or goal1", "robot.tra", UsageError, rewards="2", goal="goal")
    refused("has 3 reward models; it has: move, energy, time", "robot.drn", UsageError)
    refused("did you mean hazard", "robot.drn", UsageError, rewards="time", goal="hazzard")
    write(**{"maze.POMDP": MAZE})
    refused("rewards is for .drn and .tra files", "maze.POMDP", UsageError, rewards="x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found no 'actions:' so far"),
        ("discont: 0.9\n", "line 1: found 'discont'; expected did you mean discount"),
        ("discount: 1.5\n", r"line 1: found '1.5'; expected a discount, 0 to 1"),
        ("discount: often\n", "line 1: found 'often'; expected a number"),
        ("discount:\n", "line 1: ends too soon"),
        ("values: money\n", "line 1: found 'money'; expected reward or cost"),
        ("states:\nactions: 2\n", "line 1: .* expected the number of states, or their names"),
        ("states: 0\n", "line 1: found '0'; expected a number of states, 1 or more"),
        ("states: 999999999999999\n", "declares 999999999999999 states: the model would take"),
        ("states: 9999999\nactions: 2\nT: 0 identity\n", "line 3: 2 x 9999999 x 9999999 entries"),
        ("states: 9999999\nactions: 2\nT: *\nuniform\n", "line 3: 2 x 9999999 x 9999999 entries"),
        ("states: 2\nT: 0 identity\n", "line 2: found no 'actions:' so far; expected it before"),
        ("states: a b\nactions: 1\nT: 0 : c : a 1.0\n", "line 3: found 'c'; expected one of the 2"),
        (
            "states: up down\nactions: 1\nT: 0 : dwn : up 1\n",
            "found 'dwn'; expected did you mean",
        ),
        (
            "states: 2\nactions: 1\nT: 0 : 5 : 0 1.0\n",
            "line 3: found '5'; expected one of the",
        ),
        ("states: 2\nactions: 1\nT: 0\n1 0 0\n", "line 3: found '3 values'; expected 4 values"),
        ("states: 2\nactions: 1\nT: 0\n1 0 0 x\n", "line 3: found '1 0 0'; expected numbers"),
        ("states: 2\nactions: 1\nT: 0 : 0 : 0 1.5\n", "line 3: found '1.5'; expected a probabil"),
        ("states: 2\nactions: 1\nT: 0 : 0 : 0 nan\n", "line 3: found 'nan'; expected a finite"),
        (
            "states: 2\nactions: 1\nT: 0 : 0 : 0 0.9\n",
            "state 0, action 0: probabilities sum to 0.9",
        ),
        ("states: 2\nactions: 1\nO: 0 uniform\n", "line 3: found no 'observations:' so far"),
        (
            "states: 2\nactions: 1\nT: 0 identity\nR: 0 : 0 : 0 1e999\n",
            "found '1e999'; expected a finite",
        ),
    ],
)
def test_a_cassandra_file_that_is_not_what_it_says(text, message):
    write(**{"model.MDP": text})
    refused(message, "model.MDP", UsageError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("successor,", ""), "line 4: found .* without successor; expected a first line"),
        (("0,3,1,0.25,2,a", "0,3,1"), "line 5: found '0,3,1'; expected 6 values: state,action"),
        (("0.25", "half"), "line 5: found '0,3,1,half,2,a'"),
        (("0.25", "0.5"), "state 0, action 3: probabilities sum to 1.25; they may sum to 1"),
        (("0.25", "-0.25"), "line 5: found -0.25; expected a probability, 0 to 1"),
        (("0,3,1,", "-4,3,1,"), "line 5: found -4; expected a state, 0 or more"),
        (("0,3,1,", "0,3,-2,"), "line 5: found -2; expected a successor"),
        (("0,3,1,", "0,3.5,1,"), "line 5: found '0,3.5,1,0.25,2,a'"),
        (("states: 4", "states: 2"), "declares 2 states; its transitions name state 2"),
        (("states: 4", "states: 1e15"), "has 1,000,000,000,000,000 states: the model would take"),
        (("states: 4", "states: x"), "line 2: found 'x'; expected a number"),
        (("start: 0", "start: 9"), "start is 9; states are 0 to 3"),
    ],
)
def test_a_csv_file_that_is_not_what_it_says(change, message):
    write(**{"model.csv": CSV.replace(*change)})
    refused(message, "model.csv", UsageError)


def test_archives_that_are_not_what_they_say():
    random_mdp(1, 0.9).save("good.npz")
    good = dict(np.load("good.npz"))
    for change, message in (
        ({"offsets": np.arange(5)}, "offsets"),
        ({"P_indices": good["P_indices"] + 50}, "P is no CSR matrix"),
        ({"P_indptr": good["P_indptr"][::-1].copy()}, "P is no CSR matrix"),
        ({"gamma": np.array([0.1, 0.2])}, r"gamma has shape \(2,\); expected one number"),
        ({"gamma": np.array("x")}, "gamma has shape"),
        ({"r": good["r"] * np.nan}, "state 0, action 0: reward nan"),
    ):
        np.savez("bad.npz", **{**good, **change})
        with pytest.raises(ModelError, match=message):
            MDP.load("bad.npz")
    del good["r"]
    np.savez("bad.npz", **good)
    refused("expected r too", "bad.npz")
    np.savez("bad.npz", P_data=np.array([{}], dtype=object))
    refused("is no NumPy archive", "bad.npz", UsageError)
    Path("bad.npz").write_bytes(b"PK\x03\x04 nothing more")
    refused("is no NumPy archive", "bad.npz", UsageError)


def test_an_archive_that_unpacks_to_more_than_fits_is_refused(monkeypatch):
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("P_data.npy", b"\0" * 10**6)
    monkeypatch.setattr("rlkit.system.available_memory", lambda: 10**6)
    refused("unpacks to 1,000,000 bytes: reading it would take", "bomb.npz", UsageError)


@pytest.mark.parametrize(("state", "n_states"), [(10**15, None), (0, 10**18)])
def test_an_archive_of_more_states_than_fit_is_refused(state, n_states):
    columns = {name: np.zeros(1, np.int64) for name in ("actions", "successors")}
    columns |= {name: np.ones(1) for name in ("probabilities", "rewards")}
    declared = {} if n_states is None else {"n_states": n_states}
    np.savez("huge.npz", states=np.array([state]), **columns, **declared)
    refused("the transitions are of .* states: the model would take", "huge.npz", UsageError)


def test_a_saved_solution_is_no_model(tmp_path):
    path = tmp_path / "solved.npz"
    rlkit.solve(rlkit.MDP.from_arrays([[[1.0]]], [[1.0]], gamma=0.5)).save(path)
    with pytest.raises(ModelError, match="holds a solution, not a model; read it with"):
        rlkit.MDP.load(path)


def test_names_of_files():
    write(**{"model.drn": drn(), "text.txt": "x"})
    assert is_model_file("model.drn")
    assert is_model_file("missing.tra")
    assert is_model_file("text.txt")
    assert not is_model_file("gridworld")
    assert not is_model_file("CartPole-v1")
    with pytest.raises(UsageError, match=r"'text.txt' ends in '.txt'; .*known: .npz, .csv, .drn"):
        MDP.load("text.txt")
    with pytest.raises(UsageError, match=r"'modle.drn' was not found; did you mean model.drn"):
        MDP.load("modle.drn")
    with pytest.raises(UsageError, match=r"names no discount; give gamma"):
        MDP.load("model.drn")
    with pytest.raises(UsageError, match=r"must end in .npz or .drn"):
        random_mdp(0, 0.9).save("model.csv")
    Path("model.drn").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"is not UTF-8 text \(byte 0\)"):
        MDP.load("model.drn", 0.9)
