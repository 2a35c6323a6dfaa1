"""Updates as a device makes them, which read nothing back: the same as on the host.

They run here on the CPU, and for shapes alone on torch's meta device, where reading a value raises.
"""

import pytest
import torch
from device_runs import (
    AHEAD,
    BOX,
    CPU,
    DISCRETE,
    FRAMES,
    Script,
    Synchronisations,
    agent_of,
    learn,
    weights,
)

from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.agents.ppo import PPO, PPORecipe
from rlkit.agents.pqn import PQN, PQNRecipe
from rlkit.device.engine import Engine

ON_POLICY = {
    "a2c": (A2C, A2CRecipe(n_steps=5, entropy_cost=0.01)),
    "a2c, all switches": (
        A2C,
        A2CRecipe(n_steps=5, normalize_advantage=True, gae_lambda=0.9, optimizer="adamw").but(
            {"normalize_obs": True, "normalize_reward": True}
        ),
    ),
    "ppo": (PPO, PPORecipe(n_steps=8, minibatch_size=32, entropy_cost=0.01)),
    "ppo, all switches": (
        PPO,
        PPORecipe(n_steps=8, minibatch_size=32, value_clip=0.1, clip=0.05).but(
            {"normalize_obs": True, "normalize_reward": True, "learning_rate": 0.01}
        ),
    ),
    "pqn": (PQN, PQNRecipe(n_steps=8, minibatch_size=32, hidden=(16,))),
    "pqn, all switches": (
        PQN,
        PQNRecipe(n_steps=8, minibatch_size=32, hidden=(16,), norm="none", q_lambda=0.5).but(
            {"normalize_obs": True, "normalize_reward": True}
        ),
    ),
}
WITH_MEMORY = [name for name in ON_POLICY if not name.startswith("pqn")]
CASES = {
    "dead steps": {},
    "masks": {"masks": True},
    "SAME_STEP": {"mode": "same_step"},
}


def twins(agent_type, recipe, steps=80, obs=None, action=DISCRETE, tensors=False, **script):
    """The host's agent and its twin, after the same steps, and what their updates measured."""
    spaces = {"action": action} | ({} if obs is None else {"obs": obs})
    host = agent_of(agent_type, recipe, **spaces)
    twin = agent_of(agent_type, recipe, engine=AHEAD, **spaces)
    found = learn(host, steps, Script(host, **script))
    theirs = learn(twin, steps, Script(twin, **script), tensors)
    assert len(found) == len(theirs) > 0
    return host, twin, found, theirs


def assert_alike(host, twin, found, theirs, atol=1e-5):
    torch.testing.assert_close(weights(twin), weights(host), rtol=1e-4, atol=atol)
    for ours, other in zip(found, theirs, strict=True):
        assert ours.keys() == other.keys()
        assert other == pytest.approx(ours, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ON_POLICY)
def test_on_policy_updates_equal_the_hosts(name, case):
    assert_alike(*twins(*ON_POLICY[name], **CASES[case]))


@pytest.mark.parametrize("name", ON_POLICY)
def test_rollouts_of_tensors_stay_where_they_are(name):
    assert_alike(*twins(*ON_POLICY[name], masks=True, tensors=True))


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_ppos_minibatches_are_the_hosts_where_no_step_is_dead(action):
    recipe = PPORecipe(n_steps=8, minibatch_size=10).but({"learning_rate": 3e-3})
    assert_alike(*twins(PPO, recipe, action=action, ends=0))


def test_ppo_stops_where_the_host_does_once_the_policy_has_changed_enough():
    recipe = PPORecipe(n_steps=8, minibatch_size=10, epochs=20).but({"learning_rate": 3e-3})
    whole, _, _, _ = twins(PPO, recipe, steps=8, ends=0)
    host, twin, _, _ = twins(PPO, recipe.but({"target_kl": 1e-3}), steps=8, ends=0)
    torch.testing.assert_close(weights(twin), weights(host), rtol=1e-4, atol=1e-6)
    assert host.ac.optimizer.t == twin.ac.optimizer.t < whole.ac.optimizer.t


@pytest.mark.parametrize("core", ["rnn", "gru", "lstm", "gtrxl"])
@pytest.mark.parametrize("agent", ["a2c", "ppo"])
def test_memories_equal_the_hosts(agent, core):
    agent_type, recipe = ON_POLICY[agent]
    changes = {"core": core, "core_width": 8, "hidden": (8,), "normalize_obs": True}
    assert_alike(*twins(agent_type, recipe.but(changes), steps=40, ends=0.2), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "core"),
    [(name, "none") for name in ON_POLICY] + [(n, c) for n in WITH_MEMORY for c in ("gru", "lstm")],
)
def test_an_on_policy_update_reads_nothing_back(name, core):
    agent_type, recipe = ON_POLICY[name]
    if core != "none":
        recipe = recipe.but({"core": core, "core_width": 8, "hidden": (8,)})
    agent = agent_of(agent_type, recipe, engine=AHEAD)
    script = Script(agent, ends=0.2)
    seen = 0
    for _ in range(3 * recipe.n_steps):
        agent.memory.add(script.step())
        for batch in agent.memory.batches():
            agent.place.health.look = lambda lr: None  # once, when an update is over
            with Synchronisations() as synchronisations:
                agent.update(batch)
            assert not synchronisations.found
            seen += 1
    assert seen == 3


def test_synchronisations_are_counted():
    x = torch.ones(3)
    with Synchronisations() as synchronisations:
        float(x.sum())
        x[x > 0]
        x.nonzero()
        bool(x[0])
        torch.where(x > 0, x, 0)
        x[torch.tensor([1])]
    assert synchronisations.found == {"_local_scalar_dense": 2, "index.Tensor": 1, "nonzero": 1}


@pytest.mark.parametrize("obs", [None, FRAMES], ids=["vector", "frames"])
@pytest.mark.parametrize(
    ("name", "core"),
    [(name, "none") for name in ON_POLICY] + [("ppo", "lstm"), ("ppo", "gtrxl"), ("a2c", "gru")],
)
def test_an_on_policy_update_runs_on_the_meta_device(name, core, obs):
    agent_type, recipe = ON_POLICY[name]
    recipe = recipe.but({"hidden": (8,)})
    if core != "none":
        recipe = recipe.but({"core": core, "core_width": 8})
    spaces = {} if obs is None else {"obs": obs}
    agent = agent_of(agent_type, recipe, device="meta", **spaces)
    assert len(learn(agent, 2 * recipe.n_steps, Script(agent))) == 2


def test_without_graphs_and_in_bfloat16_it_is_near():
    agent_type, recipe = ON_POLICY["ppo"]
    for engine in (Engine(ahead=True, graphs=False), Engine(ahead=True, bf16=True)):
        host, twin = agent_of(agent_type, recipe), agent_of(agent_type, recipe, CPU, engine)
        learn(host, 40, Script(host))
        learn(twin, 40, Script(twin))
        far = float((weights(twin) - weights(host)).abs().max())
        assert 1e-4 < far < 0.02 if engine.bf16 else far < 1e-5
