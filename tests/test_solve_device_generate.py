"""Models that are made on the device, against the same ones made on the host."""

import numpy as np
import pytest
import torch

import rlkit
from rlkit.envs.gridworld import GridWorld
from rlkit.errors import ModelError, UsageError
from rlkit.mdp.device import memory
from rlkit.mdp.device.generate import from_function
from rlkit.mdp.device.grids import gridworld
from rlkit.mdp.device.solve import solve
from rlkit.mdp.solution import Solution

CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
LEGEND = ["S.aP", "#..G", " b  ", "a: -0.5", "b: -2 terminal"]
MAPS = {"maze": {"size": 12, "seed": 3}, "usual": {}, "sure": {"slip": 0.0}, "legend": {}}
MAPS["legend"] = {"map": LEGEND, "slip": 0.5}


def drawn(n_states, actions=3, width=4, seed=0):
    """A function of states, in NumPy, with ends, missing mass, gaps and absorbing states."""
    rng = np.random.default_rng(seed)
    successors = rng.integers(-1, n_states, size=(n_states, actions, width))
    p = rng.dirichlet(np.ones(width), size=(n_states, actions))
    p[rng.random((n_states, actions)) < 0.2] *= 0.5
    p[rng.random(p.shape) < 0.1] = 0.0
    r = rng.normal(size=(n_states, actions))
    admissible = rng.random((n_states, actions)) < 0.8
    idle = rng.random(n_states) < 0.1
    successors[idle] = np.arange(n_states)[idle, None, None]
    p[idle], r[idle] = 1.0 / width, 0.0
    return lambda s: (successors[s], p[s], r[s], admissible[s])


def on_tensors(f, device="cpu"):
    """The same function, of tensors."""
    return lambda states: tuple(torch.tensor(x, device=device) for x in f(states.cpu().numpy()))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(4))
def test_a_generated_model_is_that_of_the_host(seed, device, monkeypatch):
    monkeypatch.setattr("rlkit.mdp.device.generate.BLOCK_OUTCOMES", 240)  # several blocks
    f = drawn(150, seed=seed)
    mdp = rlkit.MDP.from_function(f, 150, 0.9)
    made = from_function(on_tensors(f, device), 150, 0.9, torch.device(device))
    assert (made.n_states, made.n_pairs) == (mdp.n_states, mdp.n_pairs)
    np.testing.assert_array_equal(made.live.cpu(), ~mdp.terminal)
    V = np.random.default_rng(1).normal(size=150) * ~mdp.terminal
    Q = made.in_order(made.rows.q(torch.tensor(np.append(V, 0.0), device=device)))
    np.testing.assert_allclose(Q.cpu(), mdp.r + 0.9 * (mdp.P @ V), atol=1e-14)
    ends = mdp.terminal.copy()
    ends[mdp.pair_state[mdp.ends]] = True
    np.testing.assert_array_equal(made.ends.cpu(), ends)
    found, referee = solve(made), rlkit.solve(mdp, tol=1e-9)
    assert found.error_bound <= 1e-6
    assert np.all(found.lower.cpu().numpy() <= referee.upper)
    assert np.all(referee.lower <= found.upper.cpu().numpy())


def full(env, values):
    """An array over the map of what the states have."""
    whole = np.zeros(env.grid.cells.shape, dtype=values.dtype)
    whole[env.grid.cells != "#"] = values
    return whole


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gamma", [0.9, 1.0])
@pytest.mark.parametrize("options", MAPS.values(), ids=MAPS)
def test_a_gridworld_made_on_the_device_is_gridworlds(options, gamma, device):
    env = GridWorld(**options)
    mdp = env.mdp(gamma)
    targets, p, rewards = env._outcomes(np.flatnonzero(~mdp.terminal))
    ends = full(env, mdp.terminal)
    entered = full(env, env._reward)
    made = gridworld(
        env.grid.cells == "#",
        ends,
        entered,
        gamma,
        torch.device(device),
        slip=env.slip,
        step_cost=env.step_cost,
        starts=env.grid.where("S"),
    )
    live = made.live.cpu().numpy()
    np.testing.assert_array_equal(live, ~mdp.terminal)
    successors = made.rows.successors.cpu().numpy().transpose(2, 0, 1)[live]
    np.testing.assert_array_equal(successors, targets)
    np.testing.assert_array_equal(made.rows.p[0, :, 0].cpu(), p)
    np.testing.assert_allclose(made.rows.r.T.cpu().numpy()[live], rewards, atol=1e-15)
    found, referee = solve(made), rlkit.solve(mdp, tol=1e-9)
    np.testing.assert_allclose(found.values.cpu(), referee.values, atol=1e-6)
    assert found.start_value == pytest.approx(referee.start_value, abs=1e-6)
    np.testing.assert_array_equal(found.policy.cpu() == -1, mdp.terminal)


def test_a_solution_comes_back_whole(tmp_path):
    f = drawn(60, seed=5)
    mdp, made = rlkit.MDP.from_function(f, 60, 0.9), from_function(on_tensors(f), 60, 0.9, CPU)
    found, referee = solve(made).on_host(), rlkit.solve(mdp)
    assert isinstance(found, Solution)
    np.testing.assert_array_equal(found.offsets, mdp.offsets)
    np.testing.assert_allclose(found.q, referee.q, atol=2e-6)
    assert found.method == "modified-policy-iteration on cpu"
    np.testing.assert_array_equal(found.actions, mdp.actions)
    np.testing.assert_array_equal(found.policy, referee.policy)
    found.save(tmp_path / "x.npz")
    np.testing.assert_array_equal(Solution.load(tmp_path / "x.npz").values, found.values)


