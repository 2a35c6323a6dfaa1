"""Faults caused for real in whole runs: what the user reads, and what is left of the run."""

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from patient import Lever, Patient
from scripted_envs import MODES, TERMINATED, TRUNCATED, Scripted
from small_runs import (
    AGENTS,
    EVERY,
    PATIENT,
    SHIFTED,
    SMALL,
    env_of,
    metrics,
    patient_of,
    steps_saved,
    vector_of,
    weights,
)

import rlkit
from rlkit.envs import vector
from rlkit.errors import CheckpointError, EnvError, RlkitWarning, RunError, UsageError
from rlkit.run.checkpoint import load_checkpoint
from rlkit.training import build, evaluation
from rlkit.training.options import RunOptions

PLAIN = {"envs": 2, "hidden": (8,), "steps": 40}
REPLAYED = PLAIN | {"learning_starts": 8, "train_every": 4, "gradient_steps": 1, "batch_size": 8}
REPLAYED |= {"buffer_size": 100}
CARTPOLE = {
    "a2c": PLAIN,
    "ppo": PLAIN | {"n_steps": 5},
    "pqn": PLAIN | {"n_steps": 5},
    "dqn": REPLAYED,
    "rainbow": REPLAYED | {"head_hidden": (8,)},
    "r2d2": REPLAYED | {"core_width": 8, "burn_in": 2, "unroll": 4},
    "sac": REPLAYED,
}


def ill(symptom, onset=45, *more):
    """Options for a patient of `rlkit train` that falls ill at its step `onset`."""
    return ("--env-option", f"symptom={symptom}", "--env-option", f"onset={onset}", *more)


@pytest.fixture
def run(cli):
    """`rlkit train`, a small run that has to succeed: its folder."""

    def train(agent, env, *more):
        done = cli("train", agent, env, *SMALL[agent], *more, "--json")
        assert done.status == 0, done.err
        return Path(json.loads(done.out)["run"])

    return train


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    ("symptom", "found"),
    [
        ("nan", "observation[1] = nan"),
        ("inf", "observation[2] = -inf"),
        ("nan-reward", "reward = nan"),
        ("inf-reward", "reward = inf"),
    ],
)
def test_nan_and_infinity_stop_the_run_at_that_step(cli, agent, symptom, found):  # faults 1 to 4
    done = cli("train", agent, PATIENT, *SMALL[agent], *ill(symptom), "--save-every", 10)
    assert done.status == 1
    run = f"runs/{agent}-Patient-0"
    # Five resets, one every eleven vector steps, came before the patients' own step 45.
    assert done.error == (
        f"env 0 returned {found} at vector step 49; nothing was learned from that step: mend the "
        f"environment (step 96 of {run}; step 90 is saved, go on with: rlkit resume {run} --env "
        f"{PATIENT}; the last steps are in {run}/faults/step-000000000096.npz)"
    )
    assert load_checkpoint(run).step == 90
    assert "mean return" in cli("evaluate", run, "--env", PATIENT, "--episodes", 2).out


SYMPTOMS = [
    *itertools.product(AGENTS, ["nan", "inf", "nan-reward", "inf-reward"]),
    *itertools.product(EVERY, ["huge-reward"]),
]


@pytest.mark.parametrize(("agent", "symptom"), SYMPTOMS)
def test_the_weights_are_those_before_the_fault(agent, symptom, tmp_path, monkeypatch):  # 1 to 5
    patients = itertools.count()
    learners, starts = [], []
    make_agent = build.make_agent

    def kept(*args):
        learners.append(make_agent(*args))
        starts.append(vector_of(learners[0].state_dict()))
        return learners[0]

    def make():
        kind = Lever if agent == "sac" else Patient
        return kind(symptom if next(patients) == 1 else "", onset=17)

    monkeypatch.setattr(build, "make_agent", kept)
    options = RunOptions(run_dir=str(tmp_path), save_every=2, eval_every=1000)
    with pytest.raises(RunError) as stopped:
        rlkit.train(agent, make, {**CARTPOLE[agent], "steps": 100}, options)
    message = str(stopped.value)
    if symptom == "huge-reward":
        assert "overflowed; the weights are as they were before this step" in message
    else:
        assert type(stopped.value) is EnvError
        assert message.startswith("env 1 returned ")
        assert "at vector step 18;" in message
        assert "(step 34 of " in message
    (run,) = tmp_path.iterdir()
    now = vector_of(learners[0].state_dict())
    assert torch.isfinite(now).all()
    # The newest checkpoint is that of the step before: no update came in between.
    assert torch.equal(now, weights(run))
    assert not torch.equal(now, starts[0])  # and some came before
    rlkit.load(run, env=make)


