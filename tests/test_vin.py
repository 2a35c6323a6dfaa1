"""Value iteration networks: the VI module against exact sweeps, and learning by imitation."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from small_runs import leaves, metrics, steps_saved

import rlkit
from rlkit.agent import Setting
from rlkit.agents.backward_induction import backward_induction
from rlkit.agents.vin import VIN, VINRecipe
from rlkit.envs import grid_maps
from rlkit.errors import UsageError
from rlkit.experience.demonstrations import Demonstrations, Schooling
from rlkit.experience.step import Step
from rlkit.networks.encoder import encoder_for
from rlkit.networks.images import Images
from rlkit.networks.map_policies import PlanningPolicy, ReactivePolicy
from rlkit.networks.vin import Planner, ValueIteration
from rlkit.recipe import options
from rlkit.registry import TEACHERS
from rlkit.run.checkpoint import load_checkpoint
from rlkit.training.options import RunOptions

CPU = torch.device("cpu")
SIZE = 6
SMALL = {
    "envs": 4,
    "maps": 50,
    "train_every": 8,
    "gradient_steps": 2,
    "batch_size": 16,
    "states": 8,
}


def maps(n, size=SIZE, seed=0):
    return grid_maps.vector(n, size).reset(seed=seed)[0]


def agent_for(size=SIZE, **changes):
    torch.manual_seed(0)
    space = spaces.Box(0, 255, (size, size, 3), np.uint8)
    setting = Setting(space, spaces.Discrete(8), 4, CPU, seed=1)
    agent = VIN(setting, VINRecipe().but(SMALL | changes))
    agent.memory.allocate()
    return agent


def lattice(P, R, r, gamma):
    """The MDP in which action a leads from a cell to the neighbour (i, j) off it with P[a, i, j].

    It earns Σ R[a, i, j]·r of that neighbour; beyond the edge of r (H, W) everything ends.
    """
    H, W = r.shape
    A, rim = len(P), np.pad(r, 1)
    number = np.pad(np.arange(H * W).reshape(H, W), 1, constant_values=-1)

    def f(states):
        row, col = states // W, states % W
        around = number[
            row[:, None, None] + np.arange(3)[:, None], col[:, None, None] + np.arange(3)
        ].reshape(-1, 1, 9)
        seen = np.stack([rim[i : i + 3, j : j + 3] for i, j in zip(row, col, strict=True)])
        rewards = np.einsum("bij,aij->ba", seen, R)
        return around.repeat(A, 1), np.broadcast_to(P.reshape(A, 9), (len(states), A, 9)), rewards

    return rlkit.MDP.from_function(f, H * W, gamma)


@pytest.mark.parametrize(("size", "k"), [((5, 5), 1), ((6, 4), 3), ((7, 9), 12)])
def test_the_module_is_k_sweeps_of_value_iteration(size, k):
    rng = np.random.default_rng(k)
    P = rng.dirichlet(np.ones(10), 4)[:, :9].reshape(4, 3, 3)  # the tenth part ends the episode
    R, r, gamma = rng.normal(size=(4, 3, 3)), rng.normal(size=size), 0.9
    module = ValueIteration(4, k).double()
    module.load_state_dict(
        {"reward": torch.tensor(R[:, None]), "transition": torch.tensor(gamma * P[:, None])}
    )
    Q = module(torch.tensor(r)[None, None])[0]
    mdp = lattice(P, R, r, gamma)
    exact = backward_induction(mdp, k).values[0]
    np.testing.assert_allclose(Q.amax(0).flatten().detach(), exact, atol=1e-12)
    if k == 12:  # and many of them are the solution
        module.k = 400
        best = rlkit.solve(mdp, tol=1e-9).values
        Q = module(torch.tensor(r)[None, None])[0]
        np.testing.assert_allclose(Q.amax(0).flatten().detach(), best, atol=1e-8)


@pytest.mark.parametrize(("size", "k"), [((8, 8), 2), ((5, 9), 3), ((9, 6), 20)])
def test_compiled_sweeps_are_the_convolutions_and_their_gradients(size, k):
    """The convolutions in float64, which have autograd's own gradients, are the referee."""
    torch.manual_seed(k)
    module, r = ValueIteration(6, k), torch.randn(3, 1, *size)
    sharp = copy.deepcopy(module).double()
    given = [r.clone().requires_grad_(), r.double().requires_grad_()]
    weights = torch.randn(3, 6, *size)
    outs = [each(x) for each, x in zip((module, sharp), given, strict=True)]
    for Q in outs:
        (Q * weights).sum().backward()
    torch.testing.assert_close(outs[0].double(), outs[1], atol=1e-5, rtol=1e-5)
    found = zip([given[0], *module.parameters()], [given[1], *sharp.parameters()], strict=True)
    for ours, theirs in found:
        assert ours.grad.abs().max() > 0
        torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(module(r), outs[0])