def test_a_host_without_room_for_a_solution_is_told(monkeypatch):
    found = solve(from_function(on_tensors(drawn(60)), 60, 0.9, CPU))
    monkeypatch.setattr("rlkit.system.available_memory", lambda: 1000)
    with pytest.raises(UsageError, match=r"its solution on the host would take .* use the tensors"):
        found.on_host()


def test_probabilities_of_single_precision_sum_to_one():
    def f(states):
        p = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float32).expand(len(states), 1, 3)
        to = torch.stack([states, (states + 1) % 9, (states + 2) % 9], dim=-1)[:, None]
        return to, p, torch.ones(len(states), 1)

    made = from_function(f, 9, 0.99, CPU)
    assert made.closed
    torch.testing.assert_close(made.rows.p.sum(1), torch.ones(1, 9, dtype=torch.float64))
    found = solve(made)
    np.testing.assert_allclose(found.values, 100.0, atol=1e-6)


def chain(**wrong):
    """Three states in a row, of which something is wrong."""

    def f(states):
        described = {
            "successors": (states + 1)[:, None, None].clamp(max=2),
            "p": torch.ones(len(states), 1, 1),
            "r": torch.ones(len(states), 1),
            **{name: change(states) for name, change in wrong.items()},
        }
        return tuple(described.values())

    return f


def at_state_1(value):
    return lambda states: torch.where(states == 1, value, 1.0)[:, None, None]


REFUSED = {
    "successor": ({"successors": lambda s: (s + 2)[:, None, None]}, "state 1, action 0: succ.* 3 "),
    "negative": ({"p": at_state_1(-0.25)}, "state 1, action 0: probability -0.25"),
    "nan": ({"p": at_state_1(float("nan"))}, "state 1, action 0: probability nan"),
    "sum": ({"p": at_state_1(1.25)}, "state 1, action 0: probabilities sum to 1.25"),
    "reward": ({"r": lambda s: at_state_1(torch.inf)(s)[:, 0]}, "state 1, action 0: reward inf"),
    "floats": ({"successors": lambda s: s[:, None, None] * 0.5}, "must be integers of shape"),
    "shape": ({"successors": lambda s: s}, r"shape \(3,\); for these 3 states"),
    "rewards": ({"r": lambda s: torch.ones(2, 7)}, r"rewards of shape \(2, 7\); they must be"),
}


@pytest.mark.parametrize(("wrong", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_model_is_refused_with_state_and_action(wrong, said):
    assert from_function(chain(), 3, 0.9, CPU).n_pairs == 3
    with pytest.raises(ModelError, match=said):
        from_function(chain(**wrong), 3, 0.9, CPU)


def test_what_differs_from_block_to_block_is_refused():
    def of_growing_width(states):
        K = 1 if int(states[0]) == 0 else 2
        return states[:, None, None].expand(-1, 1, K), torch.full((K,), 1.0 / K), torch.ones(1)

    def of_drifting_p(states):
        p = torch.tensor([0.5, 0.5] if int(states[0]) == 0 else [0.25, 0.75])
        return states[:, None, None].expand(-1, 1, 2), p, torch.ones(1)

    with pytest.raises(ModelError, match=r"returned \(1, 2\) actions and outcomes of state 64"):
        from_function(of_growing_width, 100, 0.9, CPU)
    with pytest.raises(ModelError, match=r"other probabilities \(K,\) at state 64"):
        from_function(of_drifting_p, 100, 0.9, CPU)
    with pytest.raises(ModelError, match="it returned 2 tensors"):
        from_function(lambda states: (states, states), 100, 0.9, CPU)
    with pytest.raises(ModelError, match=r"gamma=1\.5"):
        from_function(of_growing_width, 100, 1.5, CPU)
    with pytest.raises(UsageError, match="n_states is 0; allowed: 1 to 2,147,483,646"):
        from_function(of_growing_width, 0, 0.9, CPU)


def test_a_model_that_would_not_fit_is_refused_after_one_small_block(monkeypatch):
    asked = []

    def f(states):
        asked.append(len(states))
        return states[:, None, None].expand(-1, 4, 3), torch.tensor([0.8, 0.1, 0.1]), torch.ones(4)

    monkeypatch.setattr(memory, "free_memory", lambda device: 2**30)
    with pytest.raises(UsageError, match=r"100,000,000 states on cpu: .* GiB and 1\.0 GiB are fr"):
        from_function(f, 10**8, 0.99, CPU)
    assert asked == [64]
    walls = np.zeros((4000, 4000), dtype=bool)
    with pytest.raises(UsageError, match="16,000,000 states on cpu"):
        gridworld(walls, walls, walls * 1.0, 0.99, CPU, slip=0.2, step_cost=1.0)
    with pytest.raises(UsageError, match="they must all be"):
        gridworld(walls[:9], walls, walls, 0.99, CPU, slip=0.2, step_cost=1.0)


@pytest.mark.cuda
def test_free_memory_is_what_can_be_allocated():
    device = torch.device("cuda")
    before = memory.free_memory(device)
    held = torch.empty(2**28, dtype=torch.uint8, device=device)
    assert 0 < memory.free_memory(device) <= before - 2**27
    del held  # torch keeps it, and gives it again
    assert memory.free_memory(device) >= before - 2**27