def test_outside_the_box_warns_once_and_strict_stops(cli):  # fault 6
    done = cli("train", "a2c", PATIENT, *SMALL["a2c"], *ill("outside", 60))
    assert done.status == 0
    found = "env 0 returned observation[3] = 77.0 at vector step 65, outside its Box [-10.0, 10.0]"
    (said,) = [warning for warning in done.warnings if "vector step 65" in warning]
    assert said.startswith(f"Warning: {found}; clip it, or widen the space (said once")
    strict = cli("train", "a2c", PATIENT, *SMALL["a2c"], *ill("outside", 60), "--strict")
    assert strict.status == 1
    assert strict.error.startswith(f"{found}; clip it, or widen the space (step ")


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    ("symptom", "found"),
    [
        ("five", "returned an observation of shape (5,), its space says (4,)"),
        ("one", "returned an observation of shape (1,), its space says (4,)"),
        ("text", "returned an observation that is the str 'left'; its space says Box(-10.0, 10."),
        ("no-reward", "step returned None for the reward; return float(reward)"),
        ("array-reward", "step returned array([1.]) for the reward; return float(reward)"),
        ("four-values", "step returned 4 values; in Gymnasium step(action) returns (observation,"),
        ("no-info", "step returned None for info; return a dict, {} at least"),
    ],
)
def test_what_breaks_the_api_stops_the_run(cli, agent, symptom, found):  # faults 7, 8, 10 to 12
    done = cli("train", agent, PATIENT, *SMALL[agent], *ill(symptom, 15))
    assert done.status == 1
    assert done.error.startswith(f"env 0 {found}")
    assert "(at step 15 of this environment) (step 30 of runs/" in done.error


def test_an_old_reset_stops_before_training(cli):  # fault 12
    done = cli("train", "a2c", PATIENT, *SMALL["a2c"], "--env-option", "habit=bare-reset")
    assert done.status == 1
    assert done.error.startswith("env 0 reset returned one ndarray; in Gymnasium reset(seed=...")


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("habit", ["list", "reuse"])
def test_a_habit_of_the_environment_changes_no_training(run, agent, habit):  # faults 9 and 19
    plain, other = (run(agent, PATIENT, "--env-option", f"habit={h}") for h in ("''", habit))
    assert torch.equal(weights(plain), weights(other))
    assert metrics(plain) == metrics(other)


def test_lists_are_cast_with_one_warning(cli):  # fault 9
    done = cli("train", "a2c", PATIENT, *SMALL["a2c"], "--env-option", "habit=list")
    assert done.warnings == [
        "Warning: observations are a list where the space declares float32; they are cast "
        "(said once)"
    ]


@pytest.mark.parametrize("agent", EVERY)
def test_terminated_and_truncated_at_once_is_terminal(run, agent):  # fault 18
    both, terminated, truncated = (
        weights(run(agent, patient_of(agent), "--env-option", f"ends={ends}"))
        for ends in ("both", "terminated", "truncated")
    )
    assert torch.equal(both, terminated)
    assert not torch.equal(both, truncated)


def test_episodes_that_never_end(cli, monkeypatch):  # fault 17
    monkeypatch.setattr(vector, "ENDLESS", 40)
    monkeypatch.setattr(vector, "LOOK_EVERY", 8)
    monkeypatch.setattr(evaluation, "EPISODE_CAP", 30)
    every = ("--eval-every", 100)
    done = cli("train", "a2c", PATIENT, *SMALL["a2c"], *ill("endless", 0), *every)
    assert done.status == 0
    running, *evaluating = sorted(done.warnings, key=lambda said: "evaluation" in said)
    assert "has run for 48 steps without an end; give its episodes a limit" in running
    assert set(evaluating) == {
        "Warning: 3 of 3 evaluation episodes did not end and were cut at 30 steps; give episodes "
        "a limit: --env-option max_episode_steps=N"
    }
    done = cli("evaluate", "a2c-Patient-0", "--env", PATIENT, "--episodes", 4)
    assert "4 episodes did not end and were cut" in done.out
    limit = ("--env-option", "max_episode_steps=20")
    done = cli("train", "a2c", PATIENT, *SMALL["a2c"], *ill("endless", 0), *limit)
    assert done.warnings == []