def test_channels_begin_as_actions_that_lead_to_different_cells():
    torch.manual_seed(0)
    module = ValueIteration(27, 3)
    P = module.reward.detach().flatten(1)
    torch.testing.assert_close(module.transition.detach().flatten(1), 0.95 * P)
    assert (P > 0).all()
    torch.testing.assert_close(P.sum(1), torch.ones(27))
    for nine in P.split(9):
        assert sorted(nine.argmax(1).tolist()) == list(range(9))
    assert P.amax(1).median() > 0.9


def test_hand_set_weights_find_shortest_ways():
    """The eight moves as eight channels, and r̄ of walls so low that nobody enters them.

    With a discount of 0.9 for each unit of length the shortest way to the first visit of the goal
    is best, as each later visit is worth the same from there.
    """
    images = maps(20, 9)
    policy = PlanningPolicy(Planner((9, 9, 3), k=200, hidden=2, actions=8), 8)
    planner = policy.planner
    walls, goal = grid_maps.read(images)
    W_r, W_v = torch.zeros(8, 1, 3, 3), torch.zeros(8, 1, 3, 3)
    for a, ((down, right), length) in enumerate(
        zip(grid_maps.MOVES, grid_maps.LENGTHS, strict=True)
    ):
        W_r[a, 0, 1 + down, 1 + right] = W_v[a, 0, 1 + down, 1 + right] = float(0.9**length)
    with torch.no_grad():
        planner.plan.reward.copy_(W_r)
        planner.plan.transition.copy_(W_v)
        planner.features.weight.zero_()
        planner.features.bias.zero_()
        for channel, value in ((grid_maps.WALLS, -1e3), (grid_maps.GOALS, 10.0)):
            planner.features.weight[channel, channel, 1, 1] = 1.0
            planner.reward.weight[0, channel] = value
        policy.policy.weight.copy_(torch.eye(8))
    _, best = grid_maps.shortest_ways(walls, goal)
    at = best.reshape(20, -1, 8).any(-1)
    cells = torch.arange(81).expand(20, -1)
    chosen = policy.at(torch.from_numpy(images), cells).argmax(-1).numpy()
    assert np.take_along_axis(best.reshape(20, -1, 8), chosen[..., None], 2)[..., 0][at].all()


@pytest.mark.parametrize("kind", ["vin", "cnn"])
def test_any_cell_at_once_is_each_cell_on_its_own(kind):
    torch.manual_seed(0)
    shape = Images((8, 8, 3), "HWC")
    policy = PlanningPolicy(Planner(shape), 8) if kind == "vin" else ReactivePolicy(shape, 8)
    images = torch.from_numpy(maps(5, 8))
    cells = torch.randint(64, (5, 4))
    at = policy.at(images, cells)
    for i, p in np.ndindex(5, 4):
        moved = images[i].clone()
        moved[..., grid_maps.AGENT] = 0
        moved.view(64, 3)[cells[i, p], grid_maps.AGENT] = 255
        torch.testing.assert_close(policy(moved), at[i, p])
    assert policy(images.view(5, 1, 8, 8, 3)).shape == (5, 1, 8)


