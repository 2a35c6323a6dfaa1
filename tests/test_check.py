"""`rlkit check`: what it says of environments that are in order, and of ones that are not."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from patient import Patient
from small_runs import PATIENT, SHIFTED
from test_imports import modules_after

import rlkit
from rlkit.errors import UsageError
from rlkit.training import probe


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    monkeypatch.setattr(probe, "MAX_STEPS", 400)
    monkeypatch.setattr(probe, "SPEED_SECONDS", 0.01)


def said(report, topic):
    return [(f.level, f.text) for f in report.findings if f.topic == topic]


def only_problem(report):
    (finding,) = report.problems
    return finding.topic, finding.text


@pytest.mark.parametrize(
    ("env", "actions", "saved", "model"),
    [
        ("CartPole", "Discrete(2), taken by a2c, ppo, pqn, dqn, rainbow, r2d2", True, False),
        ("Pendulum", "Box(-2.0, 2.0, (1,), float32), taken by a2c, ppo, sac", True, False),
        ("FrozenLake", "Discrete(4), taken by a2c, ppo, pqn, dqn, rainbow, r2d2", True, True),
        ("gridworld", "Discrete(4), taken by a2c, ppo, pqn, dqn, rainbow, r2d2", True, True),
        ("Taxi", "Discrete(6), taken by a2c, ppo, pqn, dqn, rainbow, r2d2", False, True),
        ("catch", "Discrete(3), taken by a2c, ppo, pqn, dqn, rainbow, r2d2", True, False),
        (SHIFTED, "Discrete(3, start=-7), taken by a2c, ppo, pqn, dqn, rainbow", False, False),
    ],
)
def test_environments_in_order(env, actions, saved, model):
    report = rlkit.check(env, episodes=5)
    assert report.usable, str(report)
    ((level, told),) = said(report, "actions")
    assert level == "ok"
    assert told.startswith(actions)
    ((level, told),) = said(report, "saving")
    assert level == ("ok" if saved else "note")
    ((_, told),) = said(report, "model")
    assert ("rlkit solve" in told and "none" not in told) == model
    assert said(report, "seeds")[0][0] == "ok"
    assert report.statistics["episodes"] <= 5


def test_a_model_by_name_is_solved_by_its_name_with_its_own_discount():
    ((_, told),) = said(rlkit.check("forest", episodes=1), "model")
    assert told == "3 states: rlkit solve forest"


def test_statistics_are_those_of_random_play():
    report = rlkit.check("CartPole", episodes=20)
    statistics = report.statistics
    assert statistics["episodes"] == 20 or statistics["steps"] == 400
    # A random policy's episode on CartPole takes 22 steps on average, and each step earns 1.
    assert 12 < statistics["mean_return"] < 35
    assert statistics["mean_return"] == statistics["mean_length"]
    assert statistics["min_reward"] == statistics["max_reward"] == 1.0
    assert statistics["steps_per_second"].keys() == {"compiled", "native", "sync"}


def test_a_time_limit_and_masks_are_told():
    report = rlkit.check("Taxi", episodes=2)
    ((_, told),) = said(report, "episodes")
    assert told.endswith("time limit 200 steps")
    ((_, told),) = said(report, "masks")
    assert told.startswith("valid action masks; ")


FAULTS = [
    ("nan", "env 0 returned observation[1] = nan at vector step 3"),
    ("inf", "env 0 returned observation[2] = -inf at vector step 3"),
    ("nan-reward", "env 0 returned reward = nan at vector step 3"),
    ("five", "env 0 returned an observation of shape (5,), its space says (4,)"),
    ("one", "env 0 returned an observation of shape (1,), its space says (4,)"),
    ("text", "env 0 returned an observation that is the str 'left'"),
    ("no-reward", "env 0 step returned None for the reward; return float(reward)"),
    ("array-reward", "env 0 step returned array([1.]) for the reward; return float(reward)"),
    ("four-values", "env 0 step returned 4 values; in Gymnasium step(action) returns"),
    ("no-info", "env 0 step returned None for info; return a dict"),
]


@pytest.mark.parametrize(("symptom", "text"), FAULTS)
def test_what_breaks_the_contract_is_one_problem(symptom, text):
    topic, told = only_problem(rlkit.check(lambda: Patient(symptom, onset=3)))
    assert topic == "play"
    assert told.startswith(text)


def test_an_old_reset_is_a_problem():
    topic, told = only_problem(rlkit.check(lambda: Patient(habit="bare-reset")))
    assert topic == "play"
    assert told.startswith("env 0 reset returned one ndarray; in Gymnasium reset(seed=...")


@pytest.mark.parametrize(
    ("options", "topic", "text"),
    [
        ({"habit": "list"}, "rlkit", "observations are a list where the space declares float32"),
        ({"habit": "reuse"}, "observations", "it writes over those that it has returned; rlkit"),
        ({"symptom": "outside"}, "rlkit", "env 0 returned observation[3] = 77.0 at vector step 1"),
        ({"symptom": "endless"}, "episodes", "none ended in 400 random steps, and there is no"),
    ],
)
def test_what_rlkit_copes_with_is_a_note(options, topic, text):
    report = rlkit.check(lambda: Patient(**options))
    assert report.usable, str(report)
    assert any(level == "note" and told.startswith(text) for level, told in said(report, topic)), (
        str(report)
    )


class Fickle(Patient):
    """Draws from where no seed reaches."""

    draws = np.random.default_rng(1)

    def look(self):
        return self.draws.random(4, np.float32)


class Forgetful(Patient):
    """Saves its age, and not what it draws from."""

    def __init__(self):
        super().__init__()
        self.hidden = 0

    def step(self, action):
        self.hidden += 1
        obs, _, *rest = super().step(action)
        return obs, float(self.hidden), *rest

    def get_state(self):
        return {"age": self.age, "count": self.count}

    def set_state(self, tree):
        self.age, self.count = tree["age"], tree["count"]


class Lingering(Patient):
    """What it has been through before a reset shows after it."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + self.count, *rest


