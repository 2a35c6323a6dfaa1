"""Greedy evaluation, and the episodes of training, on scripts whose returns are known."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from scripted_envs import MODES, TERMINATED, TRUNCATED, Scripted, random_ends

from rlkit.agent import Setting
from rlkit.agents.a2c import A2C, A2CRecipe
from rlkit.envs.make import make_envs
from rlkit.training import evaluation
from rlkit.training.episodes import WINDOW, Episodes
from rlkit.training.evaluation import play


def agent_for(envs):
    torch.manual_seed(0)
    setting = Setting(envs.obs_space, envs.action_space, envs.n, torch.device("cpu"), seed=1)
    return A2C(setting, A2CRecipe())


def scripted(lengths, mode, end):
    """Episodes of environment i are `lengths[i]` steps long."""
    return Scripted([[*[0] * (length - 1), end] for length in lengths], mode)


def episodes_of(log):
    """(return, length) of each finished episode of one environment, in order."""
    numbers = sorted({x.episode for x in log})
    each = [[x for x in log if x.episode == number] for number in numbers]
    return [(sum(x.reward for x in e), len(e)) for e in each if e[-1].ended]


class Counted(Scripted):
    """Keeps one log for each reset."""

    logs = ()

    def reset(self, *, seed=None, options=None):
        self.log = [[] for _ in self.ends]
        self.logs = (*self.logs, self.log)
        return super().reset(seed=seed)


@pytest.mark.parametrize("end", [TERMINATED, TRUNCATED])
@pytest.mark.parametrize("mode", MODES)
def test_each_environment_gives_its_first_episode(mode, end):
    """The short ones end many times over while the long one plays, and count once."""
    script = scripted([3, 1, 11, 5], mode, end)
    with make_envs(script, 4, 0) as envs:
        found = play(agent_for(envs), envs, 4, seed=5)
    first = [episodes_of(log)[0] for log in script.log]
    assert found.returns == pytest.approx([r for r, _ in first])
    assert list(found.lengths) == [length for _, length in first] == [3, 1, 11, 5]
    assert found.capped == 0
    assert found.mean == pytest.approx(np.mean([r for r, _ in first]))
    assert found.std == pytest.approx(np.std([r for r, _ in first]))


@pytest.mark.parametrize("mode", MODES)
def test_more_episodes_than_environments_take_rounds(mode):
    script = Counted([[*[0] * (length - 1), TERMINATED] for length in (2, 6, 4)], mode)
    with make_envs(script, 3, 0) as envs:
        found = play(agent_for(envs), envs, 8, seed=5)
    assert len(script.logs) == 3
    first = [episodes_of(log)[0] for logs in script.logs for log in logs]
    assert found.returns == pytest.approx([r for r, _ in first[:8]])
    assert list(found.lengths) == [2, 6, 4, 2, 6, 4, 2, 6]


def test_fewer_episodes_than_environments():
    script = scripted([3, 1, 7], "next_step", TERMINATED)
    with make_envs(script, 3, 0) as envs:
        found = play(agent_for(envs), envs, 2, seed=5)
    assert list(found.lengths) == [3, 1]


@pytest.mark.parametrize("mode", MODES)
def test_episodes_that_do_not_end_are_capped_and_counted(mode, monkeypatch):
    monkeypatch.setattr(evaluation, "EPISODE_CAP", 9)
    endless = Counted([[0], [0, TERMINATED], [*[0] * 8, TRUNCATED], [*[0] * 9, TERMINATED]], mode)
    with make_envs(endless, 4, 0) as envs:
        found = play(agent_for(envs), envs, 6, seed=5)
    assert list(found.lengths) == [9, 2, 9, 9, 9, 2]
    assert found.capped == 3  # the first of either round, and the one that would end a step later
    rewards = [x.reward for x in endless.logs[0][0] if x.row < 9]
    assert found.returns[0] == pytest.approx(sum(rewards))


def test_the_greedy_policy_is_what_plays():
    script = Scripted([[0, 0, 0, TERMINATED]] * 3, "next_step")
    with make_envs(script, 3, 0) as envs:
        agent = agent_for(envs)
        state = agent.generator.get_state()
        play(agent, envs, 3, seed=5)
    assert torch.equal(agent.generator.get_state(), state)
    for log in script.log:
        for x in log[:4]:
            assert x.action == agent.ac.nets.actor(torch.tensor(x.obs)).argmax().item()


@pytest.mark.parametrize("mode", MODES)
def test_episodes_of_training_are_the_environments_own(mode):
    script = Scripted(random_ends(4, 40, seed=3), mode, spaces.Discrete(2))
    with make_envs(script, 4, 0) as envs:
        envs.reset()
        episodes, found = Episodes(4), []
        for k in range(150):
            if k == 70:  # as if resumed here
                state, episodes = episodes.get_state(), Episodes(4)
                episodes.set_state(state)
            episodes.add(envs.step(np.zeros(4, dtype=np.int64)))
            if k % 20 == 0:
                found += episodes.told()
        found += episodes.told()
    expected = [episode for log in script.log for episode in episodes_of(log)]
    assert len(expected) > WINDOW
    assert np.array(sorted(found)) == pytest.approx(np.array(sorted(expected)))
    returns, lengths = zip(*found[-WINDOW:], strict=True)
    assert episodes.means() == pytest.approx((np.mean(returns), np.mean(lengths)))


def test_no_means_before_the_first_episode_has_ended():
    assert Episodes(2).means() == (None, None)


def test_episodes_that_start_afresh_forget_what_they_gathered():
    script = Scripted([[0, 0, TERMINATED]], "same_step")
    with make_envs(script, 1, 0) as envs:
        envs.reset()
        episodes = Episodes(1)
        steps = [envs.step(np.zeros(1, dtype=np.int64)) for _ in range(3)]
    episodes.add(steps[0])
    episodes.forget_running()
    for step in steps[1:]:
        episodes.add(step)
    (rewards,) = ([x.reward for x in log] for log in script.log)
    assert episodes.told() == [(pytest.approx(sum(rewards[1:])), 2)]
