"""Rainbow from end to end: distributions and policies that are known, and what a run leaves."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scripted_envs import MODES, TERMINATED, Ring, vectorized
from small_runs import leaves

import rlkit
from rlkit.agent import Setting
from rlkit.agents.dqn import DQNRecipe
from rlkit.agents.rainbow import Rainbow, RainbowRecipe
from rlkit.training.options import RunOptions

CPU = torch.device("cpu")
SMALL = {
    "hidden": (16,),
    "head_hidden": (16,),
    "learning_rate": "1e-2:1e-3",
    "learning_starts": 64,
    "train_every": 16,
    "gradient_steps": 4,
    "batch_size": 32,
    "buffer_size": 1000,
    "target_interval": 20,
}
RANDOM = "1"  # ε: every action is taken everywhere


def agent_for(obs_space, action_space, n, **changes):
    torch.manual_seed(0)
    setting = Setting(obs_space, action_space, n, CPU, seed=1)
    agent = Rainbow(setting, RainbowRecipe().but(SMALL | changes))
    agent.memory.allocate()
    return agent


def learned(make, mode, states, vector_steps, **changes):
    """The outputs at all states, noise off: (states, A, atoms)."""
    with vectorized(make, 8, mode) as envs:
        agent = agent_for(envs.obs_space, envs.action_space, 8, **changes)
        obs = envs.reset()
        for k in range(vector_steps):
            agent.clock.progress = k / vector_steps
            step = envs.step(agent.act(obs, None)[0])
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.update(batch)
    return agent.online.infer(torch.arange(states), noise=False)


def test_every_extension_is_on_and_all_else_is_dqns():
    """Hessel et al. 2018, table 1 and the text around it."""
    rainbow, dqn = RainbowRecipe(), DQNRecipe()
    switched = {"double": True, "dueling": True, "noisy": True, "values": "c51", "atoms": 51}
    assert {name: getattr(rainbow, name) for name in switched} == switched
    assert rainbow.n_step == 3
    assert rainbow.priority_exponent == 0.5
    assert str(rainbow.importance_exponent) == "0.4:1"
    assert rainbow.optimizer_eps == 1.5e-4
    assert str(rainbow.exploration) == "0"
    kept = ("gamma", "batch_size", "buffer_size", "target_interval", "optimizer", "v_min")
    assert all(getattr(rainbow, name) == getattr(dqn, name) for name in kept)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_certain_return_is_one_atom(mode, n_step):
    """Reward 1 at the end of 4 steps: the return is γ^(3 − t), all of it, which is an atom."""
    out = learned(
        lambda: Ring(5, 4, TERMINATED, False),
        mode,
        4,
        500,
        gamma=0.5,
        n_step=n_step,
        atoms=9,
        v_min=0.0,
        v_max=1.0,
        exploration=RANDOM,
    )
    p = out.softmax(-1)  # (4, 2, 9)
    for t, atom in enumerate((1, 2, 4, 8)):  # in eighths
        assert (p[t, :, atom] > 0.9).all()
    q = p @ torch.linspace(0, 1, 9)
    expected = torch.tensor([0.125, 0.25, 0.5, 1.0]).unsqueeze(-1).expand(4, 2)
    torch.testing.assert_close(q, expected, rtol=0, atol=0.05)


class Coin(gym.Env):
    """Two steps; the second one's reward is 1 with probability 0.3, else 0."""

    observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return 0, {}

    def step(self, action):
        self.age += 1
        over = self.age == 2
        return self.age, float(over and self.np_random.random() < 0.3), over, False, {}


def test_a_chance_is_learned_as_a_distribution():
    """Half of the return two steps away: 0 or γ, however surprising steps are preferred."""
    out = learned(
        Coin,
        "next_step",
        2,
        800,
        gamma=0.5,
        n_step=1,
        atoms=3,
        v_min=0.0,
        v_max=1.0,
        learning_rate="3e-3:0",
        importance_exponent="1",
        exploration=RANDOM,
        buffer_size=6000,
    )
    expected = torch.tensor([[0.7, 0.3, 0.0], [0.7, 0.0, 0.3]])  # at 0, 1/2 and 1
    found = out.softmax(-1)  # (2, 2, 3)
    torch.testing.assert_close(found, expected.unsqueeze(1).expand(2, 2, 3), rtol=0, atol=0.05)


class Corridor(gym.Env):
    """Four rooms; action 1 goes on, and out of the last one with a reward of 1; action 0 gives up,
    for 0.05. With γ = 1/2 it pays to go on from everywhere, by less and less further back."""

    observation_space, action_space = spaces.Discrete(5), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.room = 0
        return 0, {}

    def step(self, action):
        if action == 0:
            return self.room, 0.05, True, False, {}
        self.room += 1
        return self.room, float(self.room == 4), self.room == 4, False, {}


def test_noise_alone_finds_the_way_and_a_saved_run_keeps_it(tmp_path):
    """Q(s, on) = γ^(3 − s) and Q(s, off) = 0.05, the best policy, before and after loading."""
    recipe = {"steps": 5000, "gamma": 0.5, "n_step": 1, "atoms": 41, "v_min": 0.0, "v_max": 1.0}
    options = RunOptions(seed=0, run_dir=str(tmp_path), eval_episodes=5)
    done = rlkit.train("rainbow", Corridor, SMALL | recipe, options)
    assert set(done.evaluation.returns) == {1.0}
    rooms = np.arange(4)
    q = done.agent.values.expected(done.agent.online.infer(torch.arange(4), noise=False))
    expected = torch.tensor([[0.05, 0.125], [0.05, 0.25], [0.05, 0.5], [0.05, 1.0]])
    torch.testing.assert_close(q, expected, rtol=0, atol=0.04)
    policy = rlkit.load(done.run, env=Corridor)
    assert policy.act(rooms).tolist() == [1, 1, 1, 1]
    assert leaves(policy.agent.state_dict()) == leaves(done.agent.state_dict())


SEEN = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)


def acting_agent(**changes):
    return agent_for(spaces.Box(-5, 5, (3,)), spaces.Discrete(4), 2, **changes)


def test_acting_greedily_draws_nothing_and_knows_no_noise():
    agent = acting_agent()
    agent.act(SEEN, None)
    before = leaves(agent.get_state())
    greedy, _ = agent.act(SEEN, None, explore=False)
    assert leaves(agent.get_state()) == before
    with torch.no_grad():  # by hand: σ = 0 is what is left of a noisy layer at its mean
        for name, p in agent.online.named_parameters():
            if name.endswith("_sigma"):
                p.zero_()
        q = agent.values.expected(agent.online(torch.from_numpy(SEEN)))
    assert np.array_equal(greedy, q.argmax(-1))


def test_exploring_is_by_noise_that_each_step_draws_anew():
    agent, drawn = acting_agent(), []
    noise = agent.online.head.advantage.linears[0].noise_out
    for _ in range(50):
        agent.act(SEEN, None)
        drawn.append(tuple(noise.tolist()))
    assert len(set(drawn)) == 50
    actions = np.stack([agent.act(SEEN, None)[0] for _ in range(300)])
    assert all(len(set(actions[:, i].tolist())) == 4 for i in range(2))