@pytest.mark.parametrize(
    ("make", "topic", "text"),
    [
        (Fickle, "seeds", "the same seed and actions twice, in a new environment: the first obs"),
        (Lingering, "seeds", "the same seed and actions twice, after a reset: reward differs from"),
    ],
)
def test_what_a_seed_does_not_decide_is_a_problem(make, topic, text):
    found, told = only_problem(rlkit.check(make))
    assert found == topic
    assert told.startswith(text)


def test_a_state_that_is_not_all_of_it_is_a_problem():
    ((level, told),) = said(rlkit.check(Forgetful), "saving")
    assert level == "problem"
    assert told.startswith("restored from its saved state: reward differs from step 1 on; get_stat")


class Strange(Patient):
    def __init__(self, observations=None, actions=None):
        super().__init__()
        self.observation_space = observations or self.observation_space
        self.action_space = actions or self.action_space


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Strange(spaces.Sequence(spaces.Discrete(3))), "the observation space is a Seq"),
        (lambda: Strange(actions=spaces.Dict({"a": spaces.Discrete(2)})), "the action space is a "),
    ],
)
def test_spaces_that_no_agent_takes_are_a_problem(make, text):
    topic, told = only_problem(rlkit.check(make))
    assert topic == "spaces"
    assert text in told


def test_a_mask_that_allows_nothing_is_a_problem():
    class Masked(Patient):
        def step(self, action):
            self.age = 0  # no episode ends, where nothing need be allowed
            *step, _ = super().step(action)
            return *step, {"action_mask": [self.count != 20] * 2}

    topic, told = only_problem(rlkit.check(Masked))
    assert topic == "play"
    assert "gave an action mask that allows nothing at vector step 20" in told


class Scaled(Patient):
    observation_space = spaces.Box(-1e4, 1e4, (4,))
    factor = 1e3

    def look(self):
        return super().look() * 1e3

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, self.factor * reward, *rest


class Unrewarded(Scaled):
    factor = 0.0


def test_scales_that_make_learning_hard_are_noted():
    report = rlkit.check(Scaled)
    assert any("train with --normalize-obs" in told for _, told in said(report, "observations"))
    assert any("scale them down, or --norm" in told for _, told in said(report, "rewards"))
    ((level, told),) = said(rlkit.check(Unrewarded), "rewards")
    assert level == "note"
    assert told.startswith("none in 200 random steps")


def test_gymnasiums_checker_is_asked():
    """A default seed is what only Gymnasium's checker looks for."""

    class Seeded(Patient):
        def reset(self, *, seed=7, options=None):
            return super().reset(seed=seed, options=options)

    def verdict(make):
        return " ".join(told for _, told in said(rlkit.check(make), "gymnasium"))

    assert "The default seed argument in reset should be `None`" in verdict(Seeded)
    assert verdict(Patient) == "gymnasium.utils.env_checker.check_env finds nothing"


def test_a_model_with_an_error_is_a_problem():
    def lake():
        env = gym.make("FrozenLake-v1")
        env.unwrapped.P[3][1] = [(0.5, 3, 0.0, False)]
        return env

    report = rlkit.check(lake)
    ((level, told),) = said(report, "model")
    assert level == "problem"
    assert "state 3, action 1: probabilities sum to 0.5" in told


def test_what_is_no_environment_is_refused():
    with pytest.raises(UsageError, match="returned a object; it must return a"):
        rlkit.check(object)
    for env in (gym.make("CartPole-v1"), gym.make_vec("CartPole-v1", 2), 5):
        with pytest.raises(UsageError, match="give its name, or a function without arguments"):
            rlkit.check(env)
    with pytest.raises(UsageError, match="did you mean"):
        rlkit.check("CartPool")
    with pytest.raises(UsageError, match=r"episodes \(--episodes\) is 0; allowed"):
        rlkit.check("CartPole", episodes=0)


def test_the_command_prints_a_report_and_exits_by_it(cli):
    fine = cli("check", "CartPole", "--episodes", 3)
    assert (fine.status, fine.err) == (0, "")
    lines = fine.out.splitlines()
    assert lines[0] == "CartPole-v1"
    assert lines[-1] == "usable: rlkit train AGENT CartPole-v1"
    assert all(line.startswith(("ok ", "note ", "problem ")) for line in lines[1:-1])
    ill = cli("check", PATIENT, "--env-option", "symptom=nan")
    assert (ill.status, ill.err) == (1, "")
    assert ill.out.splitlines()[-1] == "1 problem to mend before training"


def test_the_command_speaks_json(cli):
    done = cli("check", PATIENT, "--env-option", "symptom=no-info", "--json")
    told = json.loads(done.out)
    assert done.status == 1
    assert (told["env"], told["usable"]) == (PATIENT, False)
    (problem,) = [found for found in told["findings"] if found["level"] == "problem"]
    assert problem["text"] in done.err
    json.loads(cli("check", "FrozenLake", "--json").out, parse_constant=pytest.fail)


def test_checking_needs_no_torch():
    code = "from rlkit.cli import cli; cli.main(['check', 'FrozenLake'], standalone_mode=False)"
    assert "torch" not in modules_after(code)
