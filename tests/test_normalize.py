"""Running moments against Gymnasium's, and what is scaled by them against its definition."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers.utils import RunningMeanStd
from scripted_envs import MODES, TERMINATED, TRUNCATED, Scripted, random_ends
from small_runs import leaves

import rlkit
from rlkit.agent import Setting
from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.agents.ppo import PPO, PPORecipe
from rlkit.envs.make import make_envs
from rlkit.experience import rollout
from rlkit.experience.rollout import Rollout
from rlkit.networks.normalize import Moments, ObsNormalizer, RewardScaler, obs_normalizer
from rlkit.run.checkpoint import load_checkpoint
from rlkit.training.evaluation import play

CPU = torch.device("cpu")
T, N, GAMMA = 7, 3, 0.9
ON_POLICY = [(A2C, A2CRecipe), (PPO, PPORecipe)]
BOTH = {"normalize_obs": True, "normalize_reward": True}


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_moments_are_gymnasiums(shape):
    rng = np.random.default_rng(0)
    ours, theirs = Moments(shape), RunningMeanStd(shape=shape)
    for size in (1, 5, 1, 400, 3):
        rows = rng.normal(7.0, size + 0.5, (size, *shape))
        ours.include(torch.from_numpy(rows))
        theirs.update(rows)
        for name in ("mean", "var", "count"):
            expected = pytest.approx(getattr(theirs, name), rel=1e-12)
            assert getattr(ours, name).numpy() == expected


def test_moments_of_float32_rows_far_from_0_keep_their_digits():
    rows = 1e5 + np.random.default_rng(0).normal(0, 0.1, (64, 100, 1)).astype(np.float32)
    rows = rows.astype(np.float32)
    moments = Moments((1,))
    for batch in rows:
        moments.include(torch.from_numpy(batch))
    everything = rows.astype(np.float64).ravel()
    first = 1e-4 * everything.mean() ** 2 / len(everything)  # the prior's share: mean 0
    assert moments.mean.item() == pytest.approx(everything.mean(), rel=1e-7)
    assert moments.var.item() == pytest.approx(everything.var() + first, rel=1e-6)


def test_compiled_moments_count_as_plain_ones():
    plain, compiled = Moments(()), Moments(())
    include = torch.compile(compiled.include, backend="aot_eager", dynamic=False)
    for seed in range(3):
        rows = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * 3 + 2
        plain.include(rows)
        include(rows)
    for name in ("count", "mean", "var"):
        assert getattr(compiled, name).item() == pytest.approx(getattr(plain, name).item())


def test_no_rows_change_no_moments():
    moments = Moments((2,))
    moments.include(torch.ones(3, 2))
    before = leaves(copy.deepcopy(moments.state_dict()))
    moments.include(torch.ones(0, 2))
    assert leaves(moments.state_dict()) == before


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_observations_are_scaled_as_gymnasium_scales_them(kind):
    rng = np.random.default_rng(0)
    normalizer, theirs = ObsNormalizer((3,)), RunningMeanStd(shape=(3,))
    for _ in range(4):
        obs = (rng.normal(size=(5, 2, 3)) * (1, 10, 100) + (0, 50, -7)).astype(np.float32)
        normalizer.include(kind(obs))
        theirs.update(obs.reshape(-1, 3).astype(np.float64))
        seen = normalizer(kind(obs))
        assert type(seen) is type(kind(obs))
        assert str(seen.dtype).endswith("float32")
        assert seen.shape == (5, 2, 3)
        expected = (obs - theirs.mean) / np.sqrt(theirs.var + 1e-8)
        assert np.asarray(seen) == pytest.approx(expected, abs=1e-5)
        one = np.asarray(normalizer(kind(obs[0, 0])))
        assert np.array_equal(one, np.asarray(seen)[0, 0])


def test_the_number_that_is_added_to_the_variance_is_gymnasiums():
    obs = np.random.default_rng(0).normal(0, 1e-4, (200_000, 1)).astype(np.float32)
    normalizer, theirs = ObsNormalizer((1,)), RunningMeanStd(shape=(1,))
    normalizer.include(obs)
    theirs.update(obs)
    expected = (obs - theirs.mean) / np.sqrt(theirs.var + 1e-8)
    assert normalizer(obs) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_before_the_first_batch_observations_are_as_they_are():
    obs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert np.array_equal(ObsNormalizer((3,))(obs), obs)


@pytest.mark.parametrize("value", [0.0, 1.0, -3e4, 1e30, 3e38])
def test_what_never_changes_is_seen_as_0(value):
    normalizer = ObsNormalizer((2,))
    rng = np.random.default_rng(0)
    for _ in range(50):
        obs = np.stack([np.full(64, value), rng.normal(size=64)], axis=-1).astype(np.float32)
        normalizer.include(obs)
    seen = normalizer(obs)
    assert np.isfinite(seen).all()
    assert abs(seen[:, 0]).max() < 0.01
    assert seen[:, 1].std() == pytest.approx(1, abs=0.3)


def test_one_huge_observation_makes_no_nan():
    normalizer = ObsNormalizer((1,))
    normalizer.include(np.array([[1.0], [1e30], [-2.0]], dtype=np.float32))
    seen = normalizer(np.array([[1.0], [1e30], [-1e30]], dtype=np.float32))
    assert np.isfinite(seen).all()
    assert seen[1] == pytest.approx(2**0.5, rel=1e-3)  # (1e30 − mean) / deviation, of three


def test_only_real_vectors_are_scaled():
    obs = np.array([[3, 250]])
    for space, wanted in [
        (spaces.Discrete(5), True),
        (spaces.MultiDiscrete([300, 300]), True),
        (spaces.MultiBinary(2), True),
        (spaces.Box(0, 255, (2,), np.uint8), True),
        (spaces.Box(-1, 1, (2,)), False),
    ]:
        unchanged = obs_normalizer(space, wanted)
        unchanged.include(obs)
        assert unchanged(obs) is obs
        assert unchanged.state_dict() == {}
    assert isinstance(obs_normalizer(spaces.Box(-1, 1, (2,)), True), ObsNormalizer)


def discounted(log, k, gamma):
    """Σ γ^(t − s)·r_s over the steps s ≤ t of t's episode, by definition."""
    return sum(
        gamma ** (log[k].row - x.row) * x.reward
        for x in log[: k + 1]
        if x.episode == log[k].episode
    )


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
@pytest.mark.parametrize("mode", MODES)
def test_rewards_are_divided_by_the_deviation_of_returns(mode, kind):
    """Terminations, truncations, both at once and dead steps, over rollouts; saved in between."""
    script = Scripted(random_ends(N, 30, seed=1), mode)
    scaler, theirs = RewardScaler(N, GAMMA, CPU), RunningMeanStd(shape=())
    dead = 0
    with make_envs(script, N, 0) as envs:
        memory = Rollout(T, N, envs.obs_space, envs.action_space, CPU)
        memory.allocate()
        envs.reset()
        for row in range(5 * T):
            memory.add(envs.step(np.zeros(N, dtype=np.int64)))
            for batch in memory.batches():
                dead += np.count_nonzero(~batch.valid)
                given = batch if kind == "arrays" else rollout._moved(batch, CPU)
                scaled = scaler(given.reward, given.terminated | given.truncated, given.valid)
                assert type(scaled) is type(given.reward)
                assert str(scaled.dtype).endswith("float32")
                returns = [
                    discounted(log, k, GAMMA)
                    for log in script.log
                    for k, x in enumerate(log)
                    if row - T < x.row <= row
                ]
                theirs.update(np.array(returns))
                assert scaler.moments.count.item() == pytest.approx(theirs.count, rel=1e-12)
                assert scaler.moments.var.item() == pytest.approx(theirs.var, rel=1e-9)
                expected = batch.reward / np.sqrt(theirs.var + 1e-8)
                assert np.asarray(scaled) == pytest.approx(expected, rel=1e-5)
                assert np.array_equal(np.sign(np.asarray(scaled)), np.sign(batch.reward))
                saved, scaler = copy.deepcopy(scaler.get_state()), RewardScaler(N, GAMMA, CPU)
                scaler.set_state(saved)
    assert (dead > 0) == (mode == "next_step")