def test_the_planner_is_an_encoder():
    space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    encoder = encoder_for(space, "vin", hidden=())
    planner = encoder.numbers
    assert (encoder.width, planner.plan.k) == (18, 10)
    assert [Planner((m, m, 3)).plan.k for m in (16, 28)] == [20, 35]
    images = torch.from_numpy(maps(3, 8))
    cell = images[..., grid_maps.AGENT].flatten(1).int().argmax(1, keepdim=True)
    torch.testing.assert_close(encoder(images), planner.at(images, cell)[:, 0])
    first = spaces.Box(0, 255, (3, 8, 8), np.uint8)
    torch.manual_seed(0)
    one = encoder_for(space, "vin", hidden=())
    torch.manual_seed(0)
    other = encoder_for(first, "vin", hidden=())
    torch.testing.assert_close(one(images), other(images.permute(0, 3, 1, 2)))
    with pytest.raises(UsageError, match=r"\(8, 8, 1\) hold no map and agent; the trunk 'vin'"):
        encoder_for(spaces.Box(0, 255, (8, 8, 1), np.uint8), "vin")
    with pytest.raises(UsageError, match="'vin' takes images"):
        encoder_for(spaces.Box(0, 255, (4, 8, 8, 3), np.uint8), "vin")


@pytest.mark.parametrize("network", ["vin", "cnn"])
def test_an_update_is_a_step_of_adam_on_the_loss_as_defined(network):
    agent = agent_for(size=8, network=network, learning_rate=1e-3, max_grad_norm=1e9)
    lesson = lesson_of(agent, maps(12, 8))
    net = copy.deepcopy(agent.net)
    told = agent.update(lesson)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    pi = net.at(lesson.images, lesson.cells).softmax(-1)
    total = sum(
        -torch.log(pi[i, p][lesson.optimal[i, p]].sum()) for i, p in np.ndindex(*pi.shape[:2])
    )
    loss = total / lesson.cells.numel()
    loss.backward()
    adam.step()
    assert told["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    for ours, theirs in zip(agent.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def step_of(obs, next_obs, begins):
    n = len(obs)
    no = np.zeros(n, dtype=bool)
    return Step(obs, np.zeros(n, int), np.zeros(n, np.float32), no, no, ~begins, next_obs)


def lesson_of(agent, images):
    agent.memory.add(step_of(images, images, np.zeros(len(images), dtype=bool)))
    return next(iter(agent.memory.batches()))


def memory_of(asked, kept=5):
    def teacher(images):
        asked.append(images)
        return grid_maps.optimal_actions(images)

    schooling = Schooling(maps=kept, every=8, minibatches=3, batch_size=40, states=20)
    memory = Demonstrations(
        (SIZE, SIZE, 3), 8, 2, schooling, teacher, CPU, torch.Generator().manual_seed(0)
    )
    memory.allocate()
    return memory


def test_maps_are_solved_once_and_drawn_from_the_newest():
    asked = []
    memory = memory_of(asked)
    images = maps(8)
    pairs = images.reshape(4, 2, *images.shape[1:])
    none, both, second = (np.array(x, dtype=bool) for x in ([0, 0], [1, 1], [0, 1]))
    memory.add(step_of(pairs[0], pairs[0], none))  # two that begin
    memory.add(step_of(pairs[0], pairs[3], none))  # an observation on the way is no new map
    memory.add(step_of(pairs[0], images[[5, 2]], second))
    assert list(memory.batches()) == []
    memory.add(step_of(pairs[0], images[[5, 3]], second))
    lessons = list(memory.batches())
    assert [x.tobytes() for x in asked] == [images[:4].tobytes()]
    assert len(lessons) == 3
    assert list(memory.batches()) == []
    memory.restart()
    memory.add(step_of(pairs[2], pairs[3], both))
    for _ in range(3):
        assert list(memory.batches()) == []
        memory.add(step_of(pairs[0], pairs[0], none))
    lessons = list(memory.batches())
    assert asked[1].tobytes() == images[4:].tobytes()
    newest = {image.tobytes(): image for image in images[3:]}
    drawn = set()
    for lesson in lessons:
        assert lesson.images.shape == (40, SIZE, SIZE, 3)
        for image, cells, optimal in zip(
            lesson.images.numpy(), lesson.cells.numpy(), lesson.optimal.numpy(), strict=True
        ):
            drawn.add(image.tobytes())
            best = grid_maps.optimal_actions(image[None]).reshape(-1, 8)
            assert (optimal == best[cells]).all()
            assert optimal.any(-1).all()
    assert drawn == set(newest)
    assert len({*lessons[0].cells.flatten().tolist()}) > 10


def test_a_memory_goes_on_from_its_state():
    one, other = memory_of([]), memory_of([])
    one.add(step_of(maps(8), maps(8), np.ones(8, dtype=bool)))
    assert len(list(one.batches())) == 3
    one.add(step_of(maps(5, seed=50), maps(5, seed=60), np.ones(5, dtype=bool)))
    other.set_state(copy.deepcopy(one.get_state()))
    other._generator.set_state(one._generator.get_state())
    for memory in (one, other):
        memory.add(step_of(maps(3), maps(3, seed=70), np.ones(3, dtype=bool)))
    lessons = [list(memory.batches()) for memory in (one, other)]
    assert len(lessons[0]) == 3
    for ours, theirs in zip(*lessons, strict=True):
        for name in ("images", "cells", "optimal"):
            assert (getattr(ours, name) == getattr(theirs, name)).all()


TOLD = ("--envs", 8, "--train-every", 32, "--gradient-steps", 4, "--batch-size", 16, "--states", 8)
RUN = (*TOLD, "--env-option", "size=6", "--eval-episodes", 5, "--seed", 3, "--eval-every", 300)


@pytest.mark.parametrize("network", ["vin", "cnn"])
def test_resuming_from_the_middle_equals_one_go(cli, tmp_path, network):
    told = (*RUN, "--steps", 800, "--save-every", 400, "--network", network)
    one_go = cli("train", "vin", "grid-maps", *told, "--json")
    assert one_go.status == 0, one_go.err
    whole = Path(json.loads(one_go.out)["run"])
    middle = next(name for name in steps_saved(whole) if 400 <= int(name) < 600)
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)
    for name in steps_saved(broken):
        if name > middle:
            shutil.rmtree(broken / "checkpoints" / name)
    resumed = cli("resume", broken)
    assert resumed.status == 0, resumed.err
    assert "afresh" not in resumed.out
    one, other = (leaves(load_checkpoint(run).tree) for run in (whole, broken))
    assert [path for path in one if one[path] != other[path]] == []
    assert metrics(whole) == metrics(broken)