@pytest.mark.parametrize("agent", [agent for agent in EVERY if agent != "sac"])
def test_numbers_that_do_not_begin_at_0(run, agent):  # faults 20 and 21
    folder = run(
        agent, SHIFTED, "--steps", 2000
    )  # the environment asserts that actions are its own
    policy = rlkit.load(folder, env=SHIFTED)
    assert {int(policy.act(obs)) for obs in (5, 6, 7)} <= {-7, -6, -5}
    policy.reset()
    assert policy.act(np.array([5, 6, 7, 5])).shape == (4,)


@pytest.mark.parametrize("agent", ["dqn", "pqn", "rainbow", "r2d2"])
def test_box_actions_for_agents_of_action_values(cli, agent):  # fault 23
    done = cli("train", agent, "Pendulum")
    assert done.status == 2
    assert done.error == (
        f"{agent} takes Discrete actions; the environment's action space is "
        "Box(-1.0, 1.0, (1,), float32); Box is taken by: a2c, ppo, sac"
    )
    assert not Path("runs").exists()


def test_discrete_actions_for_sac(cli):  # fault 23
    done = cli("train", "sac", "CartPole")
    assert done.status == 2
    assert done.error == (
        "sac takes Box actions; the environment's action space is Discrete(2); "
        "Discrete is taken by: a2c, ppo, pqn, dqn, rainbow, r2d2"
    )
    assert not Path("runs").exists()


@pytest.mark.parametrize("agent", EVERY)
def test_observations_without_an_encoder(agent, tmp_path):  # faults 24 and 25
    for space, found in (
        (spaces.Discrete(10**9), "Discrete(1000000000); allowed: up to 100000 values"),
        (spaces.Box(-1, 1, (0,)), "(0,), float32) is empty; give it a size above 0"),
        (spaces.Sequence(spaces.Discrete(3)), "is a Sequence, Sequence("),
    ):

        def make(space=space):
            patient = Lever() if agent == "sac" else Patient()
            patient.observation_space = space
            return patient

        with pytest.raises(UsageError) as refused:
            rlkit.train(agent, make, CARTPOLE[agent], RunOptions(run_dir=str(tmp_path)))
        assert found in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_support_without_a_length(cli):  # fault 27
    for agent, *more in (("rainbow",), ("dqn", "--values", "c51")):
        done = cli("train", agent, "CartPole", *SMALL[agent], *more, "--v-min", 3, "--v-max", 3)
        assert done.status == 2
        assert done.error.startswith("v_min is 3.0 and v_max is 3.0; allowed: finite numbers, v_m")
        assert not Path("runs").exists()


@pytest.mark.parametrize("agent", ["dqn", "rainbow", "r2d2", "sac"])
def test_a_replay_memory_larger_than_memory(cli, agent):  # fault 26
    done = cli("train", agent, env_of(agent), "--buffer-size", 10**12)
    assert done.status == 2
    assert done.error.startswith("buffer_size (--buffer-size) is 1000000000000: the replay memory ")
    allowed = int(done.error.rpartition(" ")[2])
    assert "GiB are free; allowed: up to" in done.error
    assert 10**4 < allowed < 10**12
    assert not Path("runs").exists()


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_vector_environment_is_accepted(agent, mode, tmp_path):  # fault 33
    how = {"autoreset_mode": mode}
    venv = gym.make_vec("CartPole-v1", 3, vectorization_mode="sync", vector_kwargs=how)
    done = rlkit.train(agent, venv, CARTPOLE[agent], RunOptions(run_dir=str(tmp_path)))
    assert done.env == "CartPole-v1"
    assert done.steps == {"a2c": 45, "ppo": 45, "dqn": 42}[agent]
    assert done.evaluation is None
    assert venv.closed
    assert len(rlkit.evaluate(done.run, episodes=2, env="CartPole").returns) == 2