@pytest.mark.parametrize("value", [0.0, 1.0, -1e30, 1e37])
def test_constant_and_huge_rewards_make_no_nan(value):
    scaler = RewardScaler(N, 1.0, CPU)
    ended, valid = np.zeros((T, N), dtype=bool), np.ones((T, N), dtype=bool)
    ended[-1] = True
    for _ in range(20):
        scaled = scaler(np.full((T, N), value, dtype=np.float32), ended, valid)
        assert np.isfinite(scaled).all()
        assert (np.sign(scaled) == np.sign(value)).all()
    # Returns 1 to 7 times the reward: their deviation is twice it.
    assert scaled == pytest.approx(np.full((T, N), np.sign(value) / 2), rel=1e-3)


def test_a_rollout_of_dead_steps_alone_scales_nothing():
    scaler = RewardScaler(1, GAMMA, CPU)
    no, yes = np.zeros((1, 1), dtype=bool), np.ones((1, 1), dtype=bool)
    scaler(np.full((1, 1), 2.0, dtype=np.float32), yes, yes)
    before = scaler.moments.var.item()
    scaler(np.full((1, 1), 50.0, dtype=np.float32), no, no)
    assert scaler.moments.var.item() == before
    scaler(np.full((1, 1), 2.0, dtype=np.float32), no, yes)
    assert scaler.moments.mean.item() == pytest.approx(2.0, rel=1e-3)  # nothing of the 50