@pytest.mark.timeout(200)
def test_it_learns_the_way_on_small_maps(tmp_path):
    """On 6x6 maps, of which the inner 4x4 cells are open; an untrained policy crashes."""
    recipe = {"steps": 6_000, "train_every": 192, "gradient_steps": 32, "reward_channels": 16}
    options = RunOptions(seed=2000, run_dir=str(tmp_path), eval_episodes=200)
    chance = rlkit.train("vin", "grid-maps", {"steps": 64}, options, env_options={"size": 6})
    assert chance.evaluation.mean < -0.3
    done = rlkit.train("vin", "grid-maps", recipe, options, env_options={"size": 6})
    assert done.evaluation.mean > 0.8  # all but 8 % at most arrive
    policy = rlkit.load(done.run)
    assert policy.act(maps(3)).shape == (3,)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_recipe_plans_on_maps_never_seen(tmp_path):
    options = RunOptions(seed=2000, run_dir=str(tmp_path), eval_episodes=1000)
    done = rlkit.train("vin", "grid-maps", options=options)
    assert done.evaluation.mean > 0.92  # the shortest ways earn 0.965; a percent that fails, 0.02


def test_ppo_trains_a_planner_by_reinforcement(cli):
    told = ("--encoder", "vin", "--n-steps", 8, "--envs", 4, "--steps", 64, "--eval-episodes", 2)
    assert cli("train", "ppo", "grid-maps", *told).status == 0


def test_what_does_not_fit_is_refused(cli):
    assert "vin learns to find its way on maps" in cli("train", "vin", "CartPole").error
    assert "vin takes Discrete actions" in cli("train", "vin", "Pendulum").error
    memory = memory_of([])
    memory._n_actions = 4
    with pytest.raises(UsageError, match=r"has 4 actions, and the teacher .* knows 8"):
        memory._learn_of(maps(1))
    (teacher,) = (about for about in options(VINRecipe) if about.name == "teacher")
    assert set(teacher.choices) == set(TEACHERS)