def test_a_run_is_not_played_on_another_environment_of_the_same_id(tmp_path):
    """A time limit or a wrapper that the caller's own code set is not in the id."""
    done = rlkit.train(
        "a2c",
        lambda: gym.make("CartPole-v1", max_episode_steps=5),
        CARTPOLE["a2c"],
        RunOptions(run_dir=str(tmp_path)),
    )
    assert max(done.evaluation.lengths) <= 5
    for use in (rlkit.load, rlkit.evaluate, rlkit.resume):
        with pytest.raises(UsageError, match="your own code made"):
            use(done.run)


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_environment_of_ones_own(mode, tmp_path):  # fault 33
    venv = Scripted([[0, 0, TERMINATED, 0, TRUNCATED]] * 2, mode)
    options = RunOptions(run_dir=str(tmp_path))
    done = rlkit.train("a2c", venv, CARTPOLE["a2c"], options)
    assert done.run.name == "a2c-Scripted-0"
    with pytest.raises(UsageError, match=r"your own code made \(Scripted\); pass it again as env"):
        rlkit.load(done.run)
    rlkit.load(done.run, env=Scripted([[0]], mode))


def test_a_vector_environment_without_autoreset_is_refused(tmp_path):  # fault 33
    venv = SyncVectorEnv(
        [lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=AutoresetMode.DISABLED
    )
    with pytest.raises(UsageError, match="autoreset is DISABLED; make it with"):
        rlkit.train("a2c", venv, CARTPOLE["a2c"], RunOptions(run_dir=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def replace_checkpoints(run, other):
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")


def test_a_checkpoint_of_an_agent_that_is_nearly_the_same(cli, run):  # fault 34
    dqn, rainbow = run("dqn", "CartPole"), run("rainbow", "CartPole")
    replace_checkpoints(dqn, rainbow)
    done = cli("evaluate", dqn)
    assert done.status == 1
    assert "holds the agent rainbow, but dqn is wanted" in done.error


@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_a_checkpoint_of_another_agent(cli, run, command):  # fault 34
    a2c, dqn = run("a2c", "CartPole"), run("dqn", "CartPole")
    replace_checkpoints(a2c, dqn)
    done = cli(command, a2c)
    assert done.status == 1
    assert "holds the agent dqn, but a2c is wanted" in done.error


@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_a_checkpoint_of_other_spaces(cli, run, command):  # fault 35
    cartpole, acrobot = run("a2c", "CartPole"), run("a2c", "Acrobot")
    spaces = [str(gym.make(env).observation_space) for env in ("CartPole-v1", "Acrobot-v1")]
    shown = [" ".join(space.split()) for space in spaces]
    done = cli(command, cartpole, "--env", "Acrobot")
    assert done.status == 1
    assert f"holds the observation space {shown[0]}, but {shown[1]} is wanted" in done.error
    replace_checkpoints(cartpole, acrobot)
    assert (
        f"the observation space {shown[1]}, but {shown[0]} is wanted"
        in cli(command, cartpole).error
    )


@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_a_damaged_checkpoint_is_passed_over(cli, run, command):  # fault 36
    folder = run("dqn", "CartPole")
    newest, older = (folder / "checkpoints" / name for name in steps_saved(folder)[:-3:-1])
    damaged = newest / "tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    done = cli(command, folder)
    assert done.status == 0
    (said,) = done.warnings
    assert said.startswith(f"Warning: {damaged}: ")
    assert said.endswith(f"were written; took {older} instead")


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("command", ["evaluate", "resume"])
def test_a_pickle_in_a_run_is_never_executed(cli, run, command):  # fault 39
    folder = run("a2c", "CartPole")
    for checkpoint in (folder / "checkpoints").glob("0*"):
        (checkpoint / "tensors.safetensors").write_bytes(pickle.dumps(Payload()))
        torch.save(Payload(), checkpoint / "state.json")
    done = cli(command, folder)
    assert done.status == 1
    assert "no checkpoint is whole" in done.error
    assert not Path("executed").exists()


def test_a_disk_that_fills_up_stops_no_training(cli):  # fault 38
    # The replay memory grows, and with it each checkpoint, past what a file may hold.
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (18_000, hard))
    try:
        every = (
            "--steps",
            800,
            "--buffer-size",
            800,
            "--save-every",
            100,
            "--values",
            "mean",
        )
        done = cli("train", "dqn", "CartPole", *SMALL["dqn"], *every, "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.status == 0
    assert json.loads(done.out)["steps"] == 800
    lost = [said for said in done.warnings if "could not be saved" in said]
    assert len(lost) >= 3
    assert all("earlier checkpoints stand; free some disk space" in said for said in lost)
    run = Path("runs/dqn-CartPole-v1-0")
    assert 0 < load_checkpoint(run).step < 800
    assert cli("evaluate", run, "--episodes", 2).status == 0


def test_a_run_folder_that_can_not_be_written_is_said_first(cli, monkeypatch):  # fault 42
    Path("file").write_text("")
    monkeypatch.setattr(vector.Envs, "step", None)
    for run_dir in ("file", "file/runs"):
        done = cli("train", "a2c", "CartPole", "--run-dir", run_dir)
        assert done.status == 2
        assert done.error.startswith(f"the run folder {run_dir} is not writable: ")
        assert done.error.endswith("choose another one with --run-dir")


def test_two_runs_that_start_together(tmp_path):  # faults 43 and 45, in processes of their own
    command = [sys.executable, "-m", "rlkit", "train", "a2c", "CartPole"]
    command += [str(word) for word in SMALL["a2c"]]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [(process.communicate()[1], process.returncode) for process in both] == [(b"", 0)] * 2
    runs = [tmp_path / "runs" / f"a2c-CartPole-v1-{number}" for number in range(2)]
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert metrics(runs[0]) == metrics(runs[1])


def test_a_policy_refuses_what_is_no_observation(run):  # fault 48
    policy = rlkit.load(run("a2c", "CartPole"))
    assert policy.act(np.zeros(4)) in (0, 1)
    assert policy.act([[0.0] * 4] * 7).shape == (7,)
    for obs in (np.zeros(5), np.zeros(1), np.zeros(()), np.zeros((3, 5)), np.zeros((2, 3, 4))):
        with pytest.raises(UsageError) as refused:
            policy.act(obs)
        assert str(refused.value) == (
            f"the observation has shape {obs.shape}; allowed: numbers of shape (4,), or "
            "(N, *shape) of them"
        )
    for obs, message in (
        ([0, 0, np.nan, 0], "observation is nan at index [2]; allowed: finite numbers"),
        ([[0] * 4, [0, np.inf, 0, 0]], "observation is inf at index [1, 1]; allowed: finite"),
        (["a", "b", "c", "d"], "is the list ['a', 'b', 'c', 'd']; allowed: numbers of shape (4,)"),
        (None, "the observation is the NoneType None; allowed: numbers"),
        ([[0, 0], [0]], "the observation is a ragged list; allowed: numbers"),
        ([1e39, 0, 0, 0], "observation is inf at index [0]; allowed: finite numbers"),
    ):
        with pytest.raises(UsageError) as refused:
            policy.act(obs)
        assert message in str(refused.value)


def test_a_policy_refuses_a_number_outside_a_discrete_space(run):  # fault 48
    policy = rlkit.load(run("dqn", SHIFTED), env=SHIFTED)
    for obs in (4, 8, [5, 9]):
        with pytest.raises(UsageError, match=r"is outside the space Discrete\(3, start=5\)"):
            policy.act(obs)
    with pytest.raises(UsageError, match="float64, with values that int64 can't hold; allowed"):
        policy.act(5.5)


@pytest.mark.parametrize("agent", ["pqn", "rainbow", "sac"])
def test_every_policy_refuses_what_is_no_observation(agent, tmp_path):  # fault 48
    options = RunOptions(run_dir=str(tmp_path), eval_episodes=1)
    policy = rlkit.load(rlkit.train(agent, env_of(agent), CARTPOLE[agent], options).run)
    n = 3 if agent == "sac" else 4
    assert policy.act(np.zeros((7, n))).shape == ((7, 1) if agent == "sac" else (7,))
    with pytest.raises(UsageError, match=rf"observation has shape \(5,\); allowed: .* \({n},\)"):
        policy.act(np.zeros(5))
    with pytest.raises(UsageError, match=r"observation is nan at index \[0, 1\]; allowed: finite"):
        policy.act([[0.0, np.nan, 0.0, 0.0][:n]])


def test_a_policys_box_actions_are_the_environments(run):  # fault 48
    folder = run("a2c", "Pendulum")
    policy = rlkit.load(folder)
    env = gym.make("Pendulum-v1")
    one = policy.act(np.zeros(3, np.float32))
    assert env.action_space.contains(one)
    with torch.no_grad():
        mode = policy.agent.ac.nets.actor(torch.zeros(1, 3))  # in units of [-1, 1]
    assert one == pytest.approx(2 * mode[0].clamp(-1, 1).numpy())


def test_faults_have_the_types_that_the_library_documents():
    assert issubclass(EnvError, RunError)
    assert issubclass(UsageError, ValueError)
    assert not issubclass(CheckpointError, ValueError)
    assert issubclass(RlkitWarning, UserWarning)