def agent_for(agent_type, recipe_type, envs, **changes):
    torch.manual_seed(0)
    setting = Setting(envs.obs_space, envs.action_space, envs.n, CPU, seed=1)
    agent = agent_type(setting, recipe_type(envs=envs.n, n_steps=T, hidden=(8,)).but(changes))
    agent.memory.allocate()
    return agent


def parts(agent):
    """Where an agent's flat parameters and its normaliser are."""
    return getattr(agent, "ac", agent)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("agent_type", "recipe_type"), ON_POLICY)
def test_statistics_stand_still_in_a_rollout_and_then_hold_its_live_steps(
    agent_type, recipe_type, mode
):
    script = Scripted(random_ends(N, 30, seed=1), mode)
    theirs = RunningMeanStd(shape=(3,))
    with make_envs(script, N, 0) as envs:
        agent = agent_for(agent_type, recipe_type, envs, **BOTH)
        obs = envs.reset()
        for row in range(3 * T):
            before = leaves(copy.deepcopy(parts(agent).normalizer.state_dict()))
            step = envs.step(agent.act(obs, None)[0])
            assert leaves(parts(agent).normalizer.state_dict()) == before
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.update(batch)
                seen = [x.obs for log in script.log for x in log if row - T < x.row <= row]
                theirs.update(np.array(seen))
                moments = parts(agent).normalizer.moments
                assert moments.count.item() == pytest.approx(theirs.count, rel=1e-12)
                assert moments.mean.numpy() == pytest.approx(theirs.mean, rel=1e-6)
                assert moments.var.numpy() == pytest.approx(theirs.var, rel=1e-6)


@pytest.mark.parametrize(("agent_type", "recipe_type"), ON_POLICY)
def test_huge_observations_and_rewards_are_learned_from(agent_type, recipe_type):
    """On their running scale, once it is known; on the first one they are too large or pass."""
    script = Scripted([[0, 0, TERMINATED, 0, TRUNCATED]] * N, "same_step")
    with make_envs(script, N, 0) as envs:
        agent = agent_for(agent_type, recipe_type, envs, **BOTH)
        obs = envs.reset()
        for _ in range(4 * T):
            step = envs.step(agent.act(obs, None)[0])
            step.next_obs = step.next_obs * np.float32(1e30)
            step.final_obs = None
            step.reward = step.reward * np.float32(1e30)
            agent.memory.add(step)
            obs = step.next_obs
            for batch in agent.memory.batches():
                agent.update(batch)
    assert parts(agent).flat.values.isfinite().all()
    assert np.abs(parts(agent).normalizer(obs)).max() < 10


@pytest.fixture(scope="module", params=["a2c", "ppo"])
def trained(request, tmp_path_factory):
    """A run with both normalisations, on observations of unequal scale."""
    options = {"run_dir": str(tmp_path_factory.mktemp("runs")), "eval_episodes": 2}
    recipe = {"steps": 4000, "envs": 4, "n_steps": 20, "hidden": (8,), **BOTH}
    return rlkit.train(request.param, "Pendulum", recipe, options)


OBS = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32) * (1, 1, 8)


def test_the_loaded_policy_sees_what_the_trained_one_saw(trained):
    agent, policy = trained.agent, rlkit.load(trained.run)
    assert leaves(policy.agent.state_dict()) == leaves(agent.state_dict())
    mean, _ = agent.act(OBS.astype(np.float32), None, explore=False)
    assert np.array_equal(policy.act(OBS), np.clip(2 * mean, -2, 2).astype(np.float32))
    policy.agent.ac.normalizer = ObsNormalizer((3,))
    assert not np.allclose(policy.act(OBS), np.clip(2 * mean, -2, 2), atol=1e-2)


def test_the_checkpoint_holds_the_statistics(trained):
    weights = load_checkpoint(trained.run).tree["agent"]["weights"]
    # Pendulum ends together, every 200 steps: dead steps are every 201st.
    assert weights["ac.normalizer.moments.count"].item() == pytest.approx(4000 - 4 * 4, abs=1)
    assert weights["ac.normalizer.moments.var"][2] > 2 * weights["ac.normalizer.moments.var"][0]


def test_playing_changes_no_statistics(trained):
    before = leaves(copy.deepcopy(trained.agent.get_state()))
    with make_envs("Pendulum", 2, 0) as envs:
        play(trained.agent, envs, 2, 0)
    trained.agent.act(OBS.astype(np.float32), None, explore=False)
    assert leaves(trained.agent.get_state()) == before
    first, again = (rlkit.evaluate(trained.run, 2).returns for _ in range(2))
    assert first == again
